"""The published on-disk format, written by hand, read, and written back."""

import itertools
import json
import os
import pathlib
import re
import shutil
import tracemalloc

import numpy as np
import pytest

from data_pipelines import puzzles
from data_pipelines.arc import encoding
from data_pipelines.arc.pipeline import ArcSet
from data_pipelines.arc.tasks import Pair, Task, TaskSet
from data_pipelines.batches import IGNORE_LABEL
from data_pipelines.errors import DataError
from data_pipelines.published import reader as published_set
from data_pipelines.published import splits, writer
from data_pipelines.published.reader import PublishedSet
from data_pipelines.questions import leaks as question_leaks

TURNED = np.array([0, 3, 1, 2, 4, 5, 6, 7, 9, 8], np.uint8)
SEPARATORS = {'hrm': '_', 'trm': '|||'}


def grid(rng):
  return rng.integers(0, 10, rng.integers(2, 6, 2)).astype(np.uint8)


def make_tasks():
  """One task to train on and two that are scored."""
  rng = np.random.default_rng(0)

  def pairs(count):
    return tuple(Pair(grid(rng), grid(rng)) for _ in range(count))

  return [
    Task('trained', pairs(3), pairs(1)),
    Task('scored', pairs(2), pairs(2)),
    Task('other', pairs(2), pairs(1)),
  ]


def row(pair, transform, colours, r=0, c=0):
  return [
    encoding.encode(encoding.augment(g, transform, colours), 30, r, c)
    for g in (pair.input, pair.output)
  ]


def write_split(directory, groups, names, **more):
  """As the published builders do; a group is a list of (name, pairs)."""
  arrays = {'inputs': [], 'labels': [], 'puzzle_identifiers': []}
  puzzle_indices, group_indices = [0], [0]
  for group in groups:
    for name, examples in group:
      for question, answer in examples:
        arrays['inputs'].append(question)
        arrays['labels'].append(answer)
      puzzle_indices.append(len(arrays['inputs']))
      arrays['puzzle_identifiers'].append(names.index(name))
    group_indices.append(len(puzzle_indices) - 1)
  directory.mkdir(parents=True)
  arrays['inputs'] = np.stack(arrays['inputs'])
  arrays['labels'] = np.stack(arrays['labels'])
  arrays |= {'puzzle_indices': puzzle_indices, 'group_indices': group_indices}
  for name, array in arrays.items():
    if isinstance(array, list):
      array = np.array(array, np.int32)
    np.save(directory / f'all__{name}.npy', array)
  metadata = {
    'pad_id': 0,
    'ignore_label_id': 0,
    'blank_identifier_id': 0,
    'vocab_size': 12,
    'seq_len': arrays['inputs'].shape[1],
    'num_puzzle_identifiers': len(names),
    'total_groups': len(group_indices) - 1,
    'mean_puzzle_examples': 2.5,
    'sets': ['all'],
  }
  (directory / 'dataset.json').write_text(json.dumps(metadata | more))


def write_arc(directory, variant='hrm'):
  """Each task as it is and turned; the turned tests in another order."""
  tasks = make_tasks()
  identity = np.arange(10, dtype=np.uint8)
  names, train, test = ['<blank>'], [], []
  for task in tasks:
    train.append([])
    test.append([])
    for transform, colours in ((0, identity), (3, TURNED)):
      name = encoding.augmentation_name(
        task.name, transform, colours, SEPARATORS[variant]
      )
      names.append(name)
      shown = task.demonstrations
      if task.name == 'trained':
        shown = task.pairs
      examples = [
        row(pair, transform, colours, r=i, c=2 * i)
        for i, pair in enumerate(shown)
      ]
      train[-1].append((name, examples))
      examples = [row(pair, transform, colours) for pair in task.tests]
      test[-1].append((name, examples[::-1] if transform else examples))
  more = {'total_puzzles': 6} if variant == 'trm' else {}
  write_split(directory / 'train', train, names, **more)
  write_split(directory / 'test', test[1:], names, **more)
  (directory / 'identifiers.json').write_text(json.dumps(names))
  return directory


@pytest.fixture(params=['hrm', 'trm'])
def arc(request, tmp_path):
  return write_arc(tmp_path / 'arc', request.param)


