"""Attention over packed projections, by the implementation that is asked for.

Every implementation computes the same: rotary positions on q and k, softmax in
float32, scale 1/√K, no mask (paper section 2, "Architecture details").
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp

from data_pipelines.errors import ConfigError
from hrm_jax.models.attention import cpu as cpu_attention
from hrm_jax.models.attention import tpu as tpu_attention
from hrm_jax.models.rope import apply_rope, rope_tables
from hrm_jax.parallel import hardware, sharding
from hrm_jax.settings import AttentionName, ModelSettings


def attend(
  qkv_BTW: chex.Array, num_heads: int, rope: bool, implementation: str,
  length: int | None = None,
) -> chex.Array:  # fmt: skip
  """Attention of all heads, [B, T, N · K].

  Args:
    qkv_BTW: N query heads, N key heads and N value heads of size K side by
      side, W = 3 · N · K.
    num_heads: N.
    rope: whether q and k are turned by their positions.
    implementation: a value of `ModelSettings.attention` but 'auto', of which
      `choose` makes another.
    length: number of tokens at the front that are no padding, for 'cudnn'
      alone; None for all.
  """
  known: dict[str, Callable[..., chex.Array]] = {
    'pallas': tpu_attention.attention,
    'cpu': cpu_attention.attention,
    # The scores, T × T for each head, are not kept for the gradient.
    'xla_recompute': jax.checkpoint(_jax_attention, static_argnums=(1, 2)),
    'xla': _jax_attention,
    'cudnn': functools.partial(
      _jax_attention, implementation='cudnn', length=length
    ),
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


def choose(settings: ModelSettings, device: Any) -> AttentionName:
  """The implementation of attention that the settings mean on a device.

  Args:
    settings: settings of the model.
    device: a device, there or described, or `sharding.device()`.
  """
  if settings.attention != 'auto':
    return settings.attention
  match device.platform:
    case 'cpu':
      return 'cpu'
    case 'tpu':
      # Older ones have 16 MiB on chip: no room for the kernels.
      old = device.device_kind.startswith(('TPU v2', 'TPU v3', 'TPU v4'))
      return 'xla_recompute' if old else 'pallas'
  return 'cudnn' if _cudnn_serves(settings, device) else 'xla_recompute'


def resolved(settings: ModelSettings, device: Any) -> ModelSettings:
  """The settings with what `choose` says, for programs that are to run there.

  Raises:
    ConfigError: the implementation that they name is not for this device.
  """
  chosen = choose(settings, device)
  if chosen == 'pallas' and device.platform != 'tpu':
    raise ConfigError(
      "model.attention='pallas' is for TPUs and would be interpreted on "
      f"{device.platform}; use 'auto'"
    )
  if chosen == 'cudnn' and not _cudnn_serves(settings, device):
    raise ConfigError(
      "model.attention='cudnn' needs a GPU of compute capability 8.0 or later "
      f'(not {device.device_kind}), bfloat16 or float16, and heads of at most '
      "128 values, a multiple of 8; use 'auto'"
    )
  return dataclasses.replace(settings, attention=chosen)


def _cudnn_serves(settings: ModelSettings, device: Any) -> bool:
  """Whether cuDNN's flash attention takes these heads on this device."""
  head_size = settings.hidden_size // settings.num_heads
  return (
    settings.dtype in ('bfloat16', 'float16')
    and (hardware.capability(device) or 0) >= 8
    and head_size <= 128
    and head_size % 8 == 0
  )


def even_length(settings: ModelSettings, length: int) -> int:
  """The length; the next one where attention's gradient takes no odd ones.

  `attend` masks what is beyond the true length.
  """
  chosen = choose(settings, sharding.device())
  return length + length % 2 if chosen == 'cudnn' else length


def _jax_attention(
  qkv_BTW: chex.Array, num_heads: int, rope: bool,
  implementation: Literal['xla', 'cudnn'] = 'xla', length: int | None = None,
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
  if not hardware.multiplies(sharding.device(), q.dtype.name):
    # JAX asks for products of this very type, which cannot be compiled.
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
  lengths = None if length in (None, T) else jnp.full(B, length, jnp.int32)
  out = jax.nn.dot_product_attention(
    q, k, v, implementation=implementation, query_seq_lengths=lengths,
    key_value_seq_lengths=lengths,
  )  # fmt: skip
  return out.reshape(B, T, W // 3).astype(qkv_BTW.dtype)
