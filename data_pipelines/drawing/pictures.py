"""Pictures of predictions, examples and thoughts."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data_pipelines import files
from data_pipelines.arc import encoding
from data_pipelines.arc.tasks import Task
from data_pipelines.arc.voting import Candidate, Candidates, is_solved
from data_pipelines.drawing.styles import (
  ARC_CANVAS,
  ARC_GRID,
  FAINT,
  INK,
  PAPER,
  RULE,
  SOLVED,
  WRONG,
  Style,
)  # fmt: skip
from data_pipelines.questions.domain import Domain

# Everything below is in pixels.
MARGIN = 24
PANEL_GAP = 16  # between the grids of a row
BLOCK_GAP = 40  # between columns of rows
ROW_GAP = 18
LINE = 22  # of text
CELL, MAX_GRID = 18, 182  # a grid's cells are at most CELL wide
MAX_ANIMATED = 300  # width of a grid in an animation
LONGEST = 160  # characters of a line of text
MIN_PANEL = 120  # holds the caption 'solved  1000 votes'

# Milliseconds that an animation shows an update, a segment's and the very last.
SHORT, LONG, LAST = 250, 900, 2500


def style_of(domain: Domain | None, vocab_size: int) -> Style:
  """How tokens of a domain, of ARC or of unknown puzzles are drawn."""
  if domain is not None:
    return domain.style
  if vocab_size == encoding.VOCAB_SIZE:
    return ARC_CANVAS
  return Style([PAPER] * vocab_size, [str(i) for i in range(vocab_size)])


class _Panel(NamedTuple):
  """A grid and what is written under it: a mark in its colour, then a note."""

  grid: np.ndarray | None
  style: Style
  mark: str = ''
  mark_colour: str = INK
  note: str = ''


class _Row(NamedTuple):
  """What is drawn side by side, under one title and on one scale."""

  title: str
  panels: list[_Panel]

  @property
  def grids(self) -> list[np.ndarray]:
    return [panel.grid for panel in self.panels if panel.grid is not None]

  @property
  def cell(self) -> int:
    """Side of all cells, pixels."""
    longest = max(max(grid.shape) for grid in self.grids)
    return max(2, min(CELL, MAX_GRID // longest))

  @property
  def height(self) -> int:
    """Pixels."""
    return max(map(len, self.grids)) * self.cell + 1 + 2 * LINE + ROW_GAP


# `path` is the file to write, which appears whole or not at all; tokens are
# drawn in a `style`.


def draw_predictions(
  tasks: Sequence[Task],
  candidates: Candidates,
  path: str | os.PathLike,
  max_rows: int = 40,
) -> None:
  """Draws a PNG with one row for each test input of ARC tasks, in order.

  A row shows the test input, the true answer and the first two candidates,
  each with its votes and, where the answer is known, whether it is right. The
  heading says so where test inputs beyond `max_rows` are left out.
  """
  rows = [
    _task_row(task, index, candidates.get((task.name, index), ()))
    for task in tasks
    for index in range(len(task.tests))
  ]
  num_known = sum(row.panels[1].grid is not None for row in rows)
  num_solved = sum(
    any(panel.mark == 'solved' for panel in row.panels) for row in rows
  )
  if num_known:
    heading = f'{num_solved} of {num_known} test outputs solved in two attempts'
  else:
    heading = f'{len(rows)} test inputs, true answers unknown'
  columns = ('test input', 'true answer', 'attempt 1', 'attempt 2')
  _draw(rows, heading, columns, path, max_rows)


def draw_answers(
  style: Style,
  names: Sequence[str],
  questions: np.ndarray,
  labels: np.ndarray,
  found: Mapping[str, np.ndarray],
  path: str | os.PathLike,
  max_rows: int = 24,
) -> None:
  """Draws a PNG with one row for each question with one answer, tokens [N, S].

  `found` holds `tokens` [N, S], `exact` [N], `accuracy` [N] and maybe `valid`
  [N]. The heading says so where questions beyond `max_rows` are left out.
  """
  rows = []
  # One more than is drawn, which the heading tells of.
  for row, name in enumerate(names[: max_rows + 1]):
    marks = [x for x in ('exact', 'valid') if x in found and found[x][row]]
    mark, colour = (marks[0], SOLVED) if marks else ('wrong', WRONG)
    note = f'{100 * found["accuracy"][row]:.0f} % of the cells'
    asked, true, answer = (
      canvas_of(x[row], style) for x in (questions, labels, found['tokens'])
    )
    panels = [_Panel(asked, style), _Panel(true, style)]
    panels.append(_Panel(answer, style, mark, colour, note))
    rows.append(_Row(name, panels))
  heading = f'{int(found["exact"].sum())} of {len(names)} exact'
  columns = ('question', 'true answer', 'prediction')
  _draw(rows, heading, columns, path, max_rows)


def draw_examples(
  style: Style,
  titles: Sequence[str],
  originals: Mapping[str, np.ndarray],
  shown: Mapping[str, np.ndarray],
  heading: str,
  path: str | os.PathLike,
) -> None:
  """Draws a PNG of examples as they are and as the model sees them.

  `originals` and `shown` hold `inputs` and `labels` [N, S]; cells that do not
  count are 0.
  """
  rows = [
    _Row(
      title,
      [
        _Panel(canvas_of(batch[name][row], style), style)
        for batch in (originals, shown)
        for name in ('inputs', 'labels')
      ],
    )
    for row, title in enumerate(titles)
  ]
  columns = ('input', 'output', 'input as trained on', 'label as trained on')
  _draw(rows, heading, columns, path, len(rows))


class Thought(NamedTuple):
  """One puzzle's part of a `hrm_jax.inference.probes.Trace`, to be drawn."""

  levels: str  # the level of each update of a segment, as 'LLHLLH'
  tokens: np.ndarray  # [segments, updates, S], the answer after each update
  q: Mapping[str, np.ndarray]  # Q values that are trained, [segments] each
  halts: np.ndarray  # bool [segments], whether it would halt there
  answer: np.ndarray | None  # [S], where known; its cells of 0 do not count

  def told(self, segment: int) -> str:
    """How the model judges its answer after a segment."""
    words = [f'{name} {x[segment]:+.2f}' for name, x in self.q.items()]
    return '  '.join(words + ['would halt here'] * bool(self.halts[segment]))

  def right(self, tokens: np.ndarray) -> str:
    """How many cells of an answer are right; '' where that is not known."""
    if self.answer is None:
      return ''
    counted = self.answer != 0
    right = (tokens == self.answer) & counted
    return f'{right.sum()} of {counted.sum()} right'


