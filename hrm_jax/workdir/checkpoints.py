"""Checkpoints of a run: asynchronous, whole or not there, checked when read.

DIR/checkpoints/STEP is written beside its place and renamed when all of it is
there (orbax). Its file SHA256SUMS lists the others, in the form of sha256sum,
so that whatever happens to a file afterwards is found before it is used.
"""

import contextlib
import functools
import json
import logging as python_logging
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging

from data_pipelines import files
from data_pipelines.errors import ConfigError, first_line
from hrm_jax.parallel import processes, sharding
from hrm_jax.settings import Settings
from hrm_jax.training.state import Position, TrainState, Weights
from hrm_jax.workdir import integrity

FORMAT_VERSION = 2
# Begins the data version of a checkpoint whose training is not known.
UNKNOWN_DATA = 'unknown'

_AMENDED = 'amended.json'
# Chunk size of the puzzle table on disk: the least that is read to get one row.
_PIECE_BYTES = 2**20
# Room for what is not arrays: orbax's own files, blocks of the file system.
_SPACE_FOR_REST = 2**20


class Keep(NamedTuple):
  """Which checkpoints stay when a new one has been written.

  Orbax's `BestN` is not used: of equal scores it keeps the newer one, and it
  keeps those without a score too.

  Attributes:
    last: number of the newest ones that stay, at least one.
    best: number of those of the highest score that stay besides; the older of
      equal ones.
    every: those of steps that this number divides stay besides; 0 for none.
  """

  last: int
  best: int = 0
  every: int = 0

  @classmethod
  def of(cls, settings: Settings) -> 'Keep':
    """What the settings of a run ask for."""
    return cls(
      settings.keep_checkpoints, settings.keep_best, settings.keep_every
    )

  def choose(self, steps: Sequence[int], scores: dict[int, float]) -> set[int]:
    """The steps to keep of these, ascending, with the scores that there are."""
    scored = [step for step in steps if step in scores]
    best = sorted(scored, key=lambda step: -scores[step])[: self.best]
    periodic = (step for step in steps if self.every and step % self.every == 0)
    return {*steps[-self.last :], *best, *periodic}


