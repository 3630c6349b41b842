"""Measures speed, and the ratios of what one run compared.

hrm-jax benchmark train_step
hrm-jax benchmark puzzle_table
hrm-jax benchmark steps_per_call
hrm-jax benchmark halting
hrm-jax benchmark input_pipeline
hrm-jax benchmark generators
hrm-jax benchmark voting
hrm-jax benchmark compressarc
hrm-jax benchmark act_evaluation --workdir=DIR
"""

from collections.abc import Sequence

from data_pipelines.errors import ConfigError
from experiments.benchmarks import compressarc, model, puzzles
from experiments.cli import command, launch, shared_flags

FLAGS = shared_flags.define('step', *shared_flags.JAX, workdir=None)


def _act_evaluation() -> None:
  if FLAGS.workdir is None:
    raise ConfigError('--workdir is missing, e.g. --workdir=runs/demo')
  model.act_evaluation(FLAGS.workdir, FLAGS.step)


BENCHMARKS = {
  'train_step': model.training_step,
  'puzzle_table': model.puzzle_table,
  'steps_per_call': model.steps_per_call,
  'halting': model.halting,
  'input_pipeline': puzzles.input_pipeline,
  'generators': puzzles.generators,
  'voting': puzzles.decode_and_vote,
  'compressarc': compressarc.step,
  'act_evaluation': _act_evaluation,
}


def main(names: Sequence[str]) -> None:
  unknown = set(names) - BENCHMARKS.keys()
  if not names or unknown:
    raise ConfigError(
      f'name benchmarks to run, out of {", ".join(BENCHMARKS)}'
      + (f'; unknown: {", ".join(sorted(unknown))}' if unknown else '')
    )
  for name in names:
    BENCHMARKS[name]()


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start, positional=True)