def draw_thought(
  style: Style, title: str, thought: Thought, path: str | os.PathLike
) -> None:
  """Draws a PNG with one row for each segment, a panel for each update."""
  rows = [
    _Row(
      f'segment {number + 1}   {thought.told(number)}',
      [
        _Panel(canvas_of(tokens, style), style, note=thought.right(tokens))
        for tokens in segment
      ],
    )
    for number, segment in enumerate(thought.tokens)
  ]
  _draw(rows, title, [f'after {x}' for x in thought.levels], path, len(rows))


def animate_thought(
  style: Style,
  title: str,
  question: np.ndarray,
  thought: Thought,
  path: str | os.PathLike,
) -> None:
  """Draws an animated GIF: the question, tokens [S], and the answer as it forms
  beside it."""
  small, large = ImageFont.load_default(15), ImageFont.load_default(17)
  title = _line(title)
  question = canvas_of(question, style)
  height, width = question.shape
  cell = max(4, min(40, MAX_ANIMATED // max(height, width)))
  right = MARGIN + width * cell + BLOCK_GAP
  widest = 'q_halt -00.00  q_continue -00.00  would halt here'
  texts = max(small.getlength(widest), large.getlength(title))
  size = (
    math.ceil(max(right + width * cell, MARGIN + texts) + MARGIN),
    2 * MARGIN + 4 * LINE + height * cell + ROW_GAP,
  )
  frames, times = [], []
  for segment, answers in enumerate(thought.tokens):
    for update, tokens in enumerate(answers):
      image = Image.new('RGB', size, PAPER)
      draw = ImageDraw.Draw(image)
      draw.text((MARGIN, MARGIN), title, INK, large)
      top = MARGIN + LINE + ROW_GAP // 2
      for left, grid in ((MARGIN, question), (right, canvas_of(tokens, style))):
        _draw_grid(draw, left, top, grid, style, cell)
      top += height * cell + ROW_GAP // 2
      done = f'segment {segment + 1} of {len(thought.tokens)}, update '
      done += f'{update + 1} of {len(answers)} ({thought.levels[update]})'
      lines = [(done, INK), (thought.right(tokens), FAINT)]
      is_last = update == len(answers) - 1
      if is_last:
        colour = SOLVED if thought.halts[segment] else INK
        lines.append((thought.told(segment), colour))
      for number, (text, colour) in enumerate(lines):
        draw.text((MARGIN, top + number * LINE), text, colour, small)
      frames.append(image)
      times.append(LONG if is_last else SHORT)
  times[-1] = LAST
  with files.replacing(path) as part:
    # Palettes of few colours; equal frames are kept for their time.
    frames[0].save(
      part, format='GIF', save_all=True, append_images=frames[1:],
      duration=times, loop=0,
    )  # fmt: skip


def _line(text: str) -> str:
  """A text that is drawn as one line of bounded length."""
  text = files.shown(text)
  return text if len(text) <= LONGEST else f'{text[: LONGEST - 1]}…'


def canvas_of(tokens: np.ndarray, style: Style) -> np.ndarray:
  """Tokens [S] as the canvas that they are; one row where that is not known."""
  side = math.isqrt(len(tokens))
  square = (side, side) if side**2 == len(tokens) else (1, -1)
  return tokens.reshape(style.shape or square)


def _task_row(task: Task, index: int, candidates: Sequence[Candidate]) -> _Row:
  title, test = task.name, task.tests[index]
  if len(task.tests) > 1:
    title += f'   test {index + 1} of {len(task.tests)}'
  panels = [
    _Panel(
      grid,
      ARC_GRID,
      note='unknown' if grid is None else '{} x {}'.format(*grid.shape),
    )
    for grid in (test.input, test.output)
  ]
  for candidate in (*candidates[:2], None, None)[:2]:
    if candidate is None:
      panels.append(_Panel(None, ARC_GRID, note='no prediction'))
      continue
    mark, colour = '', INK
    if test.output is not None:
      right = is_solved([candidate], test.output, 1)
      mark, colour = ('solved', SOLVED) if right else ('wrong', WRONG)
    votes = f'{candidate.votes} vote' + 's' * (candidate.votes != 1)
    panels.append(_Panel(candidate.grid, ARC_GRID, mark, colour, votes))
  return _Row(title, panels)


def _draw(
  rows: Sequence[_Row],
  heading: str,
  columns: Sequence[str],
  path: str | os.PathLike,
  max_rows: int,
) -> None:
  """Draws rows down one block, then the next, under a heading."""
  if len(rows) > max_rows:
    heading += f' (first {max_rows} shown)'
    rows = rows[:max_rows]
  small = ImageFont.load_default(13)
  widths = [x.shape[1] * row.cell + 1 for row in rows for x in row.grids]
  names = [math.ceil(small.getlength(column)) for column in columns]
  pitch = max([MIN_PANEL, *widths, *names]) + PANEL_GAP
  block_width = len(columns) * pitch - PANEL_GAP + BLOCK_GAP
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
  large, heading = ImageFont.load_default(17), _line(heading)
  width = max(len(blocks) * block_width - BLOCK_GAP, large.getlength(heading))
  size = (
    2 * MARGIN + math.ceil(width),
    top + LINE + tallest + MARGIN - ROW_GAP,
  )
  image = Image.new('RGB', size, PAPER)
  draw = ImageDraw.Draw(image)
  draw.text((MARGIN, MARGIN), heading, INK, large)
  for i, block in enumerate(blocks):
    _draw_block(draw, MARGIN + i * block_width, top, block, columns, pitch)
  with files.replacing(path) as part:
    image.save(part, format='PNG')


def _draw_block(
  draw: ImageDraw.ImageDraw,
  left: int,
  top: int,
  rows: Sequence[_Row],
  columns: Sequence[str],
  pitch: int,
) -> None:
  """Draws rows under their headings, panels `pitch` pixels apart."""
  small, medium = ImageFont.load_default(13), ImageFont.load_default(15)
  lefts = range(left, left + len(columns) * pitch, pitch)
  for x, text in zip(lefts, columns, strict=True):
    draw.text((x, top), text, FAINT, small)
  top += LINE
  for row in rows:
    draw.line((left, top, lefts[-1] + pitch - PANEL_GAP, top), RULE)
    draw.text((left, top + 5), _line(row.title), INK, medium)
    for x, panel in zip(lefts, row.panels, strict=True):
      y = top + 5 + LINE
      if panel.grid is not None:
        _draw_grid(draw, x, y, panel.grid, panel.style, row.cell)
        y += panel.grid.shape[0] * row.cell + 4
      draw.text((x, y), panel.mark, panel.mark_colour, small)
      shift = draw.textlength(panel.mark, small) + 8 if panel.mark else 0
      draw.text((x + shift, y), panel.note, FAINT, small)
    top += row.height


def _draw_grid(
  draw: ImageDraw.ImageDraw, left: int, top: int, grid: np.ndarray,
  style: Style, cell: int,
) -> None:  # fmt: skip
  font = ImageFont.load_default(max(5, round(0.75 * cell)))
  for (row, column), value in np.ndenumerate(grid):
    x, y = left + column * cell, top + row * cell
    draw.rectangle((x, y, x + cell, y + cell), style.colours[value], style.line)
    if style.texts[value]:
      centre = (x + cell / 2, y + cell / 2)
      draw.text(centre, style.texts[value], INK, font, anchor='mm')
  if style.box:
    height, width = (side * cell for side in grid.shape)
    for y in range(top, top + height + 1, style.box[0] * cell):
      draw.line((left, y, left + width, y), INK)
    for x in range(left, left + width + 1, style.box[1] * cell):
      draw.line((x, top, x, top + height), INK)
