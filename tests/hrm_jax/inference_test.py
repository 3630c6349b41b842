"""Predictions against a loop by hand, row by row and sharded."""

import jax
import numpy as np
import pytest

from hrm_jax import act, inference, sharding
from hrm_jax.errors import ConfigError
from hrm_jax.losses import IGNORE_LABEL
from hrm_jax.models import HRM

B, S, V, R, D = 8, 9, 12, 24, 32
SEGMENTS = 4
SETTINGS = {
  'q_learning': act.ActSettings(SEGMENTS, 0.5, 'q_learning'),
  'halt_only': act.ActSettings(SEGMENTS, 0.5, 'halt_only'),
}
# Of Q values of size 10, after up to 16 blocks of float32 that amplify what
# two compilations of the same sums differ by.
Q_TOLERANCE = 1e-4
MODEL = HRM(
  vocab_size=V,
  seq_len=S,
  hidden_size=D,
  num_heads=4,
  H_layers=1,
  L_layers=1,
  puzzle_emb_ndim=D,
)


@pytest.fixture(scope='module')
def weights():
  """Variables and a puzzle table for which rows halt at different times."""
  rng = np.random.default_rng(100)
  inputs, puzzles = np.zeros((1, S), np.int32), np.zeros((1, D), np.float32)
  variables = jax.jit(MODEL.init)(jax.random.key(0), inputs, puzzles)
  q_head = {
    'kernel': rng.normal(size=(D, 2)).astype(np.float32),
    'bias': np.float32([-3, 0]),
  }
  params = variables['params'] | {'q_head': q_head}
  table = rng.normal(size=(R, D)).astype(np.float32)
  return variables | {'params': params}, table


def _batch(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'inputs': rng.integers(0, V, (B, S), np.int32),
    'labels': rng.integers(0, V, (B, S), np.int32),
    'puzzle_identifiers': rng.permutation(R)[:B].astype(np.int32),
  }


@pytest.fixture(scope='module')
def by_hand(weights):
  """Logits [4, B, S, V] and q [4, B, 2] after each of four segments."""
  variables, table = weights
  batch = _batch()
  puzzles = table[batch['puzzle_identifiers']]

  @jax.jit
  def start(inputs, puzzles):
    x = MODEL.apply(variables, inputs, puzzles, method='embed')
    return MODEL.apply(variables, B, method='initial_state'), x

  @jax.jit
  def segment(z, x):
    z = MODEL.apply(variables, z, x, method='segment')
    return z, *MODEL.apply(variables, z, method='heads')

  z, x = start(batch['inputs'], puzzles)
  logits, q = [], []
  for _ in range(SEGMENTS):
    z, new_logits, new_q = segment(z, x)
    logits.append(np.asarray(new_logits))
    q.append(np.asarray(new_q))
  logits, q = np.stack(logits), np.stack(q)
  # No answer and no halt below may hang on a rounding error.
  best = np.sort(logits, axis=-1)
  assert (best[..., -1] - best[..., -2]).min() > 10 * Q_TOLERANCE
  assert np.abs(q[..., 0] - q[..., 1]).min() > 10 * Q_TOLERANCE
  assert np.abs(q[..., 0]).min() > 10 * Q_TOLERANCE
  return logits, q


@pytest.fixture(scope='module')
def predict():
  """Compiled predictions by mode, halting rule and devices."""
  programs = {}

  def run(weights, batch, mode, halting='q_learning', devices=8):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    key = mode, halting, devices
    if key not in programs:
      programs[key] = inference.sharded_predict(
        MODEL, SETTINGS[halting], mode, mesh
      )
    out = programs[key](*weights, sharding.global_batch(mesh, batch))
    return jax.tree.map(np.asarray, out)

  return run


def _assert_as_after(steps, by_hand, ours):
  """Asserts that row b is answered as after its steps[b] segments."""
  logits, q = by_hand
  rows = np.arange(B)
  np.testing.assert_array_equal(ours.steps, steps)
  np.testing.assert_array_equal(ours.tokens, logits[steps - 1, rows].argmax(-1))
  np.testing.assert_allclose(
    ours.q_halt, q[steps - 1, rows, 0], rtol=0, atol=Q_TOLERANCE
  )
  assert ours.tokens.dtype == np.uint8


