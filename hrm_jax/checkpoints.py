"""Checkpoints of a run, asynchronous and whole, by orbax."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging

from hrm_jax.errors import ConfigError
from hrm_jax.train_state import TrainState

FORMAT_VERSION = 1
# Begins the data version of a checkpoint whose training is not known.
UNKNOWN_DATA = 'unknown'


class Position(NamedTuple):
  """Where a checkpoint stands besides its arrays.

  Attributes:
    data_position: number of the next training batch.
    identifier_names: name of each row of the puzzle table.
    data_version: which data the run trains on.
  """

  data_position: int
  identifier_names: list[str]
  data_version: str


class Checkpoints:
  """The checkpoints of one working directory.

  Weights (what predicts) and the rest of the training state are separate
  items, so that evaluation reads only what it needs.
  """

  def __init__(self, workdir: str | pathlib.Path, keep: int | None = None):
    """Opens (or, when something is saved, starts) DIR/checkpoints.

    Args:
      workdir: of the run.
      keep: newest checkpoints to keep; None for all.
    """
    self.directory = pathlib.Path(workdir).absolute() / 'checkpoints'
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=keep is not None
      ),
      item_handlers={
        'weights': ocp.StandardCheckpointHandler(),
        'training': ocp.StandardCheckpointHandler(),
        'position': ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> Sequence[int]:
    """Steps at which a whole checkpoint exists, ascending."""
    return sorted(self._manager.all_steps())

  def find(self, step: int | None = None) -> int:
    """The step to restore: the newest, or `step` where it exists.

    Raises:
      ConfigError: there is no such checkpoint.
    """
    steps = self.steps()
    if not steps:
      raise ConfigError(
        f'{self.directory}: no checkpoint; train with this --workdir first'
      )
    if step is None:
      return steps[-1]
    if step not in steps:
      raise ConfigError(
        f'{self.directory}: no checkpoint of step {step}; there are '
        + ', '.join(map(str, steps))
      )
    return step

  def save(self, state: TrainState, position: Position) -> None:
    """Writes a checkpoint in the background, named by the state's step."""
    weights, training = _split(state)
    self._save(int(state.step), position, weights=weights, training=training)

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
    self._manager.save(
      step,
      args=ocp.args.Composite(
        position=ocp.args.JsonSave(
          {'format_version': FORMAT_VERSION, **position._asdict()}
        ),
        **{name: ocp.args.StandardSave(item) for name, item in items.items()},
      ),
    )

  def position(self, step: int) -> Position:
    """Where the checkpoint of `step` stands; reads no arrays."""
    fields = dict(self._read(step, position=ocp.args.JsonRestore())['position'])
    version = fields.pop('format_version')
    if version > FORMAT_VERSION:
      raise ConfigError(
        f'{self.directory}/{step}: has format {version}, this code reads up '
        f'to {FORMAT_VERSION}; use a newer hrm_jax'
      )
    return Position(**fields)

  def restore(self, step: int, like: TrainState) -> TrainState:
    """The whole training state, placed as `like` (abstract arrays) says.

    Raises:
      ConfigError: it cannot be read, or only predicts.
    """
    if not (self.directory / str(step) / 'training').exists():
      raise ConfigError(
        f'{self.directory}/{step}: holds weights alone (a converted '
        'checkpoint?): it can be evaluated, not trained on'
      )
    weights, training = _split(like)
    found = self._read(
      step,
      # Not strict: the table gets the unused rows that its mesh asks for.
      weights=ocp.args.StandardRestore(weights, strict=False),
      training=ocp.args.StandardRestore(training),
    )
    logging.info('Restored step %d of %s', step, self.directory)
    return _merge(like, found['weights'], found['training'])

  def restore_weights(
    self, step: int, like: TrainState
  ) -> tuple[dict[str, Any], jax.Array]:
    """Only what predicts: the model's variables and the puzzle table."""
    weights, _ = _split(like)
    found = self._read(
      step, weights=ocp.args.StandardRestore(weights, strict=False)
    )
    weights = found['weights']
    variables = {'params': weights['params'], **_constants(weights)}
    return variables, _table(weights, like)

  def _read(self, step: int, **items: Any) -> Any:
    try:
      if 'weights' in items:
        saved = self._manager.item_metadata(step)['weights']
        _check_shapes(saved.tree, items['weights'].item)
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    # orbax, tensorstore and JSON each have their own errors for damage.
    except Exception as error:
      reason = str(error).strip().splitlines() or [type(error).__name__]
      raise ConfigError(
        f'{self.directory}/{step}: cannot be restored, it may be damaged; '
        f'remove it or choose another step ({reason[0][:200]})'
      ) from error

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()


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


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
  """What predicts, and what training needs besides."""
  training = {
    'step': state.step,
    'opt_state': state.opt_state,
    'carry': state.carry,
  }
  if state.ema is not None:
    training['params'] = state.params
  return _weights(state.predicting, state.puzzle_table), training


