"""Grids as text, in colour where a terminal shows it."""

import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.drawing.styles import INK, Style

_GAP = '   '
_RESET = '\x1b[0m'


def side_by_side(
  panels: Sequence[tuple[str, np.ndarray]],
  style: Style,
  characters: str,
  colour: bool,
) -> str:
  """Grids beside each other, each under its caption.

  Args:
    panels: captions and grids [h, w].
    style: how the grids' values are drawn.
    characters: the character of each value, where there is no colour.
    colour: whether cells are coloured by escape sequences (24 bits).
  """
  columns = []
  for caption, grid in panels:
    width = max(len(caption), 2 * grid.shape[1])
    lines = [caption.ljust(width)]
    for row in grid:
      cells = ''.join(_cell(value, style, characters, colour) for value in row)
      lines.append(cells + ' ' * (width - 2 * len(row)))
    columns.append((width, lines))
  height = max(len(lines) for _, lines in columns)
  padded = (
    lines + [' ' * width] * (height - len(lines)) for width, lines in columns
  )
  return '\n'.join(
    _GAP.join(line).rstrip() for line in zip(*padded, strict=True)
  )


def _cell(value: int, style: Style, characters: str, colour: bool) -> str:
  """Two characters: about a square."""
  if not colour:
    return f'{characters[value]} '
  red, green, blue = _rgb(style.colours[value])
  text = style.texts[value].ljust(2)
  ink = ';'.join(map(str, _rgb(INK)))
  return f'\x1b[48;2;{red};{green};{blue};38;2;{ink}m{text}{_RESET}'


def _rgb(colour: str) -> tuple[int, ...]:
  return tuple(int(part, 16) for part in re.findall('[0-9a-f]{2}', colour))
