"""Grids as text, in colour where a terminal shows it."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.drawing.styles import INK, Style

_GAP = '   '


def side_by_side(
  panels: Sequence[tuple[str, np.ndarray]],
  style: Style,
  characters: str,
  colour: bool,
) -> str:
  """Grids, [h, w], beside each other, each under its caption.

  Cells are coloured by escape sequences (24 bits), or else show the character
  of their value.
  """
  columns = []
  for caption, grid in panels:
    width = max(len(caption), 2 * grid.shape[1])
    rest = ' ' * (width - 2 * grid.shape[1])
    cells = [[_cell(x, style, characters, colour) for x in row] for row in grid]
    lines = [caption.ljust(width), *(''.join(row) + rest for row in cells)]
    columns.append((lines, ' ' * width))
  height = max(len(lines) for lines, _ in columns)
  filled = (lines + [empty] * (height - len(lines)) for lines, empty in columns)
  return '\n'.join(
    _GAP.join(line).rstrip() for line in zip(*filled, strict=True)
  )


def _cell(value: int, style: Style, characters: str, colour: bool) -> str:
  """Two characters: about a square."""
  if not colour:
    return f'{characters[value]} '
  paper, ink = _rgb(style.colours[value]), _rgb(INK)
  return f'\x1b[48;2;{paper};38;2;{ink}m{style.texts[value].ljust(2)}\x1b[0m'


def _rgb(colour: str) -> str:
  return ';'.join(str(part) for part in bytes.fromhex(colour[1:]))
