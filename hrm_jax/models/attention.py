"""Attention over packed projections, by the implementation that is asked for.

Every implementation computes the same: rotary positions on q and k, softmax in
float32, scale 1/√K, no mask (paper section 2, "Architecture details").
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from hrm_jax import sharding
from hrm_jax.models import cpu_attention

ROPE_THETA = 10000.0
IMPLEMENTATIONS = ('auto', 'xla', 'cpu', 'pallas', 'cudnn')


def attend(
  qkv_BTW: chex.Array, num_heads: int, rope: bool, implementation: str = 'auto'
) -> chex.Array:
  """Attention of all heads, [B, T, N · K].

  Args:
    qkv_BTW: N query heads, N key heads and N value heads of size K side by
      side, W = 3 · N · K.
    num_heads: N.
    rope: whether q and k are turned by their positions.
    implementation: one of IMPLEMENTATIONS; 'auto' chooses by the platform
      that the step is compiled for.
  """
  if implementation == 'auto':
    implementation = {'cpu': 'cpu'}.get(sharding.platform(), 'xla')

  def local(qkv_BTW):
    # A device's share of the heads, where they are split.
    heads = num_heads * qkv_BTW.shape[-1] // width
    if implementation == 'cpu':
      head_size = width // (3 * num_heads)
      tables = rope_tables(qkv_BTW.shape[1], head_size) if rope else None
      return cpu_attention.attention(qkv_BTW, heads, tables)
    return _xla(qkv_BTW, heads, rope)

  width = qkv_BTW.shape[-1]
  names = ('batch', None, 'heads')
  if implementation in ('xla', 'cpu') and sharding.parts('heads') == 1:
    return local(qkv_BTW)
  return sharding.per_device(local, (names,), names)(qkv_BTW)


def rope_tables(length: int, head_size: int) -> tuple[np.ndarray, np.ndarray]:
  """cos and sin of the rotary angles, each float32 [T, K]."""
  exponents = np.arange(0, head_size, 2, dtype=np.float32) / head_size
  frequencies = (1.0 / ROPE_THETA**exponents).astype(np.float32)
  angles = np.outer(np.arange(length, dtype=np.float32), frequencies)
  angles = np.concatenate([angles, angles], axis=-1)
  return np.cos(angles), np.sin(angles)


def apply_rope(
  x_BTNK: chex.Array, cos_TK: np.ndarray, sin_TK: np.ndarray
) -> chex.Array:
  """Rotates queries or keys by their positions (half-rotation form)."""
  x = x_BTNK.astype(jnp.float32)
  first, second = jnp.split(x, 2, axis=-1)
  rotated = jnp.concatenate([-second, first], axis=-1)
  out = x * cos_TK[:, None, :] + rotated * sin_TK[:, None, :]
  return out.astype(x_BTNK.dtype)


def _xla(qkv_BTW: chex.Array, num_heads: int, rope: bool) -> chex.Array:
  """As JAX's own function does it."""
  B, T, W = qkv_BTW.shape
  K = W // (3 * num_heads)
  q, k, v = jnp.split(qkv_BTW.reshape(B, T, 3 * num_heads, K), 3, axis=2)
  if rope:
    cos, sin = rope_tables(T, K)
    q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
  return jax.nn.dot_product_attention(q, k, v).reshape(B, T, W // 3)
