"""Traces against the updates of a segment done one by one, by hand."""

import jax
import numpy as np
import pytest

from hrm_jax.inference import probes
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings
from tests import builders

B, S, V, D = 8, 9, 12, 32
# More than the rows would do at most.
SEGMENTS = 3
SETTINGS = ActSettings(2, 0.1, 'q_learning')
FIELDS = dict(
  vocab_size=V, seq_len=S, hidden_size=D, num_heads=4, puzzle_emb_ndim=D
)
MODEL = builders.model(
  'hrm', H_layers=1, L_layers=1, H_cycles=2, L_cycles=2, **FIELDS
)
# Of values of size 10, amplified by up to 18 blocks.
TOLERANCE = 2e-4


def _inputs():
  rng = np.random.default_rng(7)
  inputs = rng.integers(0, V, (B, S), np.int32)
  return rng.normal(size=(B, D)).astype(np.float32), inputs


def _variables(model):
  """Parameters whose Q values are not all the same."""
  puzzles, inputs = _inputs()
  variables = jax.jit(model.init)(jax.random.key(0), inputs, puzzles)
  rng = np.random.default_rng(8)
  q_head = {
    'kernel': rng.normal(size=(D, 2)).astype(np.float32),
    'bias': np.zeros(2, np.float32),
  }
  return variables | {'params': variables['params'] | {'q_head': q_head}}


@pytest.fixture(scope='module')
def variables():
  return _variables(MODEL)


@pytest.fixture(scope='module')
def traced(variables):
  run = probes.sharded_trace(MODEL, SETTINGS, SEGMENTS, sharding.make_mesh())
  return jax.device_get(run(variables, *_inputs()))


@pytest.fixture(scope='module')
def by_hand(variables):
  """The same from the two levels, called one after the other."""
  puzzles, inputs = _inputs()
  low = jax.jit(lambda x: MODEL.apply(variables, x, method=_level('L_level')))
  high = jax.jit(lambda x: MODEL.apply(variables, x, method=_level('H_level')))
  heads = jax.jit(lambda z: MODEL.apply(variables, z, method='heads'))
  x = MODEL.apply(variables, inputs, puzzles, method='embed')
  z = MODEL.apply(variables, B, method='initial_state')
  tokens, sure, q, residuals = [], [], [], []

  def note(before, after, answering):
    logits, _ = heads(answering)
    best = np.sort(logits, axis=-1)
    # No answer that is compared may hang on a rounding error.
    sure.append(best[..., -1] - best[..., -2] > 2 * TOLERANCE)
    tokens.append(np.argmax(logits, axis=-1))
    change = np.asarray(after - before).reshape(B, -1)
    residuals.append(np.sqrt(np.sum(np.square(change), axis=-1)))

  for _ in range(SEGMENTS):
    for _ in range(MODEL.settings.H_cycles):
      for _ in range(MODEL.settings.L_cycles):
        z_L = low(z.z_L + z.z_H + x)
        old, z = z, z._replace(z_L=z_L)
        note(old.z_L, z_L, z._replace(z_H=high(z.z_H + z_L)))
      old, z = z, z._replace(z_H=high(z.z_H + z.z_L))
      note(old.z_H, z.z_H, z)
    q.append(heads(z)[1])
  shape = (SEGMENTS, -1, B)
  return (
    np.reshape(tokens, (*shape, S)),
    np.reshape(sure, (*shape, S)),
    np.stack(q),
    np.reshape(residuals, shape),
  )


def _level(name):
  return lambda model, x: getattr(model, name)(x)


def test_each_update_is_answered_and_measured(traced, by_hand):
  tokens, sure, q, residuals = by_hand
  assert tokens.shape[1] == len(MODEL.settings.update_levels) == 6
  assert sure.mean() > 0.99
  np.testing.assert_array_equal(traced.tokens[sure], tokens[sure])
  np.testing.assert_allclose(traced.q, q, atol=TOLERANCE)
  np.testing.assert_allclose(traced.residuals, residuals, rtol=TOLERANCE)
  assert traced.tokens.dtype == np.uint8
  # Each update brings something new, but that of z_H, which makes lasting what
  # the answer after the last one of z_L had tried.
  changes = np.diff(tokens.astype(int), axis=1).any(axis=(0, 2, 3))
  assert changes.tolist() == [level == 'L' for level in 'LHLLH']


def test_rows_would_halt_by_their_own_rule(traced):
  wanted = traced.q[..., 0] > traced.q[..., 1]
  np.testing.assert_array_equal(traced.halts, wanted)
  assert wanted.any() and not wanted.all()


def test_levels_are_named_in_order():
  assert MODEL.settings.update_levels == 'LLHLLH'
  assert builders.model('direct', **FIELDS).settings.update_levels == 'H'


@pytest.mark.parametrize('kind', ['hrm', 'recurrent_transformer'])
def test_a_walk_ends_where_the_segment_does(kind, variables):
  model = MODEL
  if kind != 'hrm':
    model = builders.model(kind, layers=1, **FIELDS)
    variables = _variables(model)
  puzzles, inputs = _inputs()

  @jax.jit
  def both(variables):
    x = model.apply(variables, inputs, puzzles, method='embed')
    z = model.apply(variables, B, method='initial_state')
    straight = model.apply(variables, z, x, method='segment_without_gradient')
    walked, seen = model.apply(
      variables, z, x, lambda *states: states, method='walk'
    )
    return z, straight, walked, seen

  z, straight, walked, (before, after, answering) = both(variables)
  updates = len(model.settings.update_levels)
  for field in z._fields:
    end = getattr(walked, field)
    np.testing.assert_allclose(end, getattr(straight, field), atol=1e-5)
    # One update begins where the last one ended.
    steps = getattr(before, field), getattr(after, field)
    assert len(steps[0]) == updates
    np.testing.assert_array_equal(steps[0][0], getattr(z, field))
    np.testing.assert_array_equal(steps[0][1:], steps[1][:-1])
    np.testing.assert_array_equal(steps[1][-1], end)
  # At the end the answer is not provisional.
  np.testing.assert_array_equal(answering.z_H[-1], walked.z_H)
