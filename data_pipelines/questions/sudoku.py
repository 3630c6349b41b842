"""Sudoku: tokens, checks, symmetries, signatures and a seeded generator.

What is done to every cell or every puzzle of millions is compiled by numba and
runs on all cores; no result depends on the number of threads.

Shape letters: N puzzles, B puzzles of a batch, n digits (and side of the grid),
S = n * n cells.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DataError, cell_name
from data_pipelines.hashing import GOLDEN, mix
from data_pipelines.questions.generator import (
  Generated,
  below,
  compiled,
  gather,
  in_threads,
  mix_one,
)

BLANK = 1
FIRST_DIGIT = 2

_BOXES = ((2, 2), (2, 3), (3, 3))

# What the compiled check says of a puzzle.
_FINE, _QUESTION_CELL, _ANSWER_CELL, _REPEATED, _ALTERED, _AMBIGUOUS = range(6)


class _Geometry(NamedTuple):
  """Which cells belong together, all uint8, for the compiled functions.

  Attributes:
    units: [3n, n], the cells of each row, then column, then box.
    peers: [S, P], the cells that share a unit with a cell.
    meet: [M, m], the cells that a line and a box share, where more than one.
    line: [M, n - m], the rest of that line.
    box: [M, n - m], the rest of that box.
    band: [S], which strip of boxes a cell's row is in.
    stack: [S], which strip of boxes a cell's column is in.
  """

  units: np.ndarray
  peers: np.ndarray
  meet: np.ndarray
  line: np.ndarray
  box: np.ndarray
  band: np.ndarray
  stack: np.ndarray


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
    """Whether two puzzles seldom have one answer by chance: there are some
    5e9 essentially different grids of 9 x 9, and only 49 of 6 x 6."""
    return self.side == 9

  @property
  def characters(self) -> str:
    """Of each token, in a CSV file; `?` for the padding."""
    return '?.' + ''.join(str(digit + 1) for digit in range(self.side))

  def __str__(self) -> str:
    return f'Sudokus of {self.side} × {self.side}'

  def parse(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Characters to tokens.

    Args:
      questions: uint8 [N, S], ASCII; `.` or `0` is a blank.
      answers: uint8 [N, S], ASCII.

    Returns:
      Questions and answers as tokens, uint8 [N, S]; 0 where there was another
      character, which `check` will name.
    """
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

    Args:
      questions: tokens, uint8 [N, S].
      answers: tokens, uint8 [N, S].

    Returns:
      For each puzzle at fault its index and what is wrong first: a cell that
      is no digit, a digit twice in a unit of the answer, an answer that does
      not extend its question, a question with more than one solution.
    """
    count = len(questions)
    code = np.zeros(count, np.uint8)
    where = np.zeros((count, 2), np.uint8)
    geometry = _geometry(self.box_rows, self.box_columns)

    def work(start, end):
      rows = slice(start, end)
      _check(questions[rows], answers[rows], geometry, code[rows], where[rows])

    in_threads(work, count, 1024)
    return [
      (int(i), self._reason(questions[i], answers[i], code[i], where[i]))
      for i in np.flatnonzero(code != _FINE)
    ]

  def _reason(self, question, answer, code, where) -> str:
    unit, digit = (int(x) for x in where)
    cell = cell_name(unit, self.side)
    if code == _QUESTION_CELL:
      return f"question: {cell} is not '.' or a digit from 1 to {self.side}"
    if code == _ANSWER_CELL:
      return f'answer: {cell} is not a digit from 1 to {self.side}'
    if code == _REPEATED:
      kind, number = divmod(unit, self.side)
      kind = ('row', 'column', 'box')[kind]
      return f'answer: digit {digit} is twice in {kind} {number + 1}'
    if code == _ALTERED:
      return (
        f'answer: {cell} is {answer[unit] - 1} where the question has '
        f'{question[unit] - 1}'
      )
    return 'question: has more than one solution'

  def solve(self, question: np.ndarray) -> np.ndarray | None:
    """A solution of a question, tokens, uint8 [S]; None where there is none.

    Of several the one found first, which `check` will tell.
    """
    if not ((question >= BLANK) & (question < self.vocab_size)).all():
      return None
    geometry = _geometry(self.box_rows, self.box_columns)
    full = (1 << self.side) - 1
    stack, pending, queue = _scratch(self.seq_len)
    tail = _start(question, stack[0], queue, full)
    found, _, depth = _search(stack, pending, queue, tail, 1, full, geometry)
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

    A random permutation of the digits, of the bands and of the rows in each
    band, of the stacks and of the columns in each stack, and with probability
    1/2 a transposition where boxes are square.

    Args:
      questions: tokens, uint8 [B, S].
      answers: tokens, uint8 [B, S].
      variant: int [B]; puzzles of variant 0 stay as they are.
      key: uint64 [B]; what is done to a puzzle of another variant is a
        function of its key alone.
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
    """Whether each prediction solves its question.

    Args:
      questions: tokens, uint8 [B, S].
      predictions: tokens, [B, S]; anything may stand in them.

    Returns:
      bool [B]: every row, column and box has all the digits, and every clue is
      where it was.
    """
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
    """Hashes that do not change under the symmetries of `augment`.

    Colours of cells are refined as Weisfeiler and Lehman do: at first a cell
    is a clue or none, and in each round it takes on the multisets of colours
    in its row, column, box, band and stack and of the cells with its digit.

    Args:
      questions: tokens, uint8 [N, S].
      rounds: number of refinements; 1 is fast and leaves more puzzles equal.

    Returns:
      uint64 [N]: equal for puzzles that are essentially the same, and in all
      likelihood for no others.
    """
    result = np.zeros(len(questions), np.uint64)
    geometry = _geometry(self.box_rows, self.box_columns)
    square = self.box_rows == self.box_columns

    def work(start, end):
      rows = slice(start, end)
      _signatures(questions[rows], geometry, square, rounds, result[rows])

    in_threads(work, len(questions), 4096)
    return result

  def is_blank(self, questions: np.ndarray) -> np.ndarray:
    """Which cells of questions are left open, bool."""
    return questions == BLANK

  def answer_signatures(self, answers: np.ndarray) -> np.ndarray:
    """Hashes of full grids that do not change under `augment`.

    From one row to another the digits are permuted; of all pairs of rows, and
    of columns, the lengths of the cycles count, apart for pairs in one band and
    in two.

    Args:
      answers: tokens of full grids, uint8 [N, S].

    Returns:
      uint64 [N]: equal for grids that are essentially the same, and in all
      likelihood for no others of 9 x 9.
    """
    result = np.zeros(len(answers), np.uint64)

    def work(start, end):
      rows = slice(start, end)
      _answer_signatures(
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
    domain: the size.
    count: number of puzzles.
    seed: of the series; its first puzzles do not depend on `count`.
    max_clues: clues of a puzzle at the most.
    min_rating: guesses at the least.

  Raises:
    DataError: many tries in a row gave nothing new.
  """
  geometry = _geometry(domain.box_rows, domain.box_columns)
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
      _generate(keys[rows], max_clues, geometry, *(x[rows] for x in made))

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


