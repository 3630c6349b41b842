"""Mazes: tokens, checks, symmetries, signatures and a seeded generator.

Shape letters: N mazes, B mazes of a batch, S = height * width cells.
"""

import dataclasses
import math
from typing import Self

import numpy as np

from data_pipelines.arc import encoding
from data_pipelines.drawing.styles import PAPER, RULE, Style
from data_pipelines.errors import DataError, cell_name
from data_pipelines.hashing import GOLDEN, mix
from data_pipelines.questions.domain import Domain
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
# Walls of an open maze in 1000 cells. Few with long paths have fewer or more;
# those that have are walls over 37 % of the cells, as in Maze-Hard.
_FEWEST_WALLS, _MOST_WALLS = 320, 430

# What the compiled check says of a question, then of an answer.
_FINE, _QUESTION_CELL, _ANSWERED, _STARTS, _GOALS = range(5)
_ANSWER_CELL, _ALTERED, _NEIGHBOURS, _APART = range(5, 9)
_REASONS = {
  _QUESTION_CELL: "question: {cell} is none of '# SG'",
  _ANSWERED: "question: {cell} is 'o', a path, which only the answer may show",
  _STARTS: 'question: has {number} S; it must have one',
  _GOALS: 'question: has {number} G; it must have one',
  _ANSWER_CELL: "answer: {cell} is none of '# SGo'",
  _ALTERED: 'answer: {cell} is {answer!r} where the question has {question!r}',
  _NEIGHBOURS: (
    'answer: {cell} has {number} neighbours on the path and must have {wanted},'
    ' so that one line leads from S to G'
  ),
  _APART: 'answer: {cell} is a path that does not lead from S to G',
}


