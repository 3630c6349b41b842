"""Writes puzzles in the on-disk format of the published code.

  python -m experiments.export_puzzles --train=SPEC --evaluate=SPEC --out=DIR

The published code then trains on DIR, and so does this:
--config.data.train=DIR --config.data.evaluate=DIR.
"""

import pathlib

from absl import flags

from data_pipelines import puzzles
from data_pipelines.errors import DataError
from data_pipelines.published import identifiers, writer
from experiments.cli import command, data_flags

_VARIANT = flags.DEFINE_enum(
  'variant',
  'hrm',
  [*identifiers.SEPARATORS],
  'Whose names for augmented tasks.',
)


def main(_) -> None:
  if not data_flags.OUT.value:
    raise DataError('--out=DIR is missing, e.g. --out=data/arc1')
  num_aug = data_flags.NUM_AUG.value
  puzzle_data = puzzles.load_puzzles(
    data_flags.TRAIN.value,
    data_flags.EVALUATE.value,
    data_flags.CANVAS.value,
    1000 if num_aug is None else num_aug,
    data_flags.SEED.value,
  )
  directory = pathlib.Path(data_flags.OUT.value)
  writer.export(puzzle_data, directory, _VARIANT.value, data_flags.SEED.value)
  print(f'Written: {directory}')


if __name__ == '__main__':
  command.run(main)
