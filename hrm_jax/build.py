"""From a config to the objects that it describes."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from data_pipelines import leaks as leak_check
from data_pipelines.errors import ConfigError
from data_pipelines.puzzle_set import PuzzleSet
from data_pipelines.puzzles import Shapes, load_puzzles, load_shapes
from experiments.configs import base
from hrm_jax.models import KINDS
from hrm_jax.parallel import sharding
from hrm_jax.training import act, divergence
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints

# Keys that do not decide what a run gives. Which data exactly it has is told by
# their version; they may lie elsewhere.
FREE_KEYS = (
  'data.train',
  'data.evaluate',
  'leaks',
  'stop_at_step',
  'log_every',
  'evaluate_every',
  'checkpoint_every',
  'keep_checkpoints',
  'keep_best',
  'best_metric',
  'keep_every',
  'evaluation',
  # How the same numbers are computed.
  'microbatches',
  'mesh',
  'model.attention',
  'model.fusion',
)

# Those that may change when a run goes on in its workdir.
_CHANGEABLE = (
  *FREE_KEYS,
  # The puzzles at work are started anew.
  'batch_size',
  'stop_at_accuracy',
  'divergence',
)


def check(config: ml_collections.ConfigDict) -> None:
  """Raises ConfigError where keys are missing or not known."""
  given = _keys(config)
  if 'model.kind' not in given or config.model.kind not in KINDS:
    raise ConfigError(
      f'config: model.kind={config.model.get("kind")!r} is unknown; use one of '
      + ', '.join(KINDS)
    )
  known = _keys(defaults(config))
  if given != known:
    problems = [f'{key} is missing' for key in sorted(known - given)]
    problems += [f'{key} is not known' for key in sorted(given - known)]
    raise ConfigError(
      f'config: {", ".join(problems)}; a config of model.kind='
      f'{config.model.kind} is --config=FILE.py:{config.model.kind}, one of '
      'your own starts from experiments.configs.base.get_config('
      f'{config.model.kind!r})'
    )


def defaults(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The published settings of the kind of model that `config` asks for."""
  return base.get_config(config.model.kind)


def _keys(config: ml_collections.ConfigDict) -> set[str]:
  return set(flatten_dict(config.to_dict(), sep='.'))


def puzzle_set(
  config: ml_collections.ConfigDict,
  identifier_names: Sequence[str] | None = None,
) -> PuzzleSet:
  """The puzzles that `config.data` names.

  Args:
    config: the experiment.
    identifier_names: of a checkpoint, to predict with it.

  Raises:
    DataError: they cannot be used.
  """
  return load_puzzles(*_data(config), identifier_names)


def shapes(config: ml_collections.ConfigDict) -> Shapes:
  """What `puzzle_set` would be like, without a download.

  Raises:
    DataError: they cannot be used.
  """
  return load_shapes(*_data(config))


def _data(config: ml_collections.ConfigDict) -> tuple[Any, ...]:
  """Arguments of `load_puzzles` and `load_shapes`."""
  data = config.data
  return (
    data.train,
    data.evaluate,
    data.canvas,
    data.num_aug,
    data.seed,
    data.allow_leaks,
  )


def check_leaks(
  config: ml_collections.ConfigDict, puzzles: PuzzleSet
) -> leak_check.Verdict:
  """Which held-out answers are trained on, and by which rule that is allowed.

  It is `refused` where `config.data` does not allow it.
  """
  data = config.data
  return leak_check.Verdict(puzzles.leaks(), data.known_leaks, data.allow_leaks)


def total_steps(config: ml_collections.ConfigDict, puzzles: PuzzleSet) -> int:
  """Length of the run: given, or by the paper's rule from the epochs.

  Raises:
    ConfigError: that is no step at all.
  """
  steps = config.total_steps or int(
    config.epochs * puzzles.examples_per_pass / config.batch_size
  )
  if steps < 1:
    raise ConfigError(
      f'epochs={config.epochs} and total_steps={config.total_steps} give no '
      'training step; raise one of them'
    )
  return steps


