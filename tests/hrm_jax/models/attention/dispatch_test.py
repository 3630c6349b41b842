"""Attention and blocks as kernels, against the layers that XLA compiles."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.models import layers
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.models.attention import tpu as tpu_attention
from hrm_jax.models.attention import tpu_blocks
from hrm_jax.parallel import sharding
from hrm_jax.settings import HRMSettings, MeshSettings, ModelSettings, choices
from tests import builders

B, N = 8, 4
# (T, K, rope). Lengths that no tile divides; heads of 64 share a register in
# twos, heads of 16 do not fill one.
SHAPES = [(10, 16, False), (37, 16, True), (37, 64, True)]


def _random(seed, shape, dtype):
  return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def _both(function, *arguments):
  """The value and, for a random gradient at it, those of the arguments."""

  @jax.jit
  def run(*arguments):
    out, vjp = jax.vjp(function, *arguments)
    return out, vjp(_random(9, out.shape, out.dtype))

  to_float = functools.partial(np.asarray, dtype=np.float32)
  return [to_float(x) for x in jax.tree.leaves(run(*arguments))]


def _distance(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def _assert_like_xla(kernel, xla, exact, dtype):
  """Float32: to rounding; bfloat16: as near to the exact as XLA's layers.

  Args:
    kernel: what `_both` gives.
    xla: the same, by XLA in the same dtype.
    exact: the same, by XLA in float32 from the same numbers.
    dtype: of the first two.
  """
  for ours, theirs, best in zip(kernel, xla, exact, strict=True):
    if dtype == jnp.float32:
      assert _distance(ours, theirs) < 2e-6
    else:
      assert _distance(ours, best) < 1.25 * _distance(theirs, best)
      assert _distance(ours, best) < 0.02


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize(('T', 'K', 'rope'), SHAPES)
@pytest.mark.parametrize('implementation', ['pallas', 'xla_recompute'])
def test_attention_is_that_of_xla(implementation, dtype, T, K, rope):
  # Scores of size 3, so that the softmax is not flat.
  qkv = 2 * _random(T, (2, T, 3 * N * K), dtype)

  def run(implementation, qkv):
    return _both(lambda x: attention.attend(x, N, rope, implementation), qkv)

  _assert_like_xla(
    run(implementation, qkv),
    run('xla', qkv),
    run('xla', qkv.astype(jnp.float32)),
    dtype,
  )


def _level(implementation, fusion, dtype, rope=True, mlp='swiglu'):
  settings = HRMSettings(
    mlp=mlp,
    num_heads=N,
    pos_encodings='rope' if rope else 'none',
    attention=implementation,
    fusion=fusion,
    dtype=jnp.dtype(dtype).name,
  )
  return layers.Level(2, settings, mlp_t=False)


def _variables(mlp):
  """Parameters of `_level`, by hidden size."""
  level = _level('xla', 'block', jnp.float32, mlp=mlp)
  return {
    D: level.init(jax.random.key(0), jnp.zeros((1, 2, D)))
    for D in (N * 16, N * 64)
  }


@pytest.fixture(scope='module')
def variables():
  return _variables('swiglu')


@pytest.fixture(scope='module')
def filtering():
  return _variables('conv_swiglu')


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(('T', 'K', 'rope'), SHAPES)
def test_blocks_in_kernels_are_those_of_layers(variables, dtype, T, K, rope):
  variables = variables[N * K]
  x = _random(T, (2, T, N * K), dtype)

  def run(implementation, dtype):
    level = _level(implementation, 'block', dtype, rope)
    return _both(level.apply, variables, x.astype(dtype))

  _assert_like_xla(
    run('pallas', dtype), run('xla', dtype), run('xla', jnp.float32), dtype
  )


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_blocks_filter_in_kernels_as_in_layers(filtering, dtype):
  # F is 768 here: the last of the parts that are worked on is smaller.
  variables, x = filtering[N * 64], _random(0, (2, 37, N * 64), dtype)

  def run(implementation, dtype):
    level = _level(implementation, 'block', dtype, mlp='conv_swiglu')
    return _both(level.apply, variables, x.astype(dtype))

  ours = run('pallas', dtype)
  # It is the kernel, and not what it falls back to.
  level = _level('pallas', 'block', dtype, mlp='conv_swiglu')
  jaxpr = jax.make_jaxpr(level.apply)(variables, x)
  assert len(list(_calls(jaxpr.jaxpr))) == 2
  _assert_like_xla(ours, run('xla', dtype), run('xla', jnp.float32), dtype)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_blocks_compute_the_same_with_and_without_gradient(variables, dtype):
  variables, x = variables[N * 16], _random(0, (2, 37, N * 16), dtype)
  apply = _level('pallas', 'block', dtype).apply
  np.testing.assert_allclose(
    apply(variables, x).astype(jnp.float32),
    jax.vjp(apply, variables, x)[0].astype(jnp.float32),
    # One program or two: XLA may order the sums of its own.
    atol=2e-6 if dtype == jnp.float32 else 0.02,
  )


@pytest.mark.parametrize(
  ('settings', 'fusion'),
  [
    ({}, 'attention'),
    ({}, 'block'),
    ({'fsdp': 2}, 'block'),
    # Here only the heads are in a kernel, whatever it is to compute.
    ({'tensor': 2}, 'block'),
  ],
)
def test_kernels_on_eight_devices_are_those_on_one(variables, fusion, settings):
  variables = variables[N * 16]
  x, dout = (_random(i, (B, 10, N * 16), jnp.float32) for i in range(2))
  level = _level('pallas', fusion, jnp.float32)
  mesh = sharding.make_mesh(settings=MeshSettings(**settings))

  @jax.jit
  def run(variables, x):
    with sharding.using(mesh):
      out, vjp = jax.vjp(level.apply, variables, x)
      return level.apply(variables, x), out, vjp(dout)

  placed = jax.device_put(x, sharding.by_batch(mesh))
  here = jax.device_put(variables, sharding.replicated(mesh))
  plain = _level('xla', fusion, jnp.float32)
  out, vjp = jax.vjp(plain.apply, variables, x)
  expected = (out, out, vjp(dout))
  for ours, theirs in zip(
    jax.tree.leaves(run(here, placed)), jax.tree.leaves(expected), strict=True
  ):
    assert _distance(np.asarray(ours), np.asarray(theirs)) < 2e-6


def _calls(jaxpr):
  """The equations of all kernels in a program."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'pallas_call':
      yield equation
    else:
      for inner in _inner(equation):
        yield from _calls(inner)


