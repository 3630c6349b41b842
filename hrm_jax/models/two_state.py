"""The models of two coupled states: HRM and TRM."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from hrm_jax.models import layers
from hrm_jax.models.base import Look, ReasoningModel
from hrm_jax.settings import CycledSettings, HRMSettings, TRMSettings


class State(NamedTuple):
  """What one segment hands to the next, each [B, T, D]."""

  z_H: chex.Array
  z_L: chex.Array


class TwoStateModel(ReasoningModel):
  """A slow and a fast state over the tokens of one puzzle.

    z_L ← L(z_L + z_H + x̃)   L_cycles times
    z_H ← H(z_H + z_L)        all of it H_cycles times in one segment

  The updates at its end that `settings.gradient` names carry a gradient.
  """

  settings: CycledSettings

  def setup(self):
    super().setup()
    self.z_H_init = self._initial_vector('z_H_init')
    self.z_L_init = self._initial_vector('z_L_init')

  def initial_state(self, batch_size: int) -> State:
    return State(
      z_H=self._all_tokens(self.z_H_init, batch_size),
      z_L=self._all_tokens(self.z_L_init, batch_size),
    )

  def levels(self) -> tuple[layers.Level, layers.Level]:
    """The levels that update z_L and z_H; may be the same one."""
    raise NotImplementedError

  def segment(self, z: State, x_BTD: chex.Array) -> State:
    chex.assert_shape([z.z_H, z.z_L, x_BTD], (None, *x_BTD.shape[1:]))
    low, high = self.levels()
    if self.is_initializing():
      return State(high(z.z_H + z.z_L), low(z.z_L + x_BTD))

    settings, fixed = self.settings, self._fixed_updates(x_BTD)
    learning = _Updates(low.pure(), high.pure(), x_BTD, settings.L_cycles)
    cycles, low_updates = divmod(
      settings.updates - settings.gradient_updates, settings.L_cycles + 1
    )
    # Where the gradient sets in, it does so within a cycle.
    z = fixed.cycles(jax.lax.stop_gradient(z), cycles)
    z = jax.lax.stop_gradient(fixed.low_updates(z, low_updates))
    z = learning.low_updates(z, settings.L_cycles - low_updates)
    z = learning.high_update(z)
    return learning.cycles(z, settings.H_cycles - cycles - 1)

  def segment_without_gradient(self, z: State, x_BTD: chex.Array) -> State:
    fixed = self._fixed_updates(x_BTD)
    return fixed.cycles(jax.lax.stop_gradient(z), self.settings.H_cycles)

  def walk(self, z: State, x_BTD: chex.Array, look: Look) -> tuple[State, Any]:
    """See `ReasoningModel.walk`.

    After an update of z_L an answer is read from H(z_H + z_L), and z_H itself
    stays (paper, "Visualization of intermediate timesteps").
    """
    fixed = self._fixed_updates(x_BTD)

    def low(z, _):
      after = fixed.low_updates(z, 1)
      return after, look(z, after, fixed.high_update(after))

    def cycle(z, _):
      z, seen = jax.lax.scan(low, z, length=self.settings.L_cycles)
      after = fixed.high_update(z)
      last = look(z, after, after)
      seen = jax.tree.map(
        lambda some, one: jnp.concatenate([some, one[None]]), seen, last
      )
      return after, seen

    z, seen = jax.lax.scan(
      cycle, jax.lax.stop_gradient(z), length=self.settings.H_cycles
    )
    return z, jax.tree.map(
      lambda leaf: leaf.reshape(self.settings.updates, *leaf.shape[2:]), seen
    )

  def _fixed_updates(self, x_BTD: chex.Array) -> '_Updates':
    low, high = (level.pure(frozen=True) for level in self.levels())
    fixed_BTD = jax.lax.stop_gradient(x_BTD)
    return _Updates(low, high, fixed_BTD, self.settings.L_cycles)


class HRM(TwoStateModel):
  """A level of its own for each state (arXiv 2506.21734, section 2)."""

  settings: HRMSettings

  def setup(self):
    super().setup()
    self.H_level = layers.Level(self.settings.H_layers, self.settings)
    self.L_level = layers.Level(self.settings.L_layers, self.settings)

  def levels(self) -> tuple[layers.Level, layers.Level]:
    return self.L_level, self.H_level


class TRM(TwoStateModel):
  """One level updates both states (arXiv 2510.04871)."""

  settings: TRMSettings

  def setup(self):
    super().setup()
    # Named as in the published code.
    sizes = self.settings
    self.L_level = layers.Level(sizes.layers, sizes, sizes.mlp_t)

  def levels(self) -> tuple[layers.Level, layers.Level]:
    return self.L_level, self.L_level


class _Updates(NamedTuple):
  """The updates of a segment as functions of the state."""

  low: Callable[[chex.Array], chex.Array]
  high: Callable[[chex.Array], chex.Array]
  x_BTD: chex.Array
  L_cycles: int

  def low_updates(self, z: State, count: int) -> State:
    injection = z.z_H + self.x_BTD
    z_L = layers.repeat(lambda z_L: self.low(z_L + injection), z.z_L, count)
    return z._replace(z_L=z_L)

  def high_update(self, z: State) -> State:
    return z._replace(z_H=self.high(z.z_H + z.z_L))

  def cycles(self, z: State, count: int) -> State:
    def cycle(z):
      return self.high_update(self.low_updates(z, self.L_cycles))

    return layers.repeat(cycle, z, count)
