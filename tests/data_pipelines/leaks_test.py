"""The leak check against a brute-force comparison of all pairs.

500 random cases: directories of the published form, task files and questions;
any grouping, any sharing of identifiers, and leaked pairs anywhere. What is the
same is decided here by trying every symmetry, not by canonical forms.
"""

import itertools
import json

import hypothesis
import numpy as np
from hypothesis import strategies as st

from data_pipelines import puzzles
from data_pipelines.arc import encoding
from data_pipelines.published.reader import PublishedSet
from data_pipelines.questions import maze, sudoku
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku
from experiments import leaks
from tests.random_cases import cases, few_or_all

NAMES = ['<blank>', 'a', 'b_t3_0213456789', 'b', 'c->d', 'c|||t5|||0123456789']


def turned(grid, transform):
  """One of the eight ways to lay a square on itself."""
  grid = grid.T if transform % 2 else grid
  return np.rot90(grid, transform // 2)


def same(one, other):
  """Whether a transform and a permutation turn one pair into the other."""
  for transform in range(8):
    grids = [turned(g, transform) for g in one]
    if [g.shape for g in grids] == [g.shape for g in other]:
      cells = {
        (int(a), int(b))
        for g, h in zip(grids, other, strict=True)
        for a, b in zip(g.flat, h.flat, strict=True)
      }
      if len(cells) == len({a for a, _ in cells}) == len({b for _, b in cells}):
        return True
  return False


def random_pair(rng):
  shapes = rng.integers(1, 4, (2, 2))
  return [rng.integers(0, 4, shape).astype(np.uint8) for shape in shapes]


def image(pair, rng):
  """A pair that is the same to the leak check."""
  transform, colours = rng.integers(8), rng.permutation(10).astype(np.uint8)
  return [colours[turned(grid, transform)] for grid in pair]


def drawn(draw, names):
  """Puzzles (name, pairs) of two sides; most have a pair in common."""
  rng = np.random.default_rng(draw(st.integers(0, 2**32)))
  sides = [
    [
      (draw(names), [random_pair(rng) for _ in range(draw(st.integers(1, 3)))])
      for _ in range(draw(st.integers(1, 5)))
    ]
    for _ in range(2)
  ]
  for _ in range(draw(st.integers(0, 2))):
    (_, ours), (_, theirs) = (draw(st.sampled_from(side)) for side in sides)
    leaked = draw(st.sampled_from(theirs))
    ours[draw(st.integers(0, len(ours) - 1))] = image(leaked, rng)
  return *sides, rng


def keyed(pair):
  return tuple((g.shape, g.tobytes()) for g in pair)


def brute_force(trained, held_out):
  """Each held-out pair with each trained puzzle that shows its answer."""
  return {
    (name, keyed(pair), other)
    for name, pairs in held_out
    for pair in pairs
    for other, shown in trained
    if any(same(pair, x) for x in shown)
  }


def write_split(directory, groups, vocab_size, identifiers):
  """Groups of puzzles (identifier, [(inputs, labels)]), as rows of tokens."""
  directory.mkdir(parents=True)
  of_puzzle = list(itertools.chain(*groups))
  examples = [x for _, of_one in of_puzzle for x in of_one]
  sizes = [len(of_one) for _, of_one in of_puzzle]
  for name, array in {
    'inputs': [x for x, _ in examples],
    'labels': [x for _, x in examples],
    'puzzle_identifiers': [identifier for identifier, _ in of_puzzle],
    'puzzle_indices': np.cumsum([0, *sizes]),
    'group_indices': np.cumsum([0, *map(len, groups)]),
  }.items():
    np.save(directory / f'all__{name}.npy', np.array(array, np.int32))
  fields = {
    'pad_id': 0, 'ignore_label_id': 0, 'blank_identifier_id': 0,
    'vocab_size': vocab_size, 'seq_len': len(examples[0][0]),
    'num_puzzle_identifiers': identifiers, 'sets': ['all'],
  }  # fmt: skip
  (directory / 'dataset.json').write_text(json.dumps(fields))


def grouped(draw, items):
  groups = [[items[0]]]
  for item in items[1:]:
    if draw(st.booleans()):
      groups.append([])
    groups[-1].append(item)
  return groups


@few_or_all(20, 220)
def test_published_directories(tmp_path, count):
  number, leaking = itertools.count(), []

  @cases(count)
  @hypothesis.given(st.data())
  def check(data):
    directory = tmp_path / str(next(number))
    names = data.draw(st.sampled_from([[1], [1, 3], range(1, len(NAMES))]))
    train, test, _ = drawn(data.draw, st.sampled_from(names))
    for name, side in (('train', train), ('test', test)):
      rows = [
        (n, [[encoding.encode(g, 5) for g in pair] for pair in pairs])
        for n, pairs in side
      ]
      groups = grouped(data.draw, rows)
      write_split(directory / name, groups, 12, len(NAMES))
    (directory / 'identifiers.json').write_text(json.dumps(NAMES))

    task_of = [n.split('_t')[0].split('|||')[0] for n in NAMES]
    expected = brute_force(
      *([(task_of[n], pairs) for n, pairs in side] for side in (train, test))
    )
    read = PublishedSet(directory, True, True)
    place_of = {
      (task.name, f'test[{i}]'): pair
      for task in read.evaluation_tasks
      for i, pair in enumerate(task.tests)
    }
    # A pair there is as its augmentation was undone: the same, up to symmetry.
    found = leaks.find_leaks(str(directory), str(directory))
    assert found == puzzles.leaks_of(read)
    found = [leak for leak in found if leak.reaches_answer]
    shown = [
      (x.held_out, place_of[x.held_out, x.held_out_place], x.trained)
      for x in found
    ]
    for name, pair, other in expected:
      assert any(
        (name, other) == (held_out, trained)
        and same([of_pair.input, of_pair.output], grids(pair))
        for held_out, of_pair, trained in shown
      )
    for held_out, of_pair, trained in shown:
      assert any(
        (name, other) == (held_out, trained)
        and same([of_pair.input, of_pair.output], grids(pair))
        for name, pair, other in expected
      )
    # Every question of every puzzle is scored, once for each example.
    assert len(read.evaluation_rows()) == sum(len(pairs) for _, pairs in test)
    leaking.append(bool(expected))

  check()
  assert 0.3 < np.mean(leaking) < 1


def grids(pair):
  return [np.frombuffer(x, np.uint8).reshape(shape) for shape, x in pair]


@few_or_all(20, 140)
def test_tasks(tmp_path, count):
  number, leaking = itertools.count(), []

  @cases(count)
  @hypothesis.given(st.data())
  def check(data):
    directory = tmp_path / str(next(number))
    names = st.integers(0, 9).map('task->{}'.format)
    train, test, rng = drawn(data.draw, names)
    trained, held_out, written = [], [], {}
    for side, puzzles_ in (('train', train), ('test', test)):
      for name, pairs in dict(puzzles_).items():
        name = name + side * data.draw(st.booleans())
        # The first so many are demonstrations; a task needs one of each.
        pairs = [random_pair(rng), *pairs] if len(pairs) == 1 else pairs
        split = data.draw(st.integers(1, len(pairs) - 1))
        if side == 'train':
          trained.append((name, pairs))
        else:
          trained.append((name, pairs[:split]))
          held_out.append((name, pairs[split:]))
        written[side, name] = pairs[:split], pairs[split:]
    for (side, name), parts in written.items():
      path = directory / side / f'{name}.json'
      path.parent.mkdir(parents=True, exist_ok=True)
      contents = {
        part: [
          dict(
            zip(('input', 'output'), (g.tolist() for g in pair), strict=True)
          )
          for pair in pairs
        ]
        for part, pairs in zip(('train', 'test'), parts, strict=True)
      }
      path.write_text(json.dumps(contents))
    found = leaks.find_leaks(str(directory / 'train'), str(directory / 'test'))
    pairs_of = dict(held_out)
    assert brute_force(trained, held_out) == {
      (
        leak.held_out,
        keyed(pairs_of[leak.held_out][int(leak.held_out_place[5:-1])]),
        leak.trained,
      )
      for leak in found
      if leak.reaches_answer
    }
    leaking.append(any(leak.reaches_answer for leak in found))

  check()
  assert 0.2 < np.mean(leaking) < 1


def images_of_sudoku(grid):
  """All 128 ways to lay a Sudoku of 4 x 4 on one, symbols as they come."""
  orders = [
    [*a, *b] if bands else [*b, *a]
    for bands in (False, True)
    for a in ([0, 1], [1, 0])
    for b in ([2, 3], [3, 2])
  ]
  for rows, columns in itertools.product(orders, orders):
    for laid in (grid, grid.T):
      cells = laid[rows][:, columns].ravel().tolist()
      symbols = {1: 1}
      yield tuple(symbols.setdefault(c, len(symbols) + 1) for c in cells)


def kinds_of_questions():
  made = sudoku.generate(Sudoku(2, 2), 12, 0, 6)
  yield 6, made, lambda x: set(images_of_sudoku(x.reshape(4, 4)))
  made = maze.generate(Maze(5, 5), 12, 0, 4)
  yield (
    6,
    made,
    lambda x: {turned(x.reshape(5, 5), t).tobytes() for t in range(8)},
  )
  # Of no known kind: of one symbol more.
  yield 7, made, lambda x: {x.tobytes()}


@few_or_all(15, 140)
def test_questions(tmp_path, count):
  number, leaking = itertools.count(), []
  all_kinds = list(kinds_of_questions())

  @cases(count)
  @hypothesis.given(st.data())
  def check(data):
    directory = tmp_path / str(next(number))
    vocab_size, made, images = data.draw(st.sampled_from(all_kinds))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    side = int(made.questions.shape[1] ** 0.5)
    picked = []
    for name in ('train', 'test'):
      chosen = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=6))
      rows = []
      for row in chosen:
        transform = rng.integers(8)
        rows.append(
          [
            turned(x[row].reshape(side, side), transform).ravel()
            for x in (made.questions, made.answers)
          ]
        )
      picked.append([question for question, _ in rows])
      puzzles_ = [(0, [row]) for row in rows]
      groups = grouped(data.draw, puzzles_)
      write_split(directory / name, groups, vocab_size, 1)
    read = PublishedSet(directory, True, True)
    assert (read.domain is None) == (vocab_size == 7)
    train, test = ([images(x) for x in questions] for questions in picked)
    found = leaks.find_leaks(str(directory), str(directory))
    assert {x.held_out for x in found if x.reaches_answer} == {
      f'test:{row}'
      for row, ours in enumerate(test)
      if any(ours & theirs for theirs in train)
    }
    leaking.append(bool(found))

  check()
  assert 0.2 < np.mean(leaking) < 1
