"""Checkpoints of a run: asynchronous, whole or not there, checked when read.

DIR/checkpoints/STEP is written beside its place and renamed when all of it is
there (orbax). Its file SHA256SUMS lists the others, in the form of sha256sum,
so that whatever happens to a file afterwards is found before it is used.
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import logging as python_logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from data_pipelines import files
from data_pipelines.errors import Abandoned, ConfigError, Gone, first_line
from hrm_jax.parallel import processes, sharding
from hrm_jax.settings import Settings
from hrm_jax.training.state import Position, TrainState, Weights

FORMAT_VERSION = 2
# Begins the data version of a checkpoint whose training is not known.
UNKNOWN_DATA = 'unknown'

# Tenths of a second that clearing one away may take.
_CLEARING = 20

# Chunk size of the puzzle table on disk: the least that is read to get one row.
_PIECE_BYTES = 2**20
_SUMS = 'SHA256SUMS'
# What orbax writes at the very end; nothing is restored from these.
_UNLISTED = {_SUMS, '_CHECKPOINT_METADATA', 'commit_success.txt'}


class Checkpoints:
  """The checkpoints of one working directory.

  What predicts (weights), what training needs besides and the carry are
  separate items, so that each use reads only what it needs. All processes of a
  run call the same methods in the same order.

  Args:
    workdir: directory of the run; DIR/checkpoints is made when one is saved.
    keep: settings that say which checkpoints stay, for the process that trains,
      which clears up what a killed one left; None only reads.
    held: raises Abandoned where the workdir is another's by now; asked while
      this waits.
  """

  def __init__(
    self,
    workdir: str | pathlib.Path,
    keep: Settings | None = None,
    held: Callable[[], None] = lambda: None,
  ):
    self._workdir = files.place(workdir).absolute()
    self.directory = self._workdir / 'checkpoints'
    self._keep, self._held = keep, held
    self._scores: dict[int, float] = {}
    self._trusted = False

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    writes = self._keep is not None
    # Its threads log the errors that it raises here, with their traces.
    logging.get_absl_logger().addFilter(
      lambda record: (
        record.levelno < python_logging.ERROR or 'orbax' not in record.pathname
      )
    )
    arrays, json_of = ocp.StandardCheckpointHandler, ocp.JsonCheckpointHandler
    return ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=self,
        create=writes,
        # Else what a kill leaves stays for ever.
        cleanup_tmp_directories=writes,
        # Which reads metadata of all steps, damaged ones too.
        lightweight_initialize=True,
        async_options=ocp.options.AsyncOptions(
          post_finalization_callback=lambda: seal(self._unfinished()),
          # Or else, where that fails, its threads wait for each other and the
          # process does not end for minutes.
          create_directories_asynchronously=False,
        ),
      ),
      item_handlers={
        **{name: arrays() for name in ('weights', 'training', 'carry')},
        **{name: json_of() for name in ('position', 'identifiers')},
      },
    )

  def _unfinished(self) -> pathlib.Path:
    """The one whose files are all there, and which is about to count."""
    if not files.is_local(self.directory):
      return self.directory / str(self._saving)
    (found,) = self.directory.glob('*.orbax-checkpoint-tmp*')
    return found

  def steps(self) -> list[int]:
    """Steps at which a checkpoint was finished, ascending."""
    if not files.is_local(self.directory):
      # Nothing is renamed in a bucket: this file comes last.
      found = [p.parent for p in self.directory.glob('*/commit_success.txt')]
    elif not self.directory.is_dir():
      return []
    else:
      found = [path for path in self.directory.iterdir() if path.is_dir()]
    return sorted(int(path.name) for path in found if path.name.isdigit())

  def find(self, step: int | None = None) -> int:
    """The step to restore: the newest whole one, or `step` if that is whole.

    Damaged ones that are newer are named, and where this process trains moved
    to DIR/damaged, to be out of the way when their steps come again.

    Raises:
      ConfigError: there is no such checkpoint, or it is damaged.
    """
    return processes.from_first(lambda: self._find(step))

  def _find(self, step: int | None) -> int:
    try:
      return self._newest_whole(step)
    except files.errors() as error:
      if files.is_local(self.directory):
        raise
      raise ConfigError(
        f'{self.directory}: cannot be read ({files.reason(error)}); start the '
        'same command again'
      ) from error

  def _newest_whole(self, step: int | None) -> int:
    steps = self.steps()
    if not steps:
      raise ConfigError(
        f'{self.directory}: no checkpoint; train with this --workdir first'
      )
    instead = (
      'no other is left: restore one from a copy, or train in another --workdir'
    )
    if step is not None:
      if step not in steps:
        raise ConfigError(
          f'{self.directory}: no checkpoint of step {step}; there are '
          + ', '.join(map(str, steps))
        )
      steps, instead = [step], 'choose another --step'
    damaged: dict[int, str] = {}
    for candidate in reversed(steps):
      damage = find_damage(self.directory / str(candidate))
      if damage is None:
        for other, reason in damaged.items():
          self._put_aside(other, reason, candidate)
        return candidate
      damaged[candidate] = damage
    for candidate in damaged:
      if was_cleared(path := self.directory / str(candidate)):
        raise gone(path)
    told = '; '.join(f'{step}: {damage}' for step, damage in damaged.items())
    raise ConfigError(f'{self.directory}: damaged: {told}; {instead}')

  def _put_aside(self, step: int, damage: str, instead: int) -> None:
    path = self.directory / str(step)
    told = f'{path} is damaged ({damage}): step {instead} is used instead'
    if self._keep is not None:
      names = itertools.chain(
        [f'step_{step}'], (f'step_{step}_{i}' for i in itertools.count(2))
      )
      folder = self._workdir / 'damaged'
      folder.mkdir(exist_ok=True)
      aside = next(folder / n for n in names if not (folder / n).exists())
      files.move(path, aside)
      told += f'; moved to {aside}'
    logging.warning('%s', told)

  def save(self, state: TrainState, position: Position) -> None:
    """Writes a checkpoint in the background, named by the state's step.

    Raises:
      ConfigError: there is no room for it, or an earlier one failed.
    """
    self._save(int(state.step), position, **_split(state))

  def save_weights(
    self, step: int, variables: Any, table: chex.Array, position: Position
  ) -> None:
    """Writes a checkpoint that predicts and cannot be trained on."""
    self._save(step, position, weights=_items(Weights(variables, table)))

  def _save(self, step: int, position: Position, **items: Any) -> None:
    with self._writing():
      if step in self.steps():
        return
    fields = position._asdict()
    names = fields.pop('identifier_names')
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    # And a megabyte for orbax's own files and the file system's blocks.
    needed += sum(len(name) + 4 for name in names) + 2**20
    with self._writing():
      # Of the one before, whose failure would be found here.
      self._wait()
      free = processes.from_first(self._free)
      if free < needed:
        raise ConfigError(
          f'{self.directory}: {free / 2**20:,.0f} MiB are free and a '
          f'checkpoint needs {needed / 2**20:,.0f} MiB; {self._what_to_do()}'
        )
      self._scores = dict(position.scores)
      fields['format_version'] = FORMAT_VERSION
      args = {
        name: ocp.args.StandardSave(item, _save_args(item))
        for name, item in items.items()
      }
      args['position'] = ocp.args.JsonSave(fields)
      args['identifiers'] = ocp.args.JsonSave({'names': names})
      self._saving = step
      # Forced whatever was saved before: a run may have gone back.
      self._manager.save(step, args=ocp.args.Composite(**args), force=True)
      if not self._trusted:
        self._read_back(step, items['weights'])

  def _free(self) -> int:
    """Bytes that may be written; a bucket is never full."""
    if files.is_local(self.directory):
      return shutil.disk_usage(self.directory).free
    return 2**60

  def _wait(self) -> None:
    if files.is_local(self.directory):
      self._manager.wait_until_finished()
      return
    # Which may take a quarter of an hour where a bucket cannot be reached.
    pool = concurrent.futures.ThreadPoolExecutor(1)
    waiting = pool.submit(self._manager.wait_until_finished)
    pool.shutdown(wait=False)
    while not concurrent.futures.wait([waiting], 0.5).done:
      self._held()
    waiting.result()

  def _read_back(self, step: int, weights: Any) -> None:
    """Looks at the first checkpoint before more are trusted to the place."""
    self._wait()

    def check():
      if damage := find_damage(self.directory / str(step)):
        raise ConfigError(
          f'{self.directory}/{step}: was written and cannot be read back '
          f'({damage}); train in another --workdir'
        )

    processes.from_first(check)
    _check_shapes(self._saved_shapes(step), weights)
    self._trusted = True

  def check(self) -> None:
    """Raises a ConfigError if writing has failed in the background."""
    with self._writing():
      self._manager.check_for_errors()

  def wait(self) -> None:
    """Waits until all is written; a ConfigError where it could not be."""
    with self._writing():
      self._wait()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except Abandoned:
      self.abandon()
      raise
    except ConfigError:
      raise
    # A full disk, a lost one: orbax, tensorstore and Python have their own.
    except Exception as error:
      # Of the other arrays, told once more when the program ends.
      python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
      several = jax.process_count() > 1
      if several:
        # To close it would wait for processes that know of nothing.
        self.abandon()
      raise (Abandoned if several else ConfigError)(
        f'{self.directory}: a checkpoint could not be written '
        f'({first_line(error)}); {self._what_to_do()}'
      ) from error

  def _what_to_do(self) -> str:
    if not files.is_local(self.directory):
      return 'the same command continues from the newest checkpoint'
    whole = [f'that of step {step} is whole' for step in self.steps()]
    last = (whole or ['there is none yet'])[-1]
    fix = 'mend that or free some space, and start the same command again'
    return f'{last}; {fix}'

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Orbax's question, which of the checkpoints stay.

    Its `BestN` is not used: of equal scores it keeps the newer one, and it
    keeps those without a score too.
    """
    steps, keep = [found.step for found in checkpoints], self._keep
    if keep is None:
      return [True] * len(steps)
    scored = [step for step in steps if step in self._scores]
    best = sorted(scored, key=lambda step: -self._scores[step])
    kept = {*steps[-keep.keep_checkpoints :], *best[: keep.keep_best]}
    every = keep.keep_every
    return [s in kept or (every > 0 and s % every == 0) for s in steps]

  def position(self, step: int) -> Position:
    """Where the checkpoint of `step` stands; reads no arrays."""
    position = ocp.args.JsonRestore()
    fields = dict(self._read(step, position=position)['position'])
    # Before what another format may keep elsewhere.
    version = fields.pop('format_version')
    if version != FORMAT_VERSION:
      which = 'a newer' if version > FORMAT_VERSION else 'an older'
      raise ConfigError(
        f'{self.directory}/{step}: has format {version}, this code reads '
        f'{FORMAT_VERSION}; use {which} hrm_jax'
      )
    names = self._read(step, identifiers=ocp.args.JsonRestore())
    # JSON knows no tuples.
    fields['scores'] = tuple(map(tuple, fields['scores']))
    return Position(identifier_names=names['identifiers']['names'], **fields)

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The whole training state, placed as `like` (abstract arrays) says.

    The carry of that may be None: then none is read.

    Raises:
      ConfigError: it cannot be read, or only predicts.
    """
    if not (self.directory / str(step) / 'training').exists():
      raise ConfigError(
        f'{self.directory}/{step}: holds weights alone (a converted '
        'checkpoint?): it can be evaluated, not trained on'
      )
    args = {
      # Not strict: the table gets the unused rows that its mesh asks for.
      name: ocp.args.StandardRestore(item, strict=name != 'weights')
      for name, item in _split(like).items()
    }
    found = self._read(step, **args)
    logging.info('Restored step %d of %s', step, self.directory)
    variables, table = _of_items(found['weights'], like.puzzle_table)
    return TrainState(
      **{**variables, **found['training']},
      ema=None if like.ema is None else variables['params'],
      puzzle_table=table,
      carry=found.get('carry'),
    )

  def restore_weights(
    self, step: int, like: Weights, rows: np.ndarray | None = None
  ) -> Weights:
    """Only what predicts: the model's variables and the puzzle table.

    With `rows`, int [N], just these of the table, in their order, filled up to
    equal parts for the mesh's devices; pieces of about a megabyte are read.

    Raises:
      ConfigError: it cannot be read.
    """
    table = like.puzzle_table
    if rows is not None:
      # Orbax reads arrays from their beginning: a row for each part.
      parts = sharding.count(table.sharding.mesh, 'puzzles')
      some = table.update(shape=(parts, table.shape[1]))
      like = like._replace(puzzle_table=some)
    args = ocp.args.StandardRestore(_items(like), strict=False)
    found = self._read(step, weights=args)
    weights = _of_items(found['weights'], like.puzzle_table)
    if rows is None:
      return weights
    return weights._replace(puzzle_table=self.restore_rows(step, table, rows))

  def restore_rows(
    self, step: int, table: jax.ShapeDtypeStruct, rows: np.ndarray
  ) -> jax.Array:
    """Rows of the puzzle table alone, as `restore_weights` gives them."""
    parts = sharding.count(table.sharding.mesh, 'puzzles')
    rows = np.pad(rows, (0, -len(rows) % parts))
    if not table.size:
      return jnp.zeros((len(rows), 0))
    base = (self.directory / str(step) / 'weights').as_uri() + '/'
    store = {'driver': 'ocdbt', 'base': base, 'path': 'puzzle_table/'}
    # Past orbax.
    with self._reading(step):
      spec = {'driver': 'zarr', 'kvstore': store}
      saved = tensorstore.open(spec, read=True).result()
      return jax.make_array_from_callback(
        (len(rows), table.shape[1]),
        table.sharding,
        lambda at: saved[rows[at[0] if at else ...]].read().result(),
      )

  def _read(self, step: int, **items: Any) -> Any:
    with self._reading(step):
      if 'weights' in items:
        _check_shapes(self._saved_shapes(step), items['weights'].item)
      return self._manager.restore(step, args=ocp.args.Composite(**items))

  def _saved_shapes(self, step: int) -> Any:
    """Shapes of a checkpoint's weights.

    A manager that has saved in a bucket knows them in the first process alone.
    """
    handler = ocp.StandardCheckpointHandler()
    with contextlib.closing(handler):
      return handler.metadata(self.directory / str(step) / 'weights').tree

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    try:
      yield
    # orbax, tensorstore and JSON each have their own errors for damage.
    except Exception as error:
      path = self.directory / str(step)
      if was_cleared(path):
        raise gone(path) from error
      reason = first_line(error).partition('[tensorstore_spec=')[0].strip()
      raise ConfigError(
        f'{path}: cannot be restored ({reason}); choose another step, or '
        'restore its files from a copy'
      ) from error

  def abandon(self) -> None:
    """Leaves what is being written to its threads, and to their end."""
    self.__dict__.pop('_manager', None)

  def close(self) -> None:
    """Waits for what is being written."""
    if '_manager' in self.__dict__:
      with self._writing():
        self._wait()
        self._manager.close()


def gone(path: pathlib.Path) -> Gone:
  """The error of a checkpoint that is not there any more."""
  return Gone(
    f'{path}: was cleared away by the training that goes on; start this '
    'command again, or train with a larger keep_checkpoints'
  )


def was_cleared(path: pathlib.Path) -> bool:
  """Whether a checkpoint is gone, or goes: clearing it away takes a while."""
  for _ in range(_CLEARING):
    if not path.exists():
      return True
    later = (p.name for p in path.parent.iterdir() if p.name.isdigit())
    if int(path.name) >= max(map(int, later), default=0):
      return False
    time.sleep(0.1)
  return False


def _check_shapes(saved: Any, like: Any) -> None:
  """Raises ValueError where shapes differ, but in the table's unused rows."""

  def check(path, ours, theirs):
    name = '/'.join(str(key.key) for key in path)
    skip = 1 if name == 'puzzle_table' else 0
    theirs, ours = tuple(theirs.shape), tuple(ours.shape)
    if ours[skip:] != theirs[skip:]:
      raise ValueError(f'{name} has shape {theirs}, not {ours}')

  jax.tree_util.tree_map_with_path(check, like, saved)


