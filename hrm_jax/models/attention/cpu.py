"""Attention for the CPU: few passes over the scores, none of them kept.

JAX's own function runs at a third of a CPU's rate or less: it goes through all
heads' scores at once, several times, far outside the caches, and multiplies by
their transpose in the order that Eigen is slow at.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from hrm_jax.models.rope import apply_rope, rope_tables

# Scores that are worked on at once, 1 MiB in float32: they stay in the cache.
_SCORES = 2**18


def attention(qkv_BTW: chex.Array, num_heads: int, rope: bool) -> chex.Array:
  """Attention of all heads, as `attention.attend` takes and gives them."""
  B, T, W = qkv_BTW.shape
  K = W // (3 * num_heads)
  # Heads as rows: [3, B · N, T, K].
  x = qkv_BTW.reshape(B, T, 3, num_heads, K).transpose(2, 0, 3, 1, 4)
  q, k, v = x.reshape(3, B * num_heads, T, K)
  if rope:
    tables = rope_tables(T, K)
    q, k = apply_rope(q, *tables), apply_rope(k, *tables)
  out = _rows(q * K**-0.5, k, v)
  out = out.reshape(B, num_heads, T, K).swapaxes(1, 2)
  return out.reshape(B, T, num_heads * K)


@jax.custom_vjp
def _rows(q_RTK: chex.Array, k_RTK: chex.Array, v_RTK: chex.Array):
  """softmax(q · kᵀ) · v for each of R rows."""
  return _forward(q_RTK, k_RTK, v_RTK)[0]


def _forward(q, k, v):
  out, log_sums = _map(_forward_of_some, q, k, v)
  return out, (q, k, v, out, log_sums)


def _forward_of_some(q, k, v):
  scores = _product('rqk,rsk->rqs', q, k)
  largest = jnp.max(scores, axis=-1, keepdims=True)
  exps = jnp.exp(scores - largest)
  sums = jnp.sum(exps, axis=-1, keepdims=True)
  out = _product('rqs,rsk->rqk', exps.astype(v.dtype), v) / sums
  return out.astype(v.dtype), largest + jnp.log(sums)


def _backward(residuals, d_out):
  return _map(_backward_of_some, *residuals, d_out)


def _backward_of_some(q, k, v, out, log_sums, d_out):
  p = jnp.exp(_product('rqk,rsk->rqs', q, k) - log_sums)
  d_p = _product('rqk,rsk->rqs', d_out, v)
  # d_s = p · (d_p - Σ p · d_p), and Σ p · d_p = Σ out · d_out.
  d_s = p * (d_p - jnp.sum(out * d_out, axis=-1, keepdims=True))
  p, d_s = p.astype(v.dtype), d_s.astype(v.dtype)
  d_q = _product('rqs,rsk->rqk', d_s, k)
  # [K, T] first: Eigen is twice as slow where the scores are transposed.
  d_k = _product('rqk,rqs->rks', q, d_s).swapaxes(1, 2)
  d_v = _product('rqk,rqs->rks', d_out, p).swapaxes(1, 2)
  return tuple(d.astype(v.dtype) for d in (d_q, d_k, d_v))


_rows.defvjp(_forward, _backward)


_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _map(function, *arrays):
  """`function` of a few rows at a time, so that scores stay in the cache."""
  rows, length = arrays[0].shape[:2]
  some = min(rows, max(1, _SCORES // length**2))
  while rows % some:
    some -= 1
  if some == rows:
    return function(*arrays)
  parts = [x.reshape(-1, some, *x.shape[1:]) for x in arrays]
  results = jax.lax.map(lambda part: function(*part), parts)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), results)
