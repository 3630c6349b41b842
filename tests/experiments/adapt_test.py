"""A model is trained further on new tasks, in a run of its own."""

import dataclasses
import json
import os
import pathlib
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import hrm_jax
from data_pipelines.arc import tasks as arc
from data_pipelines.arc.tasks import parse_task
from data_pipelines.errors import ConfigError
from experiments import adapt
from experiments.cli import launch
from hrm_jax import training_run
from hrm_jax.parallel import preemption
from tests import builders
from tests.run_fixtures import random_task

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def tasks(tmp_path_factory):
  """The old task `a`, a new one under the old name `b`, and a new `c`."""
  directory = tmp_path_factory.mktemp('new')
  for name, seed in (('a', 1), ('b', 5), ('c', 6)):
    path = directory / f'{name}.json'
    path.write_text(json.dumps(random_task(seed, known=name != 'c')))
  return directory


@pytest.fixture
def call(random_arc_run, tasks, monkeypatch, tmp_path):
  """Calls the command; returns its exit code."""

  def run(**flags):
    given = dict(
      workdir=random_arc_run, task=str(tasks), out=tmp_path / 'new', steps=8,
      rows_first=0.5, num_aug=3,
    )  # fmt: skip
    adapt.FLAGS.mark_as_parsed()
    # Of the tests' own process.
    monkeypatch.setattr(adapt.Limit, 'end_for', lambda *_: None)
    monkeypatch.setattr(launch, 'age', lambda: 0.0)
    for name, value in (given | flags).items():
      monkeypatch.setattr(adapt.FLAGS[name], 'value', value)
    return adapt.main([])

  return run


def _weights(solver):
  table = solver.query(solver.puzzles, solver.puzzles.evaluation_rows(), '')
  return jax.device_get((table.variables, table.puzzle_table))


def _answered(run):
  """How many votes each test of each task had, or why it has a fallback."""
  out = run / 'predictions'
  submission, told = (
    json.loads((out / f'{name}.json').read_text())
    for name in ('submission', 'tasks')
  )
  assert submission.keys() == told.keys()
  for name, tests in submission.items():
    assert len(tests) == len(told[name]['tests'])
    for grid in (x for test in tests for x in test.values()):
      parse_task(name, {'train': [{'input': grid, 'output': grid}],
                        'test': [{'input': grid}]}, 'here')  # fmt: skip
  return {
    name: [test.get('fallback') or test['cast'] for test in entry['tests']]
    for name, entry in told.items()
  }


def _all(told):
  return dict.fromkeys('abc', told)


def _files(directory):
  return {
    path: path.read_bytes() for path in directory.rglob('*') if path.is_file()
  }


def test_rows_learn_first_and_then_the_network(
  call, random_arc_run, tasks, tmp_path
):
  before = _files(random_arc_run)
  old = hrm_jax.load(random_arc_run)
  assert call() is None
  new = hrm_jax.load(tmp_path / 'new')
  assert new.step == 8
  # Half of it: the network is what it was, to the bit, and rows are not.
  settings = new.settings.replace({'stop_at_step': 4})
  builders.train(settings, tmp_path / 'half')
  half = hrm_jax.load(tmp_path / 'half')
  theirs, ours, later = map(_weights, (old, half, new))
  jax.tree.map(np.testing.assert_array_equal, ours[0], theirs[0])
  assert ours[1][1:].any()
  changed = jax.tree.map(
    lambda x, y: not np.array_equal(x, y), later[0]['params'], ours[0]['params']
  )
  assert all(jax.tree.leaves(changed))
  assert _files(random_arc_run) == before
  # It answers all of them from rows of its own.
  assert _answered(tmp_path / 'new') == {'a': [4], 'b': [4], 'c': [4]}
  record = json.loads((tmp_path / 'new/predictions/tasks.json').read_text())
  assert record['a']['demonstrations'].keys() == {'solved', 'of'}
  assert record['a']['tests'][0].keys() == {
    'votes', 'cast', 'agreement', 'confidence', 'right',
  }  # fmt: skip
  assert record['c']['tests'][0]['right'] is None
  found = new.evaluate(tasks)
  assert set(found.facts['ways'].values()) == {
    'its own rows, which the checkpoint has'
  }


