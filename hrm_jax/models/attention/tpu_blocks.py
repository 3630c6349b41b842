"""Blocks of a level as Pallas kernels that hold a whole sequence on a TPU.

XLA writes projections, gates and norms to memory, and this traffic would set
the time of a step. Here a block reads a sequence once, works on it on the chip,
and writes it once. Where gradients flow, a block keeps its input, the output of
its attention heads, the state between its halves and the scale of either norm;
the backward kernels compute projections, scores and gates again.

All sums run in float32. Values are rounded to the activation dtype where a
matrix product takes them; sums of residuals are not rounded.
"""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from hrm_jax.models.attention import tpu as tpu_attention
from hrm_jax.models.attention.tpu import dot, sequence, whole

# Channels of an MLP with a filter whose gradient is computed at a time.
_CHANNELS = 512


class Settings(NamedTuple):
  """The static settings of the kernels; epsilon is the norms'."""

  num_heads: int
  rope: bool
  epsilon: float


class Weights(NamedTuple):
  """The matrices of one block, float32 [rows, columns].

  `filter` is that of `layers.TokenFilter`: the weights of the token before and
  of the token itself, and the bias, [3, F]; None where there is none.
  """

  qkv: chex.Array
  out: chex.Array
  gate_up: chex.Array
  down: chex.Array
  filter: chex.Array | None = None

  def present(self) -> list[chex.Array]:
    """Those that the block has, in order."""
    return [matrix for matrix in self if matrix is not None]


def fits(T: int, D: int, F: int, itemsize: int) -> bool:
  """Whether a block's kernels have room on the chip.

  The largest kernel, the MLP's backward one, holds its weights, their float32
  gradients and its activations for one sequence. At T = 901, D = 512 and
  F = 1536 the compiler asks for 27.4 MB in bfloat16; this function says 28.
  """
  weights = 3 * D * F * (itemsize + 4)
  activations = T * F * (6 + 2 * itemsize)
  return weights + activations <= tpu_attention.VMEM_BYTES


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def level(
  x_BTD: chex.Array, blocks: tuple[Weights, ...], settings: Settings
) -> chex.Array:
  """Applies the blocks in order on one device, as `layers.Level` does."""
  for weights in blocks:
    x_BTD = _forward_call(x_BTD, weights, settings, keep=False)[0]
  return x_BTD


def _level_forward(x_BTD, blocks, settings):
  kept = []
  for weights in blocks:
    out, *between = _forward_call(x_BTD, weights, settings, keep=True)
    kept.append((weights, x_BTD, *between, out))
    x_BTD = out
  return x_BTD, tuple(kept)


def _level_backward(settings, kept, dout):
  gradients = []
  for weights, x, heads, scale, middle, out_scale, out in reversed(kept):
    dout, *mlp = _mlp_backward_call(weights, middle, out, out_scale, dout)
    dout, *attention = _attention_backward_call(
      weights, x, heads, middle, scale, dout, settings
    )
    gradients.append(Weights(*attention, *mlp))
  return dout, tuple(reversed(gradients))


level.defvjp(_level_forward, _level_backward)


def _forward_call(x_BTD, weights, settings, keep) -> list[chex.Array]:
  """A block's output and, with `keep`, what its gradient needs."""
  B, T, D = x_BTD.shape
  F = weights.down.shape[0]
  dtype = x_BTD.dtype
  matrices = [matrix.astype(dtype) for matrix in weights.present()]
  out = [jax.ShapeDtypeStruct((B, T, D), dtype)]
  if keep:
    scale = jax.ShapeDtypeStruct((B, 1, T), jnp.float32)
    out += [out[0], scale, out[0], scale]
  flops = tpu_attention.forward_flops(T, D, settings.num_heads)
  flops += 2 * T * D * (4 * D + 3 * F)
  table = _rope_table(x_BTD, settings)
  return pl.pallas_call(
    functools.partial(
      _forward_kernel, settings=settings, keep=keep, count=len(matrices)
    ),
    grid=(B,),
    in_specs=[
      whole(*table.shape),
      sequence(T, D),
      *(whole(*matrix.shape) for matrix in matrices),
    ],
    out_specs=[sequence(*array.shape[1:]) for array in out],
    out_shape=out,
    scratch_shapes=[pltpu.VMEM((T, 3 * D), dtype), pltpu.VMEM((T, D), dtype)],
    cost_estimate=tpu_attention.cost(
      flops=B * flops,
      exponentials=B * T * (settings.num_heads * T + F),
      moved=[x_BTD, *matrices, *out],
    ),
    **tpu_attention.call_settings(),
  )(table, x_BTD, *matrices)


