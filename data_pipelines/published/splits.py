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
_SAMPLE = 2048


class Split(NamedTuple):
  """One half of a directory; arrays as `reader` describes them.

  Attributes:
    directory: where it lies.
    metadata: dataset.json.
    inputs: [N, S], memory-mapped.
    labels: [N, S], memory-mapped.
    puzzle_identifiers: int64 [puzzles].
    puzzle_indices: int64 [puzzles + 1].
    group_indices: int64 [groups + 1].
  """

  directory: pathlib.Path
  metadata: dict[str, Any]
  inputs: np.ndarray
  labels: np.ndarray
  puzzle_identifiers: np.ndarray
  puzzle_indices: np.ndarray
  group_indices: np.ndarray

  def read(self, example: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels, int32 [B, S]; labels with IGNORE_LABEL.

    Raises:
      DataError: a token is not of the vocabulary.
    """
    labels = _read_rows(self.labels, example)
    ignored = self.metadata['ignore_label_id']
    counted = np.ones_like(labels, bool)
    if ignored is not None:
      counted = labels != ignored
    self._check('labels', example, labels, counted)
    labels = np.where(counted, labels.astype(np.int32), IGNORE_LABEL)
    return self.read_inputs(example).astype(np.int32), labels

  def read_inputs(self, example: np.ndarray) -> np.ndarray:
    """Inputs alone, uint8 [B, S].

    Raises:
      DataError: a token is not of the vocabulary.
    """
    inputs = _read_rows(self.inputs, example)
    self._check('inputs', example, inputs, True)
    return inputs.astype(np.uint8)

  def _check(
    self,
    name: str,
    example: np.ndarray,
    tokens: np.ndarray,
    counted: np.ndarray | bool,
  ) -> None:
    # Before the tokens become smaller numbers, which would wrap them.
    size = self.metadata['vocab_size']
    wrong = counted & ((tokens < 0) | (tokens >= size))
    if wrong.any():
      row, cell = np.argwhere(wrong)[0]
      raise DataError(
        f'{self.where(name)}: example {example[row]} has the token '
        f'{tokens[row, cell]}, not one of 0 … {size - 1}; build the data set '
        'anew'
      )

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
    """The grids of examples of ARC puzzles, as augmented as they are."""
    inputs, labels = self.read(example)
    pairs = []
    labels = padded(labels)
    for row, *tokens in zip(example, inputs, labels, strict=True):
      grids = []
      for name, canvas in zip(('inputs', 'labels'), tokens, strict=True):
        try:
          grids.append(encoding.uncover(canvas))
        except ValueError as error:
          raise DataError(
            f'{self.where(name)}: example {row}: {error}; build the data set '
            'anew'
          ) from None
      if grids[0] is None:
        raise DataError(
          f'{self.where("inputs")}: example {row} is empty; build the data '
          'set anew'
        )
      pairs.append(Pair(*grids))
    return pairs


def open_split(directory: pathlib.Path) -> Split:
  """Opens one split and checks that its files fit together."""
  path = directory / 'dataset.json'
  where = files.shown(path)
  metadata = files.parse_json(files.read(path), path)
  if not isinstance(metadata, dict):
    raise DataError(f'{where}: must be an object')
  for key in ('vocab_size', 'seq_len', 'num_puzzle_identifiers'):
    if type(metadata.get(key)) is not int or metadata[key] < 1:
      raise DataError(
        f'{where}: {key} is {metadata.get(key)!r}; it must be a whole number '
        'from 1 on'
      )
  if metadata['vocab_size'] > 256:
    raise DataError(
      f'{where}: vocab_size is {metadata["vocab_size"]}; at most 256 here'
    )
  for key in ('pad_id', 'blank_identifier_id'):
    if metadata.get(key, 0) != 0:
      raise DataError(f'{where}: {key} is {metadata[key]!r}; only 0 is known')
  ignored = metadata.setdefault('ignore_label_id', None)
  if ignored is not None and type(ignored) is not int:
    raise DataError(
      f'{where}: ignore_label_id is {ignored!r}; it must be a whole number or '
      'null'
    )
  if metadata.get('sets') != ['all']:
    raise DataError(
      f'{where}: sets is {metadata.get("sets")!r}; only ["all"] is known'
    )
  arrays = {
    name: _load(directory / f'all__{name}.npy', dimensions)
    for name, dimensions in (
      ('inputs', 2),
      ('labels', 2),
      ('puzzle_identifiers', 1),
      ('puzzle_indices', 1),
      ('group_indices', 1),
    )
  }
  for name in ('puzzle_identifiers', 'puzzle_indices', 'group_indices'):
    arrays[name] = np.array(arrays[name], np.int64)
  split = Split(directory, metadata, **arrays)

  count, cells = split.inputs.shape
  if cells != metadata['seq_len']:
    raise DataError(
      f'{split.where("inputs")}: has {cells} cells an example, seq_len in '
      f'dataset.json is {metadata["seq_len"]}'
    )
  if split.labels.shape != split.inputs.shape:
    raise DataError(
      f'{split.where("labels")}: has the shape {split.labels.shape}, '
      f'all__inputs.npy {split.inputs.shape}; one of them is cut short'
    )
  puzzles = len(split.puzzle_identifiers)
  for name, things, last in (
    ('puzzle_indices', 'examples', count),
    ('group_indices', 'puzzles', puzzles),
  ):
    bounds = getattr(split, name)
    if (
      not len(bounds)
      or bounds[0] != 0
      or bounds[-1] != last
      or bounds.min() < 0
      or bounds.max() > last
    ):
      raise DataError(
        f'{split.where(name)}: must go from 0 to {last}, the number of '
        f'{things}; one of the files is cut short'
      )
    if (np.diff(bounds) < 0).any():
      row = int((np.diff(bounds) < 0).argmax())
      raise DataError(f'{split.where(name)}: falls after entry {row}')
  if len(split.puzzle_indices) != puzzles + 1:
    raise DataError(
      f'{split.where("puzzle_indices")}: has {len(split.puzzle_indices)} '
      f'entries for {puzzles} puzzle identifiers; it must have one more'
    )
  for name, whole, part in (
    ('puzzle_indices', 'puzzle', 'example'),
    ('group_indices', 'group', 'puzzle'),
  ):
    empty = np.diff(getattr(split, name)) < 1
    if empty.any():
      row = int(empty.argmax())
      raise DataError(f'{split.where(name)}: {whole} {row} has no {part}')
  most = metadata['num_puzzle_identifiers']
  wrong = (split.puzzle_identifiers < 0) | (split.puzzle_identifiers >= most)
  if wrong.any():
    row = int(wrong.argmax())
    raise DataError(
      f'{split.where("puzzle_identifiers")}: entry {row} is '
      f'{split.puzzle_identifiers[row]}, out of the range 0 … {most - 1} that '
      'num_puzzle_identifiers in dataset.json gives'
    )
  if not count:
    raise DataError(f'{split.where("inputs")}: holds no example')
  return split


def _load(path: pathlib.Path, dimensions: int) -> np.ndarray:
  where = files.shown(path)
  files.check_regular(path)
  try:
    array = np.load(path, mmap_mode='r')
  except OSError as error:
    raise DataError(
      f'{where}: cannot be read ({error.strerror or error})'
    ) from None
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


def _read_rows(array: np.memmap, rows: np.ndarray) -> np.ndarray:
  """Some rows of a memory-mapped array.

  The pages are handed back to the system, which keeps them while it has room:
  otherwise the whole file would soon count as this process's memory.
  """
  found = array[rows]
  pages = array.base
  if isinstance(pages, mmap.mmap) and hasattr(mmap, 'MADV_DONTNEED'):
    pages.madvise(mmap.MADV_DONTNEED)
  return found


def digest(splits: list[Split], names: list[str]) -> str:
  """A digest of all contents."""
  total = hashlib.sha256(json.dumps(names).encode())
  for split in splits:
    _add_small_files(total, split)
    for array in (split.inputs, split.labels):
      total.update(f'{array.dtype.str} {array.shape}'.encode())
      for example in split.chunks():
        total.update(_read_rows(array, example))
  return total.hexdigest()[:12]


def sampled_digest(splits: list[Split], names: list[str]) -> str:
  """The digest of earlier versions, which left most examples out."""
  total = hashlib.sha256(json.dumps(names).encode())
  for split in splits:
    _add_small_files(total, split)
    rows = sampler.spread(len(split.inputs), _SAMPLE)
    for array in (split.inputs, split.labels):
      total.update(_read_rows(array, rows).tobytes())
  return total.hexdigest()[:12]


def _add_small_files(total: Any, split: Split) -> None:
  total.update(json.dumps(split.metadata, sort_keys=True).encode())
  for array in split[4:]:
    total.update(array.tobytes())
