"""Rows fitted to new puzzles: what learns, and what must not."""

import dataclasses

import jax
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, OptimizerSettings, Settings
from hrm_jax.training import adaptation, divergence
from hrm_jax.training import step as train_step
from tests import builders

B, S, V, D = 8, 9, 12, 32
# New puzzles 1 to 3 have demonstrations, 4 has none.
R, STEPS = 5, 12


SETTINGS = Settings(
  act=ActSettings(2, 0.1, 'halt_only'),
  optimizer=OptimizerSettings(puzzle_learning_rate=0.1, ema_decay=0.99),
  loss='softmax',
)


def _setup(trunk, steps=STEPS, puzzle_emb_ndim=D):
  model = builders.model(
    'recurrent_transformer',
    vocab_size=V,
    seq_len=S,
    hidden_size=D,
    num_heads=4,
    layers=1,
    puzzle_emb_ndim=puzzle_emb_ndim,
  )
  return adaptation.setup_for(SETTINGS, model, R, B, steps, trunk)


def _batches():
  """The same input of each puzzle, and its own answer: only rows can tell."""
  rng = np.random.default_rng(3)
  answers = rng.integers(0, V, (R, S), np.int32)
  puzzles = np.int32([1, 2, 3, 1, 2, 3, 1, 2])
  while True:
    yield {
      'inputs': np.zeros((B, S), np.int32),
      'labels': answers[puzzles],
      'puzzle_identifiers': puzzles,
    }


@pytest.fixture(scope='module')
def mesh():
  return sharding.make_mesh(jax.devices()[:1])


@pytest.fixture(scope='module')
def variables(mesh):
  """Weights of a checkpoint, placed as restored ones are."""
  state = train_step.sharded_init(
    dataclasses.replace(_setup(True), batch_size=2, seed=5), mesh
  )
  return state.weights.variables


@pytest.fixture(scope='module')
def fit(mesh, variables):
  """Fits with or without the trunk; the losses of all steps, and the state."""

  def run(trunk, seconds=None):
    read, losses = adaptation.read, []

    def spy(step, *found):
      losses.append((step, read(step, *found)['loss']))
      return read(step, *found)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(adaptation, 'read', spy)
      setup = _setup(trunk)
      state = adaptation.fit(setup, mesh, variables, _batches(), seconds)
    return losses, jax.device_get(state)

  return run


@pytest.fixture(scope='module')
def rows(fit):
  return fit(trunk=False)


@pytest.fixture(scope='module')
def first_step(fit):
  """With the trunk; one step, as there is time for none."""
  return fit(trunk=True, seconds=0.0)[1]


def _equal(a, b):
  return jax.tree.map(np.array_equal, jax.device_get(a), jax.device_get(b))


def test_rows_learn_and_the_trunk_stays(rows, variables):
  losses, state = rows
  steps, losses = zip(*losses, strict=True)
  assert state.step == STEPS and steps == tuple(range(1, STEPS + 1))
  assert losses[-1] < 0.9 * losses[0]
  assert all(jax.tree.leaves(_equal(state.weights.variables, dict(variables))))
  moved = np.any(state.puzzle_table != 0, axis=1)
  assert moved[:R].tolist() == [False, True, True, True, False]


def test_the_trunk_learns_too_where_asked(first_step, variables):
  same = _equal(first_step.params, variables['params'])
  assert not any(jax.tree.leaves(same))
  assert np.any(first_step.puzzle_table)


def test_time_ends_the_fitting(first_step):
  assert first_step.step == 1


def test_rates_rise_and_fall_over_the_steps_asked_for():
  setup = _setup(trunk=False, steps=100)
  rates = [float(setup.schedule(count)) for count in (0, 10, 99)]
  np.testing.assert_allclose(rates, [0.1, 1, 0.1], atol=1e-3)
  # Of what predicts there is no average: it is what is fitted.
  assert setup.optimizer.ema_decay == 0


def test_divergence_is_told():
  found = divergence.Diagnosis(
    reason=np.int32(1), loss=np.inf, loss_mean=1.0, gradient_norms={},
    gradient_norm=1.0, puzzle_identifiers=np.zeros(B, np.int32),
  )  # fmt: skip
  with pytest.raises(ConfigError, match='step 1: the loss is not finite'):
    adaptation.read(1, {}, found)


def test_what_cannot_be_fitted_is_refused():
  with pytest.raises(ConfigError, match='puzzle_emb_ndim=0'):
    _setup(trunk=True, puzzle_emb_ndim=0)
  with pytest.raises(ConfigError, match='at least 1'):
    _setup(trunk=False, steps=0)
