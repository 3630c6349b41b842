"""Puzzles as text for a language model, and its replies, read strictly.

A grid is a line for each row, with a character for each cell.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines.arc.tasks import MAX_SIDE, Task, TaskSet
from data_pipelines.drawing import pictures
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.questions.domain import Questions
from data_pipelines.questions.pipeline import QuestionSet

_COLOURS = '0123456789'
_BEGIN, _END = '<answer>', '</answer>'
_ARC = """\
Each example is an input grid and the output grid that one hidden rule makes \
of it. Grids are rows of digits, which stand for colours. Find the rule, and \
write the output grid of the test input."""
_FORM = f"""\
Think as long as you like. End with the whole grid of the answer alone, \
written as the grids above are, between {_BEGIN} and {_END}."""


class Prompt(NamedTuple):
  """A question: a test input of a task of ARC, a Sudoku or a maze.

  Attributes:
    puzzle: name of the puzzle.
    test: number of its test input, from 0.
    text: what is asked.
    characters: one for each value of a cell; `?` is no value.
    shape: rows and columns of the answer; None for any up to 30.
  """

  puzzle: str
  test: int
  text: str
  characters: str
  shape: tuple[int, int] | None = None

  def read(self, reply: str) -> np.ndarray:
    """The grid that a reply ends with: values of cells, uint8 [h, w].

    It stands between the last pair of <answer> and </answer>, as lines of
    characters, with or without blanks between them, or as JSON's list of rows.

    Raises:
      DataError: there is none, or it is no grid of these values and this shape.
    """
    before, _, _ = reply.rpartition(_END)
    _, begin, block = before.rpartition(_BEGIN)
    if not begin:
      raise DataError(f'there is nothing between {_BEGIN} and {_END}')
    block = block.strip()
    if block.startswith('```') and block.endswith('```'):
      # A block of code; its first line may name a language.
      block = block[3:-3].partition('\n')[2].strip()
    rows = [
      [*''.join(line.split())] for line in block.splitlines() if line.strip()
    ]
    if block.startswith('['):
      try:
        # A row may be a text too.
        rows = [[str(cell) for cell in row] for row in json.loads(block)]
      except (ValueError, TypeError, RecursionError):
        raise DataError('it begins as JSON, and is no list of rows') from None
    height, width = len(rows), len(rows[0]) if rows else 0
    if not width or any(len(row) != width for row in rows):
      raise DataError(f'its rows have {[*map(len, rows)]} cells')
    if self.shape is None and max(height, width) > MAX_SIDE:
      raise DataError(f'{height} × {width} cells are over {MAX_SIDE}')
    if self.shape not in (None, (height, width)):
      raise DataError(f'{height} × {width} cells are of another size')
    values = {x: i for i, x in enumerate(self.characters) if x != '?'}
    if unknown := {cell for row in rows for cell in row} - values.keys():
      raise DataError(f'no cell is {min(unknown)!a:.20}')
    return np.array([[values[cell] for cell in row] for row in rows], np.uint8)


def prompts(puzzles: TaskSet | Questions) -> Iterator[Prompt]:
  """The questions of all puzzles in order, one for each test input.

  Raises:
    DataError: a task has a grid that is larger than tasks of ARC have.
  """
  if isinstance(puzzles, TaskSet):
    for task in puzzles.tasks:
      if not task.fits(MAX_SIDE):
        raise DataError(
          f'task {shown(task.name)}: has a grid of more than {MAX_SIDE} rows '
          'or columns, which tasks of ARC never have; leave the task out'
        )
      for test in range(len(task.tests)):
        yield Prompt(task.name, test, _task_text(task, test), _COLOURS)
    return
  domain, named = puzzles.domain, QuestionSet(None, puzzles, 0, 0)
  # A blank would be lost between blanks.
  characters = domain.characters.replace(' ', '.')
  for number, tokens in enumerate(puzzles.questions):
    grid = pictures.canvas_of(tokens, domain.style)
    text = f'{domain.instructions}\n\n{lines_of(grid, characters)}\n\n{_FORM}'
    yield Prompt(named.name_of(number), 0, text, characters, grid.shape)


def _task_text(task: Task, test: int) -> str:
  parts = [_ARC]
  for number, pair in enumerate(task.demonstrations, 1):
    for what, grid in zip(('input', 'output'), pair.grids, strict=True):
      parts.append(f'Example {number}, {what}:\n{lines_of(grid)}')
  parts.append(f'Test input:\n{lines_of(task.tests[test].input)}')
  return '\n\n'.join([*parts, _FORM])


def lines_of(grid: np.ndarray, characters: str = _COLOURS) -> str:
  """A grid as a prompt shows it, with blanks between the cells."""
  return '\n'.join(' '.join(characters[cell] for cell in row) for row in grid)
