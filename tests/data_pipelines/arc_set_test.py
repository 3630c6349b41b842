"""Batches against an independent decoding, and what must never be in them."""

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import arc_set, encoding
from data_pipelines.arc import Pair, Task, TaskSet
from data_pipelines.errors import DataError

_CANVAS = 7


def _task(name, rng, demonstrations=3, tests=2, known=True, side=5):
  def grid():
    return rng.integers(0, 10, rng.integers(1, side + 1, 2)).astype(np.uint8)

  return Task(
    name,
    tuple(Pair(grid(), grid()) for _ in range(demonstrations)),
    tuple(Pair(grid(), grid() if known else None) for _ in range(tests)),
  )


@pytest.fixture(scope='module')
def puzzles():
  """Two tasks to train on, two to be scored on; one answer is not known."""
  rng = np.random.default_rng(0)
  train = [_task('trained', rng), _task('half', rng, known=False)]
  held_out = [_task('scored', rng), _task('open', rng, known=False)]
  return arc_set.ArcSet(
    TaskSet('a', tuple(train)), TaskSet('b', tuple(held_out)), _CANVAS, 20, 0
  )


def _split(tokens):
  """The grid on a canvas, where it starts, and the canvas with it removed."""
  canvas = tokens.reshape(_CANVAS, _CANVAS)
  rows, columns = np.nonzero(canvas >= encoding.FIRST_COLOUR)
  top, left = rows.min(), columns.min()
  grid = canvas[top : rows.max() + 1, left : columns.max() + 1]
  return grid - encoding.FIRST_COLOUR, int(top), int(left)


@pytest.fixture(scope='module')
def shown(puzzles):
  """Every training row of many batches, taken apart: [(task, augmentation
  row, original input and output, shift)]."""
  names = puzzles.identifier_names()
  out = []
  for batch in itertools.islice(puzzles.train_batches(16, seed=3), 150):
    for inputs, labels, identifier in zip(
      batch['inputs'],
      batch['labels'],
      batch['puzzle_identifiers'],
      strict=True,
    ):
      name, transform, colours = encoding.parse_augmentation_name(
        names[identifier]
      )
      outputs = np.where(labels == arc_set.IGNORE_LABEL, 0, labels)
      (grid_in, *at), (grid_out, *at_out) = _split(inputs), _split(outputs)
      assert at == at_out
      # The whole canvas, end-of-grid cells and padding included.
      for grid, tokens in ((grid_in, inputs), (grid_out, outputs)):
        expected = encoding.encode(grid.astype(np.uint8), _CANVAS, *at)
        np.testing.assert_array_equal(tokens, expected)
      original = [
        encoding.deaugment(grid, transform, colours).tolist()
        for grid in (grid_in, grid_out)
      ]
      turned = (*grid_in.shape, *grid_out.shape)
      out.append((name, int(identifier) - 1, original, tuple(at), turned))
  return out


def _pairs(pairs):
  return [
    [pair.input.tolist(), pair.output.tolist()]
    for pair in pairs
    if pair.output is not None
  ]


def test_training_shows_the_right_pairs_and_no_others(puzzles, shown):
  tasks = {task.name: task for task in puzzles.tasks}
  allowed = {
    'trained': _pairs(tasks['trained'].pairs),
    'half': _pairs(tasks['half'].demonstrations),
    'scored': _pairs(tasks['scored'].demonstrations),
    'open': _pairs(tasks['open'].demonstrations),
  }
  seen = {name: [] for name in allowed}
  for name, _, original, _, _ in shown:
    assert original in allowed[name]
    if original not in seen[name]:
      seen[name].append(original)
  for name, pairs in allowed.items():
    assert len(seen[name]) == len(pairs)


def test_held_out_grids_are_never_shown(puzzles, shown):
  held_out = [
    grid.tolist()
    for task in puzzles.evaluation_tasks
    for pair in task.tests
    for grid in (pair.input, pair.output)
    if grid is not None
  ]
  # Small grids may be equal by chance: those prove nothing.
  held_out = [grid for grid in held_out if np.size(grid) > 3]
  assert len(held_out) > 3
  for _, _, original, _, _ in shown:
    assert not any(grid in held_out for grid in original)


def test_shifts_reach_everywhere_but_not_further(shown):
  reached = set()
  for _, _, _, (top, left), (h1, w1, h2, w2) in shown:
    room = _CANVAS - max(h1, h2), _CANVAS - max(w1, w2)
    assert 0 <= top <= room[0]
    assert 0 <= left <= room[1]
    reached |= {('top', top == room[0], top == 0)}
    reached |= {('left', left == room[1], left == 0)}
  for side in ('top', 'left'):
    assert {(side, True, False), (side, False, True)} <= reached


def test_one_pair_of_each_augmented_task_is_never_shifted(puzzles, shown):
  tasks = {task.name: task for task in puzzles.tasks}
  shifted = 0
  for name, row, original, at, _ in shown:
    members = _pairs(tasks[name].pairs)
    fixed = members[puzzles.table.fixed_pair[row]]
    assert at == (0, 0) or original != fixed
    shifted += at != (0, 0)
  assert shifted > len(shown) / 2


def _assert_equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name])


