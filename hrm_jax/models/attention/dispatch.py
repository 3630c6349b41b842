"""Attention over packed projections, by the implementation that is asked for.

Every implementation computes the same: rotary positions on q and k, softmax in
float32, scale 1/√K, no mask (paper section 2, "Architecture details").
"""

import functools
from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp

from data_pipelines.errors import ConfigError
from hrm_jax.models.attention import cpu as cpu_attention
from hrm_jax.models.attention import tpu as tpu_attention
from hrm_jax.models.rope import apply_rope, rope_tables
from hrm_jax.parallel import sharding


def attend(
  qkv_BTW: chex.Array, num_heads: int, rope: bool, implementation: str = 'auto'
) -> chex.Array:
  """Attention of all heads, [B, T, N · K].

  Args:
    qkv_BTW: N query heads, N key heads and N value heads of size K side by
      side, W = 3 · N · K.
    num_heads: N.
    rope: whether q and k are turned by their positions.
    implementation: a value of `ModelSettings.attention`.
  """
  implementation = chosen(implementation)
  if implementation == 'cudnn' and sharding.platform() != 'gpu':
    raise ConfigError(
      f"model.attention='cudnn' is for a GPU, not for {sharding.platform()}; "
      "use 'auto'"
    )

  known: dict[str, Callable[..., chex.Array]] = {
    'pallas': tpu_attention.attention,
    'cpu': cpu_attention.attention,
    # The scores, T × T for each head, are not kept for the gradient.
    'xla_recompute': jax.checkpoint(_jax_attention, static_argnums=(1, 2)),
    'xla': _jax_attention,
    'cudnn': functools.partial(_jax_attention, implementation='cudnn'),
  }
  compute, width = known[implementation], qkv_BTW.shape[-1]

  def local(qkv_BTW):
    # A device's share of the heads, where they are split.
    return compute(qkv_BTW, num_heads * qkv_BTW.shape[-1] // width, rope)

  names = ('batch', None, 'heads')
  by_xla = implementation not in ('pallas', 'cudnn')
  if by_xla and sharding.parts('heads') == 1:
    return local(qkv_BTW)
  return sharding.per_device(local, (names,), names)(qkv_BTW)


def chosen(implementation: str) -> str:
  """What 'auto' means on the platform that the step is compiled for."""
  if implementation != 'auto':
    return implementation
  if sharding.platform() == 'tpu':
    # Older ones have 16 MiB on chip: no room for the kernels.
    old = sharding.device_kind().startswith(('TPU v2', 'TPU v3', 'TPU v4'))
    return 'xla_recompute' if old else 'pallas'
  return {'gpu': 'xla_recompute', 'cpu': 'cpu'}[sharding.platform()]


def _jax_attention(
  qkv_BTW: chex.Array, num_heads: int, rope: bool,
  implementation: Literal['xla', 'cudnn'] = 'xla',
) -> chex.Array:  # fmt: skip
  """Attention as JAX's own function computes it."""
  B, T, W = qkv_BTW.shape
  K = W // (3 * num_heads)
  q, k, v = jnp.split(qkv_BTW.reshape(B, T, 3 * num_heads, K), 3, axis=2)
  if rope:
    cos, sin = rope_tables(T, K)
    # Of all heads, which stand behind the positions here.
    cos, sin = cos[:, None], sin[:, None]
    q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
  length = None
  if implementation == 'cudnn' and T % 2:
    # JAX refuses its gradient of an odd length: one position more, masked.
    q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
    length = jnp.full(B, T, jnp.int32)
  out = jax.nn.dot_product_attention(
    q, k, v, implementation=implementation, query_seq_lengths=length,
    key_value_seq_lengths=length,
  )  # fmt: skip
  return out[:, :T].reshape(B, T, W // 3)
