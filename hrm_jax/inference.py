"""Predictions from trained weights: segments without gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hrm_jax import act, puzzle_table, sharding
from hrm_jax.errors import ConfigError
from hrm_jax.losses import IGNORE_LABEL

HALTING_MODES = ('fixed', 'act')


class Predictions(NamedTuple):
  """What the model answers, a row each.

  Attributes:
    tokens: uint8 [B, S], most likely token of each cell.
    q_halt: float32 [B], logit of "this answer is right".
    steps: int32 [B], segments that the answer took.
    exact: bool [B], every counted cell of the label is right; False where no
      cell counts, the answer being unknown.
    accuracy: float32 [B], share of the counted cells that are right.
  """

  tokens: chex.Array
  q_halt: chex.Array
  steps: chex.Array
  exact: chex.Array
  accuracy: chex.Array


def predict(
  model: nn.Module,
  settings: act.ActSettings,
  mode: str,
  variables: Any,
  puzzles_BE: chex.Array,
  batch: act.Batch,
) -> Predictions:
  """Runs every row for `halt_max_steps` segments, or until its own halt.

  Args:
    model: any module with the face of `hrm_jax.models`.
    settings: how many segments, and when a row would halt.
    mode: 'fixed' runs all segments; 'act' freezes a row at its first halt.
    variables: parameters and constants.
    puzzles_BE: the puzzle embedding of each row.
    batch: inputs and labels.
  """
  inputs, labels = batch['inputs'], batch['labels']
  x = model.apply(variables, inputs, puzzles_BE, method='embed')
  z = model.apply(variables, len(inputs), method='initial_state')
  halted = jnp.zeros(len(inputs), bool)
  steps = jnp.zeros(len(inputs), jnp.int32)

  def segment(carry, _):
    z, halted, steps = carry
    new_z = model.apply(variables, z, x, method='segment')

    def keep_halted(new, old):
      mask = halted.reshape((-1,) + (1,) * (old.ndim - 1))
      return jnp.where(mask, old, new)

    z = jax.tree.map(keep_halted, new_z, z)
    steps = jnp.where(halted, steps, steps + 1)
    if mode == 'act':
      _, q = model.apply(variables, z, method='heads')
      halted |= settings.wants_halt(q)
    return (z, halted, steps), None

  (z, _, steps), _ = jax.lax.scan(
    segment, (z, halted, steps), length=settings.halt_max_steps
  )
  logits, q = model.apply(variables, z, method='heads')
  tokens = jnp.argmax(logits, axis=-1)
  counted = labels != IGNORE_LABEL
  right = counted & (tokens == labels)
  cells, right = jnp.sum(counted, axis=-1), jnp.sum(right, axis=-1)
  return Predictions(
    tokens=tokens.astype(jnp.uint8),
    q_halt=q[:, 0],
    steps=steps,
    exact=(right == cells) & (cells > 0),
    accuracy=right / jnp.maximum(cells, 1),
  )


PredictFunction = Callable[[Any, chex.Array, act.Batch], Predictions]


def sharded_predict(
  model: nn.Module, settings: act.ActSettings, mode: str, mesh: Mesh
) -> PredictFunction:
  """The jitted `predict(variables, puzzle_table, batch)`.

  Rows are split over the mesh; every process gets all predictions.
  """
  if mode not in HALTING_MODES:
    raise ConfigError(
      f"evaluation.halting='{mode}' is unknown; use one of "
      + ', '.join(HALTING_MODES)
    )
  whole = sharding.replicated(mesh)

  def run(variables, table, batch):
    with sharding.using(mesh):
      variables = sharding.constrain_whole(variables)
      rows = sharding.spec('batch')
      lookup = sharding.over_rows(
        puzzle_table.lookup, (sharding.spec('puzzles'), rows), rows
      )
      puzzles = lookup(table, batch['puzzle_identifiers'])
      return predict(model, settings, mode, variables, puzzles, batch)

  return jax.jit(
    run,
    in_shardings=(
      # Parameters as they are: they may be split.
      None,
      sharding.place(mesh, 'puzzles'),
      sharding.by_batch(mesh),
    ),
    out_shardings=whole,
  )
