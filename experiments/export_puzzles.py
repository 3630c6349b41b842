"""Writes puzzles in the published on-disk format (see `published_set`).

  python -m experiments.export_puzzles --train=SPEC --evaluate=SPEC --out=DIR

Every augmentation of every puzzle is written once, ARC's grids shifted once and
for all, as the published builders do it. The published code then trains on DIR,
and so does this: --config.data.train=DIR --config.data.evaluate=DIR.
"""

import datetime
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from data_pipelines import files, puzzle_set, puzzles
from data_pipelines.arc import tasks as arc
from data_pipelines.errors import DataError
from data_pipelines.published import identifiers
from data_pipelines.puzzle_set import Batch, PuzzleSet
from experiments.cli import command, data_flags

# Examples at a time.
_CHUNK = 1024
# Seconds between two lines of progress.
_PROGRESS_SECONDS = 20.0


def export(
  puzzle_data: PuzzleSet, directory: pathlib.Path, variant: str, seed: int
) -> None:
  """Writes DIR, whole or not at all.

  Args:
    puzzle_data: what to write.
    directory: must not exist yet.
    variant: 'hrm' or 'trm', which differ in the names of augmented tasks;
      TRM's loader also wants the test puzzles' grids.
    seed: of the shifts.

  Raises:
    DataError: DIR exists or cannot be written.
  """
  if directory.exists():
    raise DataError(f'--out={directory} exists already; name a new directory')
  rows = puzzle_data.evaluation_rows()
  # A puzzle's examples together, where evaluation has a test input's together.
  order = np.lexsort((rows.test, rows.identifier, rows.group))
  rows = rows.take(order)
  trained = int(puzzle_data.members.sum())
  needed = 2 * puzzle_data.seq_len * (trained + len(rows))
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory.parent).free
    if needed > free:
      raise DataError(
        f'--out={directory}: needs {needed / 1e9:.1f} GB, the disk has '
        f'{free / 1e9:.1f} GB left'
      )
    with tempfile.TemporaryDirectory(
      dir=directory.parent, prefix=f'{directory.name}.', suffix='.part'
    ) as part:
      root = pathlib.Path(part) / directory.name
      root.mkdir()
      if trained:
        group = np.repeat(
          np.arange(len(puzzle_data.variants)), puzzle_data.variants
        )
        _write_split(
          root / 'train',
          puzzle_data,
          puzzle_data.all_train_batches(_CHUNK, seed),
          np.repeat(np.arange(len(group)), puzzle_data.members),
          group,
        )
      if len(rows):
        new_group = np.diff(rows.group, prepend=-1) != 0
        new_puzzle = new_group | (np.diff(rows.identifier, prepend=-1) != 0)
        _write_split(
          root / 'test',
          puzzle_data,
          puzzle_data.evaluation_batches(rows, _CHUNK),
          np.cumsum(new_puzzle) - 1,
          np.cumsum(new_group)[new_puzzle] - 1,
        )
      names = puzzle_data.identifier_names()
      identifiers.write(root / 'identifiers.json', names, variant)
      if variant == 'trm' and puzzle_data.evaluation_tasks:
        files.write_json(
          root / 'test_puzzles.json',
          {task.name: _grids(task) for task in puzzle_data.evaluation_tasks},
        )
      os.replace(root, directory)
  except OSError as error:
    raise DataError(
      f'--out={directory} cannot be written ({error.strerror})'
    ) from None


def _write_split(
  directory: pathlib.Path,
  puzzle_data: PuzzleSet,
  batches: Iterator[Batch],
  puzzle_of_example: np.ndarray,
  group_of_puzzle: np.ndarray,
) -> None:
  """Writes DIR/train or DIR/test; the last of `batches` is filled up."""
  directory.mkdir()
  count = len(puzzle_of_example)
  puzzle_indices = _bounds(puzzle_of_example)
  group_indices = _bounds(group_of_puzzle)
  arrays = {
    name: np.lib.format.open_memmap(
      directory / f'all__{name}.npy',
      mode='w+',
      dtype=np.uint8,
      shape=(count, puzzle_data.seq_len),
    )
    for name in ('inputs', 'labels')
  }
  identifiers = np.zeros(len(group_of_puzzle), np.int32)
  begin = shown = time.monotonic()
  for start in range(0, count, _CHUNK):
    batch = next(batches)
    end = min(start + _CHUNK, count)
    batch['labels'] = puzzle_set.padded(batch['labels'])
    for name, array in arrays.items():
      array[start:end] = batch[name][: end - start]
    identifiers[puzzle_of_example[start:end]] = batch['puzzle_identifiers'][
      : end - start
    ]
    now = time.monotonic()
    if now - shown > _PROGRESS_SECONDS:
      shown = now
      left = (now - begin) / end * (count - end)
      logging.info(
        '%s: %d of %d examples, %s left',
        directory.name, end, count, datetime.timedelta(seconds=round(left)),
      )  # fmt: skip
  for array in arrays.values():
    array.flush()
  for name, array in (
    ('puzzle_identifiers', identifiers),
    ('puzzle_indices', puzzle_indices),
    ('group_indices', group_indices),
  ):
    np.save(directory / f'all__{name}.npy', array.astype(np.int32))
  files.write_json(
    directory / 'dataset.json',
    {
      'pad_id': puzzle_set.PAD,
      'ignore_label_id': puzzle_set.PAD,
      'blank_identifier_id': puzzle_set.BLANK_IDENTIFIER,
      'vocab_size': puzzle_data.vocab_size,
      'seq_len': puzzle_data.seq_len,
      'num_puzzle_identifiers': puzzle_data.num_identifiers,
      'total_groups': len(group_indices) - 1,
      'mean_puzzle_examples': count / len(identifiers),
      'total_puzzles': len(identifiers),
      'sets': ['all'],
    },
  )


def _bounds(numbers: np.ndarray) -> np.ndarray:
  """Where each of the numbers 0, 0, 1, 1, 1, 2, ... starts, and the end."""
  changes = np.flatnonzero(np.diff(numbers)) + 1
  return np.r_[0, changes, len(numbers)]


def _grids(task: arc.Task) -> dict[str, Any]:
  """A task as its JSON file has it."""

  def pairs(of: Sequence[arc.Pair]) -> list[dict[str, Any]]:
    return [
      {
        name: grid.tolist()
        for name, grid in (('input', pair.input), ('output', pair.output))
        if grid is not None
      }
      for pair in of
    ]

  return {'train': pairs(task.demonstrations), 'test': pairs(task.tests)}


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
  export(puzzle_data, directory, _VARIANT.value, data_flags.SEED.value)
  print(f'Written: {directory}')


if __name__ == '__main__':
  command.run(main)
