"""Draws examples as the model sees them, beside the puzzles as they are.

python -m experiments.show --data=SPEC --out=FILE.png
"""

import pathlib

from absl import flags

from data_pipelines import puzzles
from data_pipelines.batches import padded
from data_pipelines.drawing import pictures as picture
from data_pipelines.errors import DataError
from data_pipelines.puzzle_set import PuzzleSet
from experiments.cli import command, data_flags


def show(
  puzzle_data: PuzzleSet, path: pathlib.Path, count: int, seed: int
) -> None:
  """Draws some of the examples that are trained on.

  A row has an example's input and output unaugmented and unshifted, then as
  one of its augmentations.

  Args:
    puzzle_data: where they come from.
    path: the PNG to write.
    count: examples, of puzzles spread evenly over the set.
    seed: of the augmentations chosen, and the shifts.
  """
  titles, originals, shown = puzzle_data.samples(count, seed)
  for batch in (originals, shown):
    batch['labels'] = padded(batch['labels'])
  style = picture.style_of(puzzle_data.domain, puzzle_data.vocab_size)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.draw_examples(
      style, titles, originals, shown, puzzle_data.version, path
    )
  except OSError as error:
    raise DataError(f'--out={path} cannot be written ({error})') from None


_DATA = flags.DEFINE_string('data', None, 'SPEC of the puzzles.')
_COUNT = flags.DEFINE_integer('count', 8, 'Examples to draw.', lower_bound=1)


def main(_) -> None:
  for flag in (_DATA, data_flags.OUT):
    if not flag.value:
      raise DataError(
        f'--{flag.name} is missing, e.g. --data=arc1:training --out=arc1.png'
      )
  num_aug = data_flags.NUM_AUG.value
  puzzle_data = puzzles.load_puzzles(
    _DATA.value,
    '',
    data_flags.CANVAS.value,
    3 if num_aug is None else num_aug,  # Some mazes have no more.
    data_flags.SEED.value,
  )
  path = pathlib.Path(data_flags.OUT.value)
  show(puzzle_data, path, _COUNT.value, data_flags.SEED.value)
  print(f'Written: {path}')


if __name__ == '__main__':
  command.run(main)
