"""The model's sizes, initialisation, layers and one-step gradient."""

import functools

import flax.traverse_util
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.models import HRM, TRM, layers, rope
from hrm_jax.models.transformer import Output
from hrm_jax.models.two_state import State
from tests import builders

EPS = float(np.finfo(np.float32).eps)
B, S, D, V = 2, 9, 32, 12


def _model(**fields):
  defaults = dict(
    vocab_size=V,
    seq_len=S,
    hidden_size=D,
    num_heads=4,
    H_layers=1,
    L_layers=1,
    puzzle_emb_ndim=D,
  )
  return builders.model('hrm', **(defaults | fields))


def _inputs(model, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.integers(0, model.vocab_size, (B, model.seq_len))
  puzzles = rng.normal(size=(B, model.settings.puzzle_emb_ndim))
  return inputs.astype(np.int32), puzzles.astype(np.float32)


@functools.cache
def _variables(model):
  return jax.jit(model.init)(jax.random.key(0), *_inputs(model))


def _flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


def _parameters(model):
  """Trained values, the puzzle table not counted."""
  variables = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, model.seq_len), jnp.int32),
    jax.ShapeDtypeStruct((1, 512), jnp.float32),
  )
  leaves = jax.tree.leaves(variables['params'])
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}
  return sum(leaf.size for leaf in leaves)


def test_standard_size_has_the_published_number_of_parameters():
  assert _parameters(builders.model('hrm', 11, 81)) == 27_275_266


@pytest.mark.parametrize('seq_len', [81, 900])
@pytest.mark.parametrize('kind', ['direct', 'recurrent_transformer'])
def test_what_hrm_is_compared_with_has_its_size(kind, seq_len):
  ratio = _parameters(builders.model(kind, 12, seq_len)) / _parameters(
    builders.model('hrm', 12, seq_len)
  )
  assert 0.98 < ratio < 1.02


@pytest.mark.parametrize(
  'fields, millions',
  [
    (dict(seq_len=81), 7),
    (dict(seq_len=900), 7),
    (dict(seq_len=81, mlp_t=True, pos_encodings='none'), 5),
    (dict(seq_len=900, mlp_t=True), 19),
  ],
)
def test_trm_has_the_published_sizes(fields, millions):
  assert (
    round(_parameters(builders.model('trm', vocab_size=12, **fields)) / 1e6)
    == millions
  )


@pytest.mark.parametrize(
  'vocab_size, seq_len, parameters',
  [(12, 900, 13_663_234), (11, 81, 13_662_210)],
)
def test_urm_has_the_published_sizes(vocab_size, seq_len, parameters):
  model = builders.model('urm', vocab_size, seq_len)
  assert _parameters(model) == parameters


@pytest.mark.parametrize(
  'hidden_size, expansion, width',
  [
    (512, 4, 1536),  # 1365.3 → 1365 → 6 · 256
    (384, 4, 1024),  # exactly 4 · 256 is not rounded further
    (32, 4, 256),
    (128, 3, 256),
    (96.5 * 4, 1, 512),  # 257.3 → 257 → 2 · 256
    (384.5, 1, 256),  # 256.3 → 256: rounded before it is rounded up
  ],
)
def test_swiglu_width(hidden_size, expansion, width):
  assert layers.swiglu_width(hidden_size, expansion) == width


