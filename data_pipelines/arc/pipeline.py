"""ARC tasks as training batches and evaluation rows, encoded on the fly."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent import futures

import numpy as np

from data_pipelines import puzzle_set, quiet, sampler
from data_pipelines.arc import augmentation, encoding, leaks
from data_pipelines.arc.tasks import NamedPairs, Pair, Task, TaskSet
from data_pipelines.arc.voting import Ballots
from data_pipelines.batches import BLANK_NAME, IGNORE_LABEL, PAD, Batch
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet

tf = quiet.tensorflow()

# Whether each dihedral transform (`encoding.dihedral`) swaps rows and columns,
# and whether it counts those of the grid as it was written backwards.
_SWAPS = np.isin(np.arange(8), (1, 3, 6, 7))
_FLIPS_ROW = np.isin(np.arange(8), (2, 3, 5, 7))
_FLIPS_COLUMN = np.isin(np.arange(8), (1, 2, 4, 7))
_UNKNOWN = np.zeros((0, 0), np.uint8)

# Batches whose indices are handed to TensorFlow at once.
_BLOCK = 64


class ArcSet(PuzzleSet):
  """Tasks to train on and to be scored on, with their augmentations.

  `tasks` are the training set's, which are `num_train`, then the evaluation
  set's; `table` holds the augmentations of all.
  """

  vocab_size = encoding.VOCAB_SIZE

  def __init__(
    self,
    train: TaskSet | None,
    evaluate: TaskSet | None,
    canvas: int,
    num_aug: int,
    seed: int,
    allow_shared: bool = False,
    identifier_names: Sequence[str] | None = None,
    unscored: Sequence[str] = (),
  ):
    """Chooses the tasks that fit the canvas and draws their augmentations.

    The settings are those of `puzzles.load_puzzles`. Where `allow_shared` lets
    a task stand in both sets, the one that is trained on whole has `@train`
    added to its name. One of the sets may be None.

    Raises:
      DataError: no task fits, a setting is out of range, a task stands in both
        sets, or one that is scored has no name.
    """
    if not 1 <= canvas <= encoding.CANVAS:
      raise DataError(f'data.canvas={canvas} must lie in 1 … {encoding.CANVAS}')
    if num_aug < 0:
      raise DataError(f'data.num_aug={num_aug} must not be negative')
    trained, held_out = (
      [task for task in tasks.tasks if task.fits(canvas)] if tasks else []
      for tasks in (train, evaluate)
    )
    for tasks, fitting in ((train, trained), (evaluate, held_out)):
      if tasks and not fitting:
        raise DataError(
          f'data.canvas={canvas}: no task of {tasks.version} fits; '
          f'{"raise it or " * (canvas < encoding.CANVAS)}name other tasks'
        )
    self._left_out = [
      task.name
      for tasks in (train, evaluate)
      for task in (tasks.tasks if tasks else ())
      if not task.fits(canvas)
    ]
    names = {task.name for task in held_out}
    twice = sorted(names & {task.name for task in trained})
    if twice and not allow_shared:
      raise DataError(
        f'data.train and data.evaluate share {len(twice)} '
        f'task{"s" * (len(twice) > 1)}, {", ".join(map(shown, twice[:5]))}'
        f'{" …" if len(twice) > 5 else ""}; a task can be in one of them only, '
        'or with data.allow_leaks=True in both (data.evaluate alone trains on '
        'its demonstrations too)'
      )
    trained = [
      dataclasses.replace(task, name=f'{task.name}@train')
      if task.name in names
      else task
      for task in trained
    ]
    self._unscored = set(unscored)
    self.tasks: list[Task] = trained + self._without_answers(held_out)
    self.num_train = len(trained)
    self.evaluation_tasks = self.tasks[self.num_train :]
    self.canvas = canvas
    self.seq_len = canvas**2
    self.version = puzzle_set.version_of(train, evaluate)
    counts = collections.Counter(task.name for task in self.tasks)
    for name, count in counts.items():
      own, *_ = encoding.parse_augmentation_name(name)
      if name == BLANK_NAME or own != name or count > 1:
        raise DataError(
          f'task {name!r} has the name of a puzzle identifier that is not its '
          'own; rename it'
        )

    # A training pair without its output has nothing to teach.
    members = [
      [i for i, pair in enumerate(pairs) if pair.output is not None]
      for pairs in (
        *(task.pairs for task in trained),
        *(task.demonstrations for task in held_out),
      )
    ]
    self._pairs_trained = np.array([len(pairs) for pairs in members])
    if identifier_names is None:
      self.table = augmentation.draw(
        self.tasks, self._pairs_trained, num_aug, seed
      )
    else:
      self.table = augmentation.named(self.tasks, identifier_names)
    self.variants = np.diff(self.table.start)
    lacking = np.flatnonzero(self.variants[self.num_train :] == 0)
    if len(lacking):
      raise DataError(
        f'the checkpoint has no puzzle identifier of {len(lacking)} tasks that '
        f'are to be scored, e.g. {held_out[lacking[0]].name!r}; evaluate with '
        'the data that it was trained on'
      )
    self.members = np.repeat(self._pairs_trained, self.variants)
    self._pair_of_member = np.concatenate(members)
    self._first_member = np.cumsum(np.r_[0, self._pairs_trained])
    pairs = [pair for task in self.tasks for pair in task.pairs]
    self._first_pair = np.cumsum([0] + [len(task.pairs) for task in self.tasks])
    grids = [
      _UNKNOWN if grid is None else grid
      for pair in pairs
      for grid in (pair.input, pair.output)
    ]
    # All cells of all grids, the sizes [pairs, 2, 2], and where a grid begins.
    self._cells = np.concatenate([grid.ravel() for grid in grids])
    self._sizes = np.array([grid.shape for grid in grids]).reshape(-1, 2, 2)
    ends = self._sizes.prod(-1).cumsum().reshape(-1, 2)
    self._start = ends - self._sizes.prod(-1)

  def _without_answers(self, held_out: Sequence[Task]) -> list[Task]:
    """Forgets the outputs of test pairs that are not to be scored."""
    return [
      dataclasses.replace(
        task,
        tests=tuple(
          Pair(pair.input, None)
          if f'{task.name} test[{index}]' in self._unscored
          else pair
          for index, pair in enumerate(task.tests)
        ),
      )
      for task in held_out
    ]

  @property
  def num_identifiers(self) -> int:
    return len(self.table) + 1

  @functools.cached_property
  def _names(self) -> list[str]:
    return self.table.names(self.tasks)

  def identifier_names(self) -> list[str]:
    return self._names

  def describe(self) -> str:
    held_out = sum(len(task.tests) for task in self.evaluation_tasks)
    count = len(self._left_out)
    named = ', '.join(map(shown, self._left_out[:3])) + ', …' * (count > 3)
    left_out = f' ({count} larger left out: {named})' if count else ''
    return (
      f'{self.version}: {len(self.tasks)} tasks that fit {self.canvas} × '
      f'{self.canvas}{left_out}, {self._pairs_trained.sum()} training pairs, '
      f'{len(self.table)} augmented tasks, {held_out} test inputs held out'
    )

  def evaluation_rows(
    self, max_augmentations: int | None = None, max_puzzles: int | None = None
  ) -> EvaluationRows:
    columns = []
    for task in sampler.spread(len(self.evaluation_tasks), max_puzzles):
      first, end = self.table.start[self.num_train + task :][:2]
      if max_augmentations is not None:
        end = min(end, first + max_augmentations)
      pair = self._first_pair[self.num_train + task]
      pair += len(self.evaluation_tasks[task].demonstrations)
      for test in range(len(self.evaluation_tasks[task].tests)):
        columns += [(task, test, r + 1, pair + test) for r in range(first, end)]
    return EvaluationRows(*np.array(columns, np.int64).reshape(-1, 4).T)

  def demonstration_rows(self) -> EvaluationRows:
    columns = [
      (
        task,
        number,
        self.table.start[place] + 1,
        self._first_pair[place] + number,
      )
      for task, place in enumerate(range(self.num_train, len(self.tasks)))
      for number in range(len(self.tasks[place].demonstrations))
    ]
    return EvaluationRows(*np.array(columns, np.int64).reshape(-1, 4).T)

  def held_out(self, chosen: EvaluationRows) -> Ballots:
    return Ballots(
      self.evaluation_tasks,
      chosen.group,
      chosen.test,
      self.table.dihedral[chosen.identifier - 1],
      self.table.colours[chosen.identifier - 1],
    )

  def compared(self) -> NamedPairs:
    trained = leaks.trained_pairs(self.tasks[: self.num_train], whole=True)
    trained += leaks.trained_pairs(self.evaluation_tasks, whole=False)
    held_out = [
      pair
      for pair in leaks.held_out_pairs(self.evaluation_tasks)
      if f'{pair.task} {pair.place}' not in self._unscored
    ]
    return NamedPairs(trained, held_out)

  def _evaluation_index(self, chosen: EvaluationRows) -> Batch:
    shift = np.zeros((len(chosen), 2), np.int64)
    return self._index(chosen.example, chosen.identifier - 1, shift)

  def _train_index(self, examples: sampler.Examples) -> Batch:
    row = self.table.start[examples.group] + examples.variant
    member = self._first_member[examples.group] + examples.member
    pair = self._first_pair[examples.group] + self._pair_of_member[member]
    turned = self._sizes[pair].max(axis=1)
    swap = _SWAPS[self.table.dihedral[row]]
    turned[swap] = turned[swap, ::-1]
    room = self.canvas - turned
    shift = (examples.noise * (room + 1)).astype(np.int64)
    shift[examples.member == self.table.fixed_pair[row]] = 0
    return self._index(pair, row, shift)

  def _index(
    self, pair: np.ndarray, row: np.ndarray, shift: np.ndarray
  ) -> Batch:
    """What TensorFlow needs to build the batch, a few bytes a row."""
    first = encoding.FIRST_COLOUR
    token = np.arange(encoding.VOCAB_SIZE, dtype=np.int32)
    token = np.tile(token, (len(row), 1))
    token[:, first:] = self.table.colours[row] + first
    return {
      'start': self._start[pair],
      'size': self._sizes[pair].astype(np.int32),
      'transform': self.table.dihedral[row].astype(np.int32),
      'token': token,
      'shift': shift.astype(np.int32),
      'puzzle_identifiers': (row + 1).astype(np.int32),
    }

  def _batches(self, indices: Iterator[Batch]) -> Iterator[Batch]:
    """The batches that `indices` describes, encoded by TensorFlow.

    TensorFlow gets the indices in blocks and never calls Python: a thread of
    `from_generator` that is at work when the interpreter ends, be it by Ctrl-C
    or an error, waits for Python for ever, and Python for the thread.
    """
    side = self.canvas
    cells = tf.constant(self._cells)
    cell_row = tf.repeat(tf.range(side), side)
    cell_column = tf.tile(tf.range(side), [side])

    options = tf.data.Options()
    # Nothing is left to tune, and freeing a tuned iterator can take a second.
    options.autotune.enabled = False

    @tf.function  # Traced once, not in every block.
    def encode(index):
      # Position of each cell in the augmented grid, [B, S].
      row = cell_row - index['shift'][:, :1]
      column = cell_column - index['shift'][:, 1:]
      swap, flip_row, flip_column = (
        tf.gather(flags, index['transform'])[:, None]
        for flags in (_SWAPS, _FLIPS_ROW, _FLIPS_COLUMN)
      )
      # And in the grid as it was written, but for the flips.
      row, column = tf.where(swap, column, row), tf.where(swap, row, column)

      def tokens(role):
        height, width = (index['size'][:, role, axis, None] for axis in (0, 1))
        in_height = (row >= 0) & (row < height)
        in_width = (column >= 0) & (column < width)
        inside = in_height & in_width
        ends = (in_width & (row == height)) | (in_height & (column == width))
        source = tf.where(flip_row, height - 1 - row, row) * width
        source += tf.where(flip_column, width - 1 - column, column)
        source = index['start'][:, role, None] + tf.cast(source, tf.int64)
        colour = tf.gather(cells, tf.where(inside, source, 0))
        token = tf.cast(colour, tf.int32) + encoding.FIRST_COLOUR
        token = tf.where(inside, token, tf.where(ends, encoding.END, PAD))
        return tf.gather(index['token'], token, batch_dims=1)

      labels = tokens(1)
      return {
        'inputs': tokens(0),
        'labels': tf.where(labels == PAD, IGNORE_LABEL, labels),
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
