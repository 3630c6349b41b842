"""Batches of puzzles: arrays by name, and the numbers with a meaning in them.

A batch holds int32 `inputs` and `labels`, tokens [B, S], and
`puzzle_identifiers` [B].
"""

import numpy as np

# Token of the cells outside of a grid, in every domain.
PAD = 0
# Label of the cells that the loss does not count.
IGNORE_LABEL = -100
# Puzzle identifier of puzzles that have none of their own, and its name.
BLANK_IDENTIFIER = 0
BLANK_NAME = '<blank>'

Batch = dict[str, np.ndarray]


def padded(labels: np.ndarray) -> np.ndarray:
  """Labels with padding in place of the cells that the loss does not count."""
  return np.where(labels == IGNORE_LABEL, PAD, labels)
