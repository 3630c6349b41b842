"""Accounts for the cost of a training step by compiling it."""
