"""Attention of whole sequences on a TPU: one Pallas kernel each way.

The sequences of puzzles are short enough (T ≤ 901) that the scores of a head,
T × T in float32, fit on the chip: no blocks of keys, no running softmax and no
padding. A kernel reads the packed projections of one sequence and writes all
its heads; nothing of size T × T ever reaches memory.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from hrm_jax.models.rope import rope_tables
from hrm_jax.parallel import sharding

LANES = 128
# Of the 128 MiB on chip (v5e, v6e) or 64 MiB (v5p).
VMEM_BYTES = 60 * 2**20


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attention(qkv_BTW: chex.Array, num_heads: int, rope: bool) -> chex.Array:
  """Attention of all heads, as `attention.attend`, on one device."""
  B, T, W = qkv_BTW.shape
  D = W // 3
  return pl.pallas_call(
    functools.partial(heads_forward, num_heads=num_heads),
    grid=(B,),
    in_specs=[whole(T, 2 * D // num_heads), sequence(T, W)],
    out_specs=sequence(T, D),
    out_shape=jax.ShapeDtypeStruct((B, T, D), qkv_BTW.dtype),
    cost_estimate=cost(
      flops=B * forward_flops(T, D, num_heads),
      exponentials=B * num_heads * T * T,
      moved=[qkv_BTW, qkv_BTW[..., :D]],
    ),
    **call_settings(),
  )(rope_table(T, D // num_heads, rope), qkv_BTW)


def _forward(qkv_BTW, num_heads, rope):
  return attention(qkv_BTW, num_heads, rope), qkv_BTW


def _backward(num_heads, rope, qkv_BTW, dout_BTD):
  B, T, W = qkv_BTW.shape
  D = W // 3
  dqkv = pl.pallas_call(
    functools.partial(heads_backward, num_heads=num_heads),
    grid=(B,),
    in_specs=[whole(T, 2 * D // num_heads), sequence(T, W), sequence(T, D)],
    out_specs=sequence(T, W),
    out_shape=jax.ShapeDtypeStruct((B, T, W), qkv_BTW.dtype),
    cost_estimate=cost(
      flops=B * backward_flops(T, D, num_heads),
      exponentials=B * num_heads * T * T,
      moved=[qkv_BTW, qkv_BTW, dout_BTD],
    ),
    **call_settings(),
  )(rope_table(T, D // num_heads, rope), qkv_BTW, dout_BTD)
  return (dqkv,)


attention.defvjp(_forward, _backward)


def heads_forward(rope_ref, qkv_ref, out_ref, num_heads: int) -> None:
  """Attention of one sequence, all in VMEM: of qkv [T, 3 · D], out [T, D]."""
  dtype = out_ref.dtype

  def some_heads(at, columns):
    q, k, v = (qkv_ref[:, part] for part in columns)
    outs = []
    for head in at:
      q_TK, k_TK = _turned(q[:, head], rope_ref), _turned(k[:, head], rope_ref)
      scores = dot(q_TK, k_TK, (1, 1)) * q_TK.shape[-1] ** -0.5
      weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
      total = jnp.sum(weights, axis=1, keepdims=True)
      out = dot(weights.astype(dtype), v[:, head], (1, 0)) / total
      outs.append(out.astype(dtype))
    out_ref[:, columns[0]] = jnp.concatenate(outs, axis=-1)

  _for_heads(some_heads, out_ref.shape[-1], num_heads)


def heads_backward(
  rope_ref, qkv_ref, dout_ref, dqkv_ref, num_heads: int
) -> None:
  """Gradient of `heads_forward`; recomputes the softmax.

  Scores lie as keys × queries here, so that of the three products with them
  only the queries' gradient has to turn a T × T matrix round.
  """
  dtype = dqkv_ref.dtype

  def some_heads(at, columns):
    q, k, v = (qkv_ref[:, part] for part in columns)
    douts = dout_ref[:, columns[0]]
    gradients = []
    for head in at:
      q_TK, k_TK = _turned(q[:, head], rope_ref), _turned(k[:, head], rope_ref)
      dout = douts[:, head]
      scale = q_TK.shape[-1] ** -0.5
      scores = dot(k_TK, q_TK, (1, 1)) * scale
      weights = jnp.exp(scores - jnp.max(scores, axis=0, keepdims=True))
      weights /= jnp.sum(weights, axis=0, keepdims=True)
      dv = dot(weights.astype(dtype), dout, (1, 0))
      dweights = dot(v[:, head], dout, (1, 1))
      mean = jnp.sum(weights * dweights, axis=0, keepdims=True)
      dscores = (weights * (dweights - mean) * scale).astype(dtype)
      dq = _rotate(dot(dscores, k_TK, (0, 0)), rope_ref, -1.0)
      dk = _rotate(dot(dscores, q_TK, (1, 0)), rope_ref, -1.0)
      gradients.append((dq, dk, dv))
    for part, heads in zip(columns, zip(*gradients, strict=True), strict=True):
      dqkv_ref[:, part] = jnp.concatenate(heads, axis=-1).astype(dtype)

  _for_heads(some_heads, dout_ref.shape[-1], num_heads)


def _for_heads(some_heads, D: int, num_heads: int) -> None:
  """Calls a function for groups of heads that fill the lanes of a register.

  It takes the columns of each head within its group, and the columns of the
  group among the queries, keys and values.
  """
  K = D // num_heads
  together = max(1, LANES // K)
  if num_heads % together or together * K % LANES:
    # Not aligned to lanes: unrolled, all of it.
    together = num_heads
  width = together * K
  at = [slice(head * K, (head + 1) * K) for head in range(together)]

  def body(group, _):
    starts = [part * D + group * width for part in range(3)]
    columns = [pl.ds(pl.multiple_of(s, width), width) for s in starts]
    some_heads(at, columns)

  jax.lax.fori_loop(0, num_heads // together, body, None)


def forward_flops(T: int, D: int, num_heads: int) -> int:
  """Operations of `heads_forward`, exp apart; 5 on each score."""
  return T * T * (4 * D + 5 * num_heads)


def backward_flops(T: int, D: int, num_heads: int) -> int:
  """Operations of `heads_backward`, exp apart; the scores once more too."""
  return T * T * (10 * D + 9 * num_heads)


def rope_table(T: int, K: int, rope: bool) -> np.ndarray:
  """cos and sin side by side, float32 [T, 2 · K]; of angle 0 without rope."""
  cos, sin = rope_tables(T, K)
  if not rope:
    cos, sin = np.ones_like(cos), np.zeros_like(sin)
  return np.concatenate([cos, sin], axis=-1)


def _turned(x_TK, rope_ref):
  """Queries or keys at their rotary positions (half-rotation form)."""
  return _rotate(x_TK, rope_ref, 1.0).astype(x_TK.dtype)


def _rotate(x_TK, rope_ref, direction):
  """The rotation; in direction -1.0 the inverse, the gradient through it."""
  x = x_TK.astype(jnp.float32)
  K = x.shape[-1]
  cos, sin = rope_ref[:, :K], rope_ref[:, K:]
  halves = [-direction * x[:, K // 2 :], direction * x[:, : K // 2]]
  return x * cos + jnp.concatenate(halves, axis=-1) * sin


def dot(x, y, contracted: tuple[int, int]):
  """A matrix product over an axis of each, summed in float32."""
  of_x, of_y = contracted
  return jax.lax.dot_general(
    x, y, (((of_x,), (of_y,)), ((), ())), preferred_element_type=jnp.float32
  )


def sequence(*shape: int) -> pl.BlockSpec:
  """The block of one sequence of an array [B, *shape]."""
  return pl.BlockSpec((None, *shape), lambda b: (b,) + (0,) * len(shape))


def whole(*shape: int) -> pl.BlockSpec:
  """All of an array, read once for all sequences."""
  return pl.BlockSpec(
    shape, lambda b: (0,) * len(shape), pipeline_mode=pl.Buffered(1)
  )


def cost(flops: int, exponentials: int, moved: list) -> pl.CostEstimate:
  """What a kernel does, for XLA; `moved` are the arrays read or written."""
  return pl.CostEstimate(
    flops=flops,
    transcendentals=exponentials,
    bytes_accessed=sum(x.size * x.dtype.itemsize for x in moved),
  )


def call_settings(vmem_bytes: int = VMEM_BYTES) -> dict:
  """Arguments of every `pallas_call`: without a TPU it is interpreted."""
  return {
    'interpret': sharding.platform() != 'tpu',
    'compiler_params': pltpu.CompilerParams(vmem_limit_bytes=vmem_bytes),
  }
