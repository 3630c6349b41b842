"""Grids as text."""

import numpy as np

from data_pipelines.drawing import pictures as picture
from data_pipelines.drawing import terminal

PANELS = (
  ('in', np.array([[1, 2, 3], [4, 5, 6]])),
  ('attempt 1', np.array([[7, 8]])),
)


def show(colour):
  return terminal.side_by_side(
    PANELS, picture.ARC_GRID, '0123456789', colour
  ).splitlines()


def test_grids_stand_beside_each_other():
  assert show(False) == ['in       attempt 1', '1 2 3    7 8', '4 5 6']


def test_cells_are_coloured():
  caption, first, second = show(True)
  assert caption == 'in       attempt 1'
  # Blue, #0074d9, two characters wide.
  assert first.startswith('\x1b[48;2;0;116;217;38;2;34;34;34m  \x1b[0m')
  assert first.count('\x1b[0m') == 5 and second.count('\x1b[0m') == 3