def test_position_and_processes(puzzles):
  straight = list(itertools.islice(puzzles.train_batches(8, seed=1), 6))
  _assert_equal(next(puzzles.train_batches(8, 1, position=5)), straight[5])
  low, high = (
    next(puzzles.train_batches(8, 1, position=5, rows=rows))
    for rows in (slice(0, 4), slice(4, 8))
  )
  for name, whole in straight[5].items():
    np.testing.assert_array_equal(
      np.concatenate([low[name], high[name]]), whole
    )


def _evaluation(puzzles, chosen, batch_size=32):
  batches = list(puzzles.evaluation_batches(chosen, batch_size))
  assert all(len(b['inputs']) == batch_size for b in batches)
  return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def test_evaluation_rows_are_all_augmentations_of_all_tests(puzzles):
  chosen = puzzles.evaluation_rows()
  rows = set(
    zip(
      chosen.task.tolist(),
      chosen.test.tolist(),
      chosen.augmentation.tolist(),
      strict=True,
    )
  )
  expected = {
    (task, test, row)
    for task in (2, 3)
    for test in (0, 1)
    for row in range(*puzzles.table.start[task : task + 2])
  }
  assert rows == expected
  assert len(chosen) == len(expected)


def test_only_the_identity(puzzles):
  chosen = puzzles.evaluation_rows(max_augmentations=1)
  assert len(chosen) == 4
  batch = _evaluation(puzzles, chosen, 4)
  for row, inputs in enumerate(batch['inputs']):
    pair = puzzles.tasks[chosen.task[row]].tests[chosen.test[row]]
    np.testing.assert_array_equal(inputs, encoding.encode(pair.input, _CANVAS))


def test_evaluation_decodes_to_the_original(puzzles):
  chosen = puzzles.evaluation_rows()
  batch = _evaluation(puzzles, chosen)
  assert len(chosen) < len(batch['inputs'])  # The last batch is filled up.
  batch = {name: array[: len(chosen)] for name, array in batch.items()}
  np.testing.assert_array_equal(
    batch['puzzle_identifiers'], chosen.augmentation + 1
  )
  augmentation = (
    puzzles.table.dihedral[chosen.augmentation],
    puzzles.table.colours[chosen.augmentation],
  )
  labels = batch['labels']
  outputs = np.where(labels == arc_set.IGNORE_LABEL, 0, labels)
  for role, tokens in (('input', batch['inputs']), ('output', outputs)):
    grids, heights, widths = encoding.decode(
      tokens.astype(np.uint8), *augmentation
    )
    for row in range(len(chosen)):
      task = puzzles.tasks[chosen.task[row]]
      expected = getattr(task.tests[chosen.test[row]], role)
      if expected is None:
        assert (labels[row] == arc_set.IGNORE_LABEL).all()
        continue
      grid = grids[row, : heights[row], : widths[row]]
      np.testing.assert_array_equal(grid, expected)


def test_examples_per_pass_weighs_tasks_by_their_augmentations():
  grid, other = np.array([[0]], np.uint8), np.array([[1, 2, 3]], np.uint8)
  # One augmentation of five pairs; all 21 of one pair.
  blank = Task('blank', (Pair(grid, grid),) * 5, (Pair(grid, grid),))
  rich = Task('rich', (Pair(other, other),), (Pair(other, other),))
  puzzles = arc_set.ArcSet(None, TaskSet('x', (blank, rich)), 5, 20, 0)
  assert puzzles.variants.tolist() == [1, 21]
  assert puzzles.examples_per_pass == pytest.approx(2 * (5 + 21) / 22)


def test_the_demo_set():
  puzzles = arc_set.load_arc_set('', 'arc1:training', 5, 0, 0)
  assert len(puzzles.tasks) == 25
  assert sum(len(task.tests) for task in puzzles.evaluation_tasks) == 31
  assert puzzles.num_identifiers == 26


def _set(train=None, evaluate=None, canvas=5, num_aug=2):
  def make(tasks):
    return TaskSet('x', tuple(tasks)) if tasks else None

  return arc_set.ArcSet(make(train), make(evaluate), canvas, num_aug, 0)


def test_what_cannot_be_used_is_named():
  task = _task('t', np.random.default_rng(0))
  with pytest.raises(DataError, match='canvas=31'):
    _set([task], canvas=31)
  with pytest.raises(DataError, match='canvas=0'):
    _set([task], canvas=0)
  with pytest.raises(DataError, match='canvas=1: no task'):
    _set([task], canvas=1)
  with pytest.raises(DataError, match='num_aug=-1'):
    _set([task], num_aug=-1)
  with pytest.raises(DataError, match='share the tasks t;'):
    _set([task], [task])
  with pytest.raises(DataError, match='both empty'):
    arc_set.load_arc_set('', '', 5, 2, 0)


def test_a_live_iterator_does_not_hang_the_exit(tmp_path):
  """tf.data's threads call Python; freed too late, they would never end."""
  pair = {'input': [[1, 2], [3, 4]], 'output': [[1]]}
  task = {'train': [pair], 'test': [pair]}
  (tmp_path / 'task.json').write_text(json.dumps(task))
  script = f"""
import sys
from data_pipelines import arc_set
puzzles = arc_set.load_arc_set({str(tmp_path)!r}, '', 30, 50, 0)
for number in range(5):
  batches = puzzles.train_batches(4096, number)
  next(batches)
sys.kept = batches  # Outlives the modules.
"""
  done = subprocess.run([sys.executable, '-c', script], timeout=60, check=False)
  assert done.returncode == 0
