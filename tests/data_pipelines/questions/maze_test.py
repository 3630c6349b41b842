"""Mazes: checks by hand-made ones, shortest paths against scipy."""

import collections
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.csgraph

from data_pipelines.arc import encoding
from data_pipelines.errors import DataError
from data_pipelines.questions import maze
from data_pipelines.questions.maze import Maze


def _tokens(domain, *texts):
  """Questions and answers from texts by turns."""
  rows = np.array([np.frombuffer(x.encode(), np.uint8) for x in texts])
  tokens = domain.parse(rows)
  return tokens[::2], tokens[1::2]


def _check(question, answer, height=3, width=3):
  domain = Maze(height, width)
  return [x for _, x in domain.check(*_tokens(domain, question, answer))]


def _distance(domain, question):
  """Steps from start to goal as scipy has them."""
  cells = np.arange(domain.seq_len).reshape(domain.height, domain.width)
  is_open = (question != maze.WALL).reshape(cells.shape)
  pairs = []
  for a, b, both in (
    (cells[:, 1:], cells[:, :-1], is_open[:, 1:] & is_open[:, :-1]),
    (cells[1:], cells[:-1], is_open[1:] & is_open[:-1]),
  ):
    pairs.append(np.stack([a[both], b[both]]))
  row, column = np.concatenate(pairs, axis=1)
  graph = scipy.sparse.coo_array(
    (np.ones(len(row)), (row, column)), (domain.seq_len,) * 2
  )
  start, goal = (
    int(np.flatnonzero(question == x)[0]) for x in (maze.START, maze.GOAL)
  )
  return scipy.sparse.csgraph.shortest_path(
    graph.tocsr(), directed=False, unweighted=True, indices=start
  )[goal]


@pytest.fixture(scope='module')
def generated():
  settings = {Maze(30, 30): 110, Maze(7, 12): 15}
  return {d: maze.generate(d, 60, 1, path) for d, path in settings.items()}


def test_sizes():
  assert Maze().seq_len == 900 and Maze().vocab_size == 6
  assert Maze().max_variants == 8 and Maze(3, 4).max_variants == 4
  for height, width in ((0, 5), (1, 1), (5, 257)):
    with pytest.raises(DataError, match='cannot be; use 1x2 to 256x256'):
      Maze(height, width)


def test_parse():
  questions, answers = _tokens(Maze(1, 6), '# SGox', 'xoGS #')
  assert questions.tolist() == [[1, 2, 3, 4, 5, 0]]
  assert answers.tolist() == [[0, 5, 4, 3, 2, 1]]


# Checks.


@pytest.mark.parametrize(
  ('question', 'answer'),
  [
    ('S  ## G  ', 'Soo##oGoo'),
    ('SG #  #  ', 'SG #  #  '),
    # A way round is no error: the label is the user's.
    ('S#G      ', 'S#Go oooo'),
  ],
)
def test_check_accepts(question, answer):
  assert _check(question, answer) == []


@pytest.mark.parametrize(
  ('question', 'answer', 'reason'),
  [
    ('S Gx     ', 'SoG      ', "question: r2c1 is none of '# SG'"),
    (
      'SoG      ',
      'SoG      ',
      "question: r1c2 is 'o', a path, which only the answer may show",
    ),
    ('  G      ', 'SoG      ', 'question: has 0 S; it must have one'),
    ('S GS     ', 'SoG      ', 'question: has 2 S; it must have one'),
    ('S  G  G  ', 'SoG      ', 'question: has 2 G; it must have one'),
    ('S G      ', 'SoG     x', "answer: r3c3 is none of '# SGo'"),
    (
      'S G      ',
      'SoG     #',
      "answer: r3c3 is '#' where the question has ' '",
    ),
    (
      'S#G      ',
      'SoG      ',
      "answer: r1c2 is 'o' where the question has '#'",
    ),
    ('S G      ', 'S G      ', 'answer: r1c1 has 0 neighbours'),
    ('S  G     ', 'So G     ', 'answer: r1c1 has 2 neighbours'),
    ('S G      ', 'SoG o    ', 'answer: r1c2 has 3 neighbours'),
    ('S G      ', 'SoG     o', 'answer: r3c3 has 0 neighbours'),
  ],
)
def test_check_says_what_is_wrong(question, answer, reason):
  (found,) = _check(question, answer)
  assert found.startswith(reason)