def _split(state: TrainState) -> dict[str, Any]:
  """What predicts, what training needs besides, and the rows at work."""
  training = {
    'step': state.step,
    'opt_state': state.opt_state,
    'loss_mean': state.loss_mean,
  }
  if state.ema is not None:
    training['params'] = state.params
  items = {'weights': _items(state.weights), 'training': training}
  return items | ({'carry': state.carry} if state.carry is not None else {})


def _items(weights: Weights) -> dict[str, Any]:
  """What predicts; without what holds no values, which orbax refuses."""
  items = {**weights.variables, 'puzzle_table': weights.puzzle_table}
  return {
    name: item
    for name, item in items.items()
    if any(leaf.size for leaf in jax.tree.leaves(item))
  }


def _of_items(items: dict[str, Any], like: jax.ShapeDtypeStruct) -> Weights:
  """The inverse of `_items`; `like` is the table."""
  table = items.pop('puzzle_table', None)
  if table is None:
    table = jnp.zeros((len(like), 0))
  return Weights({'constants': {}, **items}, table)


def _save_args(item: Any) -> Any:
  """How orbax writes an item: the puzzle table in pieces."""

  def of_one(path, _):
    is_table = path[0] == jax.tree_util.DictKey('puzzle_table')
    return ocp.SaveArgs(chunk_byte_size=_PIECE_BYTES if is_table else None)

  return jax.tree_util.tree_map_with_path(of_one, item)


