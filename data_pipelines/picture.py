"""A picture of predictions: test inputs, true answers and two attempts."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines.arc import Task
from data_pipelines.voting import Candidate, Candidates, is_solved

# The colours 0 to 9 as arcprize.org shows them.
PALETTE = (
  '#000000',
  '#0074d9',
  '#ff4136',
  '#2ecc40',
  '#ffdc00',
  '#aaaaaa',
  '#f012be',
  '#ff851b',
  '#7fdbff',
  '#870c25',
)
HEADINGS = ('test input', 'true answer', 'attempt 1', 'attempt 2')

PAPER, INK, FAINT, RULE = '#ffffff', '#222222', '#777777', '#d0d0d0'
SOLVED, WRONG = '#1a7f37', '#c62828'
GRID_LINE = '#555555'

# Everything below is in pixels.
MARGIN = 24
PANEL_GAP = 16  # between the grids of a row
BLOCK_GAP = 40  # between columns of rows
ROW_GAP = 18
LINE = 22  # of text
CELL, MAX_GRID = 18, 182  # a grid's cells are at most CELL wide
MIN_PANEL = 120  # holds the caption 'solved  1000 votes'


class _Panel(NamedTuple):
  """A grid and what is written under it: a mark in its colour, then a note."""

  grid: np.ndarray | None
  mark: str
  mark_colour: str
  note: str


class _Row(NamedTuple):
  """One test input; `cell` is the side of all its cells, pixels."""

  title: str
  panels: list[_Panel]
  cell: int
  height: int


def draw_predictions(
  tasks: Sequence[Task],
  candidates: Candidates,
  path: str | os.PathLike,
  max_rows: int = 40,
) -> None:
  """Draws a PNG with one row for each test input.

  A row shows the test input, the true answer and the first two candidates,
  each with its votes and, where the answer is known, whether it is right. The
  grids of a row have one scale. Rows run down one column, then the next.

  Args:
    tasks: what to draw, in order; a test output may be None.
    candidates: by (task name, test index), best first; entries may miss.
    path: the file to write; it appears whole or not at all.
    max_rows: test inputs beyond these are left out, and the heading says so.
  """
  rows = [
    _row(task, index, candidates.get((task.name, index), ()))
    for task in tasks
    for index in range(len(task.tests))
  ]
  heading = _heading(rows, max_rows)
  rows = rows[:max_rows]

  widths = [
    panel.grid.shape[1] * row.cell + 1
    for row in rows
    for panel in row.panels
    if panel.grid is not None
  ]
  pitch = max([MIN_PANEL, *widths]) + PANEL_GAP
  block_width = len(HEADINGS) * pitch - PANEL_GAP + BLOCK_GAP
  # As many blocks, columns of rows, as make the picture about square.
  height = sum(row.height for row in rows)
  num_blocks = max(1, round(math.sqrt(height / block_width)))
  per_block = max(1, math.ceil(len(rows) / num_blocks))
  blocks = [
    rows[start : start + per_block]
    for start in range(0, max(1, len(rows)), per_block)
  ]

  top = MARGIN + 2 * LINE
  tallest = max(sum(row.height for row in block) for block in blocks)
  image = Image.new(
    'RGB',
    (
      2 * MARGIN + len(blocks) * block_width - BLOCK_GAP,
      top + LINE + tallest + MARGIN - ROW_GAP,
    ),
    PAPER,
  )
  draw = ImageDraw.Draw(image)
  draw.text((MARGIN, MARGIN), heading, INK, ImageFont.load_default(17))
  for i, block in enumerate(blocks):
    _draw_block(draw, MARGIN + i * block_width, top, block, pitch)

  # At no time can a half-written file be seen.
  part = f'{os.fspath(path)}.{os.getpid()}.part'
  image.save(part, format='PNG')
  os.replace(part, path)


def _heading(rows: list[_Row], max_rows: int) -> str:
  num_known = sum(row.panels[1].grid is not None for row in rows)
  num_solved = sum(
    any(panel.mark == 'solved' for panel in row.panels) for row in rows
  )
  if num_known:
    heading = f'{num_solved} of {num_known} test outputs solved in two attempts'
  else:
    heading = f'{len(rows)} test inputs, true answers unknown'
  if len(rows) > max_rows:
    heading += f' (first {max_rows} shown)'
  return heading


def _row(task: Task, index: int, candidates: Sequence[Candidate]) -> _Row:
  title = task.name
  if len(task.tests) > 1:
    title += f'   test {index + 1} of {len(task.tests)}'
  test = task.tests[index]
  panels = [_Panel(test.input, '', INK, _size(test.input))]
  if test.output is None:
    panels.append(_Panel(None, '', INK, 'unknown'))
  else:
    panels.append(_Panel(test.output, '', INK, _size(test.output)))
  for attempt in (0, 1):
    if attempt >= len(candidates):
      panels.append(_Panel(None, '', INK, 'no prediction'))
      continue
    candidate = candidates[attempt]
    mark, colour = '', INK
    if test.output is not None:
      right = is_solved([candidate], test.output, 1)
      mark, colour = ('solved', SOLVED) if right else ('wrong', WRONG)
    votes = f'{candidate.votes} vote' + 's' * (candidate.votes != 1)
    panels.append(_Panel(candidate.grid, mark, colour, votes))

  shapes = [panel.grid.shape for panel in panels if panel.grid is not None]
  cell = min(CELL, MAX_GRID // max(max(shape) for shape in shapes))
  tallest = max(height for height, _ in shapes)
  return _Row(title, panels, cell, tallest * cell + 1 + 2 * LINE + ROW_GAP)


def _size(grid: np.ndarray) -> str:
  height, width = grid.shape
  return f'{height} x {width}'


def _draw_block(
  draw: ImageDraw.ImageDraw, left: int, top: int, rows: list[_Row], pitch: int
) -> None:
  """Draws a column of rows under its headings, panels `pitch` pixels apart."""
  small, medium = ImageFont.load_default(13), ImageFont.load_default(15)
  for i, text in enumerate(HEADINGS):
    draw.text((left + i * pitch, top), text, FAINT, small)
  top += LINE
  for row in rows:
    right = left + len(HEADINGS) * pitch - PANEL_GAP
    draw.line((left, top, right, top), RULE)
    draw.text((left, top + 5), row.title, INK, medium)
    for i, panel in enumerate(row.panels):
      x, y = left + i * pitch, top + 5 + LINE
      if panel.grid is not None:
        _draw_grid(draw, x, y, panel.grid, row.cell)
        y += panel.grid.shape[0] * row.cell + 4
      draw.text((x, y), panel.mark, panel.mark_colour, small)
      if panel.mark:
        x += draw.textlength(panel.mark, small) + 8
      draw.text((x, y), panel.note, FAINT, small)
    top += row.height


def _draw_grid(
  draw: ImageDraw.ImageDraw, left: int, top: int, grid: np.ndarray, cell: int
) -> None:
  for (row, column), colour in np.ndenumerate(grid):
    x, y = left + column * cell, top + row * cell
    draw.rectangle((x, y, x + cell, y + cell), PALETTE[colour], GRID_LINE)
