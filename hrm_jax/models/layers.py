"""Layers of the reasoning models (paper section 2, "Architecture details").

All linear maps keep float32 weights, cast to the activation dtype where used.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from hrm_jax.models.attention import dispatch as attention
from hrm_jax.models.attention import tpu_blocks
from hrm_jax.parallel import sharding
from hrm_jax.settings import ModelSettings

RMS_NORM_EPSILON = 1e-5

# Standard deviation of a unit normal truncated at ±2.
_TRUNCATED_STD = 0.87962566103423978

# Truncated normal with standard deviation 1/√fan_in after truncation.
linear_init = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'truncated_normal'
)


def truncated_normal(stddev: float) -> nn.initializers.Initializer:
  """Normal truncated at ±2σ whose std *after* truncation is `stddev`."""
  return nn.initializers.truncated_normal(stddev / _TRUNCATED_STD)


class Linear(nn.Module):
  """The linear map used throughout: no bias, float32 weights."""

  features: int
  dtype: chex.ArrayDType
  # Equal parts of the features, and the name of their axis: where that is split
  # over a mesh, each device gets its share of every part.
  parts: int = 1
  axis: str | None = None

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    *rows, width = x.shape
    kernel = self.param('kernel', linear_init, (width, self.features))
    if (shares := sharding.parts(self.axis)) > 1:
      kernel = kernel.reshape(width, self.parts, shares, -1).swapaxes(1, 2)
      kernel = kernel.reshape(width, self.features)
      kernel = sharding.constrain(kernel, None, self.axis)
    # One matrix product over all rows: XLA's CPU backend is twice as slow at
    # the gradient of the same product with two batch axes.
    flat = x.astype(self.dtype).reshape(-1, width)
    return (flat @ kernel.astype(self.dtype)).reshape(*rows, self.features)


def rms_norm(x: chex.Array) -> chex.Array:
  """x / RMS(x) over the last axis, without a learned scale, in float32."""
  x32 = x.astype(jnp.float32)
  mean_square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
  return (x32 * jax.lax.rsqrt(mean_square + RMS_NORM_EPSILON)).astype(x.dtype)


def swiglu_width(hidden_size: int, expansion: float) -> int:
  """F: two thirds of expansion · D, rounded up to a multiple of 256."""
  return math.ceil(round(expansion * hidden_size * 2 / 3) / 256) * 256


class Attention(nn.Module):
  """Full (not causal) multi-head attention with optional rotary positions."""

  settings: ModelSettings

  @nn.compact
  def __call__(
    self, x_BTD: chex.Array, length: int | None = None
  ) -> chex.Array:
    settings, D = self.settings, x_BTD.shape[-1]
    # One projection for N query, N key and N value heads, in that order.
    qkv = Linear(3 * D, settings.dtype, 3, 'heads', name='qkv')(x_BTD)
    rope = settings.pos_encodings == 'rope'
    chosen = attention.choose(settings, sharding.device())
    out = attention.attend(qkv, settings.num_heads, rope, chosen, length)
    return Linear(D, settings.dtype, name='out')(out)


class TokenFilter(nn.Module):
  """silu(w₀ · h[t − 1] + w₁ · h[t] + b) for each channel, h[−1] = 0.

  The depthwise convolution of arXiv 2512.14693: a token sees itself and the one
  before it in the flattened sequence, prefix tokens first, whatever row of the
  canvas they are in. No mesh splits the tokens, so none lacks its neighbour.
  """

  # Of the parameters; 'bfloat16' also of the arithmetic.
  param_dtype: str

  @nn.compact
  def __call__(self, h_BTF: chex.Array) -> chex.Array:
    if self.param_dtype == 'bfloat16':
      h_BTF = h_BTF.astype(jnp.bfloat16)
    F = h_BTF.shape[-1]
    # PyTorch's default for two inputs; three axes, as filters have.
    init, dtype = _uniform(2**-0.5), jnp.dtype(self.param_dtype)
    kernel = self.param('kernel', init, (2, 1, F), dtype).astype(h_BTF.dtype)
    bias = self.param('bias', init, (F,), dtype).astype(h_BTF.dtype)
    before_BTF = jnp.pad(h_BTF[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jax.nn.silu(kernel[0] * before_BTF + kernel[1] * h_BTF + bias)


def _uniform(limit: float) -> nn.initializers.Initializer:
  """Uniform in ±`limit`."""
  return lambda key, shape, dtype: jax.random.uniform(
    key, shape, dtype, -limit, limit
  )


class SwiGLU(nn.Module):
  """down(silu(gate(x)) · up(x)) over the last axis, gate and up from one
  projection; with `filter_dtype`, down of the `TokenFilter` of that product."""

  expansion: float
  dtype: chex.ArrayDType
  axis: str | None = None
  filter_dtype: str | None = None

  @nn.compact
  def __call__(self, x: chex.Array) -> chex.Array:
    features = x.shape[-1]
    width = swiglu_width(features, self.expansion)
    gate_up = Linear(2 * width, self.dtype, 2, self.axis, name='gate_up')(x)
    # Of each device's share of the columns, gate and up.
    gate_up = gate_up.reshape(*x.shape[:-1], sharding.parts(self.axis), -1)
    gate, up = jnp.split(gate_up, 2, axis=-1)
    hidden = (jax.nn.silu(gate) * up).reshape(*x.shape[:-1], width)
    dtype = self.dtype
    if self.filter_dtype:
      hidden = TokenFilter(self.filter_dtype, name='filter')(hidden)
      dtype = hidden.dtype
    return Linear(features, dtype, name='down')(hidden)


class Block(nn.Module):
  """Post-norm block: norm(x + f(x)) for a mixer of tokens, then a SwiGLU.

  The mixer is attention or, with `mlp_t`, a SwiGLU over the tokens, whose
  residual and norm run over the tokens too (arXiv 2510.04871).
  """

  settings: ModelSettings
  mlp_t: bool

  @nn.compact
  def __call__(
    self, x_BTD: chex.Array, length: int | None = None
  ) -> chex.Array:
    settings = self.settings
    expansion, dtype = settings.expansion, settings.dtype
    if self.mlp_t:
      x_BDT = x_BTD.swapaxes(1, 2)
      mixed_BDT = SwiGLU(expansion, dtype, name='mlp_t')(x_BDT)
      x_BTD = rms_norm(x_BDT + mixed_BDT).swapaxes(1, 2)
    else:
      mixer = Attention(self.settings, name='attention')
      x_BTD = rms_norm(x_BTD + mixer(x_BTD, length))
    filters = settings.filter_dtype if settings.mlp == 'conv_swiglu' else None
    mlp = SwiGLU(expansion, dtype, 'mlp', filters, name='mlp')
    return rms_norm(x_BTD + mlp(x_BTD))


class Level(nn.Module):
  """One recurrent module, H or L: blocks in order."""

  num_blocks: int
  settings: ModelSettings
  mlp_t: bool = False

  def setup(self):
    self.blocks = [
      Block(self.settings, self.mlp_t) for _ in range(self.num_blocks)
    ]

  def __call__(self, x_BTD: chex.Array) -> chex.Array:
    _, T, D = x_BTD.shape
    F = swiglu_width(D, self.settings.expansion)
    if (
      attention.choose(self.settings, sharding.device()) == 'pallas'
      and self.settings.fusion != 'attention'
      and not self.mlp_t
      # Where heads are split, it would do all of them on every device.
      and sharding.parts('heads') == 1
      and tpu_blocks.fits(T, D, F, x_BTD.dtype.itemsize)
      # Its filter works in the type of the activations.
      and self.settings.filter_dtype in ('float32', self.settings.dtype)
      and not self.is_initializing()
    ):
      return self._kernel(x_BTD)
    even = attention.even_length(self.settings, T)
    if even > T and not self.mlp_t:
      # For all blocks at once: nothing reads what is padded.
      x_BTD = jnp.pad(x_BTD, ((0, 0), (0, even - T), (0, 0)))
    for block in self.blocks:
      x_BTD = block(x_BTD, T)
    return x_BTD[:, :T]

  def pure(self, frozen: bool = False) -> Callable[[chex.Array], chex.Array]:
    """The level as a function of its input, with or without gradient.

    `jax.lax.scan` wants pure functions, and stopping the gradient at the
    parameters keeps the scans without gradient out of differentiation entirely.
    """
    module, variables = self.unbind()
    if frozen:
      variables = jax.lax.stop_gradient(variables)
    return lambda x: module.apply(variables, x)

  def _kernel(self, x_BTD: chex.Array) -> chex.Array:
    def weights(block):
      params = block.variables['params']
      mlp, filters = params['mlp'], None
      if 'filter' in mlp:
        kernel, bias = mlp['filter']['kernel'], mlp['filter']['bias']
        filters = jnp.concatenate([kernel[:, 0], bias[None]])
        filters = filters.astype(jnp.float32)
      return tpu_blocks.Weights(
        params['attention']['qkv']['kernel'],
        params['attention']['out']['kernel'],
        mlp['gate_up']['kernel'],
        mlp['down']['kernel'],
        filters,
      )

    model, rows = self.settings, ('batch', None, None)
    settings = tpu_blocks.Settings(
      model.num_heads, model.pos_encodings == 'rope', RMS_NORM_EPSILON
    )
    return sharding.per_device(
      lambda x, blocks: tpu_blocks.level(x, blocks, settings), (rows, ()), rows
    )(x_BTD, tuple(map(weights, self.blocks)))


def repeat(update: Callable, z: Any, count: int) -> Any:
  """`update` applied `count` times to a state, compiled once."""
  return jax.lax.scan(lambda z, _: (update(z), None), z, length=count)[0]