def _weights(
  variables: dict[str, Any], puzzle_table: chex.Array
) -> dict[str, Any]:
  """What predicts; without what holds no values, which orbax refuses."""
  items = {**variables, 'puzzle_table': puzzle_table}
  return {name: item for name, item in items.items() if _holds_arrays(item)}


def _holds_arrays(item: Any) -> bool:
  return any(leaf.size for leaf in jax.tree.leaves(item))


def _merge(
  like: TrainState, weights: dict[str, Any], training: dict[str, Any]
) -> TrainState:
  """The inverse of `_split`."""
  ema = None if like.ema is None else weights['params']
  return TrainState(
    **{'params': weights['params'], **training},
    ema=ema,
    **_constants(weights),
    puzzle_table=_table(weights, like),
  )


def _constants(weights: dict[str, Any]) -> dict[str, Any]:
  return {'constants': weights.get('constants', {})}


def _table(weights: dict[str, Any], like: TrainState) -> jax.Array:
  if 'puzzle_table' in weights:
    return weights['puzzle_table']
  return jnp.zeros((len(like.puzzle_table), 0))


def read_config(workdir: str | pathlib.Path) -> dict[str, Any] | None:
  """The settings that a working directory was started with, None if new.

  Raises:
    ConfigError: the file is damaged.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if not path.exists():
    return None
  try:
    config = json.loads(path.read_text())
  except (ValueError, OSError) as error:
    raise ConfigError(f'{path}: not readable as JSON ({error})') from None
  if not isinstance(config, dict):
    raise ConfigError(f'{path}: must hold an object of settings')
  return config


def claim_workdir(
  workdir: str | pathlib.Path,
  config: dict[str, Any],
  free: Sequence[str],
  defaults: dict[str, Any],
  write: bool = True,
) -> None:
  """Writes config.json into a workdir that is new or belongs to this run.

  Args:
    workdir: made where it is missing.
    config: of this run, as plain JSON values.
    free: keys ('a' or 'a.b') that may differ when a run goes on.
    defaults: what a key means that an older config.json does not have yet.
    write: False only checks.

  Raises:
    ConfigError: the workdir belongs to a run with other settings; lists the
      keys that differ. Nothing is written then.
  """
  workdir = pathlib.Path(workdir)
  old = read_config(workdir)
  # Where nothing was trained yet, a first start that failed blocks nothing.
  if _has_results(workdir):
    if old is None:
      raise ConfigError(
        f'{workdir}: holds the results of a run but not its config.json; use '
        'another --workdir'
      )
    before = {**_flat(defaults), **_flat(old)}
    now = _flat(json.loads(json.dumps(config)))
    differing = sorted(
      key
      for key in before.keys() | now.keys()
      if before.get(key) != now.get(key)
      and not any(key == f or key.startswith(f + '.') for f in free)
    )
    if differing:
      changes = ', '.join(
        f'{key} ({before.get(key)!r} there, {now.get(key)!r} here)'
        for key in differing
      )
      raise ConfigError(
        f'{workdir}: belongs to a run with other settings: {changes}; use '
        'another --workdir, or the old settings to go on with it'
      )
  if not write:
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    part = workdir / 'config.json.part'
    part.write_text(json.dumps(config, indent=2, sort_keys=True) + '\n')
    part.replace(workdir / 'config.json')
  except OSError as error:
    raise ConfigError(
      f'--workdir={workdir} cannot be written ({error.strerror}); name a '
      'directory of yours'
    ) from None


def _has_results(workdir: pathlib.Path) -> bool:
  metrics = workdir / 'metrics.jsonl'
  if metrics.exists() and metrics.stat().st_size:
    return True
  saved = workdir / 'checkpoints'
  return saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())


def _flat(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    if isinstance(value, dict):
      out |= _flat(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = value
  return out