@functools.cache
def _geometry(box_rows: int, box_columns: int) -> _Geometry:
  n = box_rows * box_columns
  row, column = np.divmod(np.arange(n * n), n)
  band, stack = row // box_rows, column // box_columns
  box = band * (n // box_columns) + stack
  units = np.array(
    [np.flatnonzero(x == i) for x in (row, column, box) for i in range(n)]
  )
  related = (row[:, None] == row) | (column[:, None] == column)
  related |= box[:, None] == box
  np.fill_diagonal(related, False)
  peers = [np.flatnonzero(x) for x in related]
  shared = []
  for line in units[: 2 * n]:
    for cells in units[2 * n :]:
      meet = np.intersect1d(line, cells)
      if len(meet) > 1:
        shared.append(
          (meet, np.setdiff1d(line, meet), np.setdiff1d(cells, meet))
        )
  # A box of 2 x 3 shares two cells with a column and three with a row: both
  # are filled up to three by naming a cell twice, which changes no union.
  meet, line, rest = (
    [np.resize(x, max(map(len, part))) for x in part]
    for part in zip(*shared, strict=True)
  )
  return _Geometry(
    *(
      np.ascontiguousarray(x, np.uint8)
      for x in (units, peers, meet, line, rest, band, stack)
    )
  )


# The solver. `candidates`, uint16 [S], holds the digits that a cell may still
# have, bit d for digit d + 1; a queue holds the cells that came down to one
# digit which their peers do not know of yet.


@compiled
def _tell_peers(candidates, queue, tail, peers):
  """Takes queued cells' digits from their peers; false for a contradiction."""
  head = 0
  while head < tail:
    cell = queue[head]
    head += 1
    bit = candidates[cell]
    for k in range(peers.shape[1]):
      peer = peers[cell, k]
      left = candidates[peer]
      if left & bit:
        left ^= bit
        if left == 0:
          return False
        candidates[peer] = left
        if left & (left - 1) == 0:
          queue[tail] = peer
          tail += 1
  return True


@compiled
def _remove(candidates, queue, tail, cells, bits):
  """Takes digits from cells; the queue's new end, or -1."""
  for k in range(cells.shape[0]):
    cell = cells[k]
    left = candidates[cell]
    if left & bits:
      left &= ~bits
      if left == 0:
        return -1
      candidates[cell] = left
      if left & (left - 1) == 0:
        queue[tail] = cell
        tail += 1
  return tail


@compiled
def _propagate(candidates, queue, tail, full, geometry):
  """Follows all that is certain; false for a contradiction."""
  units = geometry.units
  meet, line, box = geometry.meet, geometry.line, geometry.box
  while True:
    if not _tell_peers(candidates, queue, tail, geometry.peers):
      return False
    tail = 0
    # A digit that fits one cell of a unit only; round and round the units
    # until none of them has such a digit.
    u = quiet = 0
    while quiet < units.shape[0]:
      once = twice = single = 0
      for k in range(units.shape[1]):
        left = candidates[units[u, k]]
        twice |= once & left
        once |= left
        if left & (left - 1) == 0:
          single |= left
      if once != full:
        return False
      quiet += 1
      hidden = full & ~twice & ~single
      if hidden:
        quiet = tail = 0
        for k in range(units.shape[1]):
          cell = units[u, k]
          bit = candidates[cell] & hidden
          if bit:
            if bit & (bit - 1):
              return False
            candidates[cell] = bit
            queue[tail] = cell
            tail += 1
        if not _tell_peers(candidates, queue, tail, geometry.peers):
          return False
      u = u + 1 if u + 1 < units.shape[0] else 0
    tail = 0
    # A digit that a box has in one line only, or a line in one box only,
    # is nowhere else in the other of the two.
    changed = False
    for i in range(meet.shape[0]):
      both = in_line = in_box = 0
      for k in range(meet.shape[1]):
        both |= candidates[meet[i, k]]
      for k in range(line.shape[1]):
        in_line |= candidates[line[i, k]]
      for k in range(box.shape[1]):
        in_box |= candidates[box[i, k]]
      confined = both & ~in_line & in_box
      if confined:
        changed = True
        tail = _remove(candidates, queue, tail, box[i], confined)
      confined = both & ~in_box & in_line
      if confined and tail >= 0:
        changed = True
        tail = _remove(candidates, queue, tail, line[i], confined)
      if tail < 0:
        return False
      if tail:
        break
    if not changed:
      return True


@compiled
def _choose(candidates, peers):
  """The cell to guess: fewest candidates, then most peers that it bears on;
  -1 where every cell has its digit."""
  best = -1
  fewest = 99
  most = -1
  for cell in range(candidates.shape[0]):
    left = candidates[cell]
    rest = left & (left - 1)
    if rest == 0:
      continue
    count = 1
    while rest:
      rest &= rest - 1
      count += 1
    if count > fewest:
      continue
    score = 0
    if count == 2:
      for k in range(peers.shape[1]):
        other = candidates[peers[cell, k]]
        rest = other & (other - 1)
        if rest and other & left:
          # Another cell of two candidates is decided by this one.
          score += 4 if rest & (rest - 1) == 0 else 1
    if count < fewest or score > most:
      best, fewest, most = cell, count, score
  return best


@compiled
def _search(stack, pending, queue, tail, limit, full, geometry):
  """Counts solutions up to `limit`, the guesses made for that, and the depth
  where it ended: with `limit` found, stack[depth] holds the last one.

  Args:
    stack: uint16 [S + 1, S]; stack[0] holds the candidates to start from.
    pending: uint8 [S + 1], room for the cell guessed at each depth.
    queue: uint8 [S + 1], its first `tail` cells being queued.
  """
  depth = found = guesses = 0
  while True:
    candidates = stack[depth]
    if _propagate(candidates, queue, tail, full, geometry):
      cell = _choose(candidates, geometry.peers)
      if cell >= 0:
        guesses += 1
        left = np.int64(candidates[cell])
        bit = left & -left
        stack[depth + 1, :] = candidates
        # What is left to try when the guess has been followed to its end.
        candidates[cell] = left ^ bit
        pending[depth] = cell
        depth += 1
        stack[depth, cell] = bit
        queue[0] = cell
        tail = 1
        continue
      found += 1
      if found == limit:
        break
    depth -= 1
    if depth < 0:
      break
    queue[0] = pending[depth]
    left = stack[depth, pending[depth]]
    tail = 1 if left & (left - 1) == 0 else 0
  return found, guesses, depth


@compiled
def _start(question, candidates, queue, full):
  """Sets candidates and queue to a question's clues; the queue's end."""
  tail = 0
  for cell in range(question.shape[0]):
    if question[cell] >= FIRST_DIGIT:
      candidates[cell] = 1 << (question[cell] - FIRST_DIGIT)
      queue[tail] = cell
      tail += 1
    else:
      candidates[cell] = full
  return tail


@compiled
def _scratch(size):
  return (
    np.zeros((size + 1, size), np.uint16),
    np.zeros(size + 1, np.uint8),
    np.zeros(size + 1, np.uint8),
  )


@compiled
def _check_cells(question, answer, units, where):
  """What is wrong with a puzzle, its solution's uniqueness aside."""
  n = units.shape[1]
  for cell in range(question.shape[0]):
    where[0] = cell
    if question[cell] < BLANK or question[cell] >= n + FIRST_DIGIT:
      return _QUESTION_CELL
  for cell in range(question.shape[0]):
    where[0] = cell
    if answer[cell] < FIRST_DIGIT or answer[cell] >= n + FIRST_DIGIT:
      return _ANSWER_CELL
  for u in range(units.shape[0]):
    seen = 0
    for k in range(n):
      bit = 1 << answer[units[u, k]]
      if seen & bit:
        where[0] = u
        where[1] = answer[units[u, k]] - 1
        return _REPEATED
      seen |= bit
  for cell in range(question.shape[0]):
    where[0] = cell
    if question[cell] != BLANK and question[cell] != answer[cell]:
      return _ALTERED
  return _FINE


@compiled
def _check(questions, answers, geometry, code, where):
  size = questions.shape[1]
  full = (1 << geometry.units.shape[1]) - 1
  stack, pending, queue = _scratch(size)
  for i in range(questions.shape[0]):
    code[i] = _check_cells(questions[i], answers[i], geometry.units, where[i])
    if code[i] == _FINE:
      tail = _start(questions[i], stack[0], queue, full)
      found, _, _ = _search(stack, pending, queue, tail, 2, full, geometry)
      if found > 1:
        code[i] = _AMBIGUOUS


@compiled
def _shuffle(order, state):
  for i in range(order.shape[0]):
    order[i] = i
  for i in range(order.shape[0] - 1, 0, -1):
    j = below(state, i + 1)
    order[i], order[j] = order[j], order[i]


@compiled
def _fill(candidates, queue, order, state, full, geometry):
  """Fills a grid at random; false where that came to a dead end."""
  candidates[:] = full
  _shuffle(order, state)
  for cell in order:
    left = np.int64(candidates[cell])
    if left & (left - 1) == 0:
      continue
    count = 0
    rest = left
    while rest:
      rest &= rest - 1
      count += 1
    for _ in range(below(state, count)):
      left &= left - 1
    candidates[cell] = left & -left
    queue[0] = cell
    if not _propagate(candidates, queue, 1, full, geometry):
      return False
  return True


@compiled
def _generate(keys, max_clues, geometry, questions, answers, ratings):
  """Makes one puzzle for each key; it may keep more clues than wanted."""
  size = questions.shape[1]
  full = (1 << geometry.units.shape[1]) - 1
  stack, pending, queue = _scratch(size)
  order = np.zeros(size, np.int64)
  state = np.zeros(1, np.uint64)
  for i in range(keys.shape[0]):
    state[0] = keys[i]
    while not _fill(stack[0], queue, order, state, full, geometry):
      pass
    question, answer = questions[i], answers[i]
    for cell in range(size):
      digit = 0
      while stack[0, cell] >> digit != 1:
        digit += 1
      question[cell] = answer[cell] = digit + FIRST_DIGIT
    clues = size
    _shuffle(order, state)
    for cell in order:
      if clues <= max_clues:
        break
      # The digit may go if no solution has another one in its place.
      question[cell] = BLANK
      tail = _start(question, stack[0], queue, full)
      stack[0, cell] = full ^ (1 << (answer[cell] - FIRST_DIGIT))
      found, _, _ = _search(stack, pending, queue, tail, 1, full, geometry)
      if found:
        question[cell] = answer[cell]
      else:
        clues -= 1
    tail = _start(question, stack[0], queue, full)
    found, guesses, _ = _search(stack, pending, queue, tail, 2, full, geometry)
    ratings[i] = guesses if found == 1 else -1


@compiled
def _signatures(questions, geometry, square, rounds, result):
  """The signatures of `Sudoku.signatures`, by sums of scrambled colours."""
  size = questions.shape[1]
  units, band, stack = geometry.units, geometry.band, geometry.stack
  n = units.shape[1]
  colour = np.zeros(size, np.uint64)
  mixed = np.zeros(size, np.uint64)
  # Of each row, column and box; then of each band and stack, and each token.
  unit = np.zeros(3 * n, np.uint64)
  bands = np.zeros(n, np.uint64)
  stacks = np.zeros(n, np.uint64)
  tokens = np.zeros(n + FIRST_DIGIT, np.uint64)
  box_of = np.zeros(size, np.int64)
  for b in range(n):
    for k in range(n):
      box_of[units[2 * n + b, k]] = b
  one, two, three, four, five = (
    np.uint64(0xD1342543DE82EF95),
    np.uint64(0xA0761D6478BD642F),
    np.uint64(0xE7037ED1A0B428DB),
    np.uint64(0x8EBC6AF09C88C6E3),
    np.uint64(0x589965CC75374CC3),
  )
  # Rows and columns are told apart only where no transposition mixes them.
  axis = np.uint64(0) if square else one
  for i in range(questions.shape[0]):
    question = questions[i]
    for cell in range(size):
      colour[cell] = two if question[cell] >= FIRST_DIGIT else three
    for _ in range(rounds):
      tokens[:] = 0
      bands[:] = 0
      stacks[:] = 0
      for cell in range(size):
        mixed[cell] = mix_one(colour[cell])
        tokens[question[cell]] += mixed[cell]
      for u in range(3 * n):
        total = np.uint64(0)
        for k in range(n):
          total += mixed[units[u, k]]
        unit[u] = mix_one(total + two)
      for line in range(n):
        bands[band[line * n]] += unit[line]
        stacks[stack[line]] += unit[n + line]
      for k in range(n):
        bands[k] = mix_one(bands[k]) * three
        stacks[k] = mix_one(stacks[k]) * three
      for k in range(n + FIRST_DIGIT):
        tokens[k] = mix_one(tokens[k]) * four
      for cell in range(size):
        row, column = cell // n, cell % n
        across = mix_one(unit[row] + bands[band[cell]])
        down = mix_one(unit[n + column] + stacks[stack[cell]] + axis)
        total = colour[cell] * five + across + down
        total += unit[2 * n + box_of[cell]] * one
        if question[cell] >= FIRST_DIGIT:
          total += tokens[question[cell]]
        colour[cell] = mix_one(total)
    total = np.uint64(0)
    for cell in range(size):
      total += mix_one(colour[cell] ^ four)
    result[i] = mix_one(total)


@compiled
def _answer_signatures(answers, box_rows, box_columns, result):
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
