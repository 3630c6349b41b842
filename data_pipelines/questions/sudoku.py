"""Sudoku: tokens, checks, symmetries, signatures and a seeded generator.

What is done to every cell or every puzzle of millions is compiled by numba and
runs on all cores; no result depends on the number of threads.

Shape letters: N puzzles, B puzzles of a batch, n digits (and side of the grid),
S = n * n cells.
"""

import dataclasses
import os

import numpy as np

from data_pipelines.drawing.styles import PAPER, RULE, Style
from data_pipelines.errors import DataError, cell_name
from data_pipelines.hashing import GOLDEN, mix
from data_pipelines.questions import sudoku_signatures
from data_pipelines.questions import sudoku_solver as solver
from data_pipelines.questions.domain import Kind
from data_pipelines.questions.generator import (
  Generated,
  find_faults,
  gather,
  in_threads,
)
from data_pipelines.questions.sudoku_solver import BLANK, FIRST_DIGIT

_BOXES = ((2, 2), (2, 3), (3, 3))
_BOX_OF_LENGTH = {
  (rows * columns) ** 2: (rows, columns) for rows, columns in _BOXES
}
# Number of characters that may be wrong in what is taken for a Sudoku.
_SLIPS = 2


@dataclasses.dataclass(frozen=True)
class Sudoku:
  """Sudoku with boxes of 2 x 2, 2 x 3 or 3 x 3 cells.

  Tokens, uint8: 0 padding (not used), 1 blank, d + 1 for digit d.

  Attributes:
    box_rows: rows of a box.
    box_columns: columns of a box.
    max_variants: None, as `augment` has no end of variants.

  Raises:
    DataError: there is no such size.
  """

  box_rows: int = 3
  box_columns: int = 3

  name = 'sudoku'
  max_variants = None

  def __post_init__(self):
    if (self.box_rows, self.box_columns) not in _BOXES:
      sizes = ', '.join(f'{rows}x{columns}' for rows, columns in _BOXES)
      raise DataError(
        f'Sudoku boxes of {self.box_rows}x{self.box_columns} are not known; '
        f'use one of {sizes}'
      )

  @property
  def side(self) -> int:
    """Rows of the grid, and columns, and digits."""
    return self.box_rows * self.box_columns

  @property
  def seq_len(self) -> int:
    return self.side**2

  @property
  def vocab_size(self) -> int:
    return self.side + FIRST_DIGIT

  @property
  def has_rare_answers(self) -> bool:
    # There are some 5e9 essentially different grids of 9 x 9, 49 of 6 x 6.
    return self.side == 9

  @property
  def characters(self) -> str:
    return '?.' + ''.join(str(digit + 1) for digit in range(self.side))

  @property
  def style(self) -> Style:
    digits = [str(digit + 1) for digit in range(self.side)]
    box = (self.box_rows, self.box_columns)
    return Style([PAPER] * self.vocab_size, ['', '', *digits], RULE, box)

  def __str__(self) -> str:
    return f'Sudokus of {self.side} × {self.side}'

  def parse(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Turns characters into tokens; a blank is `.` or `0`."""
    table = np.zeros(256, np.uint8)
    for digit in range(1, self.side + 1):
      table[ord(str(digit))] = digit + 1
    answers = table[answers]
    table[[ord('.'), ord('0')]] = BLANK
    return table[questions], answers

  def check(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> list[tuple[int, str]]:
    """Finds the puzzles that cannot be used.

    That is for a cell that is no digit, a digit twice in a unit of the answer,
    an answer that does not extend its question, or a question with more than
    one solution.
    """
    layout = solver.geometry_of(self.box_rows, self.box_columns)
    return find_faults(solver.check, questions, answers, layout, self._reason)

  def _reason(self, question, answer, code, unit, digit) -> str:
    cell = cell_name(unit, self.side)
    if code == solver.QUESTION_CELL:
      return f"question: {cell} is not '.' or a digit from 1 to {self.side}"
    if code == solver.ANSWER_CELL:
      return f'answer: {cell} is not a digit from 1 to {self.side}'
    if code == solver.REPEATED:
      kind, number = divmod(unit, self.side)
      kind = ('row', 'column', 'box')[kind]
      return f'answer: digit {digit} is twice in {kind} {number + 1}'
    if code == solver.ALTERED:
      return (
        f'answer: {cell} is {answer[unit] - 1} where the question has '
        f'{question[unit] - 1}'
      )
    return 'question: has more than one solution'

  def solve(self, question: np.ndarray) -> np.ndarray | None:
    """A solution of a question; the first that is found of several."""
    if not ((question >= BLANK) & (question < self.vocab_size)).all():
      return None
    geometry = solver.geometry_of(self.box_rows, self.box_columns)
    full = (1 << self.side) - 1
    stack, pending, queue = solver.scratch(self.seq_len)
    tail = solver.start(question, stack[0], queue, full)
    found, _, depth = solver.search(
      stack, pending, queue, tail, 1, full, geometry
    )
    if not found:
      return None
    digits = [int(bit).bit_length() for bit in stack[depth]]
    return np.array(digits, np.uint8) + BLANK

  def augment(
    self,
    questions: np.ndarray,
    answers: np.ndarray,
    variant: np.ndarray,
    key: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Replaces each puzzle by one that is essentially the same.

    The digits are permuted at random, and so are the bands, the rows in each
    band, the stacks and the columns in each stack; where boxes are square, the
    grid is transposed with probability 1/2. A variant is a function of its key.
    """
    n, size = self.side, len(questions)
    bands, stacks = n // self.box_rows, n // self.box_columns
    ends = np.cumsum([n, bands, n, stacks, n, 1])
    hashes = mix(
      mix(np.asarray(key, np.uint64))[:, None]
      + GOLDEN * np.arange(1, ends[-1] + 1, dtype=np.uint64)
    )
    digit, band, row, stack, column, coin = np.split(hashes, ends[:-1], axis=1)

    row = _line_order(band, row)
    column = _line_order(stack, column)
    table = np.zeros((size, self.vocab_size), np.uint8)
    table[:, BLANK] = BLANK
    table[:, FIRST_DIGIT:] = np.argsort(digit, axis=1) + FIRST_DIGIT
    transposed = (coin[:, 0] & 1).astype(bool)
    if self.box_rows != self.box_columns:
      transposed[:] = False

    same = np.asarray(variant) == 0
    row[same] = column[same] = np.arange(n)
    table[same] = np.arange(self.vocab_size)
    transposed[same] = False

    row_step = np.where(transposed, 1, n)[:, None]
    column_step = np.where(transposed, n, 1)[:, None]
    puzzle = np.arange(size)[:, None]
    source = (row * row_step + puzzle * self.seq_len)[:, :, None] + (
      column * column_step
    )[:, None, :]
    source = source.reshape(size, self.seq_len)
    table_start = puzzle * self.vocab_size
    table = table.ravel()
    return tuple(
      table.take(np.ascontiguousarray(x).ravel().take(source) + table_start)
      for x in (questions, answers)
    )

  def valid(self, questions: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether each prediction has all digits in every row, column and box, and
    every clue where it was."""
    n, size = self.side, len(questions)
    predictions = np.asarray(predictions)
    is_digit = (predictions >= FIRST_DIGIT) & (predictions < self.vocab_size)
    shift = np.where(is_digit, predictions, FIRST_DIGIT) - FIRST_DIGIT
    bits = (is_digit << shift.astype(np.int64)).reshape(size, n, n)
    boxes = bits.reshape(
      size,
      n // self.box_rows,
      self.box_rows,
      n // self.box_columns,
      self.box_columns,
    )
    full = 2**n - 1
    kept = (questions == predictions) | (questions < FIRST_DIGIT)
    return (
      kept.all(axis=1)
      & (np.bitwise_or.reduce(bits, axis=1) == full).all(axis=1)
      & (np.bitwise_or.reduce(bits, axis=2) == full).all(axis=1)
      & (np.bitwise_or.reduce(boxes, axis=(2, 4)) == full).all(axis=(1, 2))
    )

  def signatures(self, questions: np.ndarray, rounds: int = 4) -> np.ndarray:
    """Hashes that are equal for puzzles that are essentially the same, and in
    all likelihood for no others.

    Colours of cells are refined as Weisfeiler and Lehman do: at first a cell
    is a clue or none, and in each round it takes on the multisets of colours
    in its row, column, box, band and stack and of the cells with its digit.

    Args:
      questions: tokens, uint8 [N, S].
      rounds: number of refinements; 1 is fast and leaves more puzzles equal.
    """
    result = np.zeros(len(questions), np.uint64)
    geometry = solver.geometry_of(self.box_rows, self.box_columns)
    square = self.box_rows == self.box_columns

    def work(start, end):
      rows = slice(start, end)
      sudoku_signatures.of_questions(
        questions[rows], geometry, square, rounds, result[rows]
      )

    in_threads(work, len(questions), 4096)
    return result

  def is_blank(self, questions: np.ndarray) -> np.ndarray:
    return questions == BLANK

  def answer_signatures(self, answers: np.ndarray) -> np.ndarray:
    """Hashes that are equal for full grids that are essentially the same, and
    in all likelihood for no others of 9 x 9.

    From one row to another the digits are permuted; the lengths of the cycles
    count, for all pairs of rows and of columns, apart for pairs in one band and
    in two.
    """
    result = np.zeros(len(answers), np.uint64)

    def work(start, end):
      rows = slice(start, end)
      sudoku_signatures.of_answers(
        answers[rows], self.box_rows, self.box_columns, result[rows]
      )

    in_threads(work, len(answers), 4096)
    return result


def generate(
  domain: Sudoku, count: int, seed: int, max_clues: int, min_rating: int = 0
) -> Generated:
  """Makes essentially different puzzles, each proven to have one solution.

  A random full grid loses its digits in random order, each where the solution
  stays unique, until `max_clues` are left. A puzzle's rating is the number of
  guesses that the solver of `check` makes until it has ruled out a second
  solution: 0 where naked and hidden singles and locked candidates suffice.

  Args:
    domain: size of the puzzles.
    count: number of puzzles.
    seed: seed of the series; its first puzzles do not depend on `count`.
    max_clues: most clues of a puzzle.
    min_rating: least number of guesses.

  Raises:
    DataError: many tries in a row gave nothing new.
  """
  geometry = solver.geometry_of(domain.box_rows, domain.box_columns)
  start_key = mix(np.array([seed % 2**64], np.uint64) + GOLDEN)

  def make(start, end):
    keys = mix(start_key + np.arange(start, end, dtype=np.uint64))
    shape = len(keys), domain.seq_len
    made = Generated(
      np.zeros(shape, np.uint8),
      np.zeros(shape, np.uint8),
      np.zeros(len(keys), np.int64),
    )

    def work(first, last):
      rows = slice(first, last)
      solver.generate(keys[rows], max_clues, geometry, *(x[rows] for x in made))

    in_threads(work, len(keys), 16)
    clues = (made.questions >= FIRST_DIGIT).sum(axis=1)
    return (clues <= max_clues) & (made.ratings >= min_rating), made

  size = f'{domain.box_rows}x{domain.box_columns}'
  return gather(
    make,
    domain.signatures,
    count,
    f'Sudoku {size}, at most {max_clues} clues, rating {min_rating} or more',
    'allow more clues, a lower rating or fewer puzzles',
  )


def _line_order(strips: np.ndarray, lines: np.ndarray) -> np.ndarray:
  """Orders of rows (or columns) that keep those of a strip together.

  Args:
    strips: uint64 [B, strips], random.
    lines: uint64 [B, n], random.

  Returns:
    int64 [B, n], which line comes at each place.
  """
  size, count = strips.shape
  inside = np.argsort(lines.reshape(size, count, -1), axis=2)
  first = np.argsort(strips, axis=1) * inside.shape[2]
  return (inside + first[:, :, None]).reshape(lines.shape)


def _tell(question: str) -> Sudoku | None:
  box = _BOX_OF_LENGTH.get(len(question))
  if box is None or set(question) - set('.0123456789'):
    return None
  return Sudoku(*box)


def _read_text(text: str, origin: str) -> tuple[Sudoku, str] | None:
  del origin
  cells = ''.join(text.split())
  box = _BOX_OF_LENGTH.get(len(cells))
  return None if box is None else (Sudoku(*box), cells)


def _with_tokens(vocab_size: int, side: int) -> Sudoku | None:
  box = _BOX_OF_LENGTH.get(side**2)
  is_sudoku = box is not None and vocab_size == side + FIRST_DIGIT
  return Sudoku(*box) if is_sudoku else None


def _is_spec(source: str) -> bool:
  others = sum(letter not in '.0123456789' for letter in source)
  return (
    len(source) >= min(_BOX_OF_LENGTH) - _SLIPS
    and others <= _SLIPS
    and not set(source) & set('/\\:@,=')
    and not os.path.exists(source)
  )


def _defaults(domain: Sudoku) -> dict[str, int]:
  # There are too few Sudokus of 4 x 4 for a thousand.
  count = 400 if domain.side == 4 else 1000
  clues = {4: 8, 6: 12, 9: 27}[domain.side]
  return {'clues': clues, 'rating': 0, 'count': count, 'tests': 100, 'seed': 0}


KIND = Kind(
  size='box',
  default_size='3x3',
  domain=Sudoku,
  defaults=_defaults,
  generate=lambda domain, count, settings: generate(
    domain, count, settings['seed'], settings['clues'], settings['rating']
  ),
  tell=_tell,
  read_text=_read_text,
  with_tokens=_with_tokens,
  is_spec=_is_spec,
)