def test_known_tasks_keep_their_rows(call, random_arc_run, tmp_path):
  """The task a is the same as before; b has the name of one, and is not."""
  call(steps=1, new_rows='mean', rows_first=1.0)
  solver = hrm_jax.load(tmp_path / 'new')
  settings = solver.settings.replace({'optimizer.puzzle_learning_rate': 0.0})
  builders.train(settings, tmp_path / 'still')
  still = hrm_jax.load(tmp_path / 'still')
  old = hrm_jax.load(random_arc_run)
  whole = np.asarray(old._weights(np.arange(len(old.names)))[1])
  rows = np.asarray(still._weights(np.arange(len(still.names)))[1])
  mean = whole[1 : len(old.names)].mean(axis=0)
  for name, row in zip(still.names, rows, strict=False):
    own = name in old.names and not name.startswith('b')
    expected = whole[old.names.index(name)] if own else mean
    if name != '<blank>':
      np.testing.assert_allclose(row, expected, rtol=1e-6)
  assert sum(name in old.names for name in still.names) > 2


def test_old_tasks_have_a_part_of_each_batch(
  call, tasks, tmp_path, monkeypatch
):
  call(task=str(tasks / 'c.json'), steps=2, old_share=0.5)
  new = hrm_jax.load(tmp_path / 'new')
  old = hrm_jax.load(new.settings.start_from)
  run = training_run._Run(new.settings, None, preemption.Notice())
  batch, theirs = next(run.batches(1)), next(old.puzzles.train_batches(4, 0, 1))
  names = [new.names[row] for row in batch['puzzle_identifiers']]
  assert {name[0] for name in names[:4]} == {'c'}
  assert names[4:] == [
    old.puzzles.identifier_names()[row] for row in theirs['puzzle_identifiers']
  ]
  np.testing.assert_array_equal(batch['labels'][4:], theirs['labels'])
  # Whatever the processes, the batch is the same.
  for first, end in ((0, 2), (2, 6), (6, 8)):
    rows = slice(first, end)
    monkeypatch.setattr(
      training_run.sharding, 'local_rows', lambda *_, rows=rows: rows
    )
    part = next(run.batches(1))
    jax.tree.map(
      np.testing.assert_array_equal,
      part,
      {name: of_all[rows] for name, of_all in batch.items()},
    )
  # It knows them yet.
  known, unknown = new.split(
    arc.load_tasks(str(old.settings.data.evaluate)).tasks
  )
  assert [task.name for task in known] == ['a', 'b'] and not unknown


def test_of_a_task_in_both_sets_the_new_rows_count(call, tmp_path):
  """The task a is the same, and b another one of the name."""
  call(steps=1, old_share=0.5, num_aug=1)
  names = hrm_jax.load(tmp_path / 'new').names
  assert sum(name.startswith(('a', 'b')) for name in names) == 4
  assert names[7:] == 8 * ['<copy>']


def test_another_model_is_refused_before_anything_is_written(
  call, random_arc_run, tmp_path
):
  call(steps=1)
  settings = hrm_jax.load(tmp_path / 'new').settings
  for change, message in (
    ({'model.hidden_size': 32}, 'hidden_size .16 there, 32 here'),
    ({'start_from': str(tmp_path / 'none')}, r'none: no config\.json'),
  ):
    with pytest.raises(ConfigError, match=message):
      builders.train(settings.replace(change), tmp_path / 'other')
    assert not (tmp_path / 'other').exists()


def test_a_model_without_rows_is_refused(call, trained_run, tmp_path):
  with pytest.raises(ConfigError, match=r'trained on Sudokus.* has ARC tasks'):
    call(workdir=trained_run)
  # Whose answers are there all the same.
  assert _answered(tmp_path / 'new') == _all(['not reached'])
  with pytest.raises(ConfigError, match='nothing to adapt to; give tasks'):
    call(workdir=trained_run, task='1.34341221434321', out=tmp_path / 'other')


@pytest.fixture
def kaggle(tmp_path):
  """A file of a sound task, a large one, and three that cannot be used."""
  path = tmp_path / 'x_challenges.json'
  blind, mute = random_task(8), random_task(9, known=False)
  del blind['train']
  mute['test'] += [{'output': [[1]]}]
  tasks = {
    'sound': random_task(6, known=False), 'large': random_task(7, width=9),
    'blind': blind, 'mute': mute, 'odd': 3,
  }  # fmt: skip
  path.write_text(json.dumps(tasks))
  return path


