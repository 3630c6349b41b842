"""Trains a model, or goes on with a run that was stopped.

  hrm-jax train --config=arc1 --workdir=DIR [--config.KEY=VALUE ...]

A run that was stopped, by Ctrl-C too, goes on from its newest checkpoint.
"""

import pathlib
import re

import jax
from absl import flags, logging

from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from hrm_jax.parallel import preemption
from hrm_jax.settings import Settings
from hrm_jax.training.loop import Preempted
from hrm_jax.training_run import train

FLAGS = shared_flags.define('config', 'workdir', *shared_flags.PROCESSES)
flags.DEFINE_string(
  'wandb', None, 'Project of Weights & Biases that gets the metrics too.',
  flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_string(
  'profile', None, 'Steps FIRST:LAST, counted from 1, of which a trace is '
  "written to DIR/tensorboard, for TensorBoard's profiler and xprof.",
  flag_values=FLAGS,
)  # fmt: skip


def main(_) -> int | None:
  settings = Settings.from_config(FLAGS.config)
  profile = traced_steps(FLAGS.profile)
  return to_end(settings, FLAGS.workdir, FLAGS.wandb, profile)


def traced_steps(text: str | None) -> tuple[int, int] | None:
  """The first and the last step that --profile names."""
  if text is None:
    return None
  found = re.fullmatch('([1-9][0-9]{0,17}):([1-9][0-9]{0,17})', text)
  if not found or int(found[1]) > int(found[2]):
    raise ConfigError(
      f'--profile={text} must be FIRST:LAST, two numbers of steps in order, '
      'e.g. 101:110'
    )
  return int(found[1]), int(found[2])


def to_end(
  settings: Settings,
  workdir: pathlib.Path,
  wandb: str | None = None,
  profile: tuple[int, int] | None = None,
) -> int | None:
  """Trains until the end or a signal; returns the exit code."""
  with preemption.listening(jax.default_backend()) as notice:
    try:
      state = train(settings, workdir, notice, wandb, profile)
    except Preempted as stopped:
      logging.info(
        '%s: stopped after step %d%s; the same command goes on from there',
        notice.reason, stopped.step,
        f', which is saved in {workdir}' if stopped.step else '',
      )  # fmt: skip
      return preemption.EXIT_CODE
  logging.info('Step %d is saved in %s', int(state.step), workdir)


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
