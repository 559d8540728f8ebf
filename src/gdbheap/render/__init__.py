"""Records turned into lines, tables and JSON; the style is passed in, nothing is printed here."""