def _forward_kernel(rope_ref, x_ref, *refs, settings, keep, count):
  weights = Weights(*refs[:count])
  *result_refs, qkv_ref, heads_ref = refs[count:]
  dtype = x_ref.dtype
  x = x_ref[...]
  qkv_ref[...] = dot(x, weights.qkv[...], (1, 0)).astype(dtype)
  tpu_attention.heads_forward(rope_ref, qkv_ref, heads_ref, settings.num_heads)
  sums = x + dot(heads_ref[...], weights.out[...], (1, 0))
  middle, scale = _norm(sums, settings.epsilon)
  middle = middle.astype(dtype)
  gate, up = _gates(middle, weights.gate_up[...], dtype)
  hidden = (gate * jax.nn.sigmoid(gate) * up).astype(dtype)
  if weights.filter is not None:
    filtered, _ = _filtered(hidden, weights.filter[...])
    hidden = (filtered * jax.nn.sigmoid(filtered)).astype(dtype)
  sums = middle + dot(hidden, weights.down[...], (1, 0))
  out, out_scale = _norm(sums, settings.epsilon)
  results = [out.astype(dtype)]
  if keep:
    results += [heads_ref[...], _as_row(scale), middle, _as_row(out_scale)]
  for ref, result in zip(result_refs, results, strict=True):
    ref[...] = result


def _mlp_backward_call(weights, middle, out, out_scale, dout):
  """Returns the gradients at the MLP's input and at its matrices, in order."""
  B, T, D = middle.shape
  F = weights.down.shape[0]
  dtype = middle.dtype
  own = weights.present()[2:]
  matrices, results = [matrix.astype(dtype) for matrix in own], [middle, *own]
  weights_specs = [whole(*matrix.shape) for matrix in own]
  return pl.pallas_call(
    _mlp_backward_kernel,
    grid=(B,),
    in_specs=[
      *(sequence(*x.shape[1:]) for x in (middle, out, out_scale, dout)),
      *weights_specs,
    ],
    out_specs=[sequence(T, D), *weights_specs],
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
    cost_estimate=tpu_attention.cost(
      # gate_up once more, and both products' two gradients.
      flops=B * 2 * T * D * F * (2 + 2 * 3),
      exponentials=B * T * F,
      moved=[middle, out, out_scale, dout, *matrices, *results],
    ),
    **tpu_attention.call_settings(),
  )(middle, out, out_scale, dout, *matrices)


