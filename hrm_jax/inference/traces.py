"""What a model thinks on the way: its answer after every inner update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings
from hrm_jax.training import act


class Trace(NamedTuple):
  """A batch of puzzles, segment by segment and update by update.

  The updates of a segment are those that `ModelSettings.update_levels` names.

  Attributes:
    tokens: uint8 [segments, updates, B, S], the answer at that moment. After
      an update of z_L it takes a provisional update of z_H, see `model.walk`:
      after a cycle's last one, just the update that follows.
    q: float32 [segments, B, 2], (q_halt, q_continue) after each segment.
    halts: bool [segments, B], whether `act.wants_halt` would end there;
      that is asked after every segment, however many there are.
    residuals: float32 [segments, updates, B], ‖z' − z‖ over [T, D] of the
      state that the update changed.
  """

  tokens: chex.Array
  q: chex.Array
  halts: chex.Array
  residuals: chex.Array


TraceFunction = Callable[[Any, chex.Array, chex.Array], Trace]


def trace(
  model: nn.Module,
  settings: ActSettings,
  segments: int,
  variables: Any,
  puzzles_BE: chex.Array,
  inputs_BS: chex.Array,
) -> Trace:
  """Works on a batch and writes down what it sees; pure.

  No state is kept but the last one: beside a segment's own memory it takes what
  the `Trace` takes.

  Args:
    model: module with the interface of `hrm_jax.models`.
    settings: rule by which a row would halt; none does here.
    segments: number of segments, which may exceed `halt_max_steps`.
    variables: parameters and constants of the model.
    puzzles_BE: puzzle embedding of each row, float32.
    inputs_BS: tokens, int32.
  """

  def look(before, after, answering):
    logits, _ = model.apply(variables, answering, method='heads')
    squares = jax.tree.map(
      lambda new, old: jnp.sum(
        jnp.square(new.astype(jnp.float32) - old.astype(jnp.float32)),
        axis=(1, 2),
      ),
      after,
      before,
    )
    # The other state did not change.
    residual = jnp.sqrt(sum(jax.tree.leaves(squares)))
    return jnp.argmax(logits, axis=-1).astype(jnp.uint8), residual

  def segment(z, _):
    z, (tokens, residuals) = model.apply(variables, z, x, look, method='walk')
    _, q = model.apply(variables, z, method='heads')
    return z, Trace(tokens, q, act.wants_halt(settings, q), residuals)

  x = model.apply(variables, inputs_BS, puzzles_BE, method='embed')
  z = model.apply(variables, len(inputs_BS), method='initial_state')
  return jax.lax.scan(segment, z, length=segments)[1]


def sharded_trace(
  model: nn.Module, settings: ActSettings, segments: int, mesh: Mesh
) -> TraceFunction:
  """`trace` of variables, puzzles and inputs, jitted; rows split over the mesh.

  The mesh must divide the rows; the trace comes whole.
  """

  def run(variables, puzzles_BE, inputs_BS):
    with sharding.using(mesh):
      variables = sharding.constrain_whole(variables)
      return trace(model, settings, segments, variables, puzzles_BE, inputs_BS)

  split = sharding.by_batch(mesh)
  return jax.jit(
    run,
    # Parameters as they are: they may be split.
    in_shardings=(None, split, split),
    out_shardings=sharding.replicated(mesh),
  )