def take(batches, count):
  return list(itertools.islice(batches, count))


def joined(batches, count):
  """The first rows of a series of batches; the last is filled up."""
  batches = list(batches)
  return {
    name: np.concatenate([batch[name] for batch in batches])[:count]
    for name in ('inputs', 'labels', 'puzzle_identifiers')
  }


def test_training_shows_the_files_examples(arc):
  data = PublishedSet(arc, True, False)
  inputs = np.load(arc / 'train' / 'all__inputs.npy').astype(np.int32)
  labels = np.load(arc / 'train' / 'all__labels.npy').astype(np.int32)
  labels[labels == 0] = IGNORE_LABEL
  bounds = np.load(arc / 'train' / 'all__puzzle_indices.npy')
  identifiers = np.load(arc / 'train' / 'all__puzzle_identifiers.npy')
  of_example = np.repeat(identifiers, np.diff(bounds))
  whole = joined(data.all_train_batches(5, 0), len(inputs))
  np.testing.assert_array_equal(whole['inputs'], inputs, strict=True)
  np.testing.assert_array_equal(whole['labels'], labels, strict=True)
  np.testing.assert_array_equal(whole['puzzle_identifiers'], of_example)

  # Training in passes: each example, and nothing else.
  seen = set()
  for batch in take(data.train_batches(4, seed=0), 60):
    for i in range(4):
      same = (
        (inputs == batch['inputs'][i]).all(1)
        & (labels == batch['labels'][i]).all(1)
        & (of_example == batch['puzzle_identifiers'][i])
      )
      assert same.any()
      seen |= set(np.flatnonzero(same))
  assert seen == set(range(len(inputs)))
  written = json.loads((arc / 'identifiers.json').read_text())
  assert data.identifier_names() == [n.replace('|||', '_') for n in written]
  # 8 + 4 + 4 examples in 6 puzzles of 3 groups.
  assert data.examples_per_pass == pytest.approx(3 * 16 / 6)


def test_position_gives_the_batch(arc):
  data = PublishedSet(arc, True, False)
  batches = take(data.train_batches(4, seed=0), 6)
  (other,) = take(data.train_batches(4, 0, position=5), 1)
  for name, array in other.items():
    np.testing.assert_array_equal(array, batches[5][name])


class Perfect:
  """Predictions that equal the labels."""

  def __init__(self, labels):
    self.tokens = np.where(labels == IGNORE_LABEL, 0, labels).astype(np.uint8)
    self.q_halt = np.zeros(len(labels), np.float32)
    self.steps = np.ones(len(labels), np.int32)
    self.exact = np.ones(len(labels), bool)
    self.accuracy = np.ones(len(labels), np.float32)


def test_votes_of_all_augmentations_go_to_their_test_input(arc):
  data = PublishedSet(arc, False, True)
  tasks = make_tasks()[1:]
  assert [task.name for task in data.evaluation_tasks] == ['scored', 'other']
  chosen = data.evaluation_rows()
  assert len(chosen) == 6
  judge = puzzles.judge_of(data, chosen)
  for batch in data.evaluation_batches(chosen, 2):
    judge.add(Perfect(batch['labels']))
  result = judge.result()
  assert result.metrics['eval/pass@1/outputs'] == 1
  for task in tasks:
    for test, pair in enumerate(task.tests):
      (candidate,) = result.candidates[task.name, test]
      assert candidate.votes == 2
      np.testing.assert_array_equal(candidate.grid, pair.output)
  assert result.metrics['eval/exact'] == 1


def test_parts_of_the_evaluation(arc):
  data = PublishedSet(arc, False, True)
  assert data.evaluation_rows(1).identifier.tolist() == [3, 3, 5]
  assert data.evaluation_rows(None, 1).group.tolist() == [0] * 4


def arc_set(num_aug=3):
  tasks = make_tasks()
  sets = (TaskSet('x', tuple(tasks[:1])), TaskSet('y', tuple(tasks[1:])))
  return ArcSet(*sets, canvas=30, num_aug=num_aug, seed=0)


