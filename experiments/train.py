"""Trains a model; started again on the same workdir, it goes on.

  python -m experiments.train --config=experiments/configs/arc1.py \
      --workdir=DIR [--config.KEY=VALUE ...]
"""

import contextlib
import pathlib

import jax
import ml_collections
import numpy as np
from absl import logging

from experiments import build, evaluation, launch, metrics
from hrm_jax import checkpoints, inference, sharding, train_step, training
from hrm_jax.errors import ConfigError
from hrm_jax.train_state import TrainState


def main(_) -> None:
  config, workdir = launch.config(), launch.workdir()
  state = run(config, workdir)
  logging.info('Step %d is saved in %s', int(state.step), workdir)


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> TrainState:
  """Trains, or goes on, as `config` says; returns the last state.

  Raises:
    ConfigError, DataError: settings, data or workdir that cannot be used;
      nothing has been written then.
  """
  # All that can be wrong is looked at before anything is written.
  build.check(config)
  mesh = build.mesh(config)
  platform = mesh.devices.flat[0].platform
  if config.model.attention == 'pallas' and platform != 'tpu':
    raise ConfigError(
      f"model.attention='pallas' is for TPUs and would be interpreted on "
      f"{platform}; use 'auto'"
    )
  sharding.check_batch_size(
    mesh, config.evaluation.batch_size, 'evaluation.batch_size'
  )
  if config.keep_checkpoints < 1:
    raise ConfigError(
      f'keep_checkpoints={config.keep_checkpoints} must be at least 1'
    )
  settings = training.LoopSettings(
    stop_at_step=config.stop_at_step,
    log_every=config.log_every,
    evaluate_every=config.evaluate_every,
    checkpoint_every=config.checkpoint_every,
  )
  puzzles = build.puzzle_set(config)
  setup = build.train_setup(config, puzzles)
  train_step.check_mesh(setup, mesh)
  leaking = build.check_leaks(config, puzzles)
  if leaking.refused:
    raise ConfigError(leaking.refusal())
  for key in ('max_augmentations', 'max_puzzles'):
    if config.evaluation[key] < 0:
      raise ConfigError(
        f'evaluation.{key}={config.evaluation[key]} must not be negative; 0 is '
        'all'
      )
  chosen = puzzles.evaluation_rows(
    config.evaluation.max_augmentations or None,
    config.evaluation.max_puzzles or None,
  )
  if config.evaluate_every and not len(chosen):
    raise ConfigError(
      f'evaluate_every={config.evaluate_every}, but data.evaluate names no '
      'tasks; name some or set evaluate_every=0'
    )
  predict = inference.sharded_predict(
    setup.model, setup.act, config.evaluation.halting, mesh
  )
  first = jax.process_index() == 0
  build.claim_workdir(workdir, config, puzzles, leaking, write=first)
  saved = checkpoints.Checkpoints(workdir, keep=config.keep_checkpoints)
  writer = metrics.MetricsWriter(workdir, max(saved.steps(), default=0), first)
  rows = sharding.local_rows(mesh, config.batch_size)

  def evaluate(state):
    judge = evaluation.evaluate(
      puzzles,
      chosen,
      np.arange(puzzles.num_identifiers, dtype=np.int32),
      predict,
      state.predicting,
      state.puzzle_table,
      config.evaluation.batch_size,
    )
    logging.info('Held out: %s%s', judge.summary(), leaking.note())
    return {**judge.metrics, **leaking.metrics()}

  hooks = training.Hooks(
    batches=lambda position: puzzles.train_batches(
      config.batch_size, config.seed, position, rows
    ),
    position=lambda position: checkpoints.Position(
      position, puzzles.identifier_names(), puzzles.version
    ),
    evaluate=evaluate,
    write=writer.write,
  )
  with contextlib.closing(saved), contextlib.closing(writer):
    return training.train(setup, mesh, saved, settings, hooks)


if __name__ == '__main__':
  launch.run(main)
