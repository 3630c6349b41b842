"""Sudokus and mazes: questions with answers."""