@dataclasses.dataclass(frozen=True)
class Maze(Domain):
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
  default_size = '30x30'
  kinds = ('corridors', 'open')
  has_one_answer = False
  vocab_size = PATH + 1
  characters = '?' + CHARACTERS

  def __post_init__(self):
    if not (
      min(self.height, self.width) >= 1
      and 2 <= max(self.height, self.width) <= MAX_SIDE
    ):
      raise DataError(
        f'a maze of {self.height}x{self.width} cannot be; use 1x2 to '
        f'{MAX_SIDE}x{MAX_SIDE}'
      )

  @classmethod
  def tell(cls, question: str) -> Self | None:
    side = math.isqrt(len(question))
    is_square = 2 <= side <= MAX_SIDE and side * side == len(question)
    is_maze = is_square and set(question) <= set(CHARACTERS)
    return cls(side, side) if is_maze else None

  @classmethod
  def read_text(cls, text: str, origin: str) -> tuple[Self, str] | None:
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
    return cls(len(lines), len(lines[0])), ''.join(lines).replace('.', ' ')

  @classmethod
  def with_tokens(cls, vocab_size: int, side: int) -> Self | None:
    is_maze = vocab_size == cls.vocab_size and 2 <= side <= MAX_SIDE
    return cls(side, side) if is_maze else None

  @property
  def seq_len(self) -> int:
    return self.height * self.width

  @property
  def style(self) -> Style:
    colours = [PAPER, '#333333', PAPER, '#2ecc40', '#ff4136', '#7fdbff']
    shape = (self.height, self.width)
    return Style(colours, ['', '', '', 'S', 'G', ''], RULE, shape=shape)

  @property
  def instructions(self) -> str:
    return (
      f'This is a maze of {self.height} rows and {self.width} columns: # is a '
      'wall, a dot a free cell, S the start and G the goal. A step goes up, '
      'down, left or right. Find a shortest path from S to G, and write o in '
      'each free cell that it goes through. Leave all other cells as they are.'
    )

  def __str__(self) -> str:
    return f'mazes of {self.height} × {self.width}'

  @property
  def transforms(self) -> tuple[int, ...]:
    """The dihedral transforms that keep the shape, one for each variant."""
    return tuple(range(8)) if self.height == self.width else (0, 2, 4, 5)

  @property
  def max_variants(self) -> int:
    return len(self.transforms)

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
    return _REASONS[code].format(
      cell=cell_name(cell, self.width),
      number=number,
      wanted=1 if answer[cell] in (START, GOAL) else 2,
      answer=self.characters[answer[cell] % self.vocab_size],
      question=self.characters[question[cell] % self.vocab_size],
    )

  def solve(self, question: np.ndarray) -> np.ndarray | None:
    """The question, of one start and one goal, with a shortest path in it."""
    start, goal = (
      int(np.flatnonzero(question == token)[0]) for token in (START, GOAL)
    )
    distance, _ = _flood(question != WALL, start, self.width)
    if distance[goal] < 0:
      return None
    answer = question.copy()
    _draw_path(distance, goal, self.width, answer)
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
    source = self._sources()[np.asarray(variant)]
    return (
      np.take_along_axis(questions, source, axis=1),
      np.take_along_axis(answers, source, axis=1),
    )

  def undo(
    self, answers: np.ndarray, variant: np.ndarray, key: np.ndarray
  ) -> np.ndarray:
    del key
    back = np.argsort(self._sources(), axis=1)[np.asarray(variant)]
    return np.take_along_axis(answers, back, axis=1)

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
    in_threads(
      lambda x: _is_shortest(questions[x], is_path[x], self.width, result[x]),
      len(questions),
      1024,
    )
    return result & kept

  def signatures(self, questions: np.ndarray) -> np.ndarray:
    cells = np.arange(1, self.seq_len + 1, dtype=np.uint64)
    weight = mix(GOLDEN * cells) | np.uint64(1)
    # The hash of a transformed maze is a sum over the cells where they were.
    weights = np.zeros((self.max_variants, self.seq_len), np.uint64)
    np.put_along_axis(weights, self._sources(), weight[None], axis=1)
    values = mix(GOLDEN * np.arange(1, 257, dtype=np.uint64))
    result = np.zeros(len(questions), np.uint64)

    def work(rows):
      value = values[questions[rows]]
      for of_transform in weights:
        result[rows] += mix((value * of_transform).sum(axis=1))

    in_threads(work, len(questions), 256)
    return result

  def defaults(self) -> dict[str, int]:
    # 110 for 30 x 30, as published, and the same fraction of other sizes.
    path = max(1, self.seq_len * 110 // 900)
    return {'path': path, 'count': 1000, 'tests': 100, 'seed': 0}

  def generate(self, count: int, settings: dict[str, int]) -> Generated:
    is_open = settings.get('kind') == self.kinds.index('open')
    return generate(self, count, settings['seed'], settings['path'], is_open)


def generate(
  domain: Maze, count: int, seed: int, min_path: int, is_open: bool = False
) -> Generated:
  """Makes essentially different mazes with a shortest path.

  Corridors are carved at random, depth first, wherever a cell touches just one
  open cell, so that no two ways lead to the same place and the path is the only
  one. Where `is_open`, walls stand anywhere instead, each cell for itself, as
  in the published Maze-Hard: no border is closed, and most mazes have many
  shortest paths, of which the label is one. A maze's rating is the number of
  steps from start to goal, at least `min_path`.

  Raises:
    DataError: many tries in a row gave nothing new.
  """
  return gather(
    lambda keys, *made: _generate(keys, domain.width, min_path, is_open, *made),
    lambda made: made.ratings >= max(1, min_path),
    domain,
    count,
    seed,
    f'{"open " * is_open}mazes {domain.height}x{domain.width}, path of '
    f'{min_path} or more',
    'allow shorter paths, a larger size or fewer mazes',
  )


@compiled
def _neighbours(cell, width, size):
  """The cells beside one: above, below, left, right."""
  if cell >= width:
    yield cell - width
  if cell + width < size:
    yield cell + width
  if cell % width > 0:
    yield cell - 1
  if cell % width < width - 1:
    yield cell + 1


@compiled
def _flood(is_open, start, width):
  """Breadth-first search: the steps from `start` to each cell, -1 where no way
  leads, and the cells reached in the order of their distance."""
  distance = np.full(len(is_open), -1)
  queue = np.zeros(len(is_open), np.int64)
  distance[start] = 0
  queue[0] = start
  head = 0
  tail = 1
  while head < tail:
    cell = queue[head]
    head += 1
    for other in _neighbours(cell, width, len(is_open)):
      if is_open[other] and distance[other] < 0:
        distance[other] = distance[cell] + 1
        queue[tail] = other
        tail += 1
  return distance, queue[:tail]


@compiled
def _draw_path(distance, goal, width, answer):
  """Marks a shortest path to the goal, from distances to the start."""
  cell = goal
  while distance[cell] > 1:
    for other in _neighbours(cell, width, len(distance)):
      if distance[other] == distance[cell] - 1:
        cell = other
        break
    answer[cell] = PATH


@compiled
def _check_maze(question, answer, width, where):
  size = len(question)
  is_open = answer >= START
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
  for cell in range(size):
    if is_open[cell]:
      on_path = 0
      for other in _neighbours(cell, width, size):
        on_path += is_open[other]
      if on_path != (2 if answer[cell] == PATH else 1):
        where[0] = cell
        where[1] = on_path
        return _NEIGHBOURS
  # Each cell has as many neighbours as it should: a line from S to G, and
  # perhaps loops elsewhere.
  distance, _ = _flood(is_open, start, width)
  for cell in range(size):
    if is_open[cell] and distance[cell] < 0:
      where[0] = cell
      return _APART
  return _FINE


@compiled
def _check(questions, answers, width, code, where):
  for i in range(questions.shape[0]):
    code[i] = _check_maze(questions[i], answers[i], width, where[i])


@compiled
def _is_shortest(questions, is_path, width, result):
  """Whether the path cells, being free ones, are a shortest path."""
  for i in range(questions.shape[0]):
    start = np.argmax(questions[i] == START)
    goal = np.argmax(questions[i] == GOAL)
    if questions[i, start] != START or questions[i, goal] != GOAL:
      continue
    distance, _ = _flood(questions[i] != WALL, start, width)
    shortest = distance[goal]
    if shortest < 0 or is_path[i].sum() != shortest - 1:
      continue
    # As many cells as a shortest path needs: if they join start and goal, all
    # of them are used and none is spare.
    on_path = is_path[i].copy()
    on_path[start] = on_path[goal] = True
    distance, _ = _flood(on_path, start, width)
    result[i] = distance[goal] == shortest


@compiled
def _carve(size, width, state):
  """Opens corridors, all joined, with one way between any two cells."""
  is_open = np.zeros(size, np.bool_)
  stack = np.zeros(size, np.int64)
  beside = np.zeros(4, np.int64)
  stack[0] = below(state, size)
  is_open[stack[0]] = True
  depth = 1
  while depth:
    count = 0
    for other in _neighbours(stack[depth - 1], width, size):
      touching = 0
      for near in _neighbours(other, width, size):
        touching += is_open[near]
      if touching == 1 and not is_open[other]:
        beside[count] = other
        count += 1
    if count:
      stack[depth] = beside[below(state, count)]
      is_open[stack[depth]] = True
      depth += 1
    else:
      depth -= 1
  return is_open


@compiled
def _scatter(size, state):
  """Opens cells at random, each for itself."""
  walls = _FEWEST_WALLS + below(state, _MOST_WALLS - _FEWEST_WALLS + 1)
  is_open = np.zeros(size, np.bool_)
  for cell in range(size):
    is_open[cell] = below(state, 1000) >= walls
  return is_open


@compiled
def _generate(keys, width, min_path, scattered, questions, answers, ratings):
  """Makes a maze for each key; its rating is -1 where no path is so long."""
  size = questions.shape[1]
  state = np.zeros(1, np.uint64)
  for i in range(keys.shape[0]):
    state[0] = keys[i]
    questions[i] = answers[i] = WALL
    is_open = _scatter(size, state) if scattered else _carve(size, width, state)
    cells = np.flatnonzero(is_open)
    if len(cells) == 0:
      ratings[i] = -1
      continue
    start = cells[below(state, len(cells))]
    distance, queue = _flood(is_open, start, width)
    if distance[queue[-1]] < min_path:
      # In a tree, the cell farthest from any is an end of a longest path; in
      # open mazes it mostly is nearly one.
      start = queue[-1]
      distance, queue = _flood(is_open, start, width)
    # The queue is in order of distance: the far cells are its end.
    far = 1
    while far < len(queue) and distance[queue[far]] < min_path:
      far += 1
    if far >= len(queue):
      ratings[i] = -1
      continue
    goal = queue[far + below(state, len(queue) - far)]
    for cell in cells:
      questions[i, cell] = answers[i, cell] = FREE
    questions[i, start] = answers[i, start] = START
    questions[i, goal] = answers[i, goal] = GOAL
    ratings[i] = distance[goal]
    _draw_path(distance, goal, width, answers[i])