def test_initial_kernels_have_their_standard_deviation():
  model = _model(
    vocab_size=128,
    seq_len=120,
    hidden_size=64,
    pos_encodings='learned',
    H_layers=2,
  )
  params = _flat(_variables(model)['params'])
  assert not np.any(params.pop('q_head/kernel'))
  np.testing.assert_array_equal(params.pop('q_head/bias'), [-5, -5])
  assert len(params) == 2 + 1 + 3 * 4
  for name, value in params.items():
    # Embeddings have 1/√D: for those, D takes the place of the fan in.
    fan_in = 64 if name.endswith('embedding') else value.shape[0]
    std = fan_in**-0.5
    # The sample's std is off by 0.6/√n at 1σ for this distribution (kurtosis
    # 2.4): 5σ. Without the correction for the truncation it would be 12 %
    # too small. Kernels out × in would have the fan in of their other side.
    bound = 3 / value.size**0.5
    assert bound < 0.06
    assert abs(np.std(value) / std - 1) < bound, name
    assert abs(np.mean(value)) < 5 * std / value.size**0.5, name
    # Truncated at ±2σ of the untruncated normal: 2 / 0.87963 of its std.
    assert np.abs(value).max() < 2.274 * std, name
    assert np.abs(value).max() > 2.1 * std, name
  kernels = [value.ravel()[:4096] for value in params.values()]
  for i, first in enumerate(kernels):
    for second in kernels[:i]:
      assert np.any(first != second)


def test_initial_vectors_are_two_unit_draws():
  # Wide enough to tell the statistics; jit drops the parameters unmade.
  model = _model(hidden_size=2**14, puzzle_emb_ndim=0, dtype='bfloat16')

  @jax.jit
  def constants(key):
    inputs = jnp.zeros((1, S), jnp.int32)
    return model.init(key, inputs, jnp.zeros((1, 0)))['constants']

  vectors = constants(jax.random.key(0))
  assert vectors.keys() == {'z_H_init', 'z_L_init'}
  for vector in vectors.values():
    assert vector.shape == (2**14,)
    assert vector.dtype == jnp.bfloat16
    vector = np.asarray(vector, np.float64)
    # 5σ and the truncation as for the kernels; bfloat16 rounds by 0.4 %.
    assert abs(vector.std() - 1) < 3 / 2**7
    assert 2.1 < np.abs(vector).max() < 2.274 * (1 + 2**-8)
  h, l = (np.asarray(v, np.float64) for v in vectors.values())  # noqa: E741
  # H and L are independent: the same key would give a correlation of 1.
  assert abs(np.mean(h * l)) < 5 / 2**7


def test_initial_state_is_the_same_for_all_rows_and_tokens():
  model = _model()
  variables = _variables(model)
  z = model.apply(variables, 3, method='initial_state')
  for name in ('z_H', 'z_L'):
    vector = variables['constants'][f'{name}_init']
    expected = np.broadcast_to(vector, (3, 1 + S, D))
    np.testing.assert_array_equal(getattr(z, name), expected)


_SMALL_STACK = dict(
  vocab_size=V,
  seq_len=S,
  hidden_size=D,
  num_heads=4,
  puzzle_emb_ndim=D,
  layers=2,
)


def _level(model, name, blocks, mlp_t=False):
  """A function of (parameters, input), from the layers alone."""
  level = layers.Level(blocks, model.settings, mlp_t)
  return lambda params, x: level.apply({'params': params[name]}, x)


def _unrolled(model, learning, params, z, x):
  """The specification's loop; only the last `learning` updates learn."""
  if isinstance(model, TRM):
    H = L = _level(
      model, 'L_level', model.settings.layers, model.settings.mlp_t
    )
  else:
    H = _level(model, 'H_level', model.settings.H_layers)
    L = _level(model, 'L_level', model.settings.L_layers)
  left = model.settings.H_cycles * (model.settings.L_cycles + 1)

  def stop(x):
    return jax.lax.stop_gradient(x) if left >= learning else x

  z_H, z_L = map(stop, z)
  for _ in range(model.settings.H_cycles):
    for _ in range(model.settings.L_cycles):
      left -= 1
      z_L = stop(L(params, z_L + z_H + x))
    left -= 1
    z_H = stop(H(params, z_H + z_L))
  return z_H, z_L


def _relative(a, b):
  """‖a - b‖ / ‖b‖ over all leaves."""
  a, b = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (a, b))
  return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


_SMALL_TRM = dict(
  vocab_size=V,
  seq_len=S,
  hidden_size=D,
  num_heads=4,
  puzzle_emb_ndim=D,
  puzzle_emb_len=1,
  layers=1,
)


