"""From a config to the objects that it describes."""

from typing import Any

import jax.numpy as jnp
import ml_collections

from data_pipelines.arc_set import ArcSet, load_arc_set
from hrm_jax import act, train_step
from hrm_jax.errors import ConfigError
from hrm_jax.models import HRM

# Keys that may change when a run goes on in its workdir.
FREE_KEYS = (
  'stop_at_step',
  'log_every',
  'evaluate_every',
  'checkpoint_every',
  'keep_checkpoints',
  'evaluation',
)


def arc_set(config: ml_collections.ConfigDict) -> ArcSet:
  """The puzzles that `config.data` names."""
  return load_arc_set(**config.data)


def total_steps(config: ml_collections.ConfigDict, puzzles: ArcSet) -> int:
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
  config: ml_collections.ConfigDict, puzzles: ArcSet
) -> train_step.TrainSetup:
  """What defines the training step."""
  if config.batch_size < 1:
    raise ConfigError(f'batch_size={config.batch_size} must be positive')
  fields = dict(config.model)
  try:
    fields['dtype'] = jnp.dtype(fields['dtype'])
  except TypeError:
    raise ConfigError(
      f"model.dtype='{fields['dtype']}' is unknown; use float32 or bfloat16"
    ) from None
  return train_step.TrainSetup(
    model=HRM(vocab_size=puzzles.vocab_size, seq_len=puzzles.seq_len, **fields),
    act=act.ActSettings(**config.act),
    optimizer=train_step.OptimizerSettings(**config.optimizer),
    loss=config.loss,
    total_steps=total_steps(config, puzzles),
    batch_size=config.batch_size,
    num_puzzle_identifiers=puzzles.num_identifiers,
    seed=config.seed,
  )


def record(
  config: ml_collections.ConfigDict, puzzles: ArcSet
) -> dict[str, Any]:
  """The config as JSON values, with the version of the data it names."""
  return {**config.to_dict(), 'data_version': puzzles.version}


def from_record(fields: dict[str, Any]) -> ml_collections.ConfigDict:
  """The config that `record` wrote."""
  return ml_collections.ConfigDict(
    {key: fields[key] for key in fields if key != 'data_version'}
  )