def _inner(equation):
  for value in jax.tree.leaves(
    list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
  ):
    value = getattr(value, 'jaxpr', value)
    if hasattr(value, 'eqns'):
      yield value


def _product_flops(jaxpr):
  """Of the matrix products of a program."""
  total = 0
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      (contracted, _), _ = equation.params['dimension_numbers']
      left = equation.invars[0].aval
      depth = np.prod([left.shape[axis] for axis in contracted])
      total += 2 * depth * equation.outvars[0].aval.size
    times = equation.params.get('length', 1)
    total += times * sum(_product_flops(inner) for inner in _inner(equation))
  return total


@pytest.mark.parametrize('fusion', choices(ModelSettings, 'fusion'))
def test_kernels_tell_what_they_compute(variables, fusion):
  variables, x = variables[N * 64], _random(0, (3, 37, N * 64), jnp.float32)
  level = _level('pallas', fusion, jnp.float32)

  def run(variables, x):
    out, vjp = jax.vjp(level.apply, variables, x)
    return level.apply(variables, x), vjp(out)

  calls = list(_calls(jax.make_jaxpr(run)(variables, x).jaxpr))
  # Of two blocks: forward twice, once with gradient; and back.
  assert len(calls) == {'attention': 6, 'block': 8}[fusion]
  for call in calls:
    stated = call.params['cost_estimate']
    products = len(x) * _product_flops(call.params['jaxpr'])
    # Softmax, too, is counted.
    assert products <= stated.flops < 1.1 * products
    moved = sum(v.aval.size * v.aval.dtype.itemsize for v in call.invars)
    moved += sum(v.aval.size * v.aval.dtype.itemsize for v in call.outvars)
    assert 0.95 * moved < stated.bytes_accessed <= moved


def test_blocks_without_room_on_the_chip_have_attention_kernels_alone(
  variables, monkeypatch
):
  # The paper's sizes, and three times as wide.
  assert tpu_blocks.fits(901, 512, 1536, 2)
  assert not tpu_blocks.fits(901, 1536, 4096, 2)
  variables, x = variables[N * 64], _random(0, (3, 37, N * 64), jnp.float32)
  level = _level('pallas', 'block', jnp.float32)

  def kernels():
    # A function of its own: a traced one is kept.
    jaxpr = jax.make_jaxpr(lambda v, x: level.apply(v, x))(variables, x).jaxpr
    return [
      dict(call.params)['jaxpr'].debug_info.func_src_info
      for call in _calls(jaxpr)
    ]

  whole = kernels()
  monkeypatch.setattr(tpu_attention, 'VMEM_BYTES', 0)
  apart = kernels()
  # Of two blocks, one kernel each.
  assert len(whole) == len(apart) == 2
  assert 'tpu_blocks' in whole[0]
  assert 'attention/tpu.py' in apart[0]


