"""Trains a model, or goes on with a run that was stopped.

  hrm-jax train --config=arc1 --workdir=DIR [--config.KEY=VALUE ...]

A run that was stopped, by Ctrl-C too, goes on from its newest checkpoint.
"""

import contextlib
import pathlib

import jax
import ml_collections
import numpy as np
from absl import flags, logging

from data_pipelines import files
from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from hrm_jax import build
from hrm_jax.inference import evaluation
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import preemption, processes, sharding
from hrm_jax.training import loop as training
from hrm_jax.training import step as train_step
from hrm_jax.training.state import TrainState
from hrm_jax.workdir import checkpoints, metrics, weights_and_biases
from hrm_jax.workdir import lock as workdir_lock

FLAGS = shared_flags.define('config', 'workdir', *shared_flags.PROCESSES)
flags.DEFINE_string(
  'wandb', None, 'Project of Weights & Biases that gets the metrics too.',
  flag_values=FLAGS,
)  # fmt: skip


def main(_) -> int | None:
  return to_end(FLAGS.config, FLAGS.workdir, FLAGS.wandb)


def to_end(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  wandb: str | None = None,
) -> int | None:
  """Trains as `run` does until the end or a signal; returns the exit code."""
  with preemption.listening(jax.default_backend()) as notice:
    try:
      state = run(config, workdir, notice, wandb)
    except training.Preempted as stopped:
      logging.info(
        '%s: stopped after step %d%s; the same command goes on from there',
        notice.reason, stopped.step,
        f', which is saved in {workdir}' if stopped.step else '',
      )  # fmt: skip
      return preemption.EXIT_CODE
  logging.info('Step %d is saved in %s', int(state.step), workdir)


def run(
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  notice: preemption.Notice | None = None,
  wandb: str | None = None,
) -> TrainState:
  """Trains, or goes on, as `config` says; returns the last state.

  Args:
    config: the experiment.
    workdir: of the run.
    notice: when to save and stop; None for never.
    wandb: project of Weights & Biases that gets the metrics too, if any.

  Raises:
    ConfigError, DataError: settings, data or workdir that cannot be used, and
      then nothing has been written; or training that cannot go on.
    training.Preempted: `notice` was given; the state is saved.
  """
  # All that can be wrong is looked at before anything is written.
  build.check(config)
  if wandb:
    weights_and_biases.check()
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
  keep = checkpoints.Keep(
    config.keep_checkpoints, config.keep_best, config.keep_every
  )
  settings = training.LoopSettings(
    stop_at_step=config.stop_at_step,
    log_every=config.log_every,
    evaluate_every=config.evaluate_every,
    checkpoint_every=config.checkpoint_every,
    stop_at_accuracy=config.stop_at_accuracy,
    best_metric=f'eval/{config.best_metric}' if keep.best else None,
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
  rows = sharding.local_rows(mesh, config.batch_size)
  first = jax.process_index() == 0
  agreement = preemption.Agreement(notice or preemption.Notice(), mesh)

  with contextlib.ExitStack() as stack:
    trackers = []

    def claim():
      stack.enter_context(workdir_lock.hold(workdir))
      build.claim_workdir(workdir, config, puzzles, leaking)
      if wandb:
        tracker = weights_and_biases.Tracker(wandb, workdir, config.to_dict())
        trackers.append(stack.enter_context(tracker))

    processes.from_first(claim)
    saved = stack.enter_context(
      contextlib.closing(checkpoints.Checkpoints(workdir, keep))
    )
    writer = stack.enter_context(
      contextlib.closing(metrics.MetricsWriter(workdir, first))
    )

    def write(step, line):
      for sink in (writer, *trackers):
        sink.write(step, line)

    def evaluate(state):
      judge = evaluation.evaluate(
        puzzles,
        chosen,
        np.arange(puzzles.num_identifiers, dtype=np.int32),
        predict,
        state.predicting,
        state.puzzle_table,
        config.evaluation.batch_size,
        agreement.poll,
      )
      if judge is None:
        return None
      logging.info('Held out: %s%s', judge.summary(), leaking.note())
      return {**judge.metrics, **leaking.metrics()}

    def report(batch, facts):
      path = workdir / 'divergence' / f'step_{facts["step"]}_batch_{batch}.json'
      if first:
        path.parent.mkdir(exist_ok=True)
        files.write_json(path, facts)
      return str(path)

    hooks = training.Hooks(
      batches=lambda position: puzzles.train_batches(
        config.batch_size, config.seed, position, rows
      ),
      position=lambda position: checkpoints.Position(
        position, puzzles.identifier_names(), puzzles.version, config.batch_size
      ),
      evaluate=evaluate,
      write=write,
      forget=writer.forget_after,
      report=report,
      stop=agreement.poll,
    )
    return training.train(setup, mesh, saved, settings, hooks)


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
