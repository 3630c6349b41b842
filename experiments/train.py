"""Trains a model; started again on the same workdir, it goes on.

  python -m experiments.train --config=experiments/configs/arc1.py \
      --workdir=DIR [--config.KEY=VALUE ...]
"""

import jax
from absl import flags, logging
from ml_collections import config_flags

from experiments import build, evaluation, launch, metrics
from hrm_jax import checkpoints, inference, sharding, training
from hrm_jax.errors import ConfigError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'The experiment.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Where the run is kept.')


def main(_) -> None:
  config, workdir = _CONFIG.value, _WORKDIR.value
  if config is None or workdir is None:
    raise ConfigError(
      '--config=FILE.py and --workdir=DIR are needed, e.g. '
      '--config=experiments/configs/arc1.py:demo --workdir=runs/demo'
    )
  mesh = sharding.make_mesh()
  sharding.check_batch_size(mesh, config.batch_size, 'batch_size')
  puzzles = build.arc_set(config)
  setup = build.train_setup(config, puzzles)
  chosen = puzzles.evaluation_rows(config.evaluation.max_augmentations or None)
  predict = inference.sharded_predict(
    setup.model, setup.act, config.evaluation.halting, mesh
  )
  checkpoints.claim_workdir(
    workdir, build.record(config, puzzles), build.FREE_KEYS
  )
  saved = checkpoints.Checkpoints(workdir, keep=config.keep_checkpoints)
  writer = metrics.MetricsWriter(workdir, max(saved.steps(), default=0))
  rows = sharding.local_rows(mesh, config.batch_size)

  def evaluate(state):
    return evaluation.evaluate(
      puzzles,
      chosen,
      chosen.augmentation + 1,
      predict,
      mesh,
      state.variables,
      state.puzzle_table,
      config.evaluation.batch_size,
    ).metrics

  state = training.train(
    setup,
    mesh,
    saved,
    training.LoopSettings(
      stop_at_step=config.stop_at_step,
      log_every=config.log_every,
      evaluate_every=config.evaluate_every,
      checkpoint_every=config.checkpoint_every,
    ),
    training.Hooks(
      batches=lambda position: puzzles.train_batches(
        config.batch_size, config.seed, position, rows
      ),
      position=lambda position: checkpoints.Position(
        position, puzzles.identifier_names(), puzzles.version
      ),
      evaluate=evaluate,
      write=writer.write if jax.process_index() == 0 else lambda *_: None,
    ),
  )
  saved.close()
  writer.close()
  logging.info('Step %d is saved in %s', int(state.step), workdir)


if __name__ == '__main__':
  launch.run(main)
