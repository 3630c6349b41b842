"""Whether a step has diverged, told on the device before its update is used."""

import math
from collections.abc import Sequence
from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from hrm_jax.settings import DivergenceSettings

# What `Diagnosis.reason` counts, and what a message says.
REASONS = (
  'healthy',
  'the loss is not finite',
  'the gradient is not finite',
  'the loss has jumped',
)

# Share of the past in the running mean of the loss.
_DECAY = 0.99


class Diagnosis(flax.struct.PyTreeNode):
  """Whether one step diverged, and how; the same on all devices.

  Attributes:
    reason: index into REASONS, int32; 0 is healthy, and only then the step's
      update was applied.
    loss: mean over this step's rows.
    loss_mean: the running mean that it was compared with; inf at first.
    gradient_norms: Euclidean norm for each top-level group of the dense
      parameters, and of the rows' gradients as `puzzle_embeddings`. What
      float32 cannot square counts as not finite.
    gradient_norm: over all of them.
    puzzle_identifiers: identifiers of the rows worked on, int32 [B].
  """

  reason: chex.Array
  loss: chex.Array
  loss_mean: chex.Array
  gradient_norms: dict[str, chex.Array]
  gradient_norm: chex.Array
  puzzle_identifiers: chex.Array


def diagnose(
  settings: DivergenceSettings,
  loss: chex.Array,
  loss_mean: chex.Array,
  squares: dict[str, Any],
  puzzle_identifiers_B: chex.Array,
) -> Diagnosis:
  """Finds the first reason that holds.

  `squares` are sums of squared gradients, trees of scalars by name; for the
  others see `Diagnosis`.
  """
  sums = {name: sum(jax.tree.leaves(tree)) for name, tree in squares.items()}
  norm = jnp.sqrt(sum(sums.values()))
  diverged = [~jnp.isfinite(loss), ~jnp.isfinite(norm)]
  if settings.loss_spike:
    diverged.append(loss > settings.loss_spike * loss_mean)
  return Diagnosis(
    reason=jnp.select(diverged, range(1, len(diverged) + 1), 0),
    loss=loss,
    loss_mean=loss_mean,
    gradient_norms=jax.tree.map(jnp.sqrt, sums),
    gradient_norm=norm,
    puzzle_identifiers=puzzle_identifiers_B,
  )


def next_loss_mean(loss_mean: chex.Array, loss: chex.Array) -> chex.Array:
  """The running mean with one more loss; it starts at the first."""
  return jnp.where(
    jnp.isinf(loss_mean), loss, _DECAY * loss_mean + (1 - _DECAY) * loss
  )


def report(diagnosis: Diagnosis, names: Sequence[str]) -> dict[str, Any]:
  """Describes a step that diverged in JSON values, for puzzles of these names.

  What is not finite is told as text: JSON has no such numbers.
  """
  found = jax.device_get(diagnosis)
  identifiers = found.puzzle_identifiers.tolist()
  numbers = {
    name: getattr(found, name)
    for name in ('loss', 'loss_mean', 'gradient_norm', 'gradient_norms')
  }
  return {
    'reason': REASONS[int(found.reason)],
    **jax.tree.map(
      lambda x: float(x) if math.isfinite(x) else str(float(x)), numbers
    ),
    'puzzle_identifiers': identifiers,
    'puzzles': [names[identifier] for identifier in identifiers],
  }
