"""One half of a published directory: its arrays, opened, checked and read.

The large arrays are memory-mapped and read in parts.
"""

import hashlib
import json
import mmap
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from data_pipelines import files, sampler
from data_pipelines.arc import encoding
from data_pipelines.arc.tasks import Pair
from data_pipelines.batches import IGNORE_LABEL, padded
from data_pipelines.errors import DataError
from data_pipelines.questions.domain import Asked, Domain

# Number of rows that are read at a time.
CHUNK = 1024
# Number of rows that earlier versions told data apart by.
SAMPLE = 2048


class Split(NamedTuple):
  """One half of a directory; arrays as `reader` describes them."""

  directory: pathlib.Path
  metadata: dict[str, Any]  # dataset.json
  inputs: np.ndarray  # [N, S], memory-mapped
  labels: np.ndarray  # [N, S], memory-mapped
  puzzle_identifiers: np.ndarray  # int64 [puzzles]
  puzzle_indices: np.ndarray  # int64 [puzzles + 1]
  group_indices: np.ndarray  # int64 [groups + 1]

  def read(self, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels, int32 [B, S]; labels with IGNORE_LABEL.

    Raises:
      DataError: a token is not of the vocabulary.
    """
    inputs = _read_rows(self.inputs, example)
    labels = _read_rows(self.labels, example)
    ignored = self.metadata['ignore_label_id']
    counted = np.ones_like(labels, bool)
    if ignored is not None:
      counted = labels != ignored
    # Before the tokens become smaller numbers, which would wrap them.
    size = self.metadata['vocab_size']
    for name, tokens, looked_at in (
      ('labels', labels, counted),
      ('inputs', inputs, True),
    ):
      wrong = looked_at & ((tokens < 0) | (tokens >= size))
      if wrong.any():
        row, cell = np.argwhere(wrong)[0]
        raise DataError(
          f'{self.where(name)}: example {example[row]} has the token '
          f'{tokens[row, cell]}, not one of 0 … {size - 1}; build the data set '
          'anew'
        )
    labels = np.where(counted, labels.astype(np.int32), IGNORE_LABEL)
    return inputs.astype(np.int32), labels

  def asked(self, domain: Domain | None) -> Asked:
    """All examples as questions and answers, which are read when asked for."""

    def read(example):
      inputs, labels = self.read(example)
      return inputs.astype(np.uint8), padded(labels).astype(np.uint8)

    return Asked(
      domain,
      self.metadata['vocab_size'],
      self.metadata['seq_len'],
      len(self.inputs),
      read,
      lambda row: f'{self.directory.name}:{row}',
    )

  def chunks(self) -> Iterator[np.ndarray]:
    """The numbers of all examples, int64, a few at a time."""
    for begin in range(0, len(self.inputs), CHUNK):
      yield np.arange(begin, min(begin + CHUNK, len(self.inputs)))

  def where(self, name: str) -> str:
    """The file of one of the arrays, for messages."""
    return files.shown(self.directory / f'all__{name}.npy')

  def pairs(self, example: np.ndarray) -> list[Pair]:
    """The grids of examples of ARC puzzles, as augmented as they are.

    Raises:
      DataError: an example holds something else.
    """
    inputs, labels = self.read(example)

    def grid(row, name, canvas):
      try:
        found = encoding.uncover(canvas)
        if found is None and name == 'inputs':
          raise ValueError('its canvas is empty')
        return found
      except ValueError as error:
        raise DataError(
          f'{self.where(name)}: example {row}: {error}; build the data set anew'
        ) from None

    return [
      Pair(grid(row, 'inputs', question), grid(row, 'labels', answer))
      for row, question, answer in zip(
        example, inputs, padded(labels), strict=True
      )
    ]


def open_split(directory: pathlib.Path) -> Split:
  """Opens one split and checks that its files fit together.

  Raises:
    DataError: they do not, or one cannot be used.
  """
  metadata = _metadata(directory / 'dataset.json')
  large = [_load(directory, name, 2) for name in Split._fields[2:4]]
  small = [_load(directory, name, 1) for name in Split._fields[4:]]
  for name, array in zip(Split._fields[4:], small, strict=True):
    # Before memory is taken by what a header claims.
    if len(array) > len(large[0]) + 1:
      raise DataError(
        f'{files.shown(directory)}/all__{name}.npy: has {len(array):,} entries '
        f'for {len(large[0]):,} examples; one of the files is cut short'
      )
  small = [np.array(array, np.int64) for array in small]
  split = Split(directory, metadata, *large, *small)
  for name, fault in _faults(split):
    raise DataError(f'{split.where(name)}: {fault}')
  return split


def _faults(split: Split) -> Iterator[tuple[str, str]]:
  """What does not fit together: the array, and what is wrong with it."""
  count, cells = split.inputs.shape
  puzzles = len(split.puzzle_identifiers)
  wanted = split.metadata['seq_len']
  if cells != wanted:
    yield (
      'inputs',
      f'has {cells} cells an example, seq_len in dataset.json is {wanted}',
    )
  if split.labels.shape != split.inputs.shape:
    yield (
      'labels',
      f'has the shape {split.labels.shape}, all__inputs.npy '
      f'{split.inputs.shape}; one of them is cut short',
    )
  for name, whole, part, last in (
    ('puzzle_indices', 'puzzle', 'example', count),
    ('group_indices', 'group', 'puzzle', puzzles),
  ):
    bounds = getattr(split, name)
    outside = (bounds < 0) | (bounds > last)
    if not len(bounds) or bounds[0] or bounds[-1] != last or outside.any():
      yield (
        name,
        f'must go from 0 to {last}, the number of {part}s; one of the files is '
        'cut short',
      )
    sizes = np.diff(bounds)
    if (sizes < 1).any():
      row = int((sizes < 1).argmax())
      yield (
        name,
        f'falls after entry {row}'
        if sizes[row] < 0
        else f'{whole} {row} has no {part}',
      )
  if len(split.puzzle_indices) != puzzles + 1:
    yield (
      'puzzle_indices',
      f'has {len(split.puzzle_indices)} entries for {puzzles} puzzle '
      'identifiers; it must have one more',
    )
  most = split.metadata['num_puzzle_identifiers']
  wrong = (split.puzzle_identifiers < 0) | (split.puzzle_identifiers >= most)
  if wrong.any():
    row = int(wrong.argmax())
    yield (
      'puzzle_identifiers',
      f'entry {row} is {split.puzzle_identifiers[row]}, out of the range 0 … '
      f'{most - 1} that num_puzzle_identifiers in dataset.json gives',
    )
  if not count:
    yield 'inputs', 'holds no example'


def _metadata(path: pathlib.Path) -> dict[str, Any]:
  where = files.shown(path)
  metadata = files.parse_json(files.read(path, at_most=2**20), path)
  if not isinstance(metadata, dict):
    raise DataError(f'{where}: must be an object')
  metadata.setdefault('ignore_label_id', None)

  def is_size(value):
    return type(value) is int and value >= 1

  def is_zero(value):
    return value is None or value == 0

  rules = {
    'vocab_size': (is_size, 'a whole number from 1 on'),
    'seq_len': (is_size, 'a whole number from 1 on'),
    'num_puzzle_identifiers': (is_size, 'a whole number from 1 on'),
    'pad_id': (is_zero, '0'),
    'blank_identifier_id': (is_zero, '0'),
    'ignore_label_id': (
      lambda token: token is None or type(token) is int,
      'a whole number or null',
    ),
    'sets': (lambda sets: sets == ['all'], '["all"]'),
  }
  for key, (is_good, rule) in rules.items():
    if not is_good(metadata.get(key)):
      raise DataError(
        f'{where}: {key} is {metadata.get(key)!r}; it must be {rule}'
      )
  if metadata['vocab_size'] > 256:
    raise DataError(
      f'{where}: vocab_size is {metadata["vocab_size"]}; at most 256 here'
    )
  return metadata


def _load(directory: pathlib.Path, name: str, dimensions: int) -> np.ndarray:
  path = directory / f'all__{name}.npy'
  where = files.shown(path)
  try:
    with files.reading(path):
      array = np.load(path, mmap_mode='r')
  except DataError:
    raise
  # numpy's reader has many errors for a damaged header.
  except Exception as error:
    reason = ' '.join(str(error).split())[:100] or type(error).__name__
    raise DataError(
      f'{where}: not a whole .npy file ({reason}); copy or build it anew'
    ) from None
  if not isinstance(array, np.ndarray) or array.ndim != dimensions:
    raise DataError(f'{where}: must be one array of {dimensions} dimensions')
  if array.dtype.kind not in 'iu':
    raise DataError(f'{where}: holds {array.dtype}, must hold whole numbers')
  return array


def _read_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Some rows of a memory-mapped array.

  The pages are handed back to the system, which keeps them while it has room:
  otherwise the whole file would soon count as this process's memory.
  """
  found = array[rows]
  pages = array.base
  if isinstance(pages, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
    pages.madvise(mmap.MADV_DONTNEED)
  return found


def digest(
  splits: list[Split], names: list[str], sample: int | None = None
) -> str:
  """A digest of all contents, or of a sample of the examples.

  Earlier versions told data apart by a `sample` of `SAMPLE` rows.
  """
  total = hashlib.sha256(json.dumps(names).encode())
  for split in splits:
    total.update(json.dumps(split.metadata, sort_keys=True).encode())
    for array in split[4:]:
      total.update(array.tobytes())
    for array in (split.inputs, split.labels):
      if sample:
        rows = sampler.spread(len(array), sample)
        total.update(_read_rows(array, rows).tobytes())
        continue
      total.update(f'{array.dtype.str} {array.shape}'.encode())
      for example in split.chunks():
        total.update(_read_rows(array, example).data)
  return total.hexdigest()[:12]
