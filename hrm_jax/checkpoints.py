"""Checkpoints of a run, asynchronous and whole, by orbax."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging

from hrm_jax.errors import ConfigError
from hrm_jax.train_state import TrainState

FORMAT_VERSION = 1


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
    step = int(state.step)
    if step in self.steps():
      return
    weights, training = _split(state)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        weights=ocp.args.StandardSave(weights),
        training=ocp.args.StandardSave(training),
        position=ocp.args.JsonSave(
          {'format_version': FORMAT_VERSION, **position._asdict()}
        ),
      ),
    )

  def restore(self, step: int, like: TrainState) -> tuple[TrainState, Position]:
    """The whole training state, placed as `like` (abstract arrays) says."""
    weights, training = _split(like)
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        weights=ocp.args.StandardRestore(weights),
        training=ocp.args.StandardRestore(training),
        position=ocp.args.JsonRestore(),
      ),
    )
    logging.info('Restored step %d of %s', step, self.directory)
    return _join(found['weights'], found['training']), _position(found)

  def restore_weights(
    self, step: int, like: TrainState
  ) -> tuple[dict[str, Any], jax.Array, Position]:
    """Only what predicts: model variables, puzzle table, and the position."""
    weights, _ = _split(like)
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        weights=ocp.args.StandardRestore(weights),
        position=ocp.args.JsonRestore(),
      ),
    )
    variables = dict(found['weights'])
    return variables, variables.pop('puzzle_table'), _position(found)

  def close(self) -> None:
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()


_WEIGHTS = ('params', 'constants', 'puzzle_table')
_TRAINING = ('step', 'opt_state', 'carry')


def _split(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
  return (
    {name: getattr(state, name) for name in _WEIGHTS},
    {name: getattr(state, name) for name in _TRAINING},
  )


def _join(weights: dict[str, Any], training: dict[str, Any]) -> TrainState:
  return TrainState(**weights, **training)


def _position(found: Any) -> Position:
  fields = dict(found['position'])
  version = fields.pop('format_version')
  if version > FORMAT_VERSION:
    raise ConfigError(
      f'the checkpoint has format {version}, this code reads up to '
      f'{FORMAT_VERSION}; use a newer hrm_jax'
    )
  return Position(**fields)


def read_config(workdir: str | pathlib.Path) -> dict[str, Any] | None:
  """The settings that a working directory was started with, None if new.

  Raises:
    ConfigError: the file is damaged.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if not path.exists():
    return None
  try:
    return json.loads(path.read_text())
  except (ValueError, OSError) as error:
    raise ConfigError(f'{path}: not readable as JSON ({error})') from None


def claim_workdir(
  workdir: str | pathlib.Path, config: dict[str, Any], free: Sequence[str]
) -> None:
  """Writes config.json into a new workdir, or checks it against an old one's.

  Args:
    workdir: made where it is missing.
    config: of this run, as plain JSON values.
    free: keys ('a' or 'a.b') that may differ when a run goes on.

  Raises:
    ConfigError: the workdir belongs to a run with other settings; lists the
      keys that differ. Nothing is written then.
  """
  workdir = pathlib.Path(workdir)
  old = read_config(workdir)
  if old is not None:
    before, now = _flat(old), _flat(json.loads(json.dumps(config)))
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


def _flat(config: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  out = {}
  for key, value in config.items():
    if isinstance(value, dict):
      out |= _flat(value, f'{prefix}{key}.')
    else:
      out[prefix + key] = value
  return out
