"""A gradient that is not finite, in a real run, under each policy."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints
from tests import builders

# Whichever step works on this batch has it.
_BAD_BATCH, _SAVED, _END = 5, 4, 8


@pytest.fixture
def config(tiny_config, monkeypatch):
  """Eight steps, of which one has an element of a gradient that is NaN."""
  config = tiny_config
  config.total_steps = _END
  config.evaluate_every = 0
  config.checkpoint_every = _SAVED
  rows = slice(0, config.batch_size // jax.device_count())
  bad = _fingerprint(
    next(
      build.puzzle_set(builders.settings(config)).train_batches(
        config.batch_size, config.seed, _BAD_BATCH, rows
      )
    )
  )
  original = train_step.loss_and_gradients

  def poisoned(setup, state, batch, min_steps_B):
    carry, metrics, (dense, of_puzzles) = original(
      setup, state, batch, min_steps_B
    )
    hit = jnp.where(_fingerprint(batch) == bad, jnp.nan, 0.0)
    kernel = dense['lm_head']['kernel']
    dense['lm_head']['kernel'] = kernel.at[0, 0].add(hit)
    return carry, metrics, (dense, of_puzzles)

  monkeypatch.setattr(train_step, 'loss_and_gradients', poisoned)
  return config


def _fingerprint(batch):
  """A number that tells a device's rows from all others."""
  cells = batch['inputs']
  return (cells * (1 + np.arange(cells.size).reshape(cells.shape)) ** 2).sum()


def _report(workdir):
  (path,) = (workdir / 'divergence').iterdir()
  assert path.name == f'step_{_BAD_BATCH + 1}_batch_{_BAD_BATCH}.json'
  report = json.loads(path.read_text())
  assert report['reason'] == 'the gradient is not finite'
  assert math.isfinite(report['loss'])
  norms = report['gradient_norms']
  assert norms.pop('lm_head') == 'nan'
  assert norms
  assert all(map(math.isfinite, norms.values()))
  assert len(report['puzzles']) == 16
  return report


def _lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def _restore(config, workdir, step):
  settings = builders.settings(config)
  setup = build.train_setup(settings, build.puzzle_set(settings))
  saved = checkpoints.Checkpoints(workdir)
  assert saved.find(step) == step
  like = train_step.abstract_state(setup, sharding.make_mesh())
  state, position = saved.restore(step, like), saved.position(step)
  saved.close()
  return state, position


@pytest.mark.slow
def test_stop_leaves_what_is_good_and_another_policy_goes_on(config, tmp_path):
  workdir = tmp_path / 'run'
  config.stop_at_step = _SAVED
  good = builders.train(config, workdir)
  config.stop_at_step = 0
  with pytest.raises(
    ConfigError, match=r'step 6 diverged: .*divergence/step_6_batch_5\.json'
  ):
    builders.train(config, workdir)
  assert _report(workdir)['policy'] == 'stop'
  saved = {path.name for path in (workdir / 'checkpoints').iterdir()}
  assert saved == {str(_SAVED)}
  state, _ = _restore(config, workdir, _SAVED)
  jax.tree.map(np.testing.assert_array_equal, state, good)

  config.divergence.policy = 'skip'
  state = builders.train(config, workdir)
  lines = _lines(workdir)
  assert [line['step'] for line in lines] == list(range(1, _END + 1))
  assert lines[_BAD_BATCH] == {'step': _BAD_BATCH + 1, 'skipped': 1}
  # One update less than steps.
  assert (int(state.step), int(state.opt_state[0].count)) == (_END, _END - 1)
  leaves = [leaf for leaf in jax.tree.leaves(state) if leaf.dtype != bool]
  assert all(np.all(np.isfinite(leaf)) for leaf in leaves)


def test_rollback_goes_on_from_the_last_good_one_with_other_data(
  config, tmp_path
):
  workdir = tmp_path / 'run'
  config.divergence.policy = 'rollback'
  state = builders.train(config, workdir)
  assert _report(workdir)['policy'] == 'rollback'
  assert (int(state.step), int(state.opt_state[0].count)) == (_END, _END)
  lines = _lines(workdir)
  assert [line['step'] for line in lines] == list(range(1, _END + 1))
  assert not any('skipped' in line for line in lines)
  _, position = _restore(config, workdir, _END)
  # From step 4 on with the batch after the bad one.
  assert position.data_position == _BAD_BATCH + 1 + _END - _SAVED
