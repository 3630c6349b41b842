"""The Hierarchical Reasoning Model (arXiv 2506.21734, section 2)."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from hrm_jax.errors import ConfigError
from hrm_jax.models import layers

POS_ENCODINGS = ('rope', 'learned')
_POSITIVE = (
  'vocab_size',
  'seq_len',
  'hidden_size',
  'num_heads',
  'H_layers',
  'L_layers',
  'H_cycles',
  'L_cycles',
  'expansion',
)


class State(NamedTuple):
  """What one segment hands to the next, each [B, T, D]."""

  z_H: chex.Array
  z_L: chex.Array


class HRM(nn.Module):
  """Two coupled recurrent levels over the tokens of one puzzle.

  In one segment the low level is updated `L_cycles` times for each of the
  `H_cycles` updates of the high level:

    z_L ← L(z_L, z_H + x̃)   L_cycles times
    z_H ← H(z_H, z_L)        all of it H_cycles times

  Only the last update of each level carries a gradient: the one-step
  approximation (section 2, "Approximate gradient").

  Attributes:
    vocab_size: V, tokens in and out.
    seq_len: S, cells of a puzzle.
    hidden_size: D.
    num_heads: N.
    H_layers: blocks of the high level.
    L_layers: blocks of the low level.
    H_cycles: high-level updates in a segment.
    L_cycles: low-level updates for each high-level update.
    expansion: MLP expansion, see `layers.swiglu_width`.
    puzzle_emb_ndim: E, size of a puzzle's embedding; 0 for no prefix.
    puzzle_emb_len: P, prefix tokens; 0 means ceil(E / D).
    pos_encodings: 'rope' or 'learned'.
    dtype: of activations and state; parameters are float32.
  """

  vocab_size: int
  seq_len: int
  hidden_size: int = 512
  num_heads: int = 8
  H_layers: int = 4
  L_layers: int = 4
  H_cycles: int = 2
  L_cycles: int = 2
  expansion: float = 4.0
  puzzle_emb_ndim: int = 512
  puzzle_emb_len: int = 0
  pos_encodings: str = 'rope'
  dtype: chex.ArrayDType = jnp.float32

  @property
  def prefix_len(self) -> int:
    """P, the puzzle embedding's tokens before the cells."""
    if self.puzzle_emb_ndim == 0:
      return 0
    return self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)

  @property
  def num_tokens(self) -> int:
    """T, prefix tokens included."""
    return self.prefix_len + self.seq_len

  def validate(self) -> None:
    """Raises ConfigError where the attributes do not fit together."""
    for name in _POSITIVE:
      if getattr(self, name) <= 0:
        raise ConfigError(
          f'model.{name}={getattr(self, name)} must be positive'
        )
    for name in ('puzzle_emb_ndim', 'puzzle_emb_len'):
      if getattr(self, name) < 0:
        raise ConfigError(
          f'model.{name}={getattr(self, name)} must not be negative'
        )
    head_size, rest = divmod(self.hidden_size, self.num_heads)
    if rest:
      raise ConfigError(
        f'model.hidden_size={self.hidden_size} is not divisible by '
        f'model.num_heads={self.num_heads}; choose heads that divide it'
      )
    if self.pos_encodings not in POS_ENCODINGS:
      raise ConfigError(
        f"model.pos_encodings='{self.pos_encodings}' is unknown; use one of "
        + ', '.join(POS_ENCODINGS)
      )
    if self.pos_encodings == 'rope' and head_size % 2:
      raise ConfigError(
        f'model.hidden_size / model.num_heads = {head_size} is odd; rotary '
        'positions need an even head size'
      )
    if self.prefix_len * self.hidden_size < self.puzzle_emb_ndim:
      raise ConfigError(
        f'model.puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit '
        f'model.puzzle_emb_len={self.puzzle_emb_len} tokens of '
        f'model.hidden_size={self.hidden_size}; raise puzzle_emb_len'
      )

  def setup(self):
    self.validate()
    D = self.hidden_size
    embedding_init = layers.truncated_normal(D**-0.5)
    self.token_embedding = self.param(
      'token_embedding', embedding_init, (self.vocab_size, D)
    )
    if self.pos_encodings == 'learned':
      self.position_embedding = self.param(
        'position_embedding', embedding_init, (self.num_tokens, D)
      )
    level = dict(
      hidden_size=D,
      num_heads=self.num_heads,
      expansion=self.expansion,
      rope=self.pos_encodings == 'rope',
      dtype=self.dtype,
    )
    self.H_level = layers.Level(num_blocks=self.H_layers, **level)
    self.L_level = layers.Level(num_blocks=self.L_layers, **level)
    self.lm_head = layers.Linear(self.vocab_size, self.dtype)
    # Near-zero Q at the start keeps early training from halting at random.
    self.q_head = nn.Dense(
      2,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(-5.0),
    )

    def initial_vector(name: str):
      init = layers.truncated_normal(1.0)
      return self.variable(
        'constants',
        name,
        lambda: init(self.make_rng('params'), (D,), self.dtype),
      )

    self.z_H_init = initial_vector('z_H_init')
    self.z_L_init = initial_vector('z_L_init')

  def __call__(self, inputs_BS: chex.Array, puzzles_BE: chex.Array):
    """One segment from the initial state; used to initialise parameters."""
    x = self.embed(inputs_BS, puzzles_BE)
    return self.heads(self.segment(self.initial_state(len(inputs_BS)), x))

  def initial_state(self, batch_size: int) -> State:
    """The state of `batch_size` fresh sequences."""
    shape = (batch_size, self.num_tokens, self.hidden_size)
    return State(
      z_H=jnp.broadcast_to(self.z_H_init.value, shape),
      z_L=jnp.broadcast_to(self.z_L_init.value, shape),
    )

  def embed(self, inputs_BS: chex.Array, puzzles_BE: chex.Array) -> chex.Array:
    """The scaled input x̃ [B, T, D] from tokens and puzzle embeddings.

    Args:
      inputs_BS: int32 tokens in [0, V).
      puzzles_BE: float32 rows of the puzzle table; unused where E = 0.
    """
    B = inputs_BS.shape[0]
    S, D, P, E = (
      self.seq_len,
      self.hidden_size,
      self.prefix_len,
      self.puzzle_emb_ndim,
    )
    chex.assert_shape(inputs_BS, (B, S))
    # A product with one-hot rows: V is tiny, and the gradient needs no scatter.
    one_hot = jax.nn.one_hot(inputs_BS, self.vocab_size, dtype=self.dtype)
    x = one_hot @ self.token_embedding.astype(self.dtype)
    if P:
      chex.assert_shape(puzzles_BE, (B, E))
      prefix = jnp.pad(puzzles_BE, ((0, 0), (0, P * D - E)))
      prefix = prefix.reshape(B, P, D).astype(self.dtype)
      x = jnp.concatenate([prefix, x], axis=1)
    if self.pos_encodings == 'learned':
      positions = self.position_embedding.astype(self.dtype)
      x = (x + positions) * jnp.asarray(0.5**0.5, self.dtype)
    return x * jnp.asarray(D**0.5, self.dtype)

  def segment(self, z: State, x_BTD: chex.Array) -> State:
    """H_cycles × (L_cycles low updates, one high update).

    The gradient reaches the parameters through the last update of each level,
    and x̃ through the last low update.
    """
    chex.assert_shape([z.z_H, z.z_L, x_BTD], (None, *x_BTD.shape[1:]))
    if self.is_initializing():
      return State(self.H_level(z.z_H, z.z_L), self.L_level(z.z_L, x_BTD))

    low, high = _pure(self.L_level), _pure(self.H_level)
    x_fixed = jax.lax.stop_gradient(x_BTD)

    def low_updates(z_H, z_L, count):
      injection = z_H + x_fixed
      return jax.lax.scan(
        lambda z, _: (low.frozen(z, injection), None), z_L, length=count
      )[0]

    def cycle(z, _):
      z_L = low_updates(z.z_H, z.z_L, self.L_cycles)
      return State(high.frozen(z.z_H, z_L), z_L), None

    z = jax.lax.stop_gradient(z)
    z, _ = jax.lax.scan(cycle, z, length=self.H_cycles - 1)
    z_L = low_updates(z.z_H, z.z_L, self.L_cycles - 1)
    z_H, z_L = jax.lax.stop_gradient((z.z_H, z_L))
    z_L = low.update(z_L, z_H + x_BTD)
    z_H = high.update(z_H, z_L)
    return State(z_H, z_L)

  def heads(self, z: State) -> tuple[chex.Array, chex.Array]:
    """logits [B, S, V] of the cells and float32 q [B, 2] (halt, continue)."""
    logits = self.lm_head(z.z_H[:, self.prefix_len :])
    q = self.q_head(z.z_H[:, 0]).astype(jnp.float32)
    return logits, q


class _PureLevel(NamedTuple):
  update: Callable[..., chex.Array]
  frozen: Callable[..., chex.Array]


def _pure(level: layers.Level) -> _PureLevel:
  """A level as functions of (z, injection), with and without gradient.

  `jax.lax.scan` wants pure functions, and stopping the gradient at the
  parameters keeps the scans without gradient out of differentiation entirely.
  """
  module, variables = level.unbind()
  fixed = jax.lax.stop_gradient(variables)
  return _PureLevel(
    update=lambda z, injection: module.apply(variables, z, injection),
    frozen=lambda z, injection: module.apply(fixed, z, injection),
  )
