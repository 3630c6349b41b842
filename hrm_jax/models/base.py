"""What the models share: embedding, heads, and the interface they all have."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from hrm_jax.models import layers
from hrm_jax.settings import ModelSettings

# look(before, after, answering), all three of them states; see `walk`.
Look = Callable[[Any, Any, Any], Any]


class ReasoningModel(nn.Module):
  """Tokens of a puzzle's S cells in, logits of V tokens and Q values out.

  A model adds to this its levels, its state (a NamedTuple with `z_H`, which
  the heads read), `initial_state` and `segment`.
  """

  settings: ModelSettings
  vocab_size: int
  seq_len: int

  @property
  def num_tokens(self) -> int:
    """T, prefix tokens included."""
    return self.settings.prefix_len + self.seq_len

  @property
  def dtype(self) -> jnp.dtype:
    return jnp.dtype(self.settings.dtype)

  def setup(self):
    D = self.settings.hidden_size
    embedding_init = layers.truncated_normal(D**-0.5)
    self.token_embedding = self.param(
      'token_embedding', embedding_init, (self.vocab_size, D)
    )
    if self.settings.pos_encodings == 'learned':
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
    """The scaled input x̃ [B, T, D] from tokens and puzzle embeddings."""
    B, S = inputs_BS.shape[0], self.seq_len
    D, P = self.settings.hidden_size, self.settings.prefix_len
    E = self.settings.puzzle_emb_ndim
    chex.assert_shape(inputs_BS, (B, S))
    # A product with one-hot rows: V is tiny, and the gradient needs no scatter.
    one_hot = jax.nn.one_hot(inputs_BS, self.vocab_size, dtype=self.dtype)
    x = one_hot @ self.token_embedding.astype(self.dtype)
    if P:
      chex.assert_shape(puzzles_BE, (B, E))
      prefix = jnp.pad(puzzles_BE, ((0, 0), (0, P * D - E)))
      prefix = prefix.reshape(B, P, D).astype(self.dtype)
      x = jnp.concatenate([prefix, x], axis=1)
    if self.settings.pos_encodings == 'learned':
      positions = self.position_embedding.astype(self.dtype)
      x = (x + positions) * jnp.asarray(0.5**0.5, self.dtype)
    return x * jnp.asarray(D**0.5, self.dtype)

  def initial_state(self, batch_size: int) -> Any:
    """The state of `batch_size` fresh sequences."""
    raise NotImplementedError

  def segment(self, z: Any, x_BTD: chex.Array) -> Any:
    """The state after one segment."""
    raise NotImplementedError

  def segment_without_gradient(self, z, x_BTD: chex.Array):
    """`segment` for predictions and targets; less to compile in some models."""
    return jax.lax.stop_gradient(self.segment(z, x_BTD))

  def walk(self, z, x_BTD: chex.Array, look: Look) -> tuple[Any, Any]:
    """`segment_without_gradient`, looked at after every update.

    `look` is a pure function of the states before and after an update, and of
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
    logits = self.lm_head(z.z_H[:, self.settings.prefix_len :])
    q = self.q_head(z.z_H[:, 0]).astype(jnp.float32)
    return logits, q

  def _initial_vector(self, name: str) -> nn.Variable:
    """A fixed D-vector: the state of every token of a fresh sequence."""
    init, shape = layers.truncated_normal(1.0), (self.settings.hidden_size,)
    return self.variable(
      'constants', name,
      lambda: init(self.make_rng('params'), shape, self.dtype),
    )  # fmt: skip

  def _all_tokens(self, vector: nn.Variable, batch_size: int) -> chex.Array:
    """An initial vector at all tokens of all rows, [B, T, D]."""
    shape = (batch_size, self.num_tokens, self.settings.hidden_size)
    return jnp.broadcast_to(vector.value, shape)
