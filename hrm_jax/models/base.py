"""What the models share: embedding, heads, and the face they all have."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from data_pipelines.errors import ConfigError
from hrm_jax.models import layers
from hrm_jax.models.attention import dispatch as attention

POS_ENCODINGS = ('rope', 'learned', 'none')
# All other numbers among the attributes must be positive.
_MAY_BE_ZERO = ('puzzle_emb_ndim', 'puzzle_emb_len')

# look(before, after, answering), all three of them states; see `walk`.
Look = Callable[[Any, Any, Any], Any]


class ReasoningModel(nn.Module):
  """Tokens of one puzzle in, logits of its cells and Q values out.

  A model adds to this its levels, its state (a NamedTuple with `z_H`, which
  the heads read), `initial_state` and `segment`.

  Attributes:
    vocab_size: V, tokens in and out.
    seq_len: S, cells of a puzzle.
    hidden_size: D.
    num_heads: N.
    expansion: MLP expansion, see `layers.swiglu_width`.
    puzzle_emb_ndim: E, size of a puzzle's embedding; 0 for no prefix.
    puzzle_emb_len: P, prefix tokens; 0 means ceil(E / D).
    pos_encodings: 'rope', 'learned' or 'none'.
    attention: how it is computed, see `attention.attend`.
    fusion: what one kernel computes where attention is 'pallas': one of
      `layers.FUSIONS`.
    dtype: of activations and state; parameters are float32.
  """

  vocab_size: int
  seq_len: int
  hidden_size: int = 512
  num_heads: int = 8
  expansion: float = 4.0
  puzzle_emb_ndim: int = 512
  puzzle_emb_len: int = 0
  pos_encodings: str = 'rope'
  attention: str = 'auto'
  fusion: str = 'block'
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

  @property
  def recurrent(self) -> bool:
    """Whether a segment goes on from the last one's state."""
    return True

  @property
  def update_levels(self) -> str:
    """The level of each update of a segment, in order: L or H."""
    return 'H'

  def block_passes(self) -> tuple[int, int]:
    """Blocks that a segment runs through, and those of them with gradient."""
    raise NotImplementedError

  def validate(self) -> None:
    """Raises ConfigError where the attributes do not fit together."""
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if isinstance(value, bool) or not isinstance(value, int | float):
        continue
      if field.name in _MAY_BE_ZERO:
        if value < 0:
          raise ConfigError(f'model.{field.name}={value} must not be negative')
      elif value <= 0:
        raise ConfigError(f'model.{field.name}={value} must be positive')
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
    if self.attention not in attention.IMPLEMENTATIONS:
      raise ConfigError(
        f"model.attention='{self.attention}' is unknown; use one of "
        + ', '.join(attention.IMPLEMENTATIONS)
      )
    if self.attention == 'cudnn' and jnp.dtype(self.dtype).itemsize != 2:
      raise ConfigError(
        "model.attention='cudnn' needs model.dtype='bfloat16'; use that, or "
        "model.attention='auto'"
      )
    if self.fusion not in layers.FUSIONS:
      raise ConfigError(
        f"model.fusion='{self.fusion}' is unknown; use one of "
        + ', '.join(layers.FUSIONS)
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
    self.lm_head = layers.Linear(self.vocab_size, self.dtype)
    # Near-zero Q at the start keeps early training from halting at random.
    self.q_head = nn.Dense(
      2,
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros,
      bias_init=nn.initializers.constant(-5.0),
    )

  def __call__(self, inputs_BS: chex.Array, puzzles_BE: chex.Array):
    """One segment from the initial state; used to initialise parameters."""
    x = self.embed(inputs_BS, puzzles_BE)
    return self.heads(self.segment(self.initial_state(len(inputs_BS)), x))

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

  def segment_without_gradient(self, z, x_BTD: chex.Array):
    """`segment` for predictions and targets; less to compile in some models."""
    return jax.lax.stop_gradient(self.segment(z, x_BTD))

  def walk(self, z, x_BTD: chex.Array, look: Look) -> tuple[Any, Any]:
    """`segment_without_gradient`, looked at after every update.

    Args:
      z: state that the segment starts from.
      x_BTD: of `embed`.
      look: a pure function of the states before and after an update, and of
        the one that `heads` would read an answer from now.

    Returns:
      The state after the segment, and what `look` gave at each of the
      `update_levels`, stacked: leaves [updates, ...].
    """
    after = self.segment_without_gradient(z, x_BTD)
    seen = look(z, after, after)
    return after, jax.tree.map(lambda leaf: leaf[None], seen)

  def heads(self, z) -> tuple[chex.Array, chex.Array]:
    """logits [B, S, V] of the cells and float32 q [B, 2] (halt, continue)."""
    logits = self.lm_head(z.z_H[:, self.prefix_len :])
    q = self.q_head(z.z_H[:, 0]).astype(jnp.float32)
    return logits, q

  def _level(self, num_blocks: int, mlp_t: bool = False) -> layers.Level:
    """A stack of blocks of this model's sizes."""
    return layers.Level(
      num_blocks=num_blocks,
      num_heads=self.num_heads,
      expansion=self.expansion,
      rope=self.pos_encodings == 'rope',
      attention=self.attention,
      mlp_t=mlp_t,
      fusion=self.fusion,
      dtype=self.dtype,
    )

  def _initial_vector(self, name: str) -> nn.Variable:
    """A fixed D-vector: the state of every token of a fresh sequence."""
    init = layers.truncated_normal(1.0)
    return self.variable(
      'constants',
      name,
      lambda: init(self.make_rng('params'), (self.hidden_size,), self.dtype),
    )

  def _all_tokens(self, vector: nn.Variable, batch_size: int) -> chex.Array:
    """An initial vector at all tokens of all rows, [B, T, D]."""
    shape = (batch_size, self.num_tokens, self.hidden_size)
    return jnp.broadcast_to(vector.value, shape)