def test_check_finds_a_loop_apart_from_the_path():
  question = 'S G' + ' ' * 12
  answer = 'SoG' + ' ' * 3 + 'ooo' + 'o o' + 'ooo'
  assert _check(question, answer, 5, 3) == [
    'answer: r3c1 is a path that does not lead from S to G'
  ]


def test_check_names_every_maze_at_fault():
  questions, answers = (
    np.repeat(x, 3000, axis=0)
    for x in _tokens(Maze(3, 3), 'S G      ', 'SoG      ')
  )
  questions[[3, 2000]] = maze.WALL
  answers[2999, 0] = 77
  assert [i for i, _ in Maze(3, 3).check(questions, answers)] == [3, 2000, 2999]


def ways_of(question, width):
  """Steps from S to G and how many shortest paths there are, cell by cell."""
  cells = question.reshape(-1, width) != maze.WALL
  start, goal = (
    tuple(np.argwhere(question.reshape(-1, width) == token)[0])
    for token in (maze.START, maze.GOAL)
  )
  ways, steps = {start: 1}, 0
  seen = {start}
  while goal not in ways:
    following = collections.Counter()
    for (r, c), count in ways.items():
      for other in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
        inside = 0 <= other[0] < len(cells) and 0 <= other[1] < width
        if inside and cells[other] and other not in seen:
          following[other] += count
    ways, steps = following, steps + 1
    seen |= ways.keys()
  return steps, ways[goal]


def test_open_mazes_are_like_the_published_ones():
  """Bounds around the 2,000 of Maze-Hard: walls 37 %, of a border row 36 %, a
  median of 112 steps and of 4.2 million shortest paths."""
  domain = Maze(30, 30)
  made = maze.generate(domain, 60, 0, 110, True)
  assert not domain.check(made.questions, made.answers)
  assert domain.valid(made.questions, made.answers).all()
  walls = (made.questions == maze.WALL).reshape(-1, 30, 30)
  assert 0.36 < walls.mean() < 0.38
  assert 0.33 < walls[:, 0].mean() < 0.39
  steps, ways = zip(*(ways_of(q, 30) for q in made.questions), strict=True)
  assert steps == tuple(made.ratings)
  assert min(steps) == 110 and np.median(steps) < 115
  assert min(ways) > 1 and 1e5 < np.median(ways) < 1e8
  # The first of a series do not depend on how many there are.
  again = maze.generate(domain, 5, 0, 110, True)
  np.testing.assert_array_equal(again.questions, made.questions[:5])
  # Corridors have one.
  made = maze.generate(Maze(9, 9), 10, 0, 12)
  assert {ways_of(question, 9)[1] for question in made.questions} == {1}


# Valid solutions.


def _valid(question, prediction, height=3, width=3):
  domain = Maze(height, width)
  return domain.valid(*_tokens(domain, question, prediction)).tolist() == [True]


def test_valid_takes_any_shortest_path():
  assert _valid('S   #   G', 'Soo #o  G')
  assert _valid('S   #   G', 'S  o# ooG')


@pytest.mark.parametrize(
  'prediction',
  [
    'S   #   G',  # no path
    'Soo #   G',  # ends early
    'Soo #o oG',  # a spare cell
    'Soo #  oG',  # as many cells as it takes, with a gap
    'Soo##o  G',  # a new wall
    'Soo  o  G',  # a wall less
    'Soooooo G',
    ' oo #o  G',  # no start
    'Soo #o  S',
    'SooS#o  G',
  ],
)
def test_not_valid(prediction):
  assert not _valid('S   #   G', prediction)


def test_a_way_round_is_not_valid():
  assert _valid('S G      ', 'SoG      ')
  assert not _valid('S G      ', 'S Go oooo')
  assert not Maze(1, 2).valid(np.array([[2, 2]]), np.array([[2, 2]])).any()
  # Anything may stand in a prediction.
  for token in (0, 6, 255):
    assert (
      not Maze(1, 2).valid(np.array([[3, 4]]), np.array([[3, token]])).any()
    )