def test_every_task_has_an_answer_whatever_it_is(
  call, kaggle, tmp_path, capsys
):
  assert call(task=str(kaggle), steps=2) is None
  where = f'{kaggle}: task'
  assert _answered(tmp_path / 'new') == {
    'sound': [4],
    'large': ['larger than the canvas of 4 × 4'],
    'blind': [f"{where} 'blind': has no train; add the list of its pairs"],
    'mute': 2 * [f"{where} 'mute': test[1] has no input; add the grid"],
    'odd': [
      f"{where} 'odd': must be an object with train and test, or a list of "
      'pairs'
    ],
  }  # fmt: skip
  submission = json.loads(
    (tmp_path / 'new/predictions/submission.json').read_text()
  )
  grids = json.loads(kaggle.read_text())
  # What is left of a task: its input, if there is one.
  assert submission['mute'][0]['attempt_1'] == grids['mute']['test'][0]['input']
  assert submission['mute'][1]['attempt_1'] == [[0]]
  large = grids['large']
  assert submission['large'] == [
    {
      'attempt_1': large['test'][0]['input'],
      'attempt_2': large['train'][0]['output'],
    }
  ]
  told = capsys.readouterr().out
  assert (
    'Fallback answers (larger than the canvas of 4 × 4): 1 tasks, large' in told
  )
  assert 'all 5 tasks, and predictions for 1 of 6 tests' in told


def test_a_contests_file_is_answered_whole(call, tmp_path):
  tasks = arc.load_tasks('arc1:training').tasks[:240]
  path = tmp_path / 'arc-agi_test-challenges.json'
  asked = [dataclasses.replace(t, tests=_without_answers(t)) for t in tasks]
  path.write_text(json.dumps({t.name: arc.as_json(t) for t in asked}))
  changes = ['batch_size=16', 'optimizer.ema_decay=0.5', 'loss=stablemax']
  assert call(task=str(path), steps=2, num_aug=1, settings=changes) is None
  found = _answered(tmp_path / 'new')
  assert [*found] == [task.name for task in tasks]
  for task in asked:
    expected = 2 if task.fits(4) else 'larger than the canvas of 4 × 4'
    # Some have no other augmentation than themselves.
    assert all(x in (expected, 1) for x in found[task.name])
    assert len(found[task.name]) == len(task.tests)
  settings = hrm_jax.load(tmp_path / 'new').settings
  assert (settings.batch_size, settings.loss) == (16, 'stablemax')
  assert settings.optimizer.ema_decay == 0.5
  for changes, message in (
    (['nothing=1'], "setting 'nothing' is not known"),
    (['batch_size'], 'must be KEY=VALUE'),
    (['loss=mean'], "loss='mean'"),
  ):
    with pytest.raises(ConfigError, match=message):
      call(task=str(path), out=tmp_path / 'other', settings=changes)


def _without_answers(task):
  return tuple(arc.Pair(test.input, None) for test in task.tests)


def test_the_answers_are_whole_before_the_work(call, kaggle, tmp_path):
  with pytest.raises(ConfigError, match='none: no config'):
    call(task=str(kaggle), workdir=tmp_path / 'none')
  assert _answered(tmp_path / 'new')['sound'] == ['not reached']
  # Those that are too large are known as soon as the model is.
  with pytest.raises(ConfigError, match='too short'):
    call(task=str(kaggle), seconds=1e-3)
  assert _answered(tmp_path / 'new')['large'][0].startswith('larger than')


def test_a_limit_that_is_too_short_is_told(call, tmp_path):
  with pytest.raises(ConfigError, match='too short for a training step'):
    call(seconds=1e-3)
  assert _answered(tmp_path / 'new') == _all(['not reached'])
  assert not (tmp_path / 'new/config.json').exists()


def test_the_steps_are_those_that_there_is_time_for(
  call, tmp_path, monkeypatch
):
  real, told = training_run._Run.shorten, []

  def shorten(self, length):
    # Of a step that takes a hundredth of what there is for training.
    told.append(length(0.0, 0.001))
    return real(self, lambda *_: 5)

  monkeypatch.setattr(training_run._Run, 'shorten', shorten)
  assert call(seconds=6000.0, steps=None) is None
  new = hrm_jax.load(tmp_path / 'new')
  assert new.step == new.settings.total_steps == 5
  # Nearly all of it, less a reserve and what machines vary by.
  assert 4e6 < told[0] < 6e6
  assert _answered(tmp_path / 'new') == _all([4])
  # Started again it goes on with as many.
  monkeypatch.setattr(training_run._Run, 'shorten', None)
  assert call(seconds=6000.0, steps=None) is None


