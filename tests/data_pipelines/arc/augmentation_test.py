"""Drawn augmentations against a slow count of all there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.arc import augmentation, encoding
from data_pipelines.arc import tasks as arc

ZERO = [[0, 0], [0, 0]]
BELOW_DIAGONAL = [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
DIAGONAL = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
# No turn or mirror image of it is another one.
FLAG = [[1, 0, 0], [1, 1, 0]]
TWO_COLOUR_FLAG = [[1, 0, 0], [1, 2, 0]]
EVERY_COLOUR = [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]


def task_of(demonstrations, tests, name='task'):
  """A task of (input, output) pairs, with None for an unknown output."""
  return arc.parse_task(
    name,
    {
      kind: [{'input': inputs, 'output': output} for inputs, output in pairs]
      for kind, pairs in (('train', demonstrations), ('test', tests))
    },
    'here',
  )


def draw_one(task, num_aug, seed=0):
  return augmentation.draw([task], [len(task.demonstrations)], num_aug, seed)


def eight_ways(rows):
  """The turns and mirror images of a grid, without NumPy."""
  for grid in (rows, [row[::-1] for row in rows]):
    for _ in range(4):
      yield grid
      grid = [list(column) for column in zip(*grid, strict=True)][::-1]


def counted_grids(task):
  """What tells augmentations apart: test outputs do not."""
  pairs = [(pair.input, pair.output) for pair in task.demonstrations]
  return pairs + [(pair.input,) for pair in task.tests]


def all_multisets(task):
  """Every augmented task there is, as its sorted pairs."""
  pairs = [[grid.tolist() for grid in p] for p in counted_grids(task)]
  cells = {c for pair in pairs for grid in pair for row in grid for c in row}
  used = sorted(cells - {0})
  # Of each pair, the eight ways of its grids, turned together.
  turned = [list(zip(*map(eight_ways, pair), strict=True)) for pair in pairs]
  found = set()
  for new in itertools.permutations(range(1, 10), len(used)):
    colours = {0: 0} | dict(zip(used, new, strict=True))
    for way in range(8):
      found.add(
        tuple(
          sorted(
            tuple(
              tuple(tuple(colours[c] for c in row) for row in grid)
              for grid in pair[way]
            )
            for pair in turned
          )
        )
      )
  return found


def drawn_multisets(task, table, rows):
  """The augmented task of each row, in the form of `all_multisets`."""
  return [
    tuple(
      sorted(
        tuple(
          tuple(
            map(
              tuple,
              encoding.augment(
                grid, table.dihedral[row], table.colours[row]
              ).tolist(),
            )
          )
          for grid in pair
        )
        for pair in counted_grids(task)
      )
    )
    for row in rows
  ]


def rows_of(table, index):
  return range(table.start[index], table.start[index + 1])


@pytest.mark.parametrize(
  ('demonstrations', 'tests', 'count'),
  [
    ([(ZERO, ZERO)], [(ZERO, None)], 1),
    ([(ZERO, ZERO)], [(ZERO, FLAG)], 1),  # test outputs do not count
    ([(ZERO, [[1]])], [(ZERO, None)], 9),
    ([(ZERO, [[1]])], [(ZERO, [[2]])], 9),
    ([(ZERO, DIAGONAL)], [(ZERO, None)], 2 * 9),
    ([(ZERO, BELOW_DIAGONAL)], [(ZERO, None)], 4 * 9),
    ([([[0, 0]], [[0, 0]])], [(ZERO, None)], 2),
    ([(FLAG, ZERO)], [(ZERO, None)], 8 * 9),
    ([(ZERO, FLAG)], [(ZERO, None)], 8 * 9),
    ([(ZERO, ZERO)], [(FLAG, None)], 8 * 9),
    ([(TWO_COLOUR_FLAG, ZERO)], [(ZERO, None)], 8 * 72),
    # A half turn swaps the two pairs, which leaves the multiset as it was.
    ([(FLAG, ZERO), (list(eight_ways(FLAG))[2], ZERO)], [(ZERO, None)], 4 * 9),
    # The same grids, but the half turn also swaps input and output.
    ([(FLAG, list(eight_ways(FLAG))[2])], [(ZERO, None)], 8 * 9),
    # Two colours that a mirror swaps: 72 ways for the colours, and half of 2.
    ([([[1, 2]], [[0]])], [(ZERO, None)], 2 * 72),
    # A pair twice is not the pair once.
    ([([[1]], [[2]]), ([[1]], [[2]])], [(ZERO, None)], 72),
    ([([[1]], [[2]]), ([[1]], [[2]]), ([[2]], [[1]])], [(ZERO, None)], 72),
    ([([[1]], [[2]]), ([[2]], [[1]])], [(ZERO, None)], 36),
  ],
)
def test_each_distinct_augmentation_is_drawn_once(demonstrations, tests, count):
  task = task_of(demonstrations, tests)
  expected = all_multisets(task)
  assert len(expected) == count
  table = draw_one(task, 2000)
  drawn = drawn_multisets(task, table, range(len(table)))
  assert len(drawn) == count
  assert set(drawn) == expected


GRIDS = st.integers(1, 3).flatmap(
  lambda width: st.lists(
    st.lists(st.integers(0, 2), min_size=width, max_size=width),
    min_size=1,
    max_size=3,
  )
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
  demonstrations=st.lists(st.tuples(GRIDS, GRIDS), min_size=1, max_size=3),
  tests=st.lists(st.tuples(GRIDS, st.none() | GRIDS), min_size=1, max_size=2),
)
def test_any_small_task_has_all_its_augmentations(demonstrations, tests):
  task = task_of(demonstrations, tests)
  table = draw_one(task, 2000)
  drawn = drawn_multisets(task, table, range(len(table)))
  assert len(set(drawn)) == len(drawn)
  assert set(drawn) == all_multisets(task)


@pytest.mark.slow
def test_arc1():
  tasks = arc.load_tasks('arc1').tasks
  table = augmentation.draw(tasks, [1] * len(tasks), 1000, 0)
  counts = np.diff(table.start)
  # With ConceptARC's 160 tasks 876,408, where the published data set has
  # 876,406 puzzle identifiers.
  assert len(table) == counts.sum() == 730_519
  assert counts.max() == 1001 and (counts == 1001).sum() == 660

  num_checked = 0
  for index, task in enumerate(tasks):
    colours = {c for p in counted_grids(task) for g in p for c in np.unique(g)}
    cells = sum(grid.size for pair in counted_grids(task) for grid in pair)
    if len(colours - {0}) <= 2 and cells < 400:
      num_checked += 1
      drawn = drawn_multisets(task, table, rows_of(table, index))
      assert len(drawn) == len(set(drawn))
      # 5000 draws can miss one or two of 576.
      expected = all_multisets(task)
      assert set(drawn) <= expected
      assert len(drawn) >= len(expected) - (2 if len(expected) > 500 else 0)
  assert num_checked >= 10


def test_many_colours_give_as_many_as_wanted():
  task = task_of([(EVERY_COLOUR, ZERO)], [(ZERO, None)])
  for num_aug in (0, 1, 300):
    table = draw_one(task, num_aug)
    drawn = drawn_multisets(task, table, range(len(table)))
    assert len(set(drawn)) == len(drawn) == len(table) == num_aug + 1


def test_all_transforms_and_colours_are_as_frequent():
  task = task_of([(EVERY_COLOUR, ZERO)], [(ZERO, None)])
  table = draw_one(task, 8000)
  counts = np.bincount(table.dihedral, minlength=8)
  # Five standard deviations.
  np.testing.assert_allclose(counts, 1000, atol=150)
  for colour in range(1, 10):
    counts = np.bincount(table.colours[:, colour], minlength=10)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 8001 / 9, atol=140)


@pytest.fixture(scope='module')
def tasks():
  return arc.load_tasks('arc1:evaluation').tasks[:12]


@pytest.fixture(scope='module')
def table(tasks):
  return augmentation.draw(
    tasks, [len(task.demonstrations) for task in tasks], 60, 3
  )


def test_identity_comes_first(tasks, table):
  assert len(table.start) == len(tasks) + 1
  assert table.start[0] == 0 and table.start[-1] == len(table)
  first = table.start[:-1]
  np.testing.assert_array_equal(table.dihedral[first], 0)
  np.testing.assert_array_equal(
    table.colours[first], np.tile(np.arange(10), (len(tasks), 1))
  )


def test_colours_are_permutations_that_leave_0(table):
  assert table.colours.shape == (len(table), 10)
  np.testing.assert_array_equal(table.colours[:, 0], 0)
  np.testing.assert_array_equal(
    np.sort(table.colours), np.tile(np.arange(10), (len(table), 1))
  )


def test_names_are_unique_and_read_back_as_their_rows(tasks, table):
  names = table.names(tasks)
  assert len(set(names)) == len(names) == len(table) + 1
  assert names[0] == '<blank>'
  for index, task in enumerate(tasks):
    assert names[1 + table.start[index]] == task.name
    for row in rows_of(table, index):
      name, transform, colours = encoding.parse_augmentation_name(
        names[1 + row]
      )
      assert (name, transform) == (task.name, table.dihedral[row])
      np.testing.assert_array_equal(colours, table.colours[row])


def test_every_training_pair_is_fixed_somewhere(tasks, table):
  for index, task in enumerate(tasks):
    fixed = table.fixed_pair[table.start[index] : table.start[index + 1]]
    assert set(fixed) == set(range(len(task.demonstrations)))


def assert_same_draw(table, index, other, other_index):
  rows, other_rows = rows_of(table, index), rows_of(other, other_index)
  np.testing.assert_array_equal(
    table.dihedral[rows], other.dihedral[other_rows]
  )
  np.testing.assert_array_equal(table.colours[rows], other.colours[other_rows])
  np.testing.assert_array_equal(
    table.fixed_pair[rows], other.fixed_pair[other_rows]
  )


def test_a_draw_does_not_depend_on_the_other_tasks(tasks, table):
  for index in (0, 5, 11):
    assert_same_draw(table, index, draw_one(tasks[index], 60, seed=3), 0)
  order = [7, 11, 2]
  chosen = [tasks[i] for i in order]
  other = augmentation.draw(
    chosen, [len(task.demonstrations) for task in chosen], 60, 3
  )
  for position, index in enumerate(order):
    assert_same_draw(table, index, other, position)


def test_a_draw_does_not_depend_on_test_outputs(tasks, table):
  unknown = [
    arc.Task(
      task.name,
      task.demonstrations,
      tuple(arc.Pair(pair.input, None) for pair in task.tests),
    )
    for task in tasks
  ]
  other = augmentation.draw(
    unknown, [len(task.demonstrations) for task in tasks], 60, 3
  )
  for index in range(len(tasks)):
    assert_same_draw(table, index, other, index)


def test_a_draw_depends_on_the_seed_and_on_the_name(tasks):
  def colours(task, seed):
    return draw_one(task, 5, seed).colours[1:].tolist()

  task = tasks[0]
  renamed = arc.Task('renamed', task.demonstrations, task.tests)
  assert colours(task, 1) == colours(task, 1)
  assert colours(task, 1) != colours(task, 2)
  assert colours(task, 1) != colours(renamed, 1)


# Named instead of drawn.


@pytest.mark.parametrize('form', ['_', '|||'])
def test_names_give_the_table_they_were_made_of(tasks, table, form):
  names = [
    form.join(name.rsplit('_', 2)) if '_t' in name else name
    for name in table.names(tasks)
  ]
  found = augmentation.named(tasks, names)
  for field in ('start', 'dihedral', 'colours'):
    expected = getattr(table, field)
    np.testing.assert_array_equal(getattr(found, field), expected, strict=True)
  assert found.fixed_pair.shape == table.fixed_pair.shape
  assert found.fixed_pair.dtype == table.fixed_pair.dtype


def test_order_of_names_does_not_matter_but_within_a_task(tasks, table):
  names = table.names(tasks)
  order = np.random.default_rng(0).permutation(len(names))
  shuffled = [names[i] for i in order]
  found = augmentation.named(tasks, shuffled)
  np.testing.assert_array_equal(found.start, table.start)
  again = found.names(tasks)
  assert sorted(again) == sorted(names)
  for index, task in enumerate(tasks):
    mine = [again[1 + row] for row in rows_of(found, index)]
    # The identity first, the others as they stood.
    assert mine[0] == task.name
    assert mine[1:] == [name for name in shuffled if name in mine[1:]]


def test_names_of_other_tasks_and_tasks_without_names(tasks, table):
  names = table.names(tasks)
  kept = [n for n in names if not n.startswith(tasks[2].name)]
  other = ['ffffffff', 'ffffffff_t1_0213456789', tasks[2].name + 'x']
  found = augmentation.named(tasks, other + kept)
  counts = np.diff(table.start)
  counts[2] = 0
  np.testing.assert_array_equal(np.diff(found.start), counts)
  assert found.names(tasks) == kept
  # A task whose identity has no name has its augmentations all the same.
  found = augmentation.named(tasks[:1], names[2:5])
  assert found.names(tasks[:1]) == ['<blank>', *names[2:5]]


def test_no_name_of_any_task(tasks):
  for names in ([], ['<blank>'], ['x', 'x|||t1|||0213456789']):
    found = augmentation.named(tasks, names)
    assert len(found) == 0
    assert found.colours.shape == (0, 10)
    np.testing.assert_array_equal(found.start, np.zeros(len(tasks) + 1))
    assert found.names(tasks) == ['<blank>']
