"""Draws puzzles as they are, and as the model sees them.

hrm-jax show --data=SPEC --out=FILE.png
"""

import pathlib

from absl import flags

from data_pipelines import puzzles
from data_pipelines.batches import padded
from data_pipelines.drawing import pictures as picture
from data_pipelines.puzzle_set import PuzzleSet
from experiments.cli import command, shared_flags


def show(data: PuzzleSet, path: pathlib.Path, count: int, seed: int) -> None:
  """Draws `count` examples that are trained on, spread evenly over the puzzles.

  A row has an example's input and output unaugmented and unshifted, then as
  one of its augmentations.
  """
  titles, originals, shown = data.samples(count, seed)
  for batch in (originals, shown):
    batch['labels'] = padded(batch['labels'])
  style = picture.style_of(data.domain, data.vocab_size)
  with command.writing(path):
    picture.draw_examples(style, titles, originals, shown, data.version, path)


# Some mazes have no more than three augmentations.
FLAGS = shared_flags.define('data', 'canvas', 'seed', num_aug=3)
shared_flags.require(FLAGS, 'data', 'arc1:training')
shared_flags.path('out', None, 'PNG file to write.', FLAGS)
shared_flags.require(FLAGS, 'out', 'arc1.png')
flags.DEFINE_integer(
  'count', 8, 'Number of examples to draw.', lower_bound=1, flag_values=FLAGS
)


def main(_) -> None:
  data = puzzles.load_puzzles(
    FLAGS.data,
    '',
    FLAGS.canvas,
    FLAGS.num_aug,
    FLAGS.seed,
    at_most=FLAGS.count,
  )
  show(data, FLAGS.out, FLAGS.count, FLAGS.seed)
  command.say(f'Written: {FLAGS.out}')


if __name__ == '__main__':
  command.run(main, FLAGS)
