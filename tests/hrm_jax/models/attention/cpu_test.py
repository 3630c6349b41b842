"""The CPU's attention against float64, in value and gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrm_jax.models.attention import cpu as cpu_attention
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.models.rope import rope_tables
from hrm_jax.settings import HRMSettings

B, T, N, K = 3, 10, 4, 6


def _exact(qkv, rope):
  """Attention in float64, head by head."""
  q, k, v = np.split(qkv.astype(np.float64).reshape(B, T, 3 * N, K), 3, axis=2)
  if rope:
    cos, sin = (table[:, None, :] for table in rope_tables(T, K))

    def turn(x):
      first, second = np.split(x, 2, axis=-1)
      return x * cos + np.concatenate([-second, first], axis=-1) * sin

    q, k = turn(q), turn(k)
  scores = np.einsum('btnk,bsnk->bnts', q, k) / np.sqrt(K)
  p = np.exp(scores - scores.max(axis=-1, keepdims=True))
  p /= p.sum(axis=-1, keepdims=True)
  return np.einsum('bnts,bsnk->btnk', p, v).reshape(B, T, N * K)


# One head at a time, some of them, and all at once.
@pytest.fixture(params=[1, 4 * T**2, 10**6])
def scores(request, monkeypatch):
  monkeypatch.setattr(cpu_attention, '_SCORES', request.param)


@pytest.mark.parametrize('rope', [True, False])
@pytest.mark.parametrize('scale', [1.0, 30.0])
def test_value_and_gradient(scores, rope, scale):
  rng = np.random.default_rng(0)
  qkv = (scale * rng.normal(size=(B, T, 3 * N * K))).astype(np.float32)
  d_out, step = rng.normal(size=(B, T, N * K)), rng.normal(size=qkv.shape)

  def attend(qkv):
    return attention.attend(qkv, N, rope, 'cpu')

  out, pullback = jax.vjp(attend, jnp.asarray(qkv))
  np.testing.assert_allclose(out, _exact(qkv, rope), atol=3e-6 * scale**2)

  (gradient,) = pullback(jnp.asarray(d_out, jnp.float32))
  h = 1e-6
  ahead, behind = (
    np.sum(d_out * _exact(qkv + sign * h * step, rope)) for sign in (1, -1)
  )
  wanted = (ahead - behind) / (2 * h)
  # Against the sum of the sizes, as the terms may cancel.
  size = np.sum(np.abs(gradient * step))
  assert abs(np.sum(gradient * step) - wanted) < 3e-6 * scale * size


def test_gradient_is_that_of_jax(scores):
  rng = np.random.default_rng(1)
  qkv = jnp.asarray(rng.normal(size=(B, T, 3 * N * K)), jnp.float32)
  d_out = jnp.asarray(rng.normal(size=(B, T, N * K)), jnp.float32)

  def gradient(name):
    out = jax.vjp(lambda x: attention.attend(x, N, True, name), qkv)
    return out[1](d_out)[0]

  np.testing.assert_allclose(gradient('cpu'), gradient('xla'), atol=3e-6)


def test_bfloat16_keeps_its_dtype():
  qkv = jax.random.normal(jax.random.key(0), (B, T, 3 * N * K), jnp.bfloat16)
  out, pullback = jax.vjp(lambda x: attention.attend(x, N, True, 'cpu'), qkv)
  (gradient,) = pullback(out)
  assert out.dtype == gradient.dtype == jnp.bfloat16
  wanted = attention.attend(qkv.astype(jnp.float32), N, True, 'xla')
  np.testing.assert_allclose(out.astype(jnp.float32), wanted, atol=0.03)


def test_the_cpu_takes_it_by_itself():
  def traced(name):
    attend = functools.partial(
      attention.attend, num_heads=N, rope=True, implementation=name
    )
    return str(jax.make_jaxpr(attend)(jnp.zeros((1, T, 3 * N * K))))

  chosen = attention.choose(HRMSettings(), jax.devices()[0])
  assert 'custom_vjp' in traced(chosen)
  assert 'custom_vjp' not in traced('xla')