@pytest.mark.parametrize(
  'model, learning',
  [
    (_model(H_cycles=1, L_cycles=2), 2),
    (_model(H_cycles=2, L_cycles=2), 2),
    (_model(H_cycles=2, L_cycles=2, gradient='last_cycle'), 3),
    (_model(H_cycles=2, L_cycles=2, gradient='last_1'), 1),
    # It sets in at an update of H, and goes on over a whole cycle.
    (_model(H_cycles=2, L_cycles=2, gradient='last_4'), 4),
    (_model(H_cycles=2, L_cycles=2, gradient='full'), 6),
    (
      builders.model('trm', H_cycles=2, L_cycles=2, mlp_t=True, **_SMALL_TRM),
      3,
    ),
    (
      builders.model(
        'trm', H_cycles=2, L_cycles=2, gradient='one_step', **_SMALL_TRM
      ),
      2,
    ),
    (
      builders.model(
        'trm', H_cycles=2, L_cycles=1, gradient='full', **_SMALL_TRM
      ),
      4,
    ),
  ],
)
def test_gradient_is_that_of_the_last_updates(model, learning):
  assert model.settings.gradient_updates == learning
  variables = _variables(model)
  rng = np.random.default_rng(0)
  shape = (B, model.num_tokens, D)
  z_H, z_L, x, weights_H, weights_L = rng.normal(size=(5, *shape)).astype(
    np.float32
  )

  def ours(params, z, x):
    z = model.apply(
      variables | {'params': params}, State(*z), x, method='segment'
    )
    return tuple(z)

  def gradients(segment):
    def weighted(params, z, x):
      z_H, z_L = segment(params, z, x)
      # Training's loss sees z_L through z_H alone; here both count.
      return jnp.sum(z_H * weights_H) + jnp.sum(z_L * weights_L), (z_H, z_L)

    return jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(
      variables['params'], (z_H, z_L), x
    )

  (of_params, of_z, of_x), z = gradients(ours)
  (right_params, _, right_x), right_z = gradients(
    functools.partial(_unrolled, model, learning)
  )
  levels = ['H_level', 'L_level'] if isinstance(model, HRM) else ['L_level']
  # The same float32 sums, grouped otherwise by the compiler, through up to
  # eight blocks that each amplify a little.
  assert _relative(z, right_z) < 1e-5
  for level in levels:
    if np.any(jax.flatten_util.ravel_pytree(right_params[level])[0]):
      assert _relative(of_params[level], right_params[level]) < 1e-5
    else:
      # The last update alone is one of H.
      assert (learning, level) == (1, 'L_level')
      assert not any(map(np.any, jax.tree.leaves(of_params[level])))
  assert np.any(right_x) == (learning > 1)
  if learning > 1:
    assert _relative(of_x, right_x) < 1e-5
  # None at all into the state that came in.
  assert not any(np.any(leaf) for leaf in of_z)


@pytest.mark.parametrize(
  'model',
  [
    _model(H_cycles=3, L_cycles=2),
    builders.model(
      'trm', H_cycles=2, L_cycles=2, gradient='full', **_SMALL_TRM
    ),
    builders.model('recurrent_transformer', **_SMALL_STACK),
    builders.model('urm', **_SMALL_STACK),
    builders.model('direct', **_SMALL_STACK),
  ],
)
def test_a_segment_without_gradient_is_the_same_segment(model):
  variables = _variables(model)
  x = jax.random.normal(jax.random.key(0), (B, model.num_tokens, D))
  z = model.apply(variables, B, method='initial_state')

  def total(variables, z, x, method):
    found = model.apply(variables, z, x, method=method)
    return sum(map(jnp.sum, jax.tree.leaves(found))), found

  def both(method):
    return jax.grad(total, argnums=(0, 1, 2), has_aux=True)(
      variables, z, x, method
    )

  gradients, found = both('segment_without_gradient')
  learning, expected = both('segment')
  jax.tree.map(
    # The same operations, compiled apart.
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
    found,
    expected,
  )
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
  assert any(np.any(leaf) for leaf in jax.tree.leaves(learning))