def seal(directory: pathlib.Path) -> None:
  """Writes SHA256SUMS of all files, which are on the disk afterwards."""
  names = _files(directory)
  with concurrent.futures.ThreadPoolExecutor() as pool:
    digests = pool.map(lambda name: _digest(directory / name, True), names)
    lines = [f'{a}  {b}\n' for a, b in zip(digests, names, strict=True)]
  with (directory / _SUMS).open('w') as file:
    file.writelines(lines)
    if files.is_local(directory):
      file.flush()
      os.fsync(file.fileno())


def find_damage(directory: pathlib.Path) -> str | None:
  """Says what is wrong with the files; None where they are as written.

  Raises:
    files.errors(): a bucket cannot be reached.
  """
  # A bucket may be out of reach.
  unreadable = OSError if files.is_local(directory) else FileNotFoundError
  try:
    text = (directory / _SUMS).read_text()
    sums = dict(line.split('  ', 1)[::-1] for line in text.splitlines())
  except FileNotFoundError:
    return f'{_SUMS} is missing'
  except (unreadable, ValueError):
    return f'{_SUMS} cannot be read'
  present = set(_files(directory))
  for name in sorted(sums.keys() | present):
    if name not in present:
      return f'{name} is missing'
    if name not in sums:
      return f'{name} is not listed in {_SUMS}'

  def digest(name):
    with contextlib.suppress(unreadable):
      return _digest(directory / name)

  with concurrent.futures.ThreadPoolExecutor() as pool:
    for name, found in zip(sums, pool.map(digest, sums), strict=True):
      if found != sums[name]:
        return f'{name} is not as it was written'
  return None


def _files(directory: pathlib.Path) -> list[str]:
  """The names of the files that are to be listed."""
  return sorted(
    name
    for name in files.names(directory)
    # Hidden ones are a desktop's.
    if name not in _UNLISTED and not name.rpartition('/')[2].startswith('.')
  )


def _digest(path: pathlib.Path, sync: bool = False) -> str:
  """SHA-256 of a file; with `sync`, of one that is on the disk."""
  with path.open('rb') as file:
    if sync and files.is_local(path):
      os.fsync(file)
    return hashlib.file_digest(file, 'sha256').hexdigest()