def _mlp_backward_kernel(middle_ref, out_ref, scale_ref, dout_ref, *refs):
  # Two matrices, or three with a filter, and as many gradients.
  gate_up_ref, down_ref, *filter_ref = refs[: len(refs) // 2]
  dmiddle_ref, *dmatrices = refs[len(refs) // 2 :]
  dgate_up_ref, ddown_ref, *dfilter_ref = dmatrices
  _start_at_zero(*dmatrices)
  dtype = middle_ref.dtype
  F = down_ref.shape[0]
  middle = middle_ref[...]
  dsums = _norm_gradient(out_ref[...], scale_ref[...], dout_ref[...])
  dy = dsums.astype(dtype)

  dmiddle = dsums
  # With a filter of some channels at a time: they need more room.
  width = min(F, _CHANNELS) if filter_ref else F
  for start in range(0, F, width):
    gates = slice(start, min(start + width, F))
    ups = slice(F + gates.start, F + gates.stop)
    columns = (
      gate_up_ref[...]
      if width == F
      else jnp.concatenate([gate_up_ref[:, gates], gate_up_ref[:, ups]], axis=1)
    )
    gate, up = _gates(middle, columns, dtype)
    sigmoid = jax.nn.sigmoid(gate)
    silu = gate * sigmoid
    hidden = (silu * up).astype(dtype)
    dhidden = dot(dy, down_ref[gates], (1, 1))
    if filter_ref:
      hidden, dhidden, dfilter = _filter_gradient(
        hidden, dhidden, filter_ref[0][:, gates]
      )
      dfilter_ref[0][:, gates] += dfilter
    ddown_ref[gates] += dot(hidden, dy, (0, 0))
    dup = (dhidden * silu).astype(dtype)
    dgate = dhidden * up * (sigmoid + silu * (1 - sigmoid))
    dgate = dgate.astype(dtype)
    dgate_up_ref[:, gates] += dot(middle, dgate, (0, 0))
    dgate_up_ref[:, ups] += dot(middle, dup, (0, 0))
    dmiddle += dot(dgate, gate_up_ref[:, gates], (1, 1))
    dmiddle += dot(dup, gate_up_ref[:, ups], (1, 1))
  dmiddle_ref[...] = dmiddle.astype(dtype)


def _filtered(hidden_TF, filter_3F):
  """The filter of h before its silu, and h[t − 1], float32 [T, F] each."""
  hidden, weights = hidden_TF.astype(jnp.float32), filter_3F.astype(jnp.float32)
  before = _shifted(hidden, 1)
  return weights[:1] * before + weights[1:2] * hidden + weights[2:], before


def _filter_gradient(hidden_TF, dout_TF, filter_3F):
  """The filter's output, and the gradients at its input and its weights."""
  filtered, before = _filtered(hidden_TF, filter_3F)
  sigmoid = jax.nn.sigmoid(filtered)
  silu = filtered * sigmoid
  dsums = dout_TF * (sigmoid + silu * (1 - sigmoid))
  dfilter = [
    jnp.sum(dsums * seen, axis=0, keepdims=True)
    for seen in (before, hidden_TF.astype(jnp.float32), 1.0)
  ]
  weights = filter_3F.astype(jnp.float32)
  dhidden = weights[1:2] * dsums + _shifted(weights[:1] * dsums, -1)
  return silu.astype(hidden_TF.dtype), dhidden, jnp.concatenate(dfilter)


def _shifted(x_TF, rows):
  """Moved down by one row, or up (−1), with a zero where none came from."""
  zero = jnp.zeros_like(x_TF[:1])
  parts = [zero, x_TF[:-1]] if rows == 1 else [x_TF[1:], zero]
  return jnp.concatenate(parts, axis=0)


def _attention_backward_call(
  weights, x, heads, middle, scale, dmiddle, settings
):
  """Returns the gradients at the block's input, at qkv and at out."""
  B, T, D = x.shape
  dtype = x.dtype
  qkv, out = weights.qkv.astype(dtype), weights.out.astype(dtype)
  results = [x, weights.qkv, weights.out]
  table = _rope_table(x, settings)
  flops = tpu_attention.backward_flops(T, D, settings.num_heads)
  # qkv once more, and both products' two gradients.
  flops += 2 * T * D * D * (3 + 2 * 4)
  weights_specs = [whole(*qkv.shape), whole(*out.shape)]
  return pl.pallas_call(
    functools.partial(_attention_backward_kernel, num_heads=settings.num_heads),
    grid=(B,),
    in_specs=[
      whole(*table.shape),
      *(sequence(*x.shape[1:]) for x in (x, heads, middle, scale, dmiddle)),
      *weights_specs,
    ],
    out_specs=[sequence(T, D), *weights_specs],
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
    scratch_shapes=[
      pltpu.VMEM((T, width), dtype) for width in (3 * D, D, 3 * D)
    ],
    cost_estimate=tpu_attention.cost(
      flops=B * flops,
      exponentials=B * settings.num_heads * T * T,
      moved=[x, heads, middle, scale, dmiddle, qkv, out, *results],
    ),
    **tpu_attention.call_settings(),
  )(table, x, heads, middle, scale, dmiddle, qkv, out)


def _attention_backward_kernel(rope_ref, x_ref, heads_ref, *refs, num_heads):
  middle_ref, scale_ref, dmiddle_ref, *rest = refs
  weights_qkv_ref, weights_out_ref, dx_ref, *rest = rest
  dweights_qkv_ref, dweights_out_ref, qkv_ref, dheads_ref, dqkv_ref = rest
  _start_at_zero(dweights_qkv_ref, dweights_out_ref)
  dtype = x_ref.dtype
  x = x_ref[...]
  dsums = _norm_gradient(middle_ref[...], scale_ref[...], dmiddle_ref[...])
  dy = dsums.astype(dtype)
  dx_ref[...] = dy
  dweights_out_ref[...] += dot(heads_ref[...], dy, (0, 0))
  dheads_ref[...] = dot(dy, weights_out_ref[...], (1, 1)).astype(dtype)
  qkv_ref[...] = dot(x, weights_qkv_ref[...], (1, 0)).astype(dtype)
  tpu_attention.heads_backward(
    rope_ref, qkv_ref, dheads_ref, dqkv_ref, num_heads
  )
  dqkv = dqkv_ref[...]
  dweights_qkv_ref[...] += dot(x, dqkv, (0, 0))
  dx = dx_ref[...] + dot(dqkv, weights_qkv_ref[...], (1, 1))
  dx_ref[...] = dx.astype(dtype)


def _start_at_zero(*refs):
  """Clears the gradients of weights, which are summed over the sequences."""

  @pl.when(pl.program_id(0) == 0)
  def _():
    for ref in refs:
      ref[...] = jnp.zeros_like(ref)


def _gates(x_TD, weights, dtype):
  """Gate and up, float32 [T, F] each, rounded as the layers round them."""
  both = dot(x_TD, weights, (1, 0)).astype(dtype).astype(jnp.float32)
  return jnp.split(both, 2, axis=1)


def _norm(sums_TD, epsilon):
  """Returns the RMS norm in float32 and the scale of each row [T, 1]."""
  mean_square = jnp.mean(jnp.square(sums_TD), axis=-1, keepdims=True)
  scale = jax.lax.rsqrt(mean_square + epsilon)
  return sums_TD * scale, scale


def _norm_gradient(out_TD, scale_1T, dout_TD):
  """The gradient through `_norm`, computed from its output: float32 [T, D]."""
  out, dout = out_TD.astype(jnp.float32), dout_TD.astype(jnp.float32)
  mean = jnp.mean(out * dout, axis=-1, keepdims=True)
  return (dout - out * mean) * _as_column(scale_1T)


# A column [T, 1] would take 128 times its size in memory; a row does not.
def _as_row(column_T1):
  return jnp.broadcast_to(column_T1, (column_T1.shape[0], 128)).T[:1]


def _as_column(row_1T):
  return jnp.broadcast_to(row_1T, (128, row_1T.shape[1])).T[:, :1]


def _rope_table(x_BTD: Any, settings: Settings):
  _, T, D = x_BTD.shape
  return tpu_attention.rope_table(T, D // settings.num_heads, settings.rope)