def test_direct_prediction_is_one_pass_of_the_stack():
  model = builders.model('direct', **_SMALL_STACK)
  variables = _variables(model)
  assert 'constants' not in variables
  x = np.random.default_rng(0).normal(size=(B, model.num_tokens, D))
  x = x.astype(np.float32)
  once = _level(model, 'level', 2)(variables['params'], x)
  for z in (
    model.apply(variables, B, method='initial_state'),
    Output(jnp.full_like(x, 7.0)),
  ):
    found = model.apply(variables, z, x, method='segment')
    # The same operations, compiled apart.
    np.testing.assert_allclose(found.z_H, once, rtol=0, atol=1e-5)


def test_recurrent_transformer_adds_the_input_in_every_segment():
  model = builders.model('recurrent_transformer', **_SMALL_STACK)
  variables = _variables(model)
  rng = np.random.default_rng(0)
  z, x, weights = rng.normal(size=(3, B, model.num_tokens, D)).astype(
    np.float32
  )

  def weighted(z, x):
    found = model.apply(variables, Output(z), x, method='segment').z_H
    return jnp.sum(found * weights), found

  (of_z, of_x), found = jax.grad(weighted, argnums=(0, 1), has_aux=True)(z, x)
  expected = _level(model, 'level', 2)(variables['params'], z + x)
  np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
  assert np.any(of_x)
  assert not np.any(of_z)
  initial = model.apply(variables, B, method='initial_state').z_H
  vector = variables['constants']['z_H_init']
  np.testing.assert_array_equal(initial, np.broadcast_to(vector, z.shape))


@pytest.mark.parametrize(
  'gradient, learning',
  [
    ('last_cycle', 3),
    ('one_step', 1),
    pytest.param('last_4', 4, marks=pytest.mark.slow),
    pytest.param('full', 6, marks=pytest.mark.slow),
  ],
)
def test_urm_learns_from_its_last_passes(gradient, learning):
  model = builders.model(
    'urm', H_cycles=2, L_cycles=3, gradient=gradient, **_SMALL_STACK
  )
  assert model.settings.gradient_updates == learning
  assert model.settings.block_passes() == (6 * 2, learning * 2)
  variables = _variables(model)
  level = _level(model, 'level', 2)
  rng = np.random.default_rng(0)
  z, x, weights = rng.normal(size=(3, B, model.num_tokens, D)).astype(
    np.float32
  )

  def ours(params, z, x):
    changed = variables | {'params': params}
    return model.apply(changed, Output(z), x, method='segment').z_H

  def unrolled(params, z, x):
    for left in reversed(range(6)):
      if left >= learning:
        z = jax.lax.stop_gradient(level(params, z + x))
      else:
        # The input is added in each pass, and learns from each.
        z = level(params, (jax.lax.stop_gradient(z) if left == 5 else z) + x)
    return z

  def gradients(segment):
    return jax.jit(
      jax.value_and_grad(
        lambda *arguments: jnp.sum(segment(*arguments) * weights), (0, 1, 2)
      )
    )(variables['params'], z, x)

  (value, of_ours), (expected, of_unrolled) = map(gradients, (ours, unrolled))
  assert abs(value - expected) < 1e-4 * np.sqrt(x.size)
  for found, right in zip(of_ours, of_unrolled, strict=True):
    if np.any(jax.flatten_util.ravel_pytree(right)[0]):
      assert _relative(found, right) < 1e-5
    else:
      assert not any(map(np.any, jax.tree.leaves(found)))
  # None into the segment before.
  assert not np.any(of_ours[1])


