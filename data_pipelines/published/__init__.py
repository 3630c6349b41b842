"""The published on-disk format of puzzles, read and written."""
