"""The C programs that the tests look at."""

from __future__ import annotations

from pathlib import Path

from tests.support.environment import ROOT


class Programs:
    """The built fixtures, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        assert path.exists(), f"no fixture {name}"
        return path

    def source(self, name: str) -> Path:
        """Return the source file ``name`` of c_fixtures."""
        return ROOT / "c_fixtures" / name