def test_a_filter_sees_the_token_before_and_itself():
  rng = np.random.default_rng(0)
  h = rng.normal(size=(2, 5, 3)).astype(np.float32)
  kernel = rng.normal(size=(2, 1, 3)).astype(np.float32)
  bias = rng.normal(size=3).astype(np.float32)
  variables = {'params': {'kernel': kernel, 'bias': bias}}
  ours = layers.TokenFilter('float32').apply(variables, h)
  for b, t, f in np.ndindex(h.shape):
    before = h[b, t - 1, f] if t else 0.0
    c = kernel[0, 0, f] * before + kernel[1, 0, f] * h[b, t, f] + bias[f]
    # Five roundings of numbers of size 1.
    assert abs(ours[b, t, f] - c / (1 + np.exp(-c))) < 20 * EPS


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_filters_start_uniform_and_are_kept_as_set(dtype):
  model = builders.model('urm', filter_dtype=dtype, **_SMALL_STACK)
  mlp = _variables(model)['params']['level']['blocks_1']['mlp']
  kernel, bias = mlp['filter']['kernel'], mlp['filter']['bias']
  assert (kernel.shape, bias.shape) == ((2, 1, 256), (256,))
  assert kernel.dtype == bias.dtype == jnp.dtype(dtype)
  assert mlp['gate_up']['kernel'].dtype == jnp.float32
  values = np.concatenate([np.ravel(kernel), bias]).astype(np.float64)
  limit = 2**-0.5
  assert np.abs(values).max() <= limit * (1 + 2**-8)
  # Of 768 draws: 5σ of the mean and of the standard deviation.
  assert abs(values.mean()) < 5 * limit / 3**0.5 / 768**0.5
  assert abs(values.std() / (limit / 3**0.5) - 1) < 5 * 0.45 / 768**0.5


@pytest.mark.parametrize(
  'E, length, P', [(D, 0, 1), (D + 8, 0, 2), (D, 3, 3), (5, 0, 1), (0, 0, 0)]
)
@pytest.mark.parametrize('pos_encodings', ['rope', 'learned'])
def test_embedding_is_prefix_then_tokens(E, length, P, pos_encodings):
  model = _model(
    puzzle_emb_ndim=E, puzzle_emb_len=length, pos_encodings=pos_encodings
  )
  rng = np.random.default_rng(0)
  tokens = rng.normal(size=(V, D)).astype(np.float32)
  positions = rng.normal(size=(P + S, D)).astype(np.float32)
  inputs, puzzles = _inputs(model)
  params = {'token_embedding': tokens, 'position_embedding': positions}
  if pos_encodings == 'rope':
    del params['position_embedding']
  constants = {'z_H_init': np.zeros(D), 'z_L_init': np.zeros(D)}
  variables = {'params': params, 'constants': constants}
  x = model.apply(variables, inputs, puzzles, method='embed')

  assert model.settings.prefix_len == P
  assert model.num_tokens == P + S
  padded = np.zeros((B, P * D), np.float32)
  padded[:, :E] = puzzles
  expected = np.concatenate([padded.reshape(B, P, D), tokens[inputs]], axis=1)
  if pos_encodings == 'learned':
    expected = (expected + positions) / np.sqrt(2)
  # An addition and two products.
  np.testing.assert_allclose(x, expected * np.sqrt(D), rtol=0, atol=1e-5)


def test_puzzle_embedding_len_needs_a_puzzle_embedding():
  assert _model(puzzle_emb_ndim=0, puzzle_emb_len=4).settings.prefix_len == 0


def test_logits_are_of_the_cells_and_q_of_the_first_token():
  model = _model(puzzle_emb_ndim=2 * D)
  variables = _variables(_model())
  rng = np.random.default_rng(0)
  z_H = rng.normal(size=(B, 2 + S, D)).astype(np.float32)
  q_kernel = rng.normal(size=(D, 2)).astype(np.float32)
  params = variables['params'] | {
    'q_head': {'kernel': q_kernel, 'bias': np.float32([1, 2])}
  }
  z = model.apply(variables, B, method='initial_state')._replace(z_H=z_H)
  logits, q = model.apply(variables | {'params': params}, z, method='heads')
  kernel = np.asarray(params['lm_head']['kernel'], np.float64)
  # Sums of 32 products of numbers of size 1.
  np.testing.assert_allclose(logits, z_H[:, 2:] @ kernel, rtol=0, atol=2e-5)
  expected = z_H[:, 0].astype(np.float64) @ q_kernel + [1, 2]
  np.testing.assert_allclose(q, expected, rtol=0, atol=2e-5)