def train_setup(
  config: ml_collections.ConfigDict,
  puzzles: PuzzleSet,
  num_puzzle_identifiers: int | None = None,
) -> train_step.TrainSetup:
  """What defines the training step.

  Args:
    config: the experiment.
    puzzles: its data.
    num_puzzle_identifiers: of a checkpoint; None for those of the data.

  Raises:
    ConfigError: settings that are out of range or do not fit together.
  """
  if config.seed < 0:
    raise ConfigError(f'seed={config.seed} must not be negative')
  fields = dict(config.model)
  # Not float64: JAX would quietly make it float32.
  if fields['dtype'] not in ('float32', 'bfloat16'):
    raise ConfigError(
      f"model.dtype='{fields['dtype']}' is unknown; use float32 or bfloat16"
    )
  fields['dtype'] = jnp.dtype(fields['dtype'])
  return train_step.TrainSetup(
    model=KINDS[fields.pop('kind')](
      vocab_size=puzzles.vocab_size, seq_len=puzzles.seq_len, **fields
    ),
    act=act.ActSettings(**config.act),
    optimizer=train_step.OptimizerSettings(**config.optimizer),
    loss=config.loss,
    total_steps=total_steps(config, puzzles),
    batch_size=config.batch_size,
    num_puzzle_identifiers=num_puzzle_identifiers or puzzles.num_identifiers,
    seed=config.seed,
    microbatches=config.microbatches,
    divergence=divergence.Settings(**config.divergence),
  )


def mesh(
  config: ml_collections.ConfigDict,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """The mesh that `config.mesh` asks for, of all devices or those given.

  Raises:
    ConfigError: its axes do not multiply to the devices.
  """
  return sharding.make_mesh(devices, sharding.MeshSettings(**config.mesh))


def claim_workdir(
  workdir: pathlib.Path,
  config: ml_collections.ConfigDict,
  puzzles: PuzzleSet,
  leaking: leak_check.Verdict,
) -> None:
  """Writes config.json: the settings, which data they name, what leaks there.

  Args:
    workdir: of the run.
    config: the experiment.
    puzzles: its data.
    leaking: of `check_leaks`.

  Raises:
    ConfigError: the workdir belongs to another run.
  """
  facts = {'data_version': puzzles.version, 'leaks': leaking.record()}
  checkpoints.claim_workdir(
    workdir,
    {**config.to_dict(), **facts},
    _CHANGEABLE,
    defaults(config).to_dict(),
  )


def read_run(
  workdir: pathlib.Path,
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
  """The config of a run, and all that its config.json holds.

  Raises:
    ConfigError: there is no run, or its config cannot be used.
  """
  fields = checkpoints.read_config(workdir)
  if fields is None:
    raise ConfigError(
      f'{workdir}: no config.json; --workdir must name a directory that '
      'experiments.train has written'
    )
  return from_record(fields, workdir / 'config.json'), fields


def from_record(
  fields: dict[str, Any], path: pathlib.Path
) -> ml_collections.ConfigDict:
  """The config that `claim_workdir` wrote; keys added since are at defaults.

  Raises:
    ConfigError: `path` holds a setting that this version does not know.
  """
  kind = fields.get('model', {}).get('kind', 'hrm')
  if kind not in KINDS:
    raise ConfigError(
      f"{path}: model.kind '{kind}' is not known; use the version of hrm_jax "
      'that wrote it'
    )
  config = base.get_config(kind)
  known = _keys(config)
  for key, value in flatten_dict(fields, sep='.').items():
    if key.split('.')[0] in ('data_version', 'leaks'):
      continue
    if key not in known:
      raise ConfigError(
        f"{path}: setting '{key}' is not known; use the version of hrm_jax "
        'that wrote it'
      )
    config.update_from_flattened_dict({key: value})
  if config.model.fusion == 'level':
    # Earlier versions also had a kernel of a whole level.
    config.model.fusion = 'block'
  return config