def test_shortest_paths_against_scipy():
  """Open mazes, with many ways: a path is valid if scipy's is as long."""
  domain = Maze(6, 8)
  rng = np.random.default_rng(0)
  answered = 0
  for _ in range(200):
    question = np.where(rng.random(48) < 0.3, maze.WALL, maze.FREE)
    start, goal = rng.choice(48, 2, replace=False)
    question[start], question[goal] = maze.START, maze.GOAL
    shortest = _distance(domain, question)
    # A random walk without repetition that may or may not be shortest.
    path = [start]
    while path[-1] != goal:
      cell = path[-1]
      beside = [cell - 8, cell + 8]
      beside += [cell - 1][: cell % 8] + [cell + 1][: 7 - cell % 8]
      beside = [
        x
        for x in beside
        if 0 <= x < 48 and question[x] != maze.WALL and x not in path
      ]
      if not beside:
        break
      closer = [x for x in beside if abs(x - goal) < abs(cell - goal)]
      path.append(goal if goal in beside else rng.choice(closer or beside))
    if path[-1] != goal:
      continue
    answered += 1
    prediction = question.copy()
    prediction[path[1:-1]] = maze.PATH
    expected = len(path) - 1 == shortest
    assert domain.valid(question[None], prediction[None]).tolist() == [expected]
  assert answered > 50


# Symmetries.


@pytest.mark.parametrize(
  ('height', 'width', 'transforms'),
  [(30, 30, range(8)), (7, 12, (0, 2, 4, 5))],
)
def test_augment(height, width, transforms, generated):
  domain = Maze(height, width)
  questions, answers, _ = generated[domain]
  variant = np.arange(len(questions)) % domain.max_variants
  new = domain.augment(questions, answers, variant, None)
  assert domain.check(*new) == []
  assert domain.valid(*new).all()
  np.testing.assert_array_equal(
    domain.signatures(new[0]), domain.signatures(questions)
  )
  for before, after in zip((questions, answers), new, strict=True):
    assert after.dtype == np.uint8
    for i, transform in enumerate(transforms):
      grid = before[i].reshape(height, width)
      turned = encoding.dihedral(grid, transform)
      np.testing.assert_array_equal(after[i].reshape(height, width), turned)
    np.testing.assert_array_equal(domain.undo(after, variant, None), before)


def test_signatures_differ(generated):
  for domain, puzzles in generated.items():
    changed = puzzles.questions.copy()
    # A single wall less.
    rows = np.arange(len(changed))
    changed[rows, (changed == maze.WALL).argmax(axis=1)] = maze.FREE
    both = domain.signatures(np.concatenate([puzzles.questions, changed]))
    assert len(set(both.tolist())) == 2 * len(changed)


# The generator.


def test_generated_mazes(generated):
  for domain, path in ((Maze(30, 30), 110), (Maze(7, 12), 15)):
    questions, answers, ratings = generated[domain]
    assert questions.shape == answers.shape == (60, domain.seq_len)
    assert domain.check(questions, answers) == []
    assert domain.valid(questions, answers).all()
    assert (ratings >= path).all()
    np.testing.assert_array_equal(
      (answers == maze.PATH).sum(axis=1) + 1, ratings
    )
    for question, rating in zip(questions[:10], ratings, strict=False):
      assert _distance(domain, question) == rating


def test_generated_are_a_function_of_the_seed(generated, monkeypatch):
  domain = Maze(7, 12)
  again = maze.generate(domain, 40, 1, 15)
  monkeypatch.setattr(os, 'cpu_count', lambda: 1)
  alone = maze.generate(domain, 40, 1, 15)
  for ours, single, earlier in zip(
    again, alone, generated[domain], strict=True
  ):
    np.testing.assert_array_equal(ours, single)
    np.testing.assert_array_equal(ours, earlier[:40])
  other = maze.generate(domain, 40, 2, 15)
  assert (other.questions != again.questions).any(axis=1).all()


def test_generator_of_the_smallest_sizes_and_giving_up():
  # S and G side by side, once only as the other way is its mirror image.
  only = maze.generate(Maze(1, 2), 1, 0, 1)
  assert sorted(only.questions[0].tolist()) == [maze.START, maze.GOAL]
  with pytest.raises(DataError) as info:
    maze.generate(Maze(1, 2), 2, 0, 1)
  assert str(info.value) == (
    'mazes 1x2, path of 1 or more: found 1 essentially different of the 2 '
    'wanted, and no more in 20000 tries; allow shorter paths, a larger size or '
    'fewer mazes'
  )


@pytest.mark.slow
def test_what_one_process_compiled_serves_the_next(tmp_path):
  first = "loading.load_text('S G\\n   \\n###', 'maze')"
  second = "loading.load_questions('maze:size=7x7:path=6', 'train', 0)"
  places = dict.fromkeys(['NUMBA_CACHE_DIR', 'HRM_JAX_CACHE'], str(tmp_path))
  for call in (first, second):
    code = f'from data_pipelines.questions import loading; {call}'
    subprocess.run(
      [sys.executable, '-c', code], env={**os.environ, **places}, check=True
    )