def _device(platform, kind='', capability=None):
  """A described device, with what `attention.choose` reads of one."""
  fields = {'platform': platform, 'device_kind': kind}
  if capability:
    fields['compute_capability'] = capability
  return types.SimpleNamespace(**fields)


_H100 = _device('gpu', 'NVIDIA H100 80GB HBM3', '9.0')
_T4 = _device('gpu', 'Tesla T4', '7.5')


@pytest.mark.parametrize(
  ('device', 'fields', 'expected'),
  [
    (_device('cpu', 'cpu'), {}, 'cpu'),
    (_device('tpu', 'TPU v5 lite'), {}, 'pallas'),
    (_device('tpu', 'TPU v4'), {}, 'xla_recompute'),
    (_H100, {}, 'cudnn'),
    (_device('gpu', 'NVIDIA A100', '8.0'), {'dtype': 'float16'}, 'cudnn'),
    (_device('gpu', 'NVIDIA B200', '10.0'), {}, 'cudnn'),
    (_H100, {'dtype': 'float32'}, 'xla_recompute'),
    # Heads of 128, 256 and 4.
    (_H100, {'num_heads': 4}, 'cudnn'),
    (_H100, {'num_heads': 2}, 'xla_recompute'),
    (_H100, {'num_heads': 128}, 'xla_recompute'),
    (_T4, {'dtype': 'float16'}, 'xla_recompute'),
    (_device('gpu', 'AMD Instinct', 'gfx942'), {}, 'xla_recompute'),
    # The kind of device that a mesh tells of, whose capability is not known.
    (_device('gpu', 'NVIDIA H100 80GB HBM3'), {}, 'xla_recompute'),
  ],
)
def test_auto_goes_by_the_device(device, fields, expected):
  settings = HRMSettings(**fields)
  assert attention.choose(settings, device) == expected
  assert attention.resolved(settings, device).attention == expected
  # What is asked for by name is that.
  settings = dataclasses.replace(settings, attention='xla')
  assert attention.choose(settings, device) == 'xla'


@pytest.mark.parametrize(
  ('device', 'fields', 'message'),
  [
    (_device('cpu', 'cpu'), {'attention': 'pallas'}, 'is for TPUs'),
    (_device('cpu', 'cpu'), {'attention': 'cudnn'}, 'needs a GPU.*not cpu'),
    (_T4, {'attention': 'cudnn'}, r'8\.0 or later .not Tesla T4'),
    (_H100, {'attention': 'cudnn', 'num_heads': 2}, 'at most 128 values'),
  ],
)
def test_attention_that_a_device_cannot_do_is_refused(device, fields, message):
  with pytest.raises(ConfigError, match=f"{message}.*use 'auto'"):
    attention.resolved(HRMSettings(**fields), device)


def test_recomputed_scores_are_not_kept():
  qkv = _random(0, (2, 37, 3 * N * 16), jnp.float32)

  def kept(implementation):
    _, vjp = jax.vjp(
      lambda x: attention.attend(x, N, True, implementation), qkv
    )
    return max(x.size for x in jax.tree.leaves(vjp))

  assert kept('xla') >= 2 * N * 37 * 37
  assert kept('xla_recompute') == kept('pallas') == qkv.size


def test_rope_table_without_rope_turns_nothing():
  table = tpu_attention.rope_table(5, 4, rope=False)
  np.testing.assert_array_equal(table, [[1] * 4 + [0] * 4] * 5)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (dict(attention='flash'), "model.attention='flash' is unknown"),
    (dict(attention='cudnn'), "needs model.dtype='bfloat16' or 'float16'"),
    (dict(fusion='all'), "model.fusion='all' is unknown"),
  ],
)
def test_settings_that_do_not_exist_are_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    builders.model('hrm', vocab_size=12, seq_len=9, **fields)


@pytest.mark.parametrize('length', [10, 37])
def test_blocks_by_cudnn_mask_what_makes_a_length_even(
  variables, monkeypatch, length
):
  """Of odd ones JAX refuses the gradient; its own attention answers here."""
  computed, asked = jax.nn.dot_product_attention, []

  def as_on_a_gpu(query, key, value, implementation, **lengths):
    asked.append((implementation, query.shape[1]))
    return computed(query, key, value, implementation='xla', **lengths)

  variables, x = variables[N * 16], _random(0, (2, length, N * 16), jnp.float32)
  level = _level('auto', 'block', jnp.float32)
  expected = _both(level.apply, variables, x)
  # In float32, which cuDNN does not take, a masked position would show.
  monkeypatch.setattr(attention, 'choose', lambda settings, device: 'cudnn')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', as_on_a_gpu)
  _assert_like_xla(
    _both(level.apply, variables, x), expected, expected, jnp.float32
  )
  assert set(asked) == {('cudnn', length + length % 2)}
