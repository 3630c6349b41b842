"""A model is trained further on new tasks, in a run of its own."""

import json

import jax
import numpy as np
import pytest

import hrm_jax
from data_pipelines.errors import ConfigError
from experiments import adapt
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
    for name, value in (given | flags).items():
      monkeypatch.setattr(adapt.FLAGS[name], 'value', value)
    return adapt.main([])

  return run


def _weights(solver):
  table = solver.query(solver.puzzles, solver.puzzles.evaluation_rows(), '')
  return jax.device_get((table.variables, table.puzzle_table))


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
  (out,) = (tmp_path / 'new/predictions/step_8').iterdir()
  assert sorted(json.loads((out / 'submission.json').read_text())) == [
    'a', 'b', 'c',
  ]  # fmt: skip
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


def test_a_model_without_rows_is_refused(call, trained_run):
  with pytest.raises(ConfigError, match='nothing to adapt to'):
    call(workdir=trained_run)
