"""The compiled solver of Sudokus, which checks and generates them too.

Shape letters: n digits (and side of the grid), S = n * n cells.
"""

import functools
from typing import NamedTuple

import numpy as np

from data_pipelines.questions.generator import below, compiled

BLANK = 1
FIRST_DIGIT = 2

# What the compiled check says of a puzzle.
FINE, QUESTION_CELL, ANSWER_CELL, REPEATED, ALTERED, AMBIGUOUS = range(6)


class Geometry(NamedTuple):
  """Which cells belong together, all uint8, for the compiled functions."""

  units: np.ndarray  # [3n, n], the cells of each row, then column, then box
  peers: np.ndarray  # [S, P], the cells that share a unit with a cell
  meet: np.ndarray  # [M, m], what a line and a box share, where more than one
  line: np.ndarray  # [M, n - m], the rest of that line
  box: np.ndarray  # [M, n - m], the rest of that box


@functools.cache
def geometry_of(box_rows: int, box_columns: int) -> Geometry:
  """The geometry of a grid with such boxes."""
  n = box_rows * box_columns
  row, column = np.divmod(np.arange(n * n), n)
  box = row // box_rows * box_rows + column // box_columns
  units = np.array(
    [np.flatnonzero(x == i) for x in (row, column, box) for i in range(n)]
  )
  peers = [
    np.setdiff1d(units[(units == cell).any(axis=1)], cell)
    for cell in range(n * n)
  ]
  shared = [
    (meet, np.setdiff1d(line, meet), np.setdiff1d(cells, meet))
    for line in units[: 2 * n]
    for cells in units[2 * n :]
    if len(meet := np.intersect1d(line, cells)) > 1
  ]
  # A box of 2 x 3 shares two cells with a column and three with a row: both
  # are filled up to three by naming a cell twice, which changes no union.
  filled = (
    [np.resize(x, max(map(len, part))) for x in part]
    for part in zip(*shared, strict=True)
  )
  return Geometry(*(np.array(x, np.uint8) for x in (units, peers, *filled)))


# The solver. `candidates`, uint16 [S], holds the digits that a cell may still
# have, bit d for digit d + 1; a queue holds the cells that came down to one
# digit which their peers do not know of yet.


@compiled
def _remove(candidates, queue, tail, cells, bits):
  """Takes digits from cells; the queue's new end, or -1 for a contradiction."""
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
def _tell_peers(candidates, queue, tail, peers):
  """Takes queued cells' digits from their peers; false for a contradiction."""
  head = 0
  while head < tail:
    cell = queue[head]
    tail = _remove(candidates, queue, tail, peers[cell], candidates[cell])
    head += 1
  return tail >= 0


@compiled
def _propagate(candidates, queue, tail, geometry):
  """Follows all that is certain; false for a contradiction."""
  units = geometry.units
  full = (1 << units.shape[1]) - 1
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
def search(given, limit, geometry):
  """Counts solutions up to `limit`, and the guesses made for that.

  The third result is the last solution where `limit` were found; both it and
  what is given to start from are candidates.
  """
  size = len(given)
  # What is left to try at each depth, and the cell that is guessed there.
  stack = np.zeros((size + 1, size), np.uint16)
  pending = np.zeros(size + 1, np.uint8)
  queue = np.zeros(size + 1, np.uint8)
  stack[0] = given
  tail = depth = found = guesses = 0
  for cell in range(size):
    if given[cell] & (given[cell] - 1) == 0:
      queue[tail] = cell
      tail += 1
  while True:
    candidates = stack[depth]
    if _propagate(candidates, queue, tail, geometry):
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
  return found, guesses, stack[depth]


@compiled
def candidates_of(question, geometry):
  """The digit of each clue, all digits elsewhere."""
  every = (1 << geometry.units.shape[1]) - 1
  candidates = np.full(len(question), every, np.uint16)
  for cell in range(len(question)):
    if question[cell] >= FIRST_DIGIT:
      candidates[cell] = 1 << (question[cell] - FIRST_DIGIT)
  return candidates


@compiled
def _check_cells(question, answer, units, where):
  """What is wrong with a puzzle, its solution's uniqueness aside."""
  n = units.shape[1]
  for cell in range(question.shape[0]):
    where[0] = cell
    if question[cell] < BLANK or question[cell] >= n + FIRST_DIGIT:
      return QUESTION_CELL
  for cell in range(question.shape[0]):
    where[0] = cell
    if answer[cell] < FIRST_DIGIT or answer[cell] >= n + FIRST_DIGIT:
      return ANSWER_CELL
  for u in range(units.shape[0]):
    seen = 0
    for k in range(n):
      bit = 1 << answer[units[u, k]]
      if seen & bit:
        where[0] = u
        where[1] = answer[units[u, k]] - 1
        return REPEATED
      seen |= bit
  for cell in range(question.shape[0]):
    where[0] = cell
    if question[cell] != BLANK and question[cell] != answer[cell]:
      return ALTERED
  return FINE


@compiled
def check(questions, answers, geometry, code, where):
  """Sets a code of what is wrong with each puzzle, and where that is."""
  for i in range(questions.shape[0]):
    code[i] = _check_cells(questions[i], answers[i], geometry.units, where[i])
    if code[i] == FINE:
      candidates = candidates_of(questions[i], geometry)
      if search(candidates, 2, geometry)[0] > 1:
        code[i] = AMBIGUOUS


@compiled
def _shuffled(size, state):
  order = np.arange(size)
  for i in range(size - 1, 0, -1):
    j = below(state, i + 1)
    order[i], order[j] = order[j], order[i]
  return order


@compiled
def _fill(candidates, state, geometry):
  """Fills a grid at random; false where that came to a dead end."""
  candidates[:] = (1 << geometry.units.shape[1]) - 1
  queue = np.zeros(len(candidates) + 1, np.uint8)
  for cell in _shuffled(len(candidates), state):
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
    if not _propagate(candidates, queue, 1, geometry):
      return False
  return True


@compiled
def generate(keys, max_clues, geometry, questions, answers, ratings):
  """Makes one puzzle for each key; it may keep more clues than wanted."""
  size = questions.shape[1]
  state = np.zeros(1, np.uint64)
  grid = np.zeros(size, np.uint16)
  for i in range(keys.shape[0]):
    state[0] = keys[i]
    while not _fill(grid, state, geometry):
      pass
    question, answer = questions[i], answers[i]
    for cell in range(size):
      digit = 0
      while grid[cell] >> digit != 1:
        digit += 1
      question[cell] = answer[cell] = digit + FIRST_DIGIT
    clues = size
    for cell in _shuffled(size, state):
      if clues <= max_clues:
        break
      # The digit may go if no solution has another one in its place.
      question[cell] = BLANK
      candidates = candidates_of(question, geometry)
      candidates[cell] ^= grid[cell]
      if search(candidates, 1, geometry)[0]:
        question[cell] = answer[cell]
      else:
        clues -= 1
    candidates = candidates_of(question, geometry)
    found, guesses, _ = search(candidates, 2, geometry)
    ratings[i] = guesses if found == 1 else -1
