"""Puzzles as pictures and as text."""
