"""New puzzles for a trained model: rows of their own, fitted to examples.

A puzzle that was not trained on has no row in the puzzle table, and without one
the model does not know which puzzle it sees. Its row is learned as all others
were, by the very training step, on its demonstrations; the checkpoint's weights
may stay as they are, or learn too.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from data_pipelines.progress import Progress
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import act, divergence
from hrm_jax.training import step as train_step
from hrm_jax.training.state import TrainState

Watch = Callable[[int, dict[str, float]], None]

# Seconds between two lines of progress.
_PROGRESS_SECONDS = 10.0
# Fraction of the steps for which the rates rise, and fraction of the peak rates
# left at the last step.
_WARMUP, _LAST = 0.1, 0.1


def setup_for(
  settings: Settings,
  model: nn.Module,
  num_puzzle_identifiers: int,
  batch_size: int,
  steps: int,
  trunk: bool,
) -> train_step.TrainSetup:
  """What defines the steps that fit new puzzles.

  Args:
    settings: settings of the run that the checkpoint comes from.
    model: its model.
    num_puzzle_identifiers: number of those of the new puzzles, blank included.
    batch_size: number of rows of a step.
    steps: greatest number of steps.
    trunk: whether the dense parameters learn too.

  Raises:
    ConfigError: the model has no puzzle embeddings, or a size is out of range.
  """
  if not model.settings.puzzle_emb_ndim:
    raise ConfigError(
      'the checkpoint has no puzzle embeddings (model.puzzle_emb_ndim=0): '
      'nothing can be fitted to a new puzzle; use --adapt=none'
    )
  if steps < 1:
    raise ConfigError(f'{steps} steps fit nothing; it must be at least 1')
  optimizer = dataclasses.replace(
    settings.optimizer,
    # At a rate of 0 nothing moves or decays, and no gradient is computed.
    learning_rate=settings.optimizer.learning_rate if trunk else 0.0,
    warmup_steps=round(_WARMUP * steps),
    min_ratio=_LAST,
    ema_decay=0.0,
  )
  return train_step.TrainSetup(
    model=model,
    act=settings.act,
    optimizer=optimizer,
    loss=settings.loss,
    total_steps=steps,
    batch_size=batch_size,
    num_puzzle_identifiers=num_puzzle_identifiers,
    seed=settings.seed,
    divergence=settings.divergence,
  )


def start(
  setup: train_step.TrainSetup, mesh: Mesh, variables: dict[str, Any]
) -> TrainState:
  """The checkpoint's weights under a puzzle table of zeros.

  Args:
    setup: set-up that `setup_for` gave.
    mesh: to train on.
    variables: weights of the checkpoint that predict; they are copied.
  """
  state = train_step.sharded_init(setup, mesh)
  # The step takes its state's buffers for its own.
  return state.replace(**jax.tree.map(jnp.copy, dict(variables)))


def fit(
  setup: train_step.TrainSetup,
  mesh: Mesh,
  state: TrainState,
  batches: Iterator[act.Batch],
  seconds: float | None = None,
  watch: Watch = lambda step, metrics: None,
) -> TrainState:
  """Takes the setup's steps, or as many of them as there is time for.

  Args:
    setup: set-up that `setup_for` gave.
    mesh: to train on, of one process.
    state: state that `start` gave; its buffers are used up.
    batches: demonstrations of the new puzzles, in batches of the set-up's size.
    seconds: after which no further step is begun, compilation included; None
      for no limit.
    watch: takes the number of each step done and its metrics, as sums over its
      rows (see `losses.segment_loss`).

  Raises:
    ConfigError: a step diverged.
  """
  step_function = train_step.sharded_step(setup, mesh)
  progress = Progress('Fitting: steps', setup.total_steps, _PROGRESS_SECONDS)
  pending = None
  # The first step is always taken.
  for step in range(1, setup.total_steps + 1):
    batch = sharding.global_batch(mesh, next(batches))
    state, *found = step_function(state, batch)
    # Read when the next step has been dispatched, as in training.
    if pending is not None:
      watch(step - 1, read(step - 1, *pending))
      progress.add()
    pending = found
    if seconds is not None and progress.passed >= seconds:
      break
  metrics = read(step, *pending)
  watch(step, metrics)
  logging.info(
    'Fitted in %d steps and %.0f s, loss %.4f',
    step, progress.passed, metrics['loss'] / setup.batch_size,
  )  # fmt: skip
  return state


def read(
  step: int, metrics: dict[str, chex.Array], diagnosis: divergence.Diagnosis
) -> dict[str, float]:
  """The metrics of a step, fetched.

  Raises:
    ConfigError: the step diverged.
  """
  metrics, reason = jax.device_get((metrics, diagnosis.reason))
  if reason:
    raise ConfigError(
      f'fitting diverged at step {step}: {divergence.REASONS[int(reason)]}; '
      'fit with fewer --steps, or --adapt=none'
    )
  return {name: float(value) for name, value in metrics.items()}
