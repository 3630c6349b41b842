"""Sudoku: tokens, checks, symmetries, signatures and a seeded generator.

What is done to every cell or every puzzle of millions is compiled by numba and
runs on all cores; no result depends on the number of threads.

Shape letters: N puzzles, B puzzles of a batch, n digits (and side of the grid),
S = n * n cells.
"""

import dataclasses
import os
from typing import Self

import numpy as np

from data_pipelines.drawing.styles import PAPER, RULE, Style
from data_pipelines.errors import DataError, cell_name
from data_pipelines.hashing import GOLDEN, mix
from data_pipelines.questions import sudoku_solver as solver
from data_pipelines.questions.domain import Domain
from data_pipelines.questions.generator import (
  Generated,
  compiled,
  find_faults,
  gather,
  in_threads,
  mix_one,
)
from data_pipelines.questions.sudoku_solver import BLANK, FIRST_DIGIT

# The rows and columns of a box, by the number of cells of the grid.
_BOXES = {16: (2, 2), 36: (2, 3), 81: (3, 3)}
# Number of characters that may be wrong in what is taken for a Sudoku.
_SLIPS = 2


@dataclasses.dataclass(frozen=True)
class Sudoku(Domain):
  """Sudoku with boxes of 2 x 2, 2 x 3 or 3 x 3 cells.

  Tokens, uint8: 0 padding (not used), 1 blank, d + 1 for digit d. There is no
  end of variants.

  Attributes:
    box_rows: rows of a box.
    box_columns: columns of a box.

  Raises:
    DataError: there is no such size.
  """

  box_rows: int = 3
  box_columns: int = 3

  name = 'sudoku'
  size = 'box'
  default_size = '3x3'

  def __post_init__(self):
    if (self.box_rows, self.box_columns) not in _BOXES.values():
      sizes = ', '.join('{}x{}'.format(*box) for box in _BOXES.values())
      raise DataError(
        f'Sudoku boxes of {self.box_rows}x{self.box_columns} are not known; '
        f'use one of {sizes}'
      )

  @classmethod
  def tell(cls, question: str) -> Self | None:
    box = _BOXES.get(len(question))
    return cls(*box) if box and set(question) <= set('.0123456789') else None

  @classmethod
  def read_text(cls, text: str, origin: str) -> tuple[Self, str] | None:
    del origin
    cells = ''.join(text.split())
    box = _BOXES.get(len(cells))
    return box and (cls(*box), cells)

  @classmethod
  def with_tokens(cls, vocab_size: int, side: int) -> Self | None:
    box = _BOXES.get(side**2)
    return cls(*box) if box and vocab_size == side + FIRST_DIGIT else None

  @classmethod
  def is_spec(cls, source: str) -> bool:
    others = sum(letter not in '.0123456789' for letter in source)
    return (
      len(source) >= min(_BOXES) - _SLIPS
      and others <= _SLIPS
      and not set(source) & set('/\\:@,=')
      and not os.path.exists(source)
    )

  @property
  def side(self) -> int:
    """Rows of the grid, and columns, and digits."""
    return self.box_rows * self.box_columns

  @property
  def seq_len(self) -> int:
    return self.side**2

  @property
  def characters(self) -> str:
    return '?.' + ''.join(str(digit + 1) for digit in range(self.side))

  @property
  def values(self) -> np.ndarray:
    # Token 1 is a blank, token d + 1 the digit d.
    return np.maximum(np.arange(self.vocab_size, dtype=np.uint8), 1) - 1

  @property
  def style(self) -> Style:
    digits = [str(digit + 1) for digit in range(self.side)]
    box = (self.box_rows, self.box_columns)
    return Style([PAPER] * self.vocab_size, ['', '', *digits], RULE, box)

  @property
  def instructions(self) -> str:
    return (
      f'This is a Sudoku of {self.side} × {self.side} cells, in boxes of '
      f'{self.box_rows} rows and {self.box_columns} columns. A dot is an empty '
      f'cell. Fill in digits from 1 to {self.side}, so that each row, each '
      'column and each box has every digit once.'
    )

  def __str__(self) -> str:
    return f'Sudokus of {self.side} × {self.side}'

  @property
  def _geometry(self) -> solver.Geometry:
    return solver.geometry_of(self.box_rows, self.box_columns)

  def parse(self, cells: np.ndarray) -> np.ndarray:
    return super().parse(np.where(cells == ord('0'), ord('.'), cells))

  def check(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> list[tuple[int, str]]:
    """Finds the puzzles that cannot be used.

    That is for a cell that is no digit, a digit twice in a unit of the answer,
    an answer that does not extend its question, or a question with more than
    one solution.
    """
    return find_faults(
      solver.check, questions, answers, self._geometry, self._reason
    )

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
    candidates = solver.candidates_of(question, self._geometry)
    found, _, solution = solver.search(candidates, 1, self._geometry)
    if not found:
      return None
    return np.array([int(x).bit_length() for x in solution], np.uint8) + BLANK

  def augment(
    self,
    questions: np.ndarray,
    answers: np.ndarray,
    variant: np.ndarray,
    key: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Replaces each puzzle by a symmetric image, a function of its key.

    The digits are permuted at random, and so are the bands, the rows in each
    band, the stacks and the columns in each stack; where boxes are square, the
    grid is transposed with probability 1/2.
    """
    source, table = self._image(variant, key)
    puzzle = np.arange(len(source))[:, None]
    source += puzzle * self.seq_len

    def image(x):
      return table.take(x.take(source) + puzzle * self.vocab_size)

    return image(questions), image(answers)

  def undo(
    self, answers: np.ndarray, variant: np.ndarray, key: np.ndarray
  ) -> np.ndarray:
    source, table = self._image(variant, key)
    answers = np.take_along_axis(answers, np.argsort(source, axis=1), axis=1)
    back = np.argsort(table, axis=1).astype(np.uint8)
    return np.take_along_axis(back, answers.astype(np.int64), axis=1)

  def _image(
    self, variant: np.ndarray, key: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """The cell that each cell of an image comes from, int [B, S], and what each
    token becomes, uint8 [B, tokens]."""
    n = self.side
    ends = np.cumsum([n, n // self.box_rows, n, n // self.box_columns, n, 1])
    hashes = mix(
      mix(np.asarray(key, np.uint64))[:, None]
      + GOLDEN * np.arange(1, ends[-1] + 1, dtype=np.uint64)
    )
    digit, band, row, stack, column, coin = np.split(hashes, ends[:-1], axis=1)
    row, column = _line_order(band, row), _line_order(stack, column)
    table = np.tile(np.arange(self.vocab_size, dtype=np.uint8), (len(key), 1))
    table[:, FIRST_DIGIT:] = np.argsort(digit, axis=1) + FIRST_DIGIT
    transposed = (coin & 1).astype(bool) & (self.box_rows == self.box_columns)

    same = np.asarray(variant) == 0
    row[same] = column[same] = np.arange(n)
    table[same] = np.arange(self.vocab_size)
    transposed[same] = False

    row *= np.where(transposed, 1, n)
    column *= np.where(transposed, n, 1)
    source = (row[:, :, None] + column[:, None, :]).reshape(len(key), -1)
    return source, table

  def valid(self, questions: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether each prediction has all digits in every row, column and box, and
    every clue where it was."""
    predictions = np.asarray(predictions)
    is_digit = (predictions >= FIRST_DIGIT) & (predictions < self.vocab_size)
    shift = np.where(is_digit, predictions, FIRST_DIGIT) - FIRST_DIGIT
    bits = (is_digit << shift.astype(np.int64))[:, self._geometry.units]
    full = (np.bitwise_or.reduce(bits, axis=2) == 2**self.side - 1).all(axis=1)
    kept = (questions == predictions) | (questions < FIRST_DIGIT)
    return full & kept.all(axis=1)

  def signatures(self, questions: np.ndarray, rounds: int = 4) -> np.ndarray:
    """Hashes of what is essentially the same puzzle.

    Colours of cells are refined as Weisfeiler and Lehman do: at first a cell
    is a clue or none, and in each of the `rounds` it takes on the multisets of
    colours in its row, column, box, band and stack and of the cells with its
    digit. One round is fast and leaves more puzzles equal.
    """
    result = np.zeros(len(questions), np.uint64)
    sizes = self.box_rows, self.box_columns, rounds
    in_threads(
      lambda x: _hash_questions(questions[x], *sizes, result[x]),
      len(questions),
      4096,
    )
    return result

  def is_blank(self, questions: np.ndarray) -> np.ndarray:
    return questions == BLANK

  def answer_signatures(self, answers: np.ndarray) -> np.ndarray:
    """Hashes of what is essentially the same full grid, none below 9 x 9.

    From one row to another the digits are permuted; the lengths of the cycles
    count, for all pairs of rows and of columns, apart for pairs in one band and
    in two.
    """
    # There are some 5e9 essentially different grids of 9 x 9, 49 of 6 x 6.
    if self.side < 9:
      return super().answer_signatures(answers)
    result = np.zeros(len(answers), np.uint64)
    box = self.box_rows, self.box_columns
    in_threads(
      lambda x: _hash_answers(answers[x], *box, result[x]),
      len(answers),
      4096,
    )
    return result

  def defaults(self) -> dict[str, int]:
    # There are too few Sudokus of 4 x 4 for a thousand.
    clues, count = {4: (8, 400), 6: (12, 1000), 9: (27, 1000)}[self.side]
    return {
      'clues': clues, 'rating': 0, 'count': count, 'tests': 100, 'seed': 0,
    }  # fmt: skip

  def generate(self, count: int, settings: dict[str, int]) -> Generated:
    numbers = (settings[name] for name in ('seed', 'clues', 'rating'))
    return generate(self, count, *numbers)


def generate(
  domain: Sudoku, count: int, seed: int, max_clues: int, min_rating: int = 0
) -> Generated:
  """Makes essentially different puzzles, each proven to have one solution.

  A random full grid loses its digits in random order, each where the solution
  stays unique, until `max_clues` are left. A puzzle's rating is the number of
  guesses that the solver of `check` makes until it has ruled out a second
  solution, at least `min_rating`: 0 where naked and hidden singles and locked
  candidates suffice.

  Raises:
    DataError: many tries in a row gave nothing new.
  """
  geometry = solver.geometry_of(domain.box_rows, domain.box_columns)

  def good(made):
    clues = (made.questions >= FIRST_DIGIT).sum(axis=1)
    return (clues <= max_clues) & (made.ratings >= min_rating)

  return gather(
    lambda keys, *made: solver.generate(keys, max_clues, geometry, *made),
    good,
    domain,
    count,
    seed,
    f'Sudoku {domain.box_rows}x{domain.box_columns}, at most {max_clues} '
    f'clues, rating {min_rating} or more',
    'allow more clues, a lower rating or fewer puzzles',
  )


def _line_order(strips: np.ndarray, lines: np.ndarray) -> np.ndarray:
  """Orders of rows (or columns), int64 [B, n], that keep those of a strip
  together; from random uint64 [B, strips] and [B, n]."""
  size, count = strips.shape
  inside = np.argsort(lines.reshape(size, count, -1), axis=2)
  first = np.argsort(strips, axis=1) * inside.shape[2]
  return (inside + first[:, :, None]).reshape(lines.shape)


@compiled
def _hash_questions(questions, box_rows, box_columns, rounds, result):
  """What `Sudoku.signatures` says: sums of scrambled numbers tell multisets
  apart."""
  size = questions.shape[1]
  n = box_rows * box_columns
  colour = np.zeros(size, np.uint64)
  # Sums over each row, column and box; then over bands, stacks and tokens.
  unit = np.zeros((3, n), np.uint64)
  bands = np.zeros(n, np.uint64)
  stacks = np.zeros(n, np.uint64)
  tokens = np.zeros(n + FIRST_DIGIT, np.uint64)
  one, two, three, four, five = (
    np.uint64(0xD1342543DE82EF95),
    np.uint64(0xA0761D6478BD642F),
    np.uint64(0xE7037ED1A0B428DB),
    np.uint64(0x8EBC6AF09C88C6E3),
    np.uint64(0x589965CC75374CC3),
  )
  # Rows and columns are told apart only where no transposition mixes them.
  axis = np.uint64(0) if box_rows == box_columns else one
  for i in range(questions.shape[0]):
    question = questions[i]
    for cell in range(size):
      colour[cell] = two if question[cell] >= FIRST_DIGIT else three
    for _ in range(rounds):
      tokens[:] = bands[:] = stacks[:] = 0
      unit[:] = two
      for cell in range(size):
        row, column = cell // n, cell % n
        mixed = mix_one(colour[cell])
        tokens[question[cell]] += mixed
        unit[0, row] += mixed
        unit[1, column] += mixed
        unit[2, row // box_rows * box_rows + column // box_columns] += mixed
      for k in range(3 * n):
        unit[k // n, k % n] = mix_one(unit[k // n, k % n])
      for line in range(n):
        bands[line // box_rows] += unit[0, line]
        stacks[line // box_columns] += unit[1, line]
      for k in range(n):
        bands[k] = mix_one(bands[k]) * three
        stacks[k] = mix_one(stacks[k]) * three
      for k in range(n + FIRST_DIGIT):
        tokens[k] = mix_one(tokens[k]) * four
      for cell in range(size):
        row, column = cell // n, cell % n
        band, stack = row // box_rows, column // box_columns
        total = colour[cell] * five + unit[2, band * box_rows + stack] * one
        total += mix_one(unit[0, row] + bands[band])
        total += mix_one(unit[1, column] + stacks[stack] + axis)
        if question[cell] >= FIRST_DIGIT:
          total += tokens[question[cell]]
        colour[cell] = mix_one(total)
    for cell in range(size):
      result[i] += mix_one(colour[cell] ^ four)
    result[i] = mix_one(result[i])


@compiled
def _hash_answers(answers, box_rows, box_columns, result):
  """What `Sudoku.answer_signatures` says, by sums of scrambled numbers."""
  side = box_rows * box_columns
  follower = np.zeros(side, np.int64)
  met = np.zeros(side, np.bool_)
  sums = np.zeros((2, side), np.uint64)
  one = np.uint64(1)
  for i in range(answers.shape[0]):
    grid = answers[i]
    sums[:] = 0
    for axis in range(2):
      line_step, cell_step = (side, 1) if axis == 0 else (1, side)
      in_strip = box_rows if axis == 0 else box_columns
      for a in range(side):
        near, far = np.uint64(0), np.uint64(0)
        for b in range(side):
          if a == b:
            continue
          for k in range(side):
            digit = grid[a * line_step + k * cell_step] - FIRST_DIGIT
            other = grid[b * line_step + k * cell_step] - FIRST_DIGIT
            follower[digit % side] = other % side
          met[:] = False
          cycles = np.uint64(0)
          for digit in range(side):
            length = np.uint64(0)
            while not met[digit]:
              met[digit] = True
              digit = follower[digit]
              length += one
            cycles += mix_one(length)
          if a // in_strip == b // in_strip:
            near += mix_one(cycles)
          else:
            far += mix_one(cycles)
        sums[axis, a // in_strip] += mix_one(near + mix_one(far + one))
    rows, columns = np.uint64(0), np.uint64(0)
    for strip in range(side):
      rows += mix_one(sums[0, strip] + one)
      columns += mix_one(sums[1, strip] + one)
    if box_rows == box_columns:
      result[i] = mix_one(rows) + mix_one(columns)
    else:
      result[i] = mix_one(rows) + mix_one(columns + one)