@pytest.mark.parametrize('variant', ['hrm', 'trm'])
def test_round_trip_is_exact(tmp_path, variant):
  data = arc_set()
  out = tmp_path / 'out'
  writer.export(data, out, variant, seed=5)
  read = PublishedSet(out, True, True)
  count = int(data.members.sum())
  assert read.members.tolist() == data.members.tolist()
  assert read.variants.tolist() == data.variants.tolist()
  ours, theirs = (
    joined(s.all_train_batches(7, seed=5), count) for s in (data, read)
  )
  for name, array in ours.items():
    np.testing.assert_array_equal(theirs[name], array, strict=True)
  assert (read.vocab_size, read.seq_len) == (12, 900)
  assert read.examples_per_pass == data.examples_per_pass
  # Two forms of names on disk, one here.
  assert read.identifier_names() == data.identifier_names()
  written = json.loads((out / 'identifiers.json').read_text())
  assert (written == read.names) == (variant == 'hrm')
  assert ('|||' in written[2]) == (variant == 'trm')

  # What is scored: the same rows, in the same order.
  chosen, other = (s.evaluation_rows() for s in (data, read))
  for name in ('group', 'test', 'identifier'):
    np.testing.assert_array_equal(getattr(chosen, name), getattr(other, name))
  ours, theirs = (
    joined(s.evaluation_batches(rows, 5), len(chosen))
    for s, rows in ((data, chosen), (read, other))
  )
  for name, array in ours.items():
    np.testing.assert_array_equal(theirs[name], array, strict=True)
  if variant == 'trm':
    tests = json.loads((out / 'test_puzzles.json').read_text())
    assert tests['other']['test'][0] == {
      'input': make_tasks()[2].tests[0].input.tolist(),
      'output': make_tasks()[2].tests[0].output.tolist(),
    }

  # Written once more it is the same, file by file.
  writer.export(read, tmp_path / 'again', variant, seed=9)
  for path in sorted(out.rglob('*.npy')):
    again = tmp_path / 'again' / path.relative_to(out)
    assert again.read_bytes() == path.read_bytes()
  for path in ('identifiers.json', 'train/dataset.json', 'test/dataset.json'):
    assert (tmp_path / 'again' / path).read_text() == (out / path).read_text()


def test_files_are_as_the_published_loader_wants_them(tmp_path):
  data = arc_set()
  out = tmp_path / 'out'
  writer.export(data, out, 'trm', seed=0)
  for split, groups, count in (('train', 3, 32), ('test', 2, 12)):
    arrays = {path.name: np.load(path) for path in (out / split).glob('*.npy')}
    assert {name: array.dtype.name for name, array in arrays.items()} == {
      'all__inputs.npy': 'uint8',
      'all__labels.npy': 'uint8',
      'all__puzzle_identifiers.npy': 'int32',
      'all__puzzle_indices.npy': 'int32',
      'all__group_indices.npy': 'int32',
    }
    metadata = json.loads((out / split / 'dataset.json').read_text())
    puzzles_ = len(arrays['all__puzzle_identifiers.npy'])
    assert puzzles_ == 4 * groups
    assert metadata == {
      'pad_id': 0,
      'ignore_label_id': 0,
      'blank_identifier_id': 0,
      'vocab_size': 12,
      'seq_len': 900,
      'num_puzzle_identifiers': 13,
      'total_groups': groups,
      'mean_puzzle_examples': count / puzzles_,
      'total_puzzles': puzzles_,
      'sets': ['all'],
    }
    assert arrays['all__inputs.npy'].shape == (count, 900)
    assert arrays['all__group_indices.npy'].tolist() == [
      *range(0, puzzles_ + 1, 4)
    ]


def test_leaks_are_found_in_the_files(arc, tmp_path):
  def answers():
    found = puzzles.leaks_of(PublishedSet(arc, True, True))
    return [leak for leak in found if leak.kind == 'both']

  assert not answers()
  # The trained task's group now shows a turned test pair of `other`.
  path = arc / 'train' / 'all__inputs.npy'
  inputs, labels = np.load(path), np.load(path.with_name('all__labels.npy'))
  inputs[0], labels[0] = row(make_tasks()[2].tests[0], 5, TURNED, 7, 9)
  np.save(path, inputs)
  np.save(path.with_name('all__labels.npy'), labels)
  (leak,) = answers()
  assert (leak.held_out, leak.held_out_place) == ('other', 'test[0]')
  assert (leak.trained, leak.trained_place) == ('trained', 'example[0]')


