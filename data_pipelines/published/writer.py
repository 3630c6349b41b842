"""Writes puzzles in the on-disk format of the published code (see `reader`).

Every augmentation of every puzzle is written once, and ARC's grids are shifted
once and for all, as the published builders do it.
"""

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipelines import files
from data_pipelines.arc.tasks import Task
from data_pipelines.batches import BLANK_IDENTIFIER, PAD, Batch, padded
from data_pipelines.errors import DataError
from data_pipelines.progress import Progress
from data_pipelines.published import identifiers
from data_pipelines.puzzle_set import PuzzleSet

# Number of examples that are made and written at a time.
_CHUNK = 1024


def export(
  puzzles: PuzzleSet, directory: pathlib.Path, variant: str, seed: int
) -> None:
  """Writes a directory that must not exist yet, whole or not at all.

  The variant is the form of the names of augmented tasks, 'hrm' or 'trm'; TRM's
  loader also wants the grids of the test puzzles. The seed is of the shifts.

  Raises:
    DataError: DIR exists or cannot be written.
  """
  where = files.shown(directory)
  if directory.exists():
    raise DataError(f'{where}: exists already; name a new directory')
  rows = puzzles.evaluation_rows()
  # A puzzle's examples together, where evaluation has a test input's together.
  order = np.lexsort((rows.test, rows.identifier, rows.group))
  rows = rows.take(order)
  trained = int(puzzles.members.sum())
  needed = 2 * puzzles.seq_len * (trained + len(rows))
  try:
    directory.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory.parent).free
    if needed > free:
      raise DataError(
        f'{where}: needs {needed / 1e9:.1f} GB, the disk has '
        f'{free / 1e9:.1f} GB left'
      )
    with tempfile.TemporaryDirectory(
      dir=directory.parent, prefix=f'{directory.name}.', suffix='.part'
    ) as part:
      root = pathlib.Path(part) / directory.name
      root.mkdir()
      if trained:
        group = np.repeat(np.arange(len(puzzles.variants)), puzzles.variants)
        _write_split(
          root / 'train',
          puzzles,
          puzzles.all_train_batches(_CHUNK, seed),
          np.repeat(np.arange(len(group)), puzzles.members),
          group,
        )
      if len(rows):
        new_group = np.diff(rows.group, prepend=-1) != 0
        new_puzzle = new_group | (np.diff(rows.identifier, prepend=-1) != 0)
        _write_split(
          root / 'test',
          puzzles,
          puzzles.evaluation_batches(rows, _CHUNK),
          np.cumsum(new_puzzle) - 1,
          np.cumsum(new_group)[new_puzzle] - 1,
        )
      names = puzzles.identifier_names()
      identifiers.write(root / 'identifiers.json', names, variant)
      if variant == 'trm' and puzzles.evaluation_tasks:
        files.write_json(
          root / 'test_puzzles.json',
          {task.name: _grids(task) for task in puzzles.evaluation_tasks},
        )
      os.replace(root, directory)
  except OSError as error:
    raise DataError(f'{where}: cannot be written ({error.strerror})') from None


def _write_split(
  directory: pathlib.Path,
  puzzles: PuzzleSet,
  batches: Iterator[Batch],
  puzzle_of_example: np.ndarray,
  group_of_puzzle: np.ndarray,
) -> None:
  """Writes DIR/train or DIR/test; the last of `batches` is filled up."""
  directory.mkdir()
  count = len(puzzle_of_example)
  arrays = {
    name: np.lib.format.open_memmap(
      directory / f'all__{name}.npy',
      mode='w+',
      dtype=np.uint8,
      shape=(count, puzzles.seq_len),
    )
    for name in ('inputs', 'labels')
  }
  small = {
    'puzzle_identifiers': np.zeros(len(group_of_puzzle), np.int32),
    'puzzle_indices': _bounds(puzzle_of_example),
    'group_indices': _bounds(group_of_puzzle),
  }
  progress = Progress(f'{directory.name}: examples written', count)
  for start in range(0, count, _CHUNK):
    batch = next(batches)
    end = min(start + _CHUNK, count)
    batch['labels'] = padded(batch['labels'])
    batch = {name: array[: end - start] for name, array in batch.items()}
    for name, array in arrays.items():
      array[start:end] = batch[name]
    puzzle = puzzle_of_example[start:end]
    small['puzzle_identifiers'][puzzle] = batch['puzzle_identifiers']
    progress.add(end - start)
  for array in arrays.values():
    array.flush()
  for name, numbers in small.items():
    np.save(directory / f'all__{name}.npy', numbers.astype(np.int32))
  files.write_json(
    directory / 'dataset.json',
    {
      'pad_id': PAD,
      'ignore_label_id': PAD,
      'blank_identifier_id': BLANK_IDENTIFIER,
      'vocab_size': puzzles.vocab_size,
      'seq_len': puzzles.seq_len,
      'num_puzzle_identifiers': puzzles.num_identifiers,
      'total_groups': len(small['group_indices']) - 1,
      'mean_puzzle_examples': count / len(group_of_puzzle),
      'total_puzzles': len(group_of_puzzle),
      'sets': ['all'],
    },
  )


def _bounds(numbers: np.ndarray) -> np.ndarray:
  """Where each of the numbers 0, 0, 1, 1, 1, 2, ... starts, and the end."""
  changes = np.flatnonzero(np.diff(numbers)) + 1
  return np.r_[0, changes, len(numbers)]


def _grids(task: Task) -> dict[str, Any]:
  """A task as its JSON file has it."""
  return {
    kind: [
      {
        name: grid.tolist()
        for name, grid in dataclasses.asdict(pair).items()
        if grid is not None
      }
      for pair in pairs
    ]
    for kind, pairs in (('train', task.demonstrations), ('test', task.tests))
  }