@pytest.mark.parametrize('here', [True, False])
def test_the_limit_ends_training_and_not_the_answers(
  call, tmp_path, monkeypatch, here
):
  """After three steps of many, and be it in another process."""
  real, asked = training_run._Run.stop, []

  def stop(self):
    asked.append(self)
    if len(asked) == 4:
      if not here:
        return True
      self._asked.__self__._notice.give('--seconds=6000.0')
    return real(self)

  monkeypatch.setattr(training_run._Run, 'stop', stop)
  monkeypatch.setattr(
    training_run._Run, 'shorten', lambda self, _: self.settings
  )
  assert call(seconds=6000.0, steps=50) is None
  assert hrm_jax.load(tmp_path / 'new').step == 3
  assert _answered(tmp_path / 'new') == _all([4])


def test_earlier_answers_stay_until_there_are_others(call, tmp_path):
  assert call(steps=2) is None
  before = _files(tmp_path / 'new/predictions')
  with pytest.raises(ConfigError, match='none: no config'):
    call(workdir=tmp_path / 'none')
  assert _files(tmp_path / 'new/predictions') == before


def test_a_limit_cuts_evenly(call, tmp_path, monkeypatch):
  """The time is over after two batches: a vote of each, and some more."""
  assert call(steps=2) is None
  real, asked = preemption.Agreement.poll, []

  def poll(self):
    asked.append(self)
    # The first time is that of the training, which has nothing to do.
    if len(asked) == 3:
      self._notice.give('--seconds=6000.0')
    return real(self)

  monkeypatch.setattr(preemption.Agreement, 'poll', poll)
  assert call(seconds=6000.0, steps=2) is None
  # The second round of nine rows is one batch of the run's eight, and a rest.
  found = _answered(tmp_path / 'new')
  assert sorted(votes for (votes,) in found.values()) == [1, 4, 4]


def _start(random_arc_run, tasks, out, *more):
  arguments = dict(
    workdir=random_arc_run, task=tasks, out=out, num_aug=3, cpu_devices=1
  )
  return subprocess.Popen(
    [
      sys.executable, '-m', 'experiments.adapt',
      *(f'--{name}={value}' for name, value in arguments.items()), *more,
    ],
    cwd=pathlib.Path(adapt.__file__).parents[1],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    # What was compiled by a process that was killed shall be there again.
    env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': str(out.parent / 'xla')},
  )  # fmt: skip


def test_killed_ten_times_it_ends_as_undisturbed(
  random_arc_run, tasks, tmp_path
):
  alone, disturbed = tmp_path / 'alone', tmp_path / 'disturbed'
  steps = '--steps=1500'
  process = _start(random_arc_run, tasks, alone, steps)
  assert process.communicate()[1] is not None and process.returncode == 0
  rng, hit = random.Random(0), 0
  for _ in range(10):
    process = _start(random_arc_run, tasks, disturbed, steps)
    time.sleep(rng.uniform(4, 9))
    hit += process.poll() is None
    process.kill()
    process.communicate()
    if (disturbed / 'predictions/tasks.json').exists():
      _answered(disturbed)
  # All ten on two slow cores; on faster ones the run may be over before.
  assert hit >= 3
  process = _start(random_arc_run, tasks, disturbed, steps)
  process.communicate()
  assert process.returncode == 0
  for name in ('submission', 'predictions', 'tasks'):
    ours, theirs = (
      (run / f'predictions/{name}.json').read_bytes()
      for run in (disturbed, alone)
    )
    assert ours == theirs
  jax.tree.map(
    np.testing.assert_array_equal,
    *(_weights(hrm_jax.load(run)) for run in (disturbed, alone)),
  )


def test_a_full_disk_is_told_and_the_answers_stay_whole(call, mount):
  out = mount('size=320k') / 'new'
  with pytest.raises(ConfigError, match='free some space'):
    call(out=out)
  assert _answered(out) == _all(['not reached'])


def test_the_process_ends_when_the_time_is_over(
  random_arc_run, tasks, tmp_path
):
  """Whatever it is at: here it has not begun to train."""
  process = _start(random_arc_run, tasks, tmp_path / 'new', '--seconds=0.1')
  told, errors = process.communicate()
  assert process.returncode == 2 and 'Traceback' not in errors
  assert '--seconds=0.1: the time is over' in told
  assert _answered(tmp_path / 'new') == _all(['not reached'])
