"""Trains a model further, on new ARC tasks all at once.

  hrm-jax adapt --workdir=DIR --task=SPEC --out=NEW [--steps=N]
      [--rows_first=0.25] [--new_rows=zero|mean] [--num_aug=N]

A model knows a task by its rows of the puzzle table. The new tasks get rows
for themselves and their augmentations; first these alone learn from the
demonstrations, then the whole network does. NEW is the working directory of an
ordinary run, which every command reads; DIR stays as it is. Started again, the
same command goes on. At the end the tasks are predicted, as `hrm-jax predict`
does: the answers lie in NEW/predictions.

SPEC is what `hrm-jax predict` takes; test outputs are not trained on.
"""

from absl import flags

import hrm_jax.solver
from data_pipelines.errors import ConfigError
from experiments import predict, train
from experiments.cli import command, launch, shared_flags
from hrm_jax.settings import OptimizerSettings, Settings, choices

FLAGS = shared_flags.define(
  'workdir', 'task', *shared_flags.PROCESSES, num_aug=30, seed=0
)
shared_flags.require(FLAGS, 'task', 'my_tasks/')
shared_flags.path('out', None, 'Directory of the new run.', FLAGS)
shared_flags.require(FLAGS, 'out', 'runs/adapted')
flags.DEFINE_integer(
  'steps', 2000, 'Number of training steps, for all tasks together.',
  lower_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_float(
  'rows_first', 0.25, 'Fraction of the steps, the first ones, in which only '
  'rows of the puzzle table learn; 1 leaves the network as it is.',
  lower_bound=0, upper_bound=1, flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
  'new_rows', 'zero', choices(Settings, 'new_rows'),
  'What new rows start from: zeros or the mean of the rows that there are.',
  flag_values=FLAGS,
)  # fmt: skip


def main(_) -> int | None:
  solver = hrm_jax.solver.load(FLAGS.workdir)
  if solver.domain is not None or not solver.settings.model.puzzle_emb_ndim:
    raise ConfigError(
      f'{FLAGS.workdir}: its puzzles have no rows of their own: there is '
      'nothing to adapt to'
    )
  # Refused now, and not after the training.
  solver.read([FLAGS.task])
  settings = settings_for(solver.settings)
  if code := train.to_end(settings, FLAGS.out):
    return code
  predict.run(FLAGS.out, FLAGS.task)
  return None


def settings_for(settings: Settings) -> Settings:
  """The settings of the new run, from those of the trained model."""
  steps = FLAGS.steps
  usual = Settings()
  return settings.replace(
    {
      # Rates, loss, halting and the size of a batch are the run's.
      **{
        name: getattr(usual, name)
        for name in (
          'stop_at_step', 'stop_at_accuracy', 'stop_at_score', 'keep_best',
          'keep_every', 'evaluate_every',
        )
      },
      'start_from': str(FLAGS.workdir),
      'new_rows': FLAGS.new_rows,
      'seed': FLAGS.seed,
      'total_steps': steps,
      'checkpoint_every': max(1, steps // 10, settings.steps_per_call),
      'optimizer.rows_first': FLAGS.rows_first,
      # The rates rise for a tenth of the steps, and a tenth of them is left.
      'optimizer.warmup_steps': round(0.1 * steps),
      'optimizer.min_ratio': 0.1,
      'optimizer.ema_decay': OptimizerSettings.ema_decay,
      'data.train': '',
      'data.evaluate': FLAGS.task,
      'data.num_aug': FLAGS.num_aug,
      'data.seed': FLAGS.seed,
      'data.known_leaks': (),
      'data.allow_leaks': False,
      'data.unscored': (),
    }
  )  # fmt: skip


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
