"""Data sets that the program can read or generate by name."""
