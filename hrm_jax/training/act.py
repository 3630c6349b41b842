"""Adaptive computation time (paper section 2): the carry, as pure functions.

A sequence stays in the batch for several segments; each segment is one
optimizer step (deep supervision). A row that halted takes the next puzzle.
Everything here works for any model with the interface of `hrm_jax.models`.
"""

from typing import Any

import chex
import flax.struct
import jax
import jax.numpy as jnp

from hrm_jax.models import ReasoningModel
from hrm_jax.settings import ActSettings

# inputs [B, S], labels [B, S] and puzzle_identifiers [B], all int32.
Batch = dict[str, chex.Array]


def wants_halt(settings: ActSettings, q_B2: chex.Array) -> chex.Array:
  """Whether each row would halt by its own Q values, bool [B]."""
  if settings.halting == 'q_learning':
    return q_B2[:, 0] > q_B2[:, 1]
  if settings.halting == 'halt_only':
    return q_B2[:, 0] > 0
  return jnp.zeros(len(q_B2), bool)


class Carry(flax.struct.PyTreeNode):
  """What the batch's rows hand to the next segment.

  Attributes:
    z: state of the model, leaves [B, T, D].
    steps: segments done, int32 [B].
    halted: the row takes a new puzzle next, bool [B].
    data: the puzzles being worked on.
  """

  z: Any
  steps: chex.Array
  halted: chex.Array
  data: Batch


def initial_carry(z: Any, batch_size: int, seq_len: int) -> Carry:
  """A carry of halted rows, so that all start with the first batch."""
  cells = jnp.zeros((batch_size, seq_len), jnp.int32)
  rows = jnp.zeros((batch_size,), jnp.int32)
  halted = jnp.ones((batch_size,), bool)
  data = {'inputs': cells, 'labels': cells, 'puzzle_identifiers': rows}
  return Carry(z, rows, halted, data)


def admit(carry: Carry, fresh_z: Any, batch: Batch) -> Carry:
  """Replaces halted rows by those of `batch`, state and steps reset."""

  def where_halted(new, old):
    mask = carry.halted.reshape((-1,) + (1,) * (old.ndim - 1))
    return jnp.where(mask, new, old)

  return carry.replace(
    z=jax.tree.map(where_halted, fresh_z, carry.z),
    steps=jnp.where(carry.halted, 0, carry.steps),
    data=jax.tree.map(where_halted, batch, carry.data),
  )


def exploration_min_steps(
  key: chex.PRNGKey, settings: ActSettings, batch_size: int
) -> chex.Array:
  """Segments that each row must do before it may halt, int32 [B]."""
  if settings.halt_max_steps < 2:
    return jnp.zeros(batch_size, jnp.int32)
  explore_key, steps_key = jax.random.split(key)
  explore = jax.random.bernoulli(
    explore_key, settings.halt_exploration_prob, (batch_size,)
  )
  steps = jax.random.randint(
    steps_key, (batch_size,), 2, settings.halt_max_steps + 1
  )
  return jnp.where(explore, steps, 0)


def train_segment(
  model: ReasoningModel,
  variables: Any,
  puzzles_BE: chex.Array,
  carry: Carry,
  settings: ActSettings,
  min_steps_B: chex.Array,
) -> tuple[Carry, chex.Array, chex.Array, chex.Array | None]:
  """One training segment of every row, on the data of an `admit`ted carry.

  Returns:
    The new carry (without gradient), logits [B, S, V], q [B, 2], and the
    target of q_continue [B], None where it is not trained.
  """
  x = model.apply(variables, carry.data['inputs'], puzzles_BE, method='embed')
  z = model.apply(variables, carry.z, x, method='segment')
  logits, q = model.apply(variables, z, method='heads')

  z = jax.lax.stop_gradient(z)
  steps = carry.steps + 1
  last = steps >= settings.halt_max_steps
  halted, target_continue = last, None
  if settings.halt_max_steps > 1:
    halted = last | wants_halt(settings, q)
    halted &= steps >= min_steps_B
    if settings.halting == 'q_learning':
      fixed, x = jax.lax.stop_gradient((variables, x))
      next_z = model.apply(fixed, z, x, method='segment_without_gradient')
      next_q: chex.Array
      _, next_q = model.apply(fixed, next_z, method='heads')
      # At the last segment the only way on is to halt.
      best = jnp.where(last, next_q[:, 0], jnp.max(next_q, axis=-1))
      target_continue = jax.nn.sigmoid(best)
  carry = carry.replace(z=z, steps=steps, halted=halted)
  return carry, logits, q, target_continue
