"""The models of one stack of blocks: what HRM is compared with, and URM."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hrm_jax.models import layers
from hrm_jax.models.base import Look, ReasoningModel
from hrm_jax.settings import (
  DirectSettings,
  RecurrentTransformerSettings,
  URMSettings,
)


class Output(NamedTuple):
  """The stack's output [B, T, D]."""

  z_H: chex.Array


class Direct(ReasoningModel):
  """Direct prediction: the blocks once, from the input to the answer.

  The baseline of the paper (section 3): no state, no segments, no halting. Its
  Q head is never trained: every answer is equally sure. The carry holds the
  last output only because every model's carry holds something.
  """

  settings: DirectSettings

  def setup(self):
    super().setup()
    self.level = layers.Level(self.settings.layers, self.settings)

  def initial_state(self, batch_size: int) -> Output:
    """Zeros: nothing is read from them."""
    shape = (batch_size, self.num_tokens, self.settings.hidden_size)
    return Output(jnp.zeros(shape, self.dtype))

  def segment(self, z: Output, x_BTD: chex.Array) -> Output:
    """The answer to x̃, whatever `z` is."""
    chex.assert_equal_shape([z.z_H, x_BTD])
    return Output(self.level(x_BTD))


class RecurrentTransformer(ReasoningModel):
  """One stack under HRM's outer loop: z ← level(z + x̃), once a segment.

  The "same-size transformer" of ARC Prize's analysis
  (arcprize.org/blog/hrm-analysis): without the hierarchy, with the segments.
  There may be H_cycles · L_cycles passes of the stack in a segment; those that
  `settings.gradient` names carry a gradient.
  """

  settings: RecurrentTransformerSettings

  def setup(self):
    super().setup()
    self.level = layers.Level(self.settings.layers, self.settings)
    self.z_H_init = self._initial_vector('z_H_init')

  def initial_state(self, batch_size: int) -> Output:
    return Output(self._all_tokens(self.z_H_init, batch_size))

  def segment(self, z: Output, x_BTD: chex.Array) -> Output:
    """All passes of the stack; no gradient into the segment before."""
    chex.assert_equal_shape([z.z_H, x_BTD])
    z_H = jax.lax.stop_gradient(z.z_H)
    if self.settings.updates == 1 or self.is_initializing():
      return Output(self.level(z_H + x_BTD))
    learning = self.settings.gradient_updates
    z = self._fixed_passes(Output(z_H), x_BTD, self.settings.updates - learning)
    level = self.level.pure()
    return layers.repeat(lambda z: Output(level(z.z_H + x_BTD)), z, learning)

  def segment_without_gradient(self, z: Output, x_BTD: chex.Array) -> Output:
    if self.settings.updates == 1:
      return super().segment_without_gradient(z, x_BTD)
    return self._fixed_passes(z, x_BTD, self.settings.updates)

  def walk(
    self, z: Output, x_BTD: chex.Array, look: Look
  ) -> tuple[Output, Any]:
    """See `ReasoningModel.walk`."""

    def one_pass(z, _):
      after = self._fixed_passes(z, x_BTD, 1)
      return after, look(z, after, after)

    return jax.lax.scan(one_pass, z, length=self.settings.updates)

  def _fixed_passes(self, z: Output, x_BTD: chex.Array, count: int) -> Output:
    level = self.level.pure(frozen=True)
    z, x_BTD = jax.lax.stop_gradient((z, x_BTD))
    return layers.repeat(lambda z: Output(level(z.z_H + x_BTD)), z, count)


class URM(RecurrentTransformer):
  """The Universal Reasoning Model (arXiv 2512.14693).

  A recurrent transformer of twelve passes a segment, the last six with
  gradient, whose MLPs filter along the tokens.
  """

  settings: URMSettings
