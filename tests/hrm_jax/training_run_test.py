"""Training on puzzles that are at hand: what learns, and what must not."""

import dataclasses

import jax
import numpy as np
import pytest

import hrm_jax
from data_pipelines.arc.pipeline import ArcSet
from data_pipelines.arc.tasks import TaskSet, parse_task
from data_pipelines.errors import ConfigError
from hrm_jax import training_run
from hrm_jax.settings import Fitting
from tests.run_fixtures import random_task


@pytest.fixture(scope='module')
def solver(random_arc_run):
  return hrm_jax.load(random_arc_run)


@pytest.fixture(scope='module')
def puzzles():
  task = parse_task('new', random_task(4), 'here')
  return ArcSet(None, TaskSet('new', (task,)), 4, 2, 0)


@pytest.fixture(scope='module')
def fit(solver, puzzles):
  """Trains; the settings, the weights before and those after."""

  def run(fitting, seconds=None, **changes):
    settings = solver.further(fitting).replace(changes)
    before = solver._weights(np.array([0]))[0]
    state = training_run.fit(settings, puzzles, solver, seconds)
    return settings, before['params'], jax.device_get(state)

  return run


def _equal(a, b):
  return jax.tree.leaves(
    jax.tree.map(np.array_equal, *jax.device_get((dict(a), dict(b))))
  )


def test_rows_learn_and_the_trunk_stays(fit, puzzles):
  settings, before, state = fit(Fitting('rows', steps=6))
  assert state.step == 6 and all(_equal(before, state.params))
  moved = np.any(state.puzzle_table != 0, axis=1)
  assert moved[: puzzles.num_identifiers].tolist() == [False, True, True, True]
  # Of what predicts there is no average: it is what is fitted.
  assert state.ema is None and settings.optimizer.warmup_steps == 1
  assert settings.optimizer.min_ratio == 0.1


@pytest.mark.slow
def test_the_trunk_learns_too_where_asked(fit):
  fitting = Fitting('all', steps=2, rows_first=0.5)
  _, before, state = fit(fitting)
  assert not any(_equal(before, state.params))
  _, before, state = fit(dataclasses.replace(fitting, rows_first=1))
  assert all(_equal(before, state.params)) and np.any(state.puzzle_table)


def test_new_rows_start_where_they_are_told(fit, solver):
  rates = {'optimizer.puzzle_learning_rate': 0.0}
  for start in ('zero', 'mean'):
    _, _, state = fit(Fitting(steps=1, new_rows=start), **rates)
    assert np.any(state.puzzle_table[1:]) == (start == 'mean')


@pytest.mark.slow
def test_time_ends_the_fitting(fit, monkeypatch):
  # A step that takes ever longer than was measured.
  measured = []

  def shorten(self, length):
    measured.append(length(0.0, 0.001))
    self.settings = self.settings.of_length(50_000)
    self.setup = dataclasses.replace(self.setup, total_steps=50_000)

  with monkeypatch.context() as patch:
    patch.setattr(training_run._Run, 'shorten', shorten)
    _, _, state = fit(Fitting(), seconds=5.0)
  assert 0 < state.step < 50_000 and 0 < measured[0] <= 5000
  with pytest.raises(ConfigError, match='too short for a training step'):
    fit(Fitting(), seconds=0.0)


@pytest.mark.slow
def test_the_steps_are_those_that_there_is_time_for(fit, monkeypatch):
  told = []
  real = training_run._Run.shorten

  def shorten(self, length):
    return real(self, lambda *found: told.append(found) or 3)

  monkeypatch.setattr(training_run._Run, 'shorten', shorten)
  _, _, state = fit(Fitting(steps=7), seconds=600.0)
  # Whatever was timed was thrown away.
  same = fit(Fitting(steps=3))[2]
  assert state.step == 3 and min(told[0]) > 0
  jax.tree.map(np.testing.assert_array_equal, state, same)
  assert fit(Fitting(steps=2), seconds=600.0)[2].step == 2


def test_divergence_is_told(fit):
  with pytest.raises(ConfigError, match=r'step \d+ diverged.*new'):
    fit(Fitting(steps=9), **{'optimizer.puzzle_learning_rate': 3e38})


def test_what_cannot_be_fitted_is_refused(solver):
  with pytest.raises(ConfigError, match='steps=0'):
    Fitting(steps=0)
  settings = solver.settings.replace({'model.puzzle_emb_ndim': 0})
  with pytest.raises(ConfigError, match='no rows of their own'):
    dataclasses.replace(solver, settings=settings).further(Fitting())
