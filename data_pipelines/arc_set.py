"""ARC tasks as training batches and evaluation rows, encoded on the fly."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from data_pipelines import augmentation, encoding, sampler
from data_pipelines.arc import Task, TaskSet, load_tasks
from data_pipelines.errors import DataError

# Pairs of one task are numbered in a byte.
_MAX_PAIRS = 255
# What the loss does not count: cells of the label outside of the grid.
IGNORE_LABEL = -100

# Batches whose indices are handed to TensorFlow at once.
_BLOCK = 64

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationRows:
  """Every augmentation of every evaluation test input; arrays of one length.

  Attributes:
    task: index into `ArcSet.tasks`.
    test: test pair of the task.
    augmentation: row of the augmentation table.
  """

  task: np.ndarray
  test: np.ndarray
  augmentation: np.ndarray

  def __len__(self) -> int:
    return len(self.task)


class ArcSet:
  """Tasks to train on and to be scored on, with their augmentations.

  Attributes:
    version: which data exactly.
    tasks: the training set's tasks, then the evaluation set's.
    num_train: how many of them belong to the training set.
    canvas: side of the canvas, cells.
    table: the augmentations.
  """

  vocab_size = encoding.VOCAB_SIZE

  def __init__(
    self,
    train: TaskSet | None,
    evaluate: TaskSet | None,
    canvas: int,
    num_aug: int,
    seed: int,
  ):
    """Chooses the tasks that fit the canvas and draws their augmentations.

    Args:
      train: demonstrations and test pairs are trained on; None for no such.
      evaluate: demonstrations are trained on, test pairs are held out and
        scored; None for no such.
      canvas: side of the canvas; tasks with a larger grid are left out.
      num_aug: augmentations of each task besides the identity.
      seed: of the augmentations.

    Raises:
      DataError: no task fits, a setting is out of range, or a task stands in
        both sets.
    """
    if train is None and evaluate is None:
      raise DataError(
        "data.train and data.evaluate are both empty; name one, e.g. 'arc1'"
      )
    if not 1 <= canvas <= encoding.CANVAS:
      raise DataError(f'data.canvas={canvas} must lie in 1 … {encoding.CANVAS}')
    for field, value in (('num_aug', num_aug), ('seed', seed)):
      if value < 0:
        raise DataError(f'data.{field}={value} must not be negative')
    parts = [
      [task for task in tasks.tasks if task.fits(canvas)] if tasks else []
      for tasks in (train, evaluate)
    ]
    self.tasks: list[Task] = parts[0] + parts[1]
    self.num_train = len(parts[0])
    self.canvas = canvas
    versions = [tasks.version for tasks in (train, evaluate) if tasks]
    self.version = ', '.join(versions)
    for tasks, fitting in zip((train, evaluate), parts, strict=True):
      if tasks and not fitting:
        raise DataError(
          f'data.canvas={canvas}: no task of {tasks.version} fits; raise it '
          '(30 fits all) or name other tasks'
        )
    names = [task.name for task in self.tasks]
    if len(set(names)) < len(names):
      twice = sorted({name for name in names if names.count(name) > 1})
      raise DataError(
        f'data.train and data.evaluate share the tasks {", ".join(twice[:5])}'
        f'{" …" if len(twice) > 5 else ""}; a task can be in one of them only'
      )

    trained = [
      task.pairs if index < self.num_train else task.demonstrations
      for index, task in enumerate(self.tasks)
    ]
    # A training pair without its output has nothing to teach.
    trained = [
      [i for i, pair in enumerate(pairs) if pair.output is not None]
      for pairs in trained
    ]
    self.members = np.array([len(pairs) for pairs in trained])
    if self.members.max() > _MAX_PAIRS:
      name = self.tasks[int(self.members.argmax())].name
      raise DataError(
        f"task '{name}' has more than {_MAX_PAIRS} pairs; split it into several"
      )
    self.table = augmentation.draw(self.tasks, self.members, num_aug, seed)
    self._pair_of_member = np.concatenate(trained)
    self._first_member = np.cumsum(np.r_[0, self.members])
    self._canvases, self._sizes, self._first_pair = _encode_all(
      self.tasks, canvas
    )
    self._names = None

  @property
  def seq_len(self) -> int:
    """Cells of a puzzle."""
    return self.canvas**2

  @property
  def num_identifiers(self) -> int:
    """Puzzle identifiers, the blank one (0) included."""
    return len(self.table) + 1

  @property
  def variants(self) -> np.ndarray:
    """Augmentations of each task, the identity included."""
    return np.diff(self.table.start)

  @property
  def evaluation_tasks(self) -> list[Task]:
    """The tasks that are scored."""
    return self.tasks[self.num_train :]

  @property
  def examples_per_pass(self) -> float:
    """Groups × mean examples per puzzle, as the paper counts an epoch."""
    mean = (self.members * self.variants).sum() / self.variants.sum()
    return float(len(self.tasks) * mean)

  def identifier_names(self) -> list[str]:
    """The name of each puzzle identifier."""
    if self._names is None:
      self._names = self.table.names(self.tasks)
    return self._names

  def describe(self) -> str:
    """One line for the log."""
    held_out = sum(len(task.tests) for task in self.evaluation_tasks)
    return (
      f'{self.version}: {len(self.tasks)} tasks that fit {self.canvas} × '
      f'{self.canvas}, {self.members.sum()} training pairs, '
      f'{len(self.table)} augmented tasks, {held_out} test inputs held out'
    )

  def train_batches(
    self,
    batch_size: int,
    seed: int,
    position: int = 0,
    rows: slice = slice(None),
  ) -> Iterator[Batch]:
    """Training batches from `position` on: batch i depends on (seed, i) alone.

    Args:
      batch_size: of the global batch.
      seed: of the order, the augmentations chosen and the shifts.
      position: number of the first batch.
      rows: of the global batch that this process feeds.

    Yields:
      int32 `inputs` and `labels` [rows, S], `puzzle_identifiers` [rows].
    """
    order = sampler.GroupSampler(self.members, self.variants, batch_size, seed)

    def indices():
      for examples in order.batches(position):
        yield self._train_indices(examples.rows(rows))

    return self._encoded(indices())

  def evaluation_rows(
    self, max_augmentations: int | None = None
  ) -> EvaluationRows:
    """The rows that evaluation predicts, those of a test input together.

    Args:
      max_augmentations: at most so many of each task, the identity first.
    """
    columns = []
    for task in range(self.num_train, len(self.tasks)):
      first, end = self.table.start[task : task + 2]
      if max_augmentations is not None:
        end = min(end, first + max_augmentations)
      for test in range(len(self.tasks[task].tests)):
        columns += [(task, test, row) for row in range(first, end)]
    array = np.array(columns, np.int64).reshape(-1, 3)
    return EvaluationRows(*array.T)

  def evaluation_batches(
    self, chosen: EvaluationRows, batch_size: int, rows: slice = slice(None)
  ) -> Iterator[Batch]:
    """Batches of `chosen` in order, never shifted.

    The last batch is filled up by repeating the last of the chosen rows.
    `labels` are those of the test outputs, none counted where an output is not
    known.
    """

    def indices():
      count = len(chosen)
      for begin in range(0, count, batch_size):
        index = np.arange(begin, begin + batch_size)[rows]
        index = np.minimum(index, count - 1)
        task = chosen.task[index]
        demonstrations = self._num_demonstrations[task]
        pair = self._first_pair[task] + demonstrations + chosen.test[index]
        shift = np.zeros((len(index), 2), np.int64)
        yield self._indices(pair, chosen.augmentation[index], shift)

    return self._encoded(indices())

  @property
  def _num_demonstrations(self) -> np.ndarray:
    return np.array([len(task.demonstrations) for task in self.tasks])

  def _train_indices(self, examples: sampler.Examples) -> dict[str, Any]:
    row = self.table.start[examples.group] + examples.variant
    member = self._first_member[examples.group] + examples.member
    pair = self._first_pair[examples.group] + self._pair_of_member[member]
    room = self.canvas - self._sizes[self.table.dihedral[row], pair]
    shift = (examples.noise * (room + 1)).astype(np.int64)
    shift[examples.member == self.table.fixed_pair[row]] = 0
    return self._indices(pair, row, shift)

  def _indices(self, pair, row, shift) -> dict[str, np.ndarray]:
    """What TensorFlow needs to build the batch, a few bytes a row."""
    colour_token = np.empty((len(row), encoding.VOCAB_SIZE), np.int32)
    colour_token[:, : encoding.FIRST_COLOUR] = (encoding.PAD, encoding.END)
    colour_token[:, encoding.FIRST_COLOUR :] = (
      self.table.colours[row] + encoding.FIRST_COLOUR
    )
    return {
      'canvas': self.table.dihedral[row].astype(np.int64)
      * self._canvases.shape[1]
      + pair,
      'token': colour_token,
      'shift': shift.astype(np.int32),
      'puzzle_identifiers': (row + 1).astype(np.int32),
    }

  def _encoded(
    self, indices: Iterator[dict[str, np.ndarray]]
  ) -> Iterator[Batch]:
    """The batches that `indices` describes, encoded by TensorFlow.

    TensorFlow gets the indices in blocks and never calls Python: a thread of
    `from_generator` that is at work when the interpreter ends, be it by Ctrl-C
    or an error, waits for Python for ever, and Python for the thread.
    """
    side, size = self.canvas, self.seq_len
    canvases = tf.constant(self._canvases.reshape(-1, 2, size))
    cell_row = tf.repeat(tf.range(side), side)
    cell_column = tf.tile(tf.range(side), [side])

    options = tf.data.Options()
    # Nothing is left to tune, and freeing a tuned iterator can take a second.
    options.autotune.enabled = False

    @tf.function  # Traced once, not in every block.
    def encode(index):
      grids = tf.gather(canvases, index['canvas'])  # [B, 2, S]
      grids = tf.gather(index['token'], tf.cast(grids, tf.int32), batch_dims=1)
      # The cell that each cell of the shifted canvas comes from.
      row = cell_row - index['shift'][:, :1]
      column = cell_column - index['shift'][:, 1:]
      inside = (row >= 0) & (column >= 0)
      source = tf.where(inside, row * side + column, 0)
      inputs, labels = (
        tf.where(
          inside, tf.gather(grids[:, i], source, batch_dims=1), encoding.PAD
        )
        for i in (0, 1)
      )
      return {
        'inputs': inputs,
        'labels': tf.where(labels == encoding.PAD, IGNORE_LABEL, labels),
        'puzzle_identifiers': index['puzzle_identifiers'],
      }

    def next_block() -> list[Iterator[Batch]]:
      block = list(itertools.islice(indices, _BLOCK))
      if not block:
        return []
      dataset = tf.data.Dataset.from_tensor_slices(
        {name: np.stack([index[name] for index in block]) for name in block[0]}
      )
      dataset = dataset.map(encode, num_parallel_calls=2, deterministic=True)
      dataset = dataset.prefetch(4).with_options(options)
      batches = dataset.as_numpy_iterator()
      return [itertools.chain([next(batches)], batches)]

    # The next block is made ready while this one is used.
    with futures.ThreadPoolExecutor(1) as pool:
      ready = pool.submit(next_block)
      while blocks := ready.result():
        ready = pool.submit(next_block)
        yield from blocks[0]


def _encode_all(
  tasks: Sequence[Task], canvas: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Every pair under every dihedral transform, unshifted, original colours.

  Returns:
    canvases: uint8 [8, pairs, 2, S]; an unknown output is all padding.
    sizes: int64 [8, pairs, 2], the larger height and width of each pair.
    first_pair: int64 [tasks + 1].
  """
  pairs = [pair for task in tasks for pair in task.pairs]
  first_pair = np.cumsum([0] + [len(task.pairs) for task in tasks])
  canvases = np.zeros((8, len(pairs), 2, canvas**2), np.uint8)
  sizes = np.zeros((8, len(pairs), 2), np.int64)
  for index, pair in enumerate(pairs):
    for transform in range(8):
      for role, grid in enumerate((pair.input, pair.output)):
        if grid is not None:
          turned = encoding.dihedral(grid, transform)
          canvases[transform, index, role] = encoding.encode(turned, canvas)
          sizes[transform, index] = np.maximum(
            sizes[transform, index], turned.shape
          )
  return canvases, sizes, first_pair


def load_arc_set(
  train: str, evaluate: str, canvas: int, num_aug: int, seed: int
) -> ArcSet:
  """An ArcSet from SPECs (see `arc.load_tasks`); '' names no tasks.

  Raises:
    DataError: a SPEC cannot be loaded, or the tasks do not fit together.
  """
  arc_set = ArcSet(
    load_tasks(train) if train else None,
    load_tasks(evaluate) if evaluate else None,
    canvas,
    num_aug,
    seed,
  )
  logging.info('Data: %s', arc_set.describe())
  return arc_set