def small_row(pair, side=5):
  return [encoding.encode(g, side) for g in (pair.input, pair.output)]


def pooled(directory, *tests):
  """A puzzle of one example for each test pair, all of one identifier."""
  rng = np.random.default_rng(1)
  train = [[('a', [small_row(Pair(grid(rng), grid(rng)))])]]
  names = ['<blank>', 'a']
  write_split(directory / 'train', train, names)
  groups = [[('a', [small_row(pair)])] for pair in tests]
  write_split(directory / 'test', groups, names)
  (directory / 'identifiers.json').write_text(json.dumps(names))
  return PublishedSet(directory, True, True)


def test_different_questions_are_not_pooled(tmp_path):
  rng = np.random.default_rng(0)
  one, two = (Pair(grid(rng), grid(rng)) for _ in range(2))
  # The question of one with the answer of the other is scored for itself too.
  data = pooled(tmp_path / 'a', one, two, one, Pair(one.input, two.output))
  (task,) = data.evaluation_tasks
  assert len(task.tests) == 3
  chosen = data.evaluation_rows()
  assert chosen.test.tolist() == [0, 0, 1, 2]
  assert chosen.example.tolist() == [0, 2, 1, 3]
  judge = puzzles.judge_of(data, chosen)
  for batch in data.evaluation_batches(chosen, 3):
    judge.add(Perfect(batch['labels']))
  assert judge.result().scores[1].outputs == (3, 3)
  assert '4 examples of 3 test inputs held out' in data.describe()


def test_an_augmentation_that_shows_something_else_is_not_pooled(arc):
  for name in ('inputs', 'labels'):
    path = arc / f'test/all__{name}.npy'
    array_of(path, lambda a: a[[0, 1, 2, 2, 4, 5]])
  tests = [len(task.tests) for task in PublishedSet(arc, 0, 1).evaluation_tasks]
  # The turned copy shows its first test twice: two tests, and one that only
  # the copy as it is votes for.
  assert tests == [3, 1]


@pytest.mark.parametrize('is_arc', [True, False])
def test_leaks_and_versions_are_read_in_parts(tmp_path, monkeypatch, is_arc):
  """Neither takes the memory of the whole."""
  rng = np.random.default_rng(0)
  directory = tmp_path / 'large'
  # Grids of one colour tell nothing, and are quickly looked at.
  pair = Pair(np.full((2, 2), 3, np.uint8), np.full((2, 2), 4, np.uint8))
  rows = [small_row(pair, 10)] * 2**15
  names = ['<blank>', 'a'] if is_arc else ['<blank>']
  for split, count in (('train', len(rows)), ('test', 1)):
    write_split(directory / split, [[(names[-1], rows[:count])]], names)
  (directory / 'identifiers.json').write_text(json.dumps(names))
  other = small_row(Pair(grid(rng), grid(rng)), 10)
  for name, row in zip(('inputs', 'labels'), other, strict=True):
    array_of(directory / f'test/all__{name}.npy', lambda _, r=row: r[None])
  del rows
  monkeypatch.setattr(splits, 'CHUNK', 256)
  monkeypatch.setattr(question_leaks, '_CELLS', 2**14)
  whole = (directory / 'train/all__inputs.npy').stat().st_size
  tracemalloc.start()
  assert puzzles.leaks_of(PublishedSet(directory, True, True)) == []
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < whole  # Both arrays, widened, take 10 times the size.


def test_a_version_tells_every_row(tmp_path, monkeypatch):
  monkeypatch.setattr(splits, 'SAMPLE', 3)
  directory = write_arc(tmp_path / 'arc')
  before = PublishedSet(directory, True, True)
  sampled = f'published arc {splits.digest(*both(before), sample=3)}'
  for name in ('inputs', 'labels'):
    path = directory / f'train/all__{name}.npy'
    kept = path.read_bytes()
    for row in range(16):
      array = np.frombuffer(kept, np.uint8).copy()
      array[-900 * 16 + 900 * row + 450] ^= 1
      path.write_bytes(array.tobytes())
      assert PublishedSet(directory, True, True).version != before.version
    path.write_bytes(kept)
  # A run that recorded the digest of a sample goes on with the same data.
  now = PublishedSet(directory, True, True)
  now.recognise(None)
  now.recognise('published arc 000000000000')
  assert now.version == before.version != sampled
  now.recognise(sampled)
  assert now.version == sampled