class Checkpoints:
  """The checkpoints of one working directory.

  What predicts (weights), what training needs besides and the carry are
  separate items, so that each use reads only what it needs. All processes of a
  run call the same methods in the same order.
  """

  def __init__(self, workdir: str | pathlib.Path, keep: Keep | None = None):
    """Opens DIR/checkpoints, which is made when something is saved.

    Args:
      workdir: directory of the run.
      keep: for the process that trains, which clears up what a killed one left;
        None only reads.
    """
    self._workdir = pathlib.Path(workdir).absolute()
    self.directory = self._workdir / 'checkpoints'
    self._keep = keep
    self._scores = {}

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    writes = self._keep is not None
    # Its threads log the errors that it raises here, with their traces.
    logging.get_absl_logger().addFilter(_is_not_of_orbax)
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
          post_finalization_callback=self._seal
        ),
      ),
      item_handlers={
        'weights': ocp.StandardCheckpointHandler(),
        'training': ocp.StandardCheckpointHandler(),
        'carry': ocp.StandardCheckpointHandler(),
        'position': ocp.JsonCheckpointHandler(),
        'identifiers': ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> list[int]:
    """Steps at which a checkpoint was finished, ascending."""
    if not self.directory.is_dir():
      return []
    names = (path.name for path in self.directory.iterdir() if path.is_dir())
    return sorted(int(name) for name in names if name.isdigit())

  def find(self, step: int | None = None) -> int:
    """The step to restore: the newest whole one, or `step` if that is whole.

    Damaged ones that are newer are named, and where this process trains moved
    to DIR/damaged, to be out of the way when their steps come again.

    Raises:
      ConfigError: there is no such checkpoint, or it is damaged.
    """
    return processes.from_first(lambda: self._find(step))

  def _find(self, step: int | None) -> int:
    steps = self.steps()
    if not steps:
      raise ConfigError(
        f'{self.directory}: no checkpoint; train with this --workdir first'
      )
    if step is not None and step not in steps:
      raise ConfigError(
        f'{self.directory}: no checkpoint of step {step}; there are '
        + ', '.join(map(str, steps))
      )
    damaged = {}
    for candidate in [step] if step is not None else reversed(steps):
      damage = integrity.find_damage(self.directory / str(candidate))
      if damage is None:
        for other, reason in damaged.items():
          self._put_aside(other, reason, candidate)
        return candidate
      damaged[candidate] = damage
    told = '; '.join(f'{step}: {damage}' for step, damage in damaged.items())
    instead = (
      'choose another --step' if step is not None
      else 'no other is left: restore one from a copy, or train in another '
      '--workdir'
    )  # fmt: skip
    raise ConfigError(f'{self.directory}: damaged: {told}; {instead}')

  def _put_aside(self, step: int, damage: str, instead: int) -> None:
    path = self.directory / str(step)
    told = f'{path} is damaged ({damage}): step {instead} is used instead'
    if self._keep is not None:
      aside = self._workdir / 'damaged'
      aside.mkdir(exist_ok=True)
      name, count = f'step_{step}', 1
      while (aside / name).exists():
        count += 1
        name = f'step_{step}_{count}'
      path.rename(aside / name)
      told += f'; moved to {aside / name}'
    logging.warning('%s', told)

  def save(self, state: TrainState, position: Position) -> None:
    """Writes a checkpoint in the background, named by the state's step.

    Raises:
      ConfigError: there is no room for it, or an earlier one failed.
    """
    self._save(int(state.step), position, **_split(state))

  def save_weights(
    self,
    step: int,
    variables: dict[str, Any],
    puzzle_table: chex.Array,
    position: Position,
  ) -> None:
    """Writes a checkpoint that predicts and cannot be trained on."""
    self._save(step, position, weights=_weights(variables, puzzle_table))

  def _save(self, step: int, position: Position, **items: Any) -> None:
    if step in self.steps():
      return
    fields = position._asdict()
    names = fields.pop('identifier_names')
    with self._writing():
      # Of the one before, whose failure would be found here.
      self._manager.wait_until_finished()
      self._check_room(items, names)
      self._scores = dict(position.scores)
      self._manager.save(
        step,
        args=ocp.args.Composite(
          position=ocp.args.JsonSave(
            {'format_version': FORMAT_VERSION, **fields}
          ),
          identifiers=ocp.args.JsonSave({'names': names}),
          **{
            name: ocp.args.StandardSave(item, _save_args(item))
            for name, item in items.items()
          },
        ),
        # Whatever was saved before: a run may have gone back.
        force=True,
      )

  def _check_room(self, items: dict[str, Any], names: list[str]) -> None:
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    needed += sum(len(name) + 4 for name in names) + _SPACE_FOR_REST
    free = processes.from_first(lambda: shutil.disk_usage(self.directory).free)
    if free < needed:
      raise ConfigError(
        f'{self.directory}: {_mib(free)} are free and a checkpoint needs '
        f'{_mib(needed)}; {self._what_to_do()}'
      )

  def check(self) -> None:
    """Raises a ConfigError if writing has failed in the background."""
    with self._writing():
      self._manager.check_for_errors()

  def wait(self) -> None:
    """Until all that was saved is written.

    Raises:
      ConfigError: it could not be.
    """
    with self._writing():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    try:
      yield
    except ConfigError:
      raise
    # A full disk, a lost one: orbax, tensorstore and Python have their own.
    except Exception as error:
      # Of the other arrays, told once more when the program ends.
      python_logging.getLogger('asyncio').setLevel(python_logging.CRITICAL)
      raise ConfigError(
        f'{self.directory}: a checkpoint could not be written '
        f'({first_line(error)}); {self._what_to_do()}'
      ) from error

  def _what_to_do(self) -> str:
    steps = self.steps()
    last = (
      f'that of step {steps[-1]} is whole' if steps else 'there is none yet'
    )
    return f'{last}; free some space and start the same command again'

  def should_preserve(
    self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    """Orbax's question, which of the checkpoints stay."""
    del context
    steps = [found.step for found in checkpoints]
    kept = steps if not self._keep else self._keep.choose(steps, self._scores)
    return [step in kept for step in steps]

  def _seal(self) -> None:
    """Lists all files of the checkpoint that is about to take its place."""
    (part,) = self.directory.glob('*.orbax-checkpoint-tmp*')
    integrity.seal(part)

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
    fields |= self._amendment(step)
    # JSON knows no tuples.
    fields['scores'] = tuple(map(tuple, fields['scores']))
    return Position(identifier_names=names['identifiers']['names'], **fields)

  def amend(self, step: int, position: Position) -> None:
    """Replaces the scores and the loop's record of a finished checkpoint.

    The checkpoint stays as it is: they are kept in DIR/amended.json, which
    `position` reads as long as the checkpoint is the one that was amended.

    Raises:
      ConfigError: the file cannot be written.
    """

    def write() -> None:
      with self._writing():
        files.write_json(
          self._workdir / _AMENDED,
          {
            'step': step,
            'sums': integrity.fingerprint(self.directory / str(step)),
            'fields': {'scores': position.scores, 'loop': position.loop},
          },
        )

    processes.from_first(write)

  def _amendment(self, step: int) -> dict[str, Any]:
    """The fields of a position that were amended."""
    try:
      found = json.loads((self._workdir / _AMENDED).read_text())
      sums = integrity.fingerprint(self.directory / str(step))
      same = (found['step'], found['sums']) == (step, sums)
      return dict(found['fields']) if same else {}
    # Without it the last evaluation is made again.
    except (OSError, ValueError, KeyError, TypeError):
      return {}

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The whole training state, placed as `like` (abstract arrays) says.

    Args:
      step: step that `find` gave.
      like: its carry may be None: then none is read.

    Raises:
      ConfigError: it cannot be read, or only predicts.
    """
    if not (self.directory / str(step) / 'training').exists():
      raise ConfigError(
        f'{self.directory}/{step}: holds weights alone (a converted '
        'checkpoint?): it can be evaluated, not trained on'
      )
    found = self._read(
      step,
      **{
        # Not strict: the table gets the unused rows that its mesh asks for.
        name: ocp.args.StandardRestore(item, strict=name != 'weights')
        for name, item in _split(like).items()
      },
    )
    logging.info('Restored step %d of %s', step, self.directory)
    return _merge(like, found)

  def restore_weights(
    self, step: int, like: Weights, rows: np.ndarray | None = None
  ) -> Weights:
    """Only what predicts: the model's variables and the puzzle table.

    Args:
      step: step that `find` gave, which reads all files but holds none.
      like: `abstract_weights`, placed on a mesh.
      rows: rows of the puzzle table, int [N]; none of the others is held in
        memory: those a process needs are read in pieces of about a megabyte.
        None for all.

    Returns:
      The variables, and the table as `like` has it, or just the rows in their
      order, filled up to equal parts for the mesh's devices.

    Raises:
      ConfigError: it cannot be read.
    """
    table = like.puzzle_table
    if rows is not None:
      # Orbax reads arrays from their beginning: a row for each part.
      parts = sharding.count(table.sharding.mesh, 'puzzles')
      like = like._replace(puzzle_table=_of_rows(table, parts))
    weights = _weights(*like)
    weights = self._read(
      step, weights=ocp.args.StandardRestore(weights, strict=False)
    )['weights']
    variables = {'params': weights['params'], **_constants(weights)}
    if rows is None:
      return Weights(variables, _table(weights, like.puzzle_table))
    return Weights(variables, self.restore_rows(step, table, rows))

  def restore_rows(
    self, step: int, table: jax.ShapeDtypeStruct, rows: np.ndarray
  ) -> jax.Array:
    """Rows of the puzzle table alone, as `restore_weights` gives them."""
    rows = np.pad(
      rows, (0, -len(rows) % sharding.count(table.sharding.mesh, 'puzzles'))
    )
    if not table.size:
      return jnp.zeros((len(rows), 0))
    place = self.directory / str(step) / 'weights'
    like = _of_rows(table, len(rows))
    # Past orbax.
    with self._reading(step):
      saved = tensorstore.open(
        {
          'driver': 'zarr',
          'kvstore': {
            'driver': 'ocdbt',
            'base': place.as_uri() + '/',
            'path': 'puzzle_table/',
          },
        },
        read=True,
      ).result()
      return jax.make_array_from_callback(
        like.shape, like.sharding, lambda at: saved[rows[at[0]]].read().result()
      )

  def _read(self, step: int, **items: Any) -> Any:
    with self._reading(step):
      if 'weights' in items:
        saved = self._manager.item_metadata(step)['weights']
        _check_shapes(saved.tree, items['weights'].item)
      return self._manager.restore(step, args=ocp.args.Composite(**items))

  @contextlib.contextmanager
  def _reading(self, step: int) -> Iterator[None]:
    try:
      yield
    # orbax, tensorstore and JSON each have their own errors for damage.
    except Exception as error:
      raise ConfigError(
        f'{self.directory}/{step}: cannot be restored, it may be damaged; '
        f'remove it or choose another step ({first_line(error)})'
      ) from error

  def close(self) -> None:
    """Waits for what is being written."""
    if '_manager' in self.__dict__:
      with self._writing():
        self._manager.close()


def _is_not_of_orbax(record: python_logging.LogRecord) -> bool:
  is_error = record.levelno >= python_logging.ERROR
  return not (is_error and 'orbax' in record.pathname)


def _mib(size: int) -> str:
  return f'{size / 2**20:,.0f} MiB'


def _check_shapes(saved: Any, like: Any) -> None:
  """Raises ValueError where shapes differ, but in the table's unused rows."""

  def check(path, ours, theirs):
    name = '/'.join(str(key.key) for key in path)
    skip = 1 if name == 'puzzle_table' else 0
    if tuple(ours.shape)[skip:] != tuple(theirs.shape)[skip:]:
      raise ValueError(
        f'{name} has shape {tuple(theirs.shape)}, not {tuple(ours.shape)}'
      )

  jax.tree_util.tree_map_with_path(check, like, saved)


def _split(state: TrainState) -> dict[str, dict[str, Any]]:
  """What predicts, what training needs besides, and the rows at work."""
  training = {
    'step': state.step,
    'opt_state': state.opt_state,
    'loss_mean': state.loss_mean,
  }
  if state.ema is not None:
    training['params'] = state.params
  items = {
    'weights': _weights(*state.weights),
    'training': training,
  }
  if state.carry is not None:
    items['carry'] = state.carry
  return items


def _weights(
  variables: dict[str, Any], puzzle_table: chex.Array
) -> dict[str, Any]:
  """What predicts; without what holds no values, which orbax refuses."""
  items = {**variables, 'puzzle_table': puzzle_table}
  return {name: item for name, item in items.items() if _holds_arrays(item)}


def _save_args(item: Any) -> Any:
  """How orbax writes an item: the puzzle table in pieces."""

  def of_one(path, _):
    is_table = path[0] == jax.tree_util.DictKey('puzzle_table')
    return ocp.SaveArgs(chunk_byte_size=_PIECE_BYTES if is_table else None)

  return jax.tree_util.tree_map_with_path(of_one, item)


def _of_rows(table: jax.ShapeDtypeStruct, rows: int) -> jax.ShapeDtypeStruct:
  """A table of so many rows, placed alike."""
  return jax.ShapeDtypeStruct(
    (rows, *table.shape[1:]), table.dtype, sharding=table.sharding
  )


def _holds_arrays(item: Any) -> bool:
  return any(leaf.size for leaf in jax.tree.leaves(item))


def _merge(like: TrainState, items: dict[str, Any]) -> TrainState:
  """The inverse of `_split`."""
  weights = items['weights']
  return TrainState(
    **{'params': weights['params'], **items['training']},
    ema=None if like.ema is None else weights['params'],
    **_constants(weights),
    puzzle_table=_table(weights, like.puzzle_table),
    carry=None if like.carry is None else items['carry'],
  )


def _constants(weights: dict[str, Any]) -> dict[str, Any]:
  return {'constants': weights.get('constants', {})}


def _table(weights: dict[str, Any], like: jax.ShapeDtypeStruct) -> jax.Array:
  if 'puzzle_table' in weights:
    return weights['puzzle_table']
  return jnp.zeros((len(like), 0))
