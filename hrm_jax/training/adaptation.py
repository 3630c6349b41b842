"""New puzzles for a trained model: rows of their own, fitted to examples.

Without a row of the puzzle table the model does not know which puzzle it sees.
It is learned as all others were, by the very training step, on demonstrations.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from data_pipelines.progress import Progress
from hrm_jax.models import ReasoningModel
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import act, divergence
from hrm_jax.training.state import TrainState
from hrm_jax.training.step import TrainSetup, sharded_init, sharded_step


def setup_for(
  settings: Settings,
  model: ReasoningModel,
  num_puzzle_identifiers: int,
  batch_size: int,
  steps: int,
  trunk: bool,
) -> TrainSetup:
  """What defines the steps that fit new puzzles, the blank one among them.

  `settings` are of the run that the checkpoint comes from; with `trunk` the
  dense parameters learn too.

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
    # The rates rise for a tenth of the steps, and a tenth of them is left.
    warmup_steps=round(0.1 * steps),
    min_ratio=0.1,
    ema_decay=0.0,
  )
  return TrainSetup(
    model,
    settings.act,
    optimizer,
    settings.loss,
    total_steps=steps,
    batch_size=batch_size,
    num_puzzle_identifiers=num_puzzle_identifiers,
    seed=settings.seed,
    divergence=settings.divergence,
  )


def fit(
  setup: TrainSetup,
  mesh: Mesh,
  variables: dict[str, Any],
  batches: Iterator[act.Batch],
  seconds: float | None = None,
) -> TrainState:
  """Takes the setup's steps, or as many of them as there is time for.

  Args:
    setup: set-up that `setup_for` gave.
    mesh: to train on, of one process.
    variables: weights of the checkpoint that predict; a copy of them is
      trained, under a puzzle table of zeros.
    batches: demonstrations of the new puzzles, in batches of the set-up's size.
    seconds: after which no further step is begun; None for no limit.

  Raises:
    ConfigError: a step diverged.
  """
  step_function = sharded_step(setup, mesh)
  # The step takes its state's buffers for its own.
  copies = jax.tree.map(jnp.copy, dict(variables))
  state = sharded_init(setup, mesh).replace(**copies)
  progress = Progress('Fitting: steps', setup.total_steps, 10.0)

  def take(state):
    return step_function(state, sharding.global_batch(mesh, next(batches)))

  # The first step is always taken.
  step, results = 1, take(state)
  while step < setup.total_steps and not (
    seconds is not None and progress.passed >= seconds
  ):
    # Read when the next step has been dispatched, as in training.
    before, results = results, take(results[0])
    read(step, *before[1:])
    progress.add()
    step += 1
  metrics = read(step, *results[1:])
  logging.info(
    'Fitted in %d steps and %.0f s, loss %.4f',
    step, progress.passed, metrics['loss'] / setup.batch_size,
  )  # fmt: skip
  return results[0]


def read(
  step: int, metrics: dict[str, chex.Array], diagnosis: divergence.Diagnosis
) -> dict[str, float]:
  """The metrics of a step, fetched; a ConfigError where it diverged."""
  metrics, reason = jax.device_get((metrics, diagnosis.reason))
  if reason:
    raise ConfigError(
      f'fitting diverged at step {step}: {divergence.REASONS[int(reason)]}; '
      'fit with fewer --steps, or --adapt=none'
    )
  return {name: float(value) for name, value in metrics.items()}
