"""The model's sizes, initialisation, layers and one-step gradient."""

import functools

import flax.traverse_util
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from hrm_jax.errors import ConfigError
from hrm_jax.models import HRM, layers
from hrm_jax.models.hrm import State

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
  return HRM(**(defaults | fields))


def _inputs(model, seed=0):
  rng = np.random.default_rng(seed)
  inputs = rng.integers(0, model.vocab_size, (B, model.seq_len))
  puzzles = rng.normal(size=(B, model.puzzle_emb_ndim))
  return inputs.astype(np.int32), puzzles.astype(np.float32)


@functools.cache
def _variables(model):
  return jax.jit(model.init)(jax.random.key(0), *_inputs(model))


def _flat(tree):
  return flax.traverse_util.flatten_dict(tree, sep='/')


def test_standard_size_has_the_published_number_of_parameters():
  model = HRM(vocab_size=11, seq_len=81)
  variables = jax.eval_shape(
    model.init,
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, 81), jnp.int32),
    jax.ShapeDtypeStruct((1, 512), jnp.float32),
  )
  leaves = jax.tree.leaves(variables['params'])
  assert sum(leaf.size for leaf in leaves) == 27_275_266
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}


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
  model = _model(hidden_size=2**14, puzzle_emb_ndim=0, dtype=jnp.bfloat16)

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


def _level(model, name, blocks):
  """A function of (parameters, z, injection), from the layers alone."""
  level = layers.Level(
    num_blocks=blocks,
    hidden_size=D,
    num_heads=model.num_heads,
    expansion=model.expansion,
    rope=True,
    dtype=jnp.float32,
  )
  return lambda params, *args: level.apply({'params': params[name]}, *args)


def _unrolled(model, stop, params, z, x):
  """The specification's loop, `stop` around all but the last updates."""
  H = _level(model, 'H_level', model.H_layers)
  L = _level(model, 'L_level', model.L_layers)
  z_H, z_L = stop(z)
  for h in range(1, model.H_cycles + 1):
    for l in range(1, model.L_cycles + 1):  # noqa: E741
      z_L = L(params, z_L, z_H + x)
      if (h, l) != (model.H_cycles, model.L_cycles):
        z_L = stop(z_L)
    z_H = H(params, z_H, z_L)
    if h != model.H_cycles:
      z_H = stop(z_H)
  return z_H, z_L


def _relative(a, b):
  """‖a - b‖ / ‖b‖ over all leaves."""
  a, b = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (a, b))
  return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


@pytest.mark.parametrize('H_cycles, L_cycles', [(1, 1), (2, 3)])
def test_gradient_is_that_of_the_last_update_of_each_level(H_cycles, L_cycles):
  variables = _variables(_model())
  model = _model(H_cycles=H_cycles, L_cycles=L_cycles)
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
  one_step, one_step_z = gradients(
    functools.partial(_unrolled, model, jax.lax.stop_gradient)
  )
  # The same float32 sums, grouped otherwise by the compiler, through up to
  # eight blocks that each amplify a little.
  assert _relative(z, one_step_z) < 1e-5
  for level in ('H_level', 'L_level'):
    assert _relative(of_params[level], one_step[0][level]) < 1e-5
  assert _relative(of_x, one_step[2]) < 1e-5
  # None at all into the state that came in.
  assert not any(np.any(leaf) for leaf in of_z)
  if (H_cycles, L_cycles) != (1, 1):
    # This is an approximation: the whole gradient is another one.
    whole, _ = gradients(functools.partial(_unrolled, model, lambda z: z))
    assert any(np.any(leaf) for leaf in whole[1])
    assert _relative(whole[0]['L_level'], of_params['L_level']) > 0.05
    assert _relative(whole[0]['H_level'], of_params['H_level']) > 0.05
    assert _relative(whole[2], of_x) > 0.05


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

  assert model.prefix_len == P
  assert model.num_tokens == P + S
  padded = np.zeros((B, P * D), np.float32)
  padded[:, :E] = puzzles
  expected = np.concatenate([padded.reshape(B, P, D), tokens[inputs]], axis=1)
  if pos_encodings == 'learned':
    expected = (expected + positions) / np.sqrt(2)
  # An addition and two products.
  np.testing.assert_allclose(x, expected * np.sqrt(D), rtol=0, atol=1e-5)


def test_puzzle_embedding_len_needs_a_puzzle_embedding():
  assert _model(puzzle_emb_ndim=0, puzzle_emb_len=4).prefix_len == 0


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
  cos, sin = layers.rope_tables(length, len(x_K))
  return np.asarray(layers.apply_rope(jnp.asarray(x), cos, sin))[0, :, 0]


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
  attention = layers.Attention(D, 4, rope=False, dtype=jnp.float32)
  x = 3 * np.random.default_rng(0).normal(size=(B, S, D)).astype(np.float32)
  variables = jax.jit(attention.init)(jax.random.key(0), x)
  ours = jax.jit(attention.apply)(variables, x)
  params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables)
  expected = _attention_64(params['params'], x, 4)
  # Scores of size 10 in float32, their exponentials, sums of 32 products.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('pos_encodings', ['rope', 'learned'])
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
  # Two cells swapped: without positions all other cells would be the same.
  swapped = inputs.copy()
  swapped[:, [3, 7]] = swapped[:, [7, 3]]
  assert np.abs(run(swapped)[:, 0] - before[:, 0]).max() > 1e-4


def test_block_is_post_norm_with_swiglu():
  block = layers.Block(D, 4, 4.0, rope=False, dtype=jnp.float32)
  x = 3 * np.random.default_rng(0).normal(size=(B, S, D)).astype(np.float32)
  variables = jax.jit(block.init)(jax.random.key(0), x)
  ours = jax.jit(block.apply)(variables, x)

  def norm(x):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5)

  params = jax.tree.map(lambda p: np.asarray(p, np.float64), variables)
  params = params['params']
  x = norm(x + _attention_64(params['attention'], x, 4))
  gate, up = np.split(x @ params['mlp']['gate_up']['kernel'], 2, axis=-1)
  hidden = gate / (1 + np.exp(-gate)) * up
  expected = norm(x + hidden @ params['mlp']['down']['kernel'])
  # As for attention, and sums of 256 products of numbers of size 1.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('pos_encodings', ['rope', 'learned'])
def test_bfloat16_activations_keep_float32_parameters(pos_encodings):
  model = _model(dtype=jnp.bfloat16, pos_encodings=pos_encodings)
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
    ({'pos_encodings': 'none'}, "pos_encodings='none'"),
    ({'puzzle_emb_ndim': 65, 'puzzle_emb_len': 2}, 'puzzle_emb_len=2'),
    ({'H_layers': 0}, 'H_layers=0'),
    ({'L_layers': 0}, 'L_layers=0'),
    ({'H_cycles': 0}, 'H_cycles=0'),
    ({'L_cycles': 0}, 'L_cycles=0'),
  ],
)
def test_attributes_that_do_not_fit_are_named(fields, message):
  with pytest.raises(ConfigError, match=message):
    _model(**fields).validate()


def test_odd_heads_fit_learned_positions():
  _model(num_heads=32, pos_encodings='learned').validate()
