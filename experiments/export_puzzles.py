"""Writes puzzles in the on-disk format of the published code.

  hrm-jax export_puzzles --train=SPEC --evaluate=SPEC --out=DIR

The published code then trains on DIR, and so does this:
--config.data.train=DIR --config.data.evaluate=DIR.
"""

from absl import flags

from data_pipelines import puzzles
from data_pipelines.published import identifiers, writer
from experiments.cli import command, shared_flags

_DATA = ('train', 'evaluate', 'canvas', 'num_aug', 'seed')
FLAGS = shared_flags.define(*_DATA, num_aug=1000)
shared_flags.path('out', None, 'Directory to make and write.', FLAGS)
shared_flags.require(FLAGS, 'out', 'data/arc1')
flags.DEFINE_enum(
  'variant', 'hrm', [*identifiers.SEPARATORS], 'Published code whose names for '
  'augmented tasks are written.', flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  puzzle_data = puzzles.load_puzzles(**shared_flags.values(FLAGS, _DATA))
  writer.export(puzzle_data, FLAGS.out, FLAGS.variant, FLAGS.seed)
  command.say(f'Written: {FLAGS.out}')


if __name__ == '__main__':
  command.run(main, FLAGS)