def _rotated(x_K, length):
  """One vector rotated to each position, [T, K]."""
  x = np.broadcast_to(x_K, (1, length, 1, len(x_K)))
  cos, sin = (t[:, None] for t in rope.rope_tables(length, len(x_K)))
  return np.asarray(rope.apply_rope(jnp.asarray(x), cos, sin))[0, :, 0]


def test_rotary_positions_are_complex_rotations():
  K, T = 16, 40
  x = np.random.default_rng(0).normal(size=K).astype(np.float32)
  angles = np.outer(np.arange(T), 10000.0 ** (-2 * np.arange(K // 2) / K))
  turned = (x[: K // 2] + 1j * x[K // 2 :]) * np.exp(1j * angles)
  expected = np.concatenate([turned.real, turned.imag], axis=-1)
  # Angles up to 40 in float32.
  np.testing.assert_allclose(_rotated(x, T), expected, rtol=0, atol=40 * EPS)


def test_rotary_scores_depend_on_the_distance_alone():
  K, T = 16, 40
  q, k = np.random.default_rng(0).normal(size=(2, K)).astype(np.float32)
  scores = _rotated(q, T) @ _rotated(k, T).T
  # K products, each off by the angle's error.
  np.testing.assert_allclose(
    scores[1:, 1:], scores[:-1, :-1], rtol=0, atol=K * 40 * EPS
  )
  # But on that they do depend, on its sign too.
  assert np.unique(np.round(scores[:, 0], 2)).size > T / 2
  assert abs(scores[0, 1] - scores[1, 0]) > 0.1


def test_rms_norm_is_computed_in_float32():
  rng = np.random.default_rng(0)
  x = (3 * rng.normal(size=(4, 512))).astype(np.float32)
  x[3] = 1e-4  # where epsilon counts
  for dtype, ulp in [(jnp.float32, 4 * EPS), (jnp.bfloat16, 2.0**-8)]:
    rounded = jnp.asarray(x, dtype)
    ours = layers.rms_norm(rounded)
    assert ours.dtype == dtype
    exact = np.asarray(rounded, np.float64)
    exact /= np.sqrt(np.mean(exact**2, axis=-1, keepdims=True) + 1e-5)
    # bfloat16: the one rounding at the end, at most half an ulp. Computed in
    # bfloat16, three roundings would add up.
    np.testing.assert_allclose(
      np.asarray(ours, np.float64), exact, rtol=ulp * (1 + 1e-4)
    )


def _attention_64(params, x, num_heads):
  """Full attention without positions, by its definition in float64."""
  qkv = x.astype(np.float64) @ params['qkv']['kernel']
  heads = np.split(qkv, 3 * num_heads, axis=-1)
  out = []
  for n in range(num_heads):
    q, k, v = heads[n], heads[num_heads + n], heads[2 * num_heads + n]
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out.append(weights / weights.sum(-1, keepdims=True) @ v)
  return np.concatenate(out, axis=-1) @ params['out']['kernel']


def test_attention_is_full_softmax_attention():
  settings = _model(pos_encodings='none', dtype='float32').settings
  mixer = layers.Attention(settings)
  x = 3 * np.random.default_rng(0).normal(size=(B, S, D)).astype(np.float32)
  variables = jax.jit(mixer.init)(jax.random.key(0), x)
  ours = jax.jit(mixer.apply)(variables, x)
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables)
  expected = _attention_64(params['params'], x, 4)
  # Scores of size 10 in float32, their exponentials, sums of 32 products.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('pos_encodings', ['rope', 'learned', 'none'])
def test_every_cell_sees_every_cell_and_its_place(pos_encodings):
  model = _model(pos_encodings=pos_encodings)
  variables = _variables(model)
  inputs, puzzles = _inputs(model)
  inputs[:] = np.arange(S) % V
  run = jax.jit(lambda inputs: model.apply(variables, inputs, puzzles)[0])
  before = run(inputs)
  changed = inputs.copy()
  changed[0, -1] += 1
  after = run(changed)
  # Not causal: the last cell tells the first; rows stay apart.
  assert np.abs(after[0, 0] - before[0, 0]).max() > 1e-4
  np.testing.assert_array_equal(after[1], before[1])
  # Two cells swapped: without positions all other cells are the same.
  swapped = inputs.copy()
  swapped[:, [3, 7]] = swapped[:, [7, 3]]
  difference = np.abs(run(swapped)[:, 0] - before[:, 0]).max()
  if pos_encodings == 'none':
    assert difference < 1e-5
  else:
    assert difference > 1e-4


@pytest.mark.parametrize('mlp_t', [False, True])
def test_block_is_post_norm_with_swiglu(mlp_t):
  block = layers.Block(_model(pos_encodings='none').settings, mlp_t)
  x = 3 * np.random.default_rng(0).normal(size=(B, S, D)).astype(np.float32)
  variables = jax.jit(block.init)(jax.random.key(0), x)
  ours = jax.jit(block.apply)(variables, x)

  def norm(x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5)

  params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables)
  params = params['params']

  def swiglu(params, x):
    gate, up = np.split(x @ params['gate_up']['kernel'], 2, axis=-1)
    return gate / (1 + np.exp(-gate)) * up @ params['down']['kernel']

  if mlp_t:
    # Over the tokens of each feature, the norm too.
    x = x.swapaxes(1, 2)
    x = norm(x + swiglu(params['mlp_t'], x)).swapaxes(1, 2)
  else:
    x = norm(x + _attention_64(params['attention'], x, 4))
  expected = norm(x + swiglu(params['mlp'], x))
  # As for attention, and sums of 256 products of numbers of size 1.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('pos_encodings', ['rope', 'learned'])
def test_bfloat16_activations_keep_float32_parameters(pos_encodings):
  model = _model(dtype='bfloat16', pos_encodings=pos_encodings)
  variables = jax.eval_shape(model.init, jax.random.key(0), *_inputs(model))
  inputs, puzzles = _inputs(model)

  def q_and_logits(params, puzzles, constants):
    variables = {'params': params, 'constants': constants}
    x = model.apply(variables, inputs, puzzles, method='embed')
    z = model.apply(variables, B, method='initial_state')
    z = model.apply(variables, z, x, method='segment')
    logits, q = model.apply(variables, z, method='heads')
    # The state stays what it was, as scans and carries demand.
    assert {a.dtype for a in (x, *z, logits)} == {jnp.dtype('bfloat16')}
    assert q.dtype == jnp.float32
    return jnp.sum(q) + jnp.sum(logits.astype(jnp.float32))

  gradients = jax.eval_shape(
    jax.grad(q_and_logits, argnums=(0, 1)),
    variables['params'],
    puzzles,
    variables['constants'],
  )
  for leaf in jax.tree.leaves((variables['params'], gradients)):
    assert leaf.dtype == jnp.float32


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'num_heads': 5}, 'hidden_size=32 .*num_heads=5'),
    ({'num_heads': 32}, 'odd'),
    ({'pos_encodings': 'sine'}, "pos_encodings='sine'"),
    ({'gradient': 'all'}, "gradient='all'.* last_1 … last_6"),
    ({'gradient': 'last_0'}, "gradient='last_0'"),
    ({'gradient': 'last_7'}, "gradient='last_7'.* 6 updates"),
    ({'puzzle_emb_ndim': 65, 'puzzle_emb_len': 2}, 'puzzle_emb_len=2'),
    ({'H_layers': 0}, 'H_layers=0'),
    ({'L_layers': 0}, 'L_layers=0'),
    ({'H_cycles': 0}, 'H_cycles=0'),
    ({'L_cycles': 0}, 'L_cycles=0'),
  ],
)
def test_attributes_that_do_not_fit_are_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    _model(**fields)


def test_odd_heads_fit_learned_positions():
  _model(num_heads=32, pos_encodings='learned')
