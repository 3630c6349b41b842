"""The models of two coupled states: HRM and TRM."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from data_pipelines.errors import ConfigError
from hrm_jax.models import layers
from hrm_jax.models.base import Look, ReasoningModel


class State(NamedTuple):
  """What one segment hands to the next, each [B, T, D]."""

  z_H: chex.Array
  z_L: chex.Array


class TwoStateModel(ReasoningModel):
  """A slow and a fast state over the tokens of one puzzle.

  In one segment the fast state is updated `L_cycles` times for each of the
  `H_cycles` updates of the slow one:

    z_L ← L(z_L + z_H + x̃)   L_cycles times
    z_H ← H(z_H + z_L)        all of it H_cycles times

  Attributes (beside those of `ReasoningModel`):
    H_cycles: updates of z_H in a segment.
    L_cycles: updates of z_L for each update of z_H.
    gradient: the updates at the segment's end that carry a gradient, to the
      parameters and to x̃: 'one_step' the last of z_L and the last of z_H
      (HRM, section 2, "Approximate gradient"), 'last_cycle' those from the
      last update of z_H but one (TRM), 'last_K' the last K of all, 'full' all.
      None goes back into earlier segments.
  """

  H_cycles: int = 2
  L_cycles: int = 2
  gradient: str = 'one_step'

  @property
  def updates(self) -> int:
    """Updates of either state in a segment."""
    return self.H_cycles * (self.L_cycles + 1)

  @property
  def update_levels(self) -> str:
    return ('L' * self.L_cycles + 'H') * self.H_cycles

  @property
  def gradient_updates(self) -> int:
    """How many of them, the last ones, carry a gradient.

    Raises:
      ConfigError: `gradient` is unknown or asks for more than there are.
    """
    named = {
      'one_step': 2,
      'last_cycle': self.L_cycles + 1,
      'full': self.updates,
    }
    if self.gradient in named:
      return named[self.gradient]
    match = re.fullmatch(r'last_([1-9]\d*)', self.gradient)
    if match is None or int(match[1]) > self.updates:
      raise ConfigError(
        f"model.gradient='{self.gradient}' is unknown; use one_step, "
        f'last_cycle, full, or last_1 … last_{self.updates} for the last of '
        f'the {self.updates} updates of a segment'
      )
    return int(match[1])

  def validate(self) -> None:
    super().validate()
    _ = self.gradient_updates

  def setup(self):
    super().setup()
    self.z_H_init = self._initial_vector('z_H_init')
    self.z_L_init = self._initial_vector('z_L_init')

  def initial_state(self, batch_size: int) -> State:
    """The state of `batch_size` fresh sequences."""
    return State(
      z_H=self._all_tokens(self.z_H_init, batch_size),
      z_L=self._all_tokens(self.z_L_init, batch_size),
    )

  def levels(self) -> tuple[layers.Level, layers.Level]:
    """The levels that update z_L and z_H; may be the same one."""
    raise NotImplementedError

  def level_sizes(self) -> tuple[int, int]:
    """Blocks of either level."""
    raise NotImplementedError

  def block_passes(self) -> tuple[int, int]:
    low, high = self.level_sizes()
    blocks = ([low] * self.L_cycles + [high]) * self.H_cycles
    return sum(blocks), sum(blocks[-self.gradient_updates :])

  def segment(self, z: State, x_BTD: chex.Array) -> State:
    """All updates of a segment; `gradient` says which carry a gradient."""
    chex.assert_shape([z.z_H, z.z_L, x_BTD], (None, *x_BTD.shape[1:]))
    low, high = self.levels()
    if self.is_initializing():
      return State(high(z.z_H + z.z_L), low(z.z_L + x_BTD))

    fixed = self._fixed_updates(x_BTD)
    learning = _Updates(_pure(low), _pure(high), x_BTD, self.L_cycles)
    cycles, low_updates = divmod(
      self.updates - self.gradient_updates, self.L_cycles + 1
    )
    # Where the gradient sets in, it does so within a cycle.
    z = fixed.cycles(jax.lax.stop_gradient(z), cycles)
    z = jax.lax.stop_gradient(fixed.low_updates(z, low_updates))
    z = learning.low_updates(z, self.L_cycles - low_updates)
    z = learning.high_update(z)
    return learning.cycles(z, self.H_cycles - cycles - 1)

  def segment_without_gradient(self, z: State, x_BTD: chex.Array) -> State:
    fixed = self._fixed_updates(x_BTD)
    return fixed.cycles(jax.lax.stop_gradient(z), self.H_cycles)

  def walk(self, z: State, x_BTD: chex.Array, look: Look) -> tuple[State, Any]:
    """See `ReasoningModel.walk`; an answer takes one H update more.

    After an update of z_L it is read from H(z_H + z_L), provisionally: z_H
    itself stays (paper, "Visualization of intermediate timesteps").
    """
    fixed = self._fixed_updates(x_BTD)

    def low(z, _):
      after = fixed.low_updates(z, 1)
      return after, look(z, after, fixed.high_update(after))

    def cycle(z, _):
      z, seen = jax.lax.scan(low, z, length=self.L_cycles)
      after = fixed.high_update(z)
      last = look(z, after, after)
      seen = jax.tree.map(
        lambda some, one: jnp.concatenate([some, one[None]]), seen, last
      )
      return after, seen

    z, seen = jax.lax.scan(
      cycle, jax.lax.stop_gradient(z), length=self.H_cycles
    )
    return z, jax.tree.map(
      lambda leaf: leaf.reshape(self.updates, *leaf.shape[2:]), seen
    )

  def _fixed_updates(self, x_BTD: chex.Array) -> '_Updates':
    low, high = (_pure(level, frozen=True) for level in self.levels())
    return _Updates(low, high, jax.lax.stop_gradient(x_BTD), self.L_cycles)


class _Updates(NamedTuple):
  """The updates of a segment as functions of the state."""

  low: Callable[[chex.Array], chex.Array]
  high: Callable[[chex.Array], chex.Array]
  x_BTD: chex.Array
  L_cycles: int

  def low_updates(self, z: State, count: int) -> State:
    injection = z.z_H + self.x_BTD
    z_L = _repeat(lambda z_L: self.low(z_L + injection), z.z_L, count)
    return z._replace(z_L=z_L)

  def high_update(self, z: State) -> State:
    return z._replace(z_H=self.high(z.z_H + z.z_L))

  def cycles(self, z: State, count: int) -> State:
    def cycle(z):
      return self.high_update(self.low_updates(z, self.L_cycles))

    return _repeat(cycle, z, count)


def _repeat(update: Callable, z, count: int):
  """`update` applied `count` times."""
  return jax.lax.scan(lambda z, _: (update(z), None), z, length=count)[0]


def _pure(
  level: layers.Level, frozen: bool = False
) -> Callable[[chex.Array], chex.Array]:
  """A level as a function of its input, with or without gradient.

  `jax.lax.scan` wants pure functions, and stopping the gradient at the
  parameters keeps the scans without gradient out of differentiation entirely.
  """
  module, variables = level.unbind()
  if frozen:
    variables = jax.lax.stop_gradient(variables)
  return lambda x: module.apply(variables, x)
