"""Mazes: tokens, checks, symmetries, signatures and a seeded generator.

Shape letters: N mazes, B mazes of a batch, S = height * width cells.
"""

import dataclasses
import math

import numpy as np

from data_pipelines.arc import encoding
from data_pipelines.drawing.styles import PAPER, RULE, Style
from data_pipelines.errors import DataError, cell_name
from data_pipelines.hashing import GOLDEN, mix
from data_pipelines.questions.domain import Kind
from data_pipelines.questions.generator import (
  Generated,
  below,
  compiled,
  find_faults,
  gather,
  in_threads,
)

CHARACTERS = '# SGo'
WALL, FREE, START, GOAL, PATH = range(1, 6)
MAX_SIDE = 256

# What the compiled check says of a maze.
(
  _FINE,
  _QUESTION_CELL,
  _ANSWER_CELL,
  _ANSWERED,
  _STARTS,
  _GOALS,
  _ALTERED,
  _NEIGHBOURS,
  _APART,
) = range(9)


@dataclasses.dataclass(frozen=True)
class Maze:
  """Mazes of one size, with the path from start to goal as the answer.

  Tokens, uint8: 0 padding (not used), 1 to 5 for the characters `# SGo`: wall,
  free, start, goal, path.

  Attributes:
    height: rows.
    width: columns.

  Raises:
    DataError: there are no mazes of that size.
  """

  height: int = 30
  width: int = 30

  name = 'maze'
  vocab_size = PATH + 1
  has_rare_answers = False  # An answer tells its question.
  characters = '?' + CHARACTERS  # of each token; `?` for the padding

  def __post_init__(self):
    if not (
      min(self.height, self.width) >= 1
      and 2 <= max(self.height, self.width) <= MAX_SIDE
    ):
      raise DataError(
        f'a maze of {self.height}x{self.width} cannot be; use 1x2 to '
        f'{MAX_SIDE}x{MAX_SIDE}'
      )

  @property
  def seq_len(self) -> int:
    return self.height * self.width

  @property
  def style(self) -> Style:
    colours = [PAPER, '#333333', PAPER, '#2ecc40', '#ff4136', '#7fdbff']
    shape = (self.height, self.width)
    return Style(colours, ['', '', '', 'S', 'G', ''], RULE, shape=shape)

  def __str__(self) -> str:
    return f'mazes of {self.height} × {self.width}'

  @property
  def transforms(self) -> tuple[int, ...]:
    """The dihedral transforms that keep the shape, one for each variant."""
    return tuple(range(8)) if self.height == self.width else (0, 2, 4, 5)

  @property
  def max_variants(self) -> int:
    return len(self.transforms)

  def parse(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    table = np.zeros(256, np.uint8)
    table[np.frombuffer(CHARACTERS.encode(), np.uint8)] = np.arange(1, 6)
    return table[questions], table[answers]

  def check(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> list[tuple[int, str]]:
    """Finds the mazes that cannot be used.

    That is for an unknown character, a path in the question, not one start and
    one goal, an answer that differs from its question in more than the path, or
    a path that is not one line from start to goal. That line need not be the
    shortest one, but it may not touch itself.
    """
    return find_faults(_check, questions, answers, self.width, self._reason)

  def _reason(self, question, answer, code, cell, number) -> str:
    name = cell_name(cell, self.width)
    if code == _QUESTION_CELL:
      return f"question: {name} is none of '# SG'"
    if code == _ANSWER_CELL:
      return f"answer: {name} is none of '{CHARACTERS}'"
    if code == _ANSWERED:
      return f"question: {name} is 'o', a path, which only the answer may show"
    if code == _STARTS:
      return f'question: has {number} S; it must have one'
    if code == _GOALS:
      return f'question: has {number} G; it must have one'
    if code == _ALTERED:
      return (
        f'answer: {name} is {CHARACTERS[answer[cell] - 1]!r} where the '
        f'question has {CHARACTERS[question[cell] - 1]!r}'
      )
    if code == _APART:
      return f'answer: {name} is a path that does not lead from S to G'
    ends = answer[cell] in (START, GOAL)
    return (
      f'answer: {name} has {number} neighbours on the path and must have '
      f'{1 if ends else 2}, so that one line leads from S to G'
    )

  def solve(self, question: np.ndarray) -> np.ndarray | None:
    """The question, of one start and one goal, with a shortest path in it."""
    size = len(question)
    distance, queue = np.zeros(size, np.int64), np.zeros(size, np.int64)
    start, cell = (
      int(np.flatnonzero(question == token)[0]) for token in (START, GOAL)
    )
    _flood(question != WALL, start, self.width, distance, queue)
    if distance[cell] < 0:
      return None
    answer, beside = question.copy(), np.zeros(4, np.int64)
    while distance[cell] > 1:
      count = _neighbours(cell, self.width, size, beside)
      cell = next(
        int(other)
        for other in beside[:count]
        if distance[other] == distance[cell] - 1
      )
      answer[cell] = PATH
    return answer

  def augment(
    self,
    questions: np.ndarray,
    answers: np.ndarray,
    variant: np.ndarray,
    key: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Turns and mirrors mazes; a variant is an index of `transforms`."""
    del key
    return tuple(
      np.take_along_axis(x, self._sources()[np.asarray(variant)], axis=1)
      for x in (questions, answers)
    )

  def _sources(self) -> np.ndarray:
    """Which cell each cell comes from under each variant, int64 [V, S]."""
    cells = np.arange(self.seq_len).reshape(self.height, self.width)
    return np.stack(
      [encoding.dihedral(cells, t).ravel() for t in self.transforms]
    )

  def valid(self, questions: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether each prediction is its question with a shortest path.

    All is as in the question, but for free cells that became path cells, and
    these make up a shortest path from start to goal, whether or not it is the
    one of the answer.
    """
    questions, predictions = np.asarray(questions), np.asarray(predictions)
    is_path = (predictions == PATH) & (questions == FREE)
    kept = (is_path | (predictions == questions)).all(axis=1)
    result = np.zeros(len(questions), bool)

    def work(start, end):
      rows = slice(start, end)
      _is_shortest(questions[rows], is_path[rows], self.width, result[rows])

    in_threads(work, len(questions), 1024)
    return result & kept

  def signatures(self, questions: np.ndarray) -> np.ndarray:
    """Hashes that are equal for mazes that `augment` makes of each other, and
    in all likelihood for no others."""
    cells = np.arange(1, self.seq_len + 1, dtype=np.uint64)
    weight = mix(GOLDEN * cells) | np.uint64(1)
    # The hash of a transformed maze is a sum over the cells where they were.
    weights = np.zeros((self.max_variants, self.seq_len), np.uint64)
    np.put_along_axis(weights, self._sources(), weight[None], axis=1)
    values = mix(GOLDEN * np.arange(1, 257, dtype=np.uint64))
    result = np.zeros(len(questions), np.uint64)

    def work(start, end):
      value = values[questions[start:end]]
      for of_transform in weights:
        result[start:end] += mix((value * of_transform).sum(axis=1))

    in_threads(work, len(questions), 256)
    return result


def generate(domain: Maze, count: int, seed: int, min_path: int) -> Generated:
  """Makes essentially different mazes with their shortest, and only, path.

  Corridors are carved at random, depth first, wherever a cell touches just one
  open cell, so that no two ways lead to the same place. A maze's rating is the
  number of steps from start to goal.

  Args:
    domain: size of the mazes.
    count: number of mazes.
    seed: seed of the series; its first mazes do not depend on `count`.
    min_path: least number of steps from start to goal.

  Raises:
    DataError: many tries in a row gave nothing new.
  """
  start_key = mix(np.array([seed % 2**64], np.uint64) + GOLDEN)

  def make(start, end):
    keys = mix(start_key + np.arange(start, end, dtype=np.uint64))
    shape = len(keys), domain.seq_len
    made = Generated(
      np.full(shape, WALL, np.uint8),
      np.full(shape, WALL, np.uint8),
      np.zeros(len(keys), np.int64),
    )

    def work(first, last):
      rows = slice(first, last)
      _generate(keys[rows], domain.width, min_path, *(x[rows] for x in made))

    in_threads(work, len(keys), 16)
    return made.ratings >= max(1, min_path), made

  return gather(
    make,
    domain.signatures,
    count,
    f'mazes {domain.height}x{domain.width}, path of {min_path} or more',
    'allow shorter paths, a larger size or fewer mazes',
  )


def _tell(question: str) -> Maze | None:
  side = math.isqrt(len(question))
  is_square = 2 <= side <= MAX_SIDE and side * side == len(question)
  if is_square and not set(question) - set(CHARACTERS):
    return Maze(side, side)
  return None


def _read_text(text: str, origin: str) -> tuple[Maze, str] | None:
  if not set(text) & set('#SG'):
    return None
  lines = [line.rstrip('\r') for line in text.split('\n')]
  while lines and not lines[-1]:
    lines.pop()
  for number, line in enumerate(lines, 1):
    if len(line) != len(lines[0]):
      raise DataError(
        f'{origin}: line {number} has {len(line)} cells and line 1 '
        f"{len(lines[0])}; make all as long ('.' is a free cell too)"
      )
  return Maze(len(lines), len(lines[0])), ''.join(lines).replace('.', ' ')


def _with_tokens(vocab_size: int, side: int) -> Maze | None:
  is_maze = vocab_size == Maze.vocab_size and 2 <= side <= MAX_SIDE
  return Maze(side, side) if is_maze else None


def _defaults(domain: Maze) -> dict[str, int]:
  # 110 for 30 x 30, as published, and the same fraction of other sizes.
  path = max(1, domain.seq_len * 110 // 900)
  return {'path': path, 'count': 1000, 'tests': 100, 'seed': 0}


KIND = Kind(
  size='size',
  default_size='30x30',
  domain=Maze,
  defaults=_defaults,
  generate=lambda domain, count, settings: generate(
    domain, count, settings['seed'], settings['path']
  ),
  tell=_tell,
  read_text=_read_text,
  with_tokens=_with_tokens,
)


@compiled
def _neighbours(cell, width, size, out):
  """Puts the cells beside one into `out`, int64 [4]; returns their number."""
  count = 0
  if cell >= width:
    out[count] = cell - width
    count += 1
  if cell + width < size:
    out[count] = cell + width
    count += 1
  if cell % width > 0:
    out[count] = cell - 1
    count += 1
  if cell % width < width - 1:
    out[count] = cell + 1
    count += 1
  return count


@compiled
def _flood(is_open, start, width, distance, queue):
  """Breadth-first search: sets the steps from `start` to each cell, -1 where
  no way leads, and the queue to the cells reached; returns their number."""
  beside = np.zeros(4, np.int64)
  distance[:] = -1
  distance[start] = 0
  queue[0] = start
  head = 0
  tail = 1
  while head < tail:
    cell = queue[head]
    head += 1
    for k in range(_neighbours(cell, width, len(is_open), beside)):
      other = beside[k]
      if is_open[other] and distance[other] < 0:
        distance[other] = distance[cell] + 1
        queue[tail] = other
        tail += 1
  return tail


@compiled
def _check_maze(question, answer, width, where, is_open, distance, queue):
  size = len(question)
  starts = goals = start = 0
  for cell in range(size):
    where[0] = cell
    if question[cell] < WALL or question[cell] > PATH:
      return _QUESTION_CELL
    if question[cell] == PATH:
      return _ANSWERED
    if question[cell] == START:
      starts += 1
      start = cell
    goals += question[cell] == GOAL
  where[1] = starts
  if starts != 1:
    return _STARTS
  where[1] = goals
  if goals != 1:
    return _GOALS
  for cell in range(size):
    where[0] = cell
    if answer[cell] < WALL or answer[cell] > PATH:
      return _ANSWER_CELL
    is_path = answer[cell] == PATH and question[cell] == FREE
    if answer[cell] != question[cell] and not is_path:
      return _ALTERED
    is_open[cell] = answer[cell] >= START
  beside = np.zeros(4, np.int64)
  for cell in range(size):
    if is_open[cell]:
      on_path = 0
      for k in range(_neighbours(cell, width, size, beside)):
        on_path += is_open[beside[k]]
      if on_path != (2 if answer[cell] == PATH else 1):
        where[0] = cell
        where[1] = on_path
        return _NEIGHBOURS
  # Each cell has as many neighbours as it should: a line from S to G, and
  # perhaps loops elsewhere.
  _flood(is_open, start, width, distance, queue)
  for cell in range(size):
    if is_open[cell] and distance[cell] < 0:
      where[0] = cell
      return _APART
  return _FINE


@compiled
def _check(questions, answers, width, code, where):
  size = questions.shape[1]
  is_open = np.zeros(size, np.bool_)
  distance = np.zeros(size, np.int64)
  queue = np.zeros(size, np.int64)
  for i in range(questions.shape[0]):
    code[i] = _check_maze(
      questions[i], answers[i], width, where[i], is_open, distance, queue
    )


@compiled
def _is_shortest(questions, is_path, width, result):
  """Whether the path cells, being free ones, are a shortest path."""
  size = questions.shape[1]
  distance = np.zeros(size, np.int64)
  queue = np.zeros(size, np.int64)
  for i in range(questions.shape[0]):
    start = goal = -1
    for cell in range(size):
      if questions[i, cell] == START:
        start = cell
      elif questions[i, cell] == GOAL:
        goal = cell
    if start < 0 or goal < 0:
      continue
    _flood(questions[i] != WALL, start, width, distance, queue)
    shortest = distance[goal]
    if shortest < 0 or is_path[i].sum() != shortest - 1:
      continue
    # As many cells as a shortest path needs: if they join start and goal, all
    # of them are used and none is spare.
    on_path = is_path[i].copy()
    on_path[start] = on_path[goal] = True
    _flood(on_path, start, width, distance, queue)
    result[i] = distance[goal] == shortest


@compiled
def _carve(is_open, width, stack, state):
  """Opens corridors, all joined, with one way between any two cells."""
  size = len(is_open)
  beside = np.zeros(4, np.int64)
  around = np.zeros(4, np.int64)
  is_open[:] = False
  stack[0] = below(state, size)
  is_open[stack[0]] = True
  depth = 1
  while depth:
    count = 0
    for k in range(_neighbours(stack[depth - 1], width, size, beside)):
      other = beside[k]
      if is_open[other]:
        continue
      touching = 0
      for j in range(_neighbours(other, width, size, around)):
        touching += is_open[around[j]]
      if touching == 1:
        beside[count] = other
        count += 1
    if count:
      stack[depth] = beside[below(state, count)]
      is_open[stack[depth]] = True
      depth += 1
    else:
      depth -= 1


@compiled
def _generate(keys, width, min_path, questions, answers, ratings):
  """Makes a maze for each key; its rating is -1 where no path is so long."""
  size = questions.shape[1]
  is_open = np.zeros(size, np.bool_)
  distance = np.zeros(size, np.int64)
  queue = np.zeros(size, np.int64)
  beside = np.zeros(4, np.int64)
  state = np.zeros(1, np.uint64)
  for i in range(keys.shape[0]):
    state[0] = keys[i]
    _carve(is_open, width, queue, state)
    cells = np.flatnonzero(is_open)
    start = cells[below(state, len(cells))]
    reached = _flood(is_open, start, width, distance, queue)
    if distance[queue[reached - 1]] < min_path:
      # In a tree, the cell farthest from any is an end of a longest path.
      start = queue[reached - 1]
      reached = _flood(is_open, start, width, distance, queue)
    # The queue is in order of distance: the far cells are its end.
    far = 1
    while far < reached and distance[queue[far]] < min_path:
      far += 1
    if far >= reached:
      ratings[i] = -1
      continue
    goal = queue[far + below(state, reached - far)]
    for cell in cells:
      questions[i, cell] = answers[i, cell] = FREE
    questions[i, start] = answers[i, start] = START
    questions[i, goal] = answers[i, goal] = GOAL
    ratings[i] = distance[goal]
    cell = goal
    while distance[cell] > 1:
      for k in range(_neighbours(cell, width, size, beside)):
        other = beside[k]
        if is_open[other] and distance[other] == distance[cell] - 1:
          cell = other
          break
      answers[i, cell] = PATH
