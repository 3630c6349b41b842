"""What HRM is compared with: one stack of the same blocks."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from hrm_jax.models import layers
from hrm_jax.models.base import ReasoningModel
from hrm_jax.settings import DirectSettings, RecurrentTransformerSettings


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
  """

  settings: RecurrentTransformerSettings

  def setup(self):
    super().setup()
    self.level = layers.Level(self.settings.layers, self.settings)
    self.z_H_init = self._initial_vector('z_H_init')

  def initial_state(self, batch_size: int) -> Output:
    return Output(self._all_tokens(self.z_H_init, batch_size))

  def segment(self, z: Output, x_BTD: chex.Array) -> Output:
    """One pass of the stack; no gradient into the segment before."""
    chex.assert_equal_shape([z.z_H, x_BTD])
    return Output(self.level(jax.lax.stop_gradient(z.z_H) + x_BTD))