def both(data):
  return [split for split in (data._train, data._test) if split], data.names


def test_an_export_replaces_nothing(tmp_path):
  out = tmp_path / 'out'
  out.mkdir()
  with pytest.raises(DataError, match='exists already'):
    writer.export(arc_set(0), out, 'hrm', 0)
  assert not list(out.iterdir())


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
  def fail(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(writer.np, 'save', fail)
  with pytest.raises(DataError, match='cannot be written'):
    writer.export(arc_set(0), tmp_path / 'out', 'hrm', 0)
  assert not list(tmp_path.iterdir())


def array_of(path, change):
  np.save(path, change(np.load(path)))


def metadata_of(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGE = {
  'no identifiers': (
    lambda d: (d / 'identifiers.json').unlink(),
    'identifiers.json: cannot be read',
  ),
  'short names': (
    lambda d: (d / 'identifiers.json').write_text('["<blank>"]'),
    'has 1 names, dataset.json says num_puzzle_identifiers is 7',
  ),
  'a name of two lines': (
    lambda d: (d / 'identifiers.json').write_text(json.dumps(['a\nb'] * 7)),
    r"name 'a\nb' is there twice",
  ),
  'half a letter': (
    lambda d: (d / 'identifiers.json').write_text(
      json.dumps([*'abcdef', '\ud800'])
    ),
    r"name '\ud800' is not proper Unicode",
  ),
  'a name twice': (
    lambda d: (d / 'identifiers.json').write_text(json.dumps(['a'] * 7)),
    "name 'a' is there twice",
  ),
  'no array': (
    lambda d: (d / 'train/all__labels.npy').unlink(),
    'all__labels.npy: cannot be read',
  ),
  'short labels': (
    lambda d: array_of(d / 'train/all__labels.npy', lambda a: a[:-1]),
    'all__labels.npy: has the shape',
  ),
  'short inputs and labels': (
    lambda d: [
      array_of(d / f'train/all__{n}.npy', lambda a: a[:-1])
      for n in ('inputs', 'labels')
    ],
    'puzzle_indices.npy: must go from 0 to 15',
  ),
  'a cut file': (
    lambda d: (d / 'train/all__inputs.npy').write_bytes(
      (d / 'train/all__inputs.npy').read_bytes()[:-7]
    ),
    'all__inputs.npy: not a whole .npy file',
  ),
  'an empty file': (
    lambda d: (d / 'train/all__group_indices.npy').write_bytes(b''),
    'all__group_indices.npy: not a whole .npy file',
  ),
  'an identifier': (
    lambda d: array_of(
      d / 'train/all__puzzle_identifiers.npy', lambda a: a + 2
    ),
    'entry 4 is 7, out of the range 0 … 6',
  ),
  'falling bounds': (
    lambda d: array_of(
      d / 'train/all__puzzle_indices.npy', lambda a: a[[0, 2, 1, 3, 4, 5, 6]]
    ),
    'puzzle_indices.npy: falls after entry 1',
  ),
  'an empty group': (
    lambda d: array_of(
      d / 'train/all__group_indices.npy', lambda a: a[[0, 1, 1, 3]]
    ),
    'group 1 has no puzzle',
  ),
  'an empty puzzle': (
    lambda d: array_of(
      d / 'train/all__puzzle_indices.npy', lambda a: np.r_[0, 0, a[2:]]
    ),
    'puzzle_indices.npy: puzzle 0 has no example',
  ),
  'too few bounds': (
    lambda d: array_of(
      d / 'train/all__puzzle_indices.npy', lambda a: a[[0, 1, 6]]
    ),
    'has 3 entries for 6 puzzle identifiers',
  ),
  'floats': (
    lambda d: array_of(d / 'train/all__inputs.npy', lambda a: a * 1.0),
    'holds float64, must hold whole numbers',
  ),
  'another length': (
    lambda d: metadata_of(d / 'train/dataset.json', seq_len=81),
    'has 900 cells an example, seq_len in dataset.json is 81',
  ),
  'no length': (
    lambda d: metadata_of(d / 'train/dataset.json', seq_len=None),
    'seq_len is None; it must be a whole number',
  ),
  'splits that disagree': (
    lambda d: metadata_of(d / 'test/dataset.json', vocab_size=13),
    'vocab_size is 12 in train/dataset.json and 13',
  ),
  'another padding': (
    lambda d: metadata_of(d / 'test/dataset.json', pad_id=1),
    'test/dataset.json: pad_id is 1; it must be 0',
  ),
  'other sets': (
    lambda d: metadata_of(d / 'train/dataset.json', sets=['a', 'b']),
    'it must be ["all"]',
  ),
  'no JSON': (
    lambda d: (d / 'train/dataset.json').write_text('{'),
    'dataset.json: not JSON',
  ),
  'a terabyte': (
    lambda d: os.truncate(d / 'train/dataset.json', 2**40),
    'at most 1,048,576 are read',
  ),
  'a list': (
    lambda d: (d / 'train/dataset.json').write_text('[]'),
    'must be an object',
  ),
  'no grid': (
    lambda d: array_of(d / 'test/all__inputs.npy', lambda a: a * 0 + 1),
    'example 0: its canvas does not hold one grid',
  ),
}


@pytest.mark.parametrize('kind', DAMAGE)
def test_damage_is_named_in_one_line(tmp_path, kind):
  damage, message = DAMAGE[kind]
  directory = write_arc(tmp_path / 'arc')
  damage(directory)
  with pytest.raises(DataError) as info:
    PublishedSet(directory, True, True)
  assert message in str(info.value)
  assert '\n' not in str(info.value)
  assert str(directory) in str(info.value)


def test_a_token_does_not_wrap_into_the_vocabulary(tmp_path):
  directory = write_arc(tmp_path / 'arc')
  for name in ('inputs', 'labels'):
    path = directory / f'train/all__{name}.npy'
    before = path.read_bytes()
    array_of(path, lambda a: a.astype(np.uint64) + 2**32)
    data = PublishedSet(directory, True, False)
    with pytest.raises(DataError, match=rf'{name}\.npy: example \d+ has the'):
      take(data.train_batches(4, 0), 1)
    path.write_bytes(before)


@pytest.mark.parametrize('name', ['dataset.json', 'all__inputs.npy'])
def test_a_pipe_is_not_waited_for(tmp_path, name):
  directory = write_arc(tmp_path / 'arc')
  path = directory / 'train' / name
  path.unlink()
  os.mkfifo(path)
  with pytest.raises(DataError, match=f'{name}: cannot be read; make it a reg'):
    PublishedSet(directory, True, False)


def test_arrays_may_be_of_any_whole_numbers(tmp_path):
  directory = write_arc(tmp_path / 'arc')
  data = PublishedSet(directory, True, True)
  expected = take(data.train_batches(4, 0), 1), puzzles.leaks_of(data)
  for dtype in ('i1', '>i4', '<u8', '>u8'):
    for path in sorted(directory.rglob('*.npy')):
      array_of(path, lambda a, dtype=dtype: a.astype(dtype))
    data = PublishedSet(directory, True, True)
    for name, array in take(data.train_batches(4, 0), 1)[0].items():
      np.testing.assert_array_equal(array, expected[0][0][name], strict=True)
    assert puzzles.leaks_of(data) == expected[1]


def test_a_token_out_of_range_is_named_when_it_is_met(tmp_path):
  directory = write_arc(tmp_path / 'arc')
  array_of(directory / 'train/all__inputs.npy', lambda a: a + 200)
  data = PublishedSet(directory, True, False)
  with pytest.raises(DataError, match=r'all__inputs\.npy: example \d+ has the'):
    take(data.train_batches(4, 0), 1)


def test_a_directory_that_moved_is_the_same_data(tmp_path):
  before = PublishedSet(write_arc(tmp_path / 'arc'), True, True).version
  (tmp_path / 'new').mkdir()
  shutil.move(tmp_path / 'arc', tmp_path / 'new' / 'arc')
  moved = tmp_path / 'new' / 'arc'
  assert PublishedSet(moved, True, True).version == before
  array_of(moved / 'train/all__labels.npy', lambda a: a[::-1])
  changed = PublishedSet(moved, True, True).version
  assert changed != before
  # Names decide whom a prediction votes for.
  path = moved / 'identifiers.json'
  names = json.loads(path.read_text())
  names[1:3] = names[2:0:-1]
  path.write_text(json.dumps(names))
  assert PublishedSet(moved, True, True).version != changed


def test_specs(tmp_path):
  directory = str(write_arc(tmp_path / 'arc'))
  data = puzzles.load_puzzles(directory, directory, 30, 0, 0)
  assert isinstance(data, PublishedSet)
  assert len(data.evaluation_rows()) == 6
  data = puzzles.load_puzzles(directory, '', 30, 0, 0)
  assert len(data.evaluation_rows()) == 0
  data = puzzles.load_puzzles('', directory, 30, 0, 0)
  with pytest.raises(DataError, match=r'data\.train is empty'):
    data.train_batches(4, 0)
  for train, evaluate in (
    (directory, 'arc1'),
    (f'{directory},arc1', ''),
    (f'{directory},{directory}', ''),
    (directory, str(write_arc(tmp_path / 'more'))),
  ):
    with pytest.raises(DataError):
      puzzles.load_puzzles(train, evaluate, 30, 0, 0)


def test_is_published(tmp_path):
  assert published_set.is_published(write_arc(tmp_path / 'arc'))
  assert not published_set.is_published(tmp_path)


def test_names_are_as_many_as_there_are_rows_or_none(tmp_path):
  directory = write_arc(tmp_path / 'arc')
  for half in published_set.SPLITS:
    metadata_of(directory / half / 'dataset.json', num_puzzle_identifiers=1)
    path = directory / half / 'all__puzzle_identifiers.npy'
    array_of(path, lambda a: a * 0)
  with pytest.raises(DataError, match=r'names, .* is 1; both must'):
    PublishedSet(directory, True, True)
  (directory / 'identifiers.json').unlink()
  assert PublishedSet(directory, True, True).names == ['<blank>']


def test_an_array_of_a_claimed_size_takes_no_memory(tmp_path):
  for name in ('inputs', 'labels'):
    np.save(tmp_path / f'all__{name}.npy', np.ones((2, 4), np.uint8))
  for name in ('puzzle_identifiers', 'puzzle_indices', 'group_indices'):
    np.save(tmp_path / f'all__{name}.npy', np.arange(2))
  metadata = {
    'vocab_size': 12, 'seq_len': 4, 'num_puzzle_identifiers': 3, 'pad_id': 0,
    'blank_identifier_id': 0, 'sets': ['all'],
  }  # fmt: skip
  (tmp_path / 'dataset.json').write_text(json.dumps(metadata))
  path, count = tmp_path / 'all__puzzle_indices.npy', 10**11
  with path.open('wb') as file:
    header = {'descr': '<i8', 'fortran_order': False, 'shape': (count,)}
    np.lib.format.write_array_header_1_0(file, header)
    file.truncate(file.tell() + 8 * count)
  with pytest.raises(DataError, match='100,000,000,000 entries for 2 examples'):
    splits.open_split(tmp_path)


def _resident_bytes():
  """Of the files that this process has mapped."""
  try:
    status = pathlib.Path('/proc/self/status').read_text()
  except FileNotFoundError:
    status = ''
  # The second one is of files in memory, as /tmp may be.
  found = re.findall(r'Rss(?:File|Shmem):\s+(\d+) kB', status)
  if not found:
    pytest.skip('this system does not tell')
  return 1024 * sum(map(int, found))


def test_rows_that_were_read_do_not_stay_in_memory(tmp_path):
  path, count, cells = tmp_path / 'all__inputs.npy', 2**16, 2**8
  np.save(path, np.ones((count, cells), np.uint8))
  array, before = np.load(path, mmap_mode='r'), _resident_bytes()
  for begin in range(0, count, splits.CHUNK):
    splits._read_rows(array, np.arange(begin, begin + splits.CHUNK))
  assert _resident_bytes() - before < count * cells / 4
  # Without it they would.
  assert array[:].sum() == count * cells
  assert _resident_bytes() - before > count * cells / 2