def test_fixed_runs_all_segments(weights, by_hand, predict):
  ours = predict(weights, _batch(), 'fixed')
  _assert_as_after(np.full(B, SEGMENTS), by_hand, ours)


@pytest.mark.parametrize('halting', SETTINGS)
def test_act_freezes_each_row_at_its_own_first_halt(
  halting, weights, by_hand, predict
):
  _, q = by_hand
  bar = {'q_learning': q[..., 1], 'halt_only': 0}[halting]
  wants = q[..., 0] > bar
  first = wants.argmax(axis=0) + 1
  steps = np.where(wants.any(axis=0), first, SEGMENTS)
  # Rows must differ, and some must want to go on after their first halt:
  # else stopping all rows at once, or at the last halt, would do.
  assert len(set(steps.tolist())) >= 3
  assert any(not wants[steps[b] - 1 :, b].all() for b in range(B))
  ours = predict(weights, _batch(), 'act', halting)
  _assert_as_after(steps, by_hand, ours)


def test_fixed_does_not_depend_on_q(weights, predict):
  ours = predict(weights, _batch(), 'fixed')
  variables, table = weights
  q_head = {
    'kernel': np.zeros((D, 2), np.float32),
    'bias': np.float32([9, -9]),
  }
  changed = variables | {'params': variables['params'] | {'q_head': q_head}}
  other = predict((changed, table), _batch(), 'fixed')
  np.testing.assert_array_equal(ours.tokens, other.tokens)
  np.testing.assert_array_equal(ours.steps, other.steps)


@pytest.mark.parametrize('mode', inference.HALTING_MODES)
def test_rows_do_not_influence_each_other(mode, weights, predict):
  # An evaluation fills its last batch with rows that nobody reads.
  batch, padded = _batch(), _batch()
  ours = predict(weights, batch, mode)
  padded['inputs'][5:] = 0
  padded['labels'][5:] = IGNORE_LABEL
  padded['puzzle_identifiers'][5:] = 0
  other = predict(weights, padded, mode)
  for a, b in zip(ours, other, strict=True):
    np.testing.assert_array_equal(a[:5], b[:5])
  assert np.any(ours.tokens[5:] != other.tokens[5:])


@pytest.mark.parametrize('mode', inference.HALTING_MODES)
def test_eight_devices_and_one_answer_alike(mode, weights, predict):
  eight = predict(weights, _batch(), mode)
  one = predict(weights, _batch(), mode, devices=1)
  np.testing.assert_array_equal(eight.tokens, one.tokens)
  np.testing.assert_array_equal(eight.steps, one.steps)
  np.testing.assert_array_equal(eight.exact, one.exact)
  np.testing.assert_allclose(eight.q_halt, one.q_halt, rtol=0, atol=Q_TOLERANCE)


def test_accuracy_counts_the_labels_cells_alone(weights, predict):
  batch = _batch()
  tokens = predict(weights, batch, 'fixed').tokens
  wrong = (tokens.astype(np.int32) + 1) % V
  labels = tokens.astype(np.int32)
  labels[1, 0] = wrong[1, 0]
  labels[2] = wrong[2]
  labels[3, 3:] = IGNORE_LABEL
  labels[4, 3:] = IGNORE_LABEL
  labels[4, 0] = wrong[4, 0]
  labels[5] = IGNORE_LABEL
  ours = predict(weights, batch | {'labels': labels}, 'fixed')
  np.testing.assert_array_equal(ours.tokens, tokens)
  np.testing.assert_array_equal(
    # Row 5 has no counted cell: it cannot be right.
    ours.exact,
    [True, False, False, True, False, False, True, True],
  )
  expected = [1, 8 / 9, 0, 1, 2 / 3, 0, 1, 1]
  np.testing.assert_allclose(ours.accuracy, expected, rtol=1e-6)


def test_an_unknown_mode_is_named():
  with pytest.raises(ConfigError, match=r"halting='sometimes'.*fixed, act"):
    inference.sharded_predict(
      MODEL, SETTINGS['q_learning'], 'sometimes', sharding.make_mesh()
    )
