"""``python -m gdbheap`` is the same as the command ``gdbheap``."""

import sys

from gdbheap.launcher import main

sys.exit(main())
