"""Measures against theory, NumPy, and the predictions that they repeat."""

import jax
import numpy as np
import pytest

from hrm_jax.inference import predict as inference
from hrm_jax.inference import probes as analysis
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings
from tests import builders

B, S, V, D, R = 16, 9, 12, 32, 24
SEGMENTS = 5
SETTINGS = ActSettings(2, 0.1, 'q_learning')
FIELDS = dict(
  vocab_size=V, seq_len=S, hidden_size=D, num_heads=4, puzzle_emb_ndim=D
)
MODEL = builders.model('hrm', H_layers=1, L_layers=1, **FIELDS)


def _batch():
  rng = np.random.default_rng(7)
  labels = rng.integers(0, V, (B, S), np.int32)
  labels[0] = -100
  return {
    'inputs': rng.integers(0, V, (B, S), np.int32),
    'labels': labels,
    'puzzle_identifiers': rng.permutation(R)[:B].astype(np.int32),
  }


@pytest.fixture(scope='module')
def weights():
  """Variables with Q values that differ, and a puzzle table."""
  batch = _batch()
  rng = np.random.default_rng(8)
  table = rng.normal(size=(R, D)).astype(np.float32)
  variables = jax.jit(MODEL.init)(jax.random.key(0), batch['inputs'], table[:B])
  q_head = {
    'kernel': rng.normal(size=(D, 2)).astype(np.float32),
    'bias': np.zeros(2, np.float32),
  }
  return variables | {'params': variables['params'] | {'q_head': q_head}}, table


def _moments(parts):
  moments = analysis.Moments()
  scatter = jax.jit(analysis.scatter)
  for x, counted in parts:
    moments.add(scatter(x, counted))
  return moments


def test_participation_ratio_of_a_gaussian_is_that_of_its_spectrum():
  rng = np.random.default_rng(0)
  spectrum = 0.7 ** np.arange(24)
  expected = spectrum.sum() ** 2 / np.square(spectrum).sum()
  turned, _ = np.linalg.qr(rng.normal(size=(24, 24)))
  x = rng.normal(size=(20, 2000, 3, 24)) * np.sqrt(spectrum) @ turned + 5.0
  everything = np.ones(2000, bool)
  found = _moments((part.astype(np.float32), everything) for part in x)
  assert analysis.participation_ratio(found.covariance) == pytest.approx(
    expected, rel=0.02
  )


def test_participation_ratio_lies_between_one_and_the_dimensions():
  assert analysis.participation_ratio(3 * np.eye(7)) == pytest.approx(7)
  line = np.outer(np.arange(5), np.arange(5))
  assert analysis.participation_ratio(line) == pytest.approx(1)
  assert np.isnan(analysis.participation_ratio(np.zeros((3, 3))))


def test_moments_of_parts_are_those_of_all_vectors_that_count():
  """Far from zero, where float32 sums of squares would have no digits left."""
  rng = np.random.default_rng(1)
  sizes = [(5, 1), (64, 7), (1, 3)]
  parts, counted = [], []
  for rows, tokens in sizes:
    # Parts that lie apart: their means differ.
    parts.append(
      (rng.normal(1000 + 3 * rows, 1, (rows, tokens, 6))).astype(np.float32)
    )
    counted.append(np.arange(rows) % 4 != 3)
  spoiled = [
    np.where(mask[:, None, None], part, 1e4).astype(np.float32)
    for part, mask in zip(parts, counted, strict=True)
  ]
  found = _moments(zip(spoiled, counted, strict=True))
  whole = np.concatenate(
    [
      part[mask].reshape(-1, 6).astype(np.float64)
      for part, mask in zip(parts, counted, strict=True)
    ]
  )
  assert found.count == len(whole)
  np.testing.assert_allclose(
    found.covariance, np.cov(whole.T, bias=True), rtol=1e-3, atol=1e-3
  )


def _by_hand(variables, table, rows):
  """Each state after each of its own updates, [updates, rows, T, D]."""
  batch = _batch()
  puzzles = table[batch['puzzle_identifiers']]

  @jax.jit
  def run(variables):
    def segment(z, _):
      return MODEL.apply(
        variables, z, x, lambda _, after, __: after, method='walk'
      )

    x = MODEL.apply(variables, batch['inputs'], puzzles, method='embed')
    z = MODEL.apply(variables, B, method='initial_state')
    return jax.lax.scan(segment, z, length=2)[1]

  found = {}
  for name, states in run(variables)._asdict().items():
    own = [f'z_{level}' == name for level in MODEL.settings.update_levels]
    states = np.asarray(states)[:, own][:, :, rows]
    found[name] = states.reshape(-1, *states.shape[2:])
  return found


def test_states_are_pooled_after_their_own_updates(weights):
  variables, table = weights
  batch = _batch()
  puzzles = table[batch['puzzle_identifiers']]
  rows = np.arange(B) % 3 != 2
  measure = analysis.sharded_state_moments(MODEL, 2, sharding.make_mesh())
  moments = {}
  measure(variables, puzzles, batch['inputs'], rows, moments)
  expected = _by_hand(variables, table, rows)
  assert moments.keys() == expected.keys() == {'z_H', 'z_L'}
  for name, states in expected.items():
    for pooling, vectors in (
      ('tokens', states),
      ('mean_token', states.mean(axis=2)),
    ):
      vectors = vectors.reshape(-1, D).astype(np.float64)
      found = moments[name][pooling]
      assert found.count == len(vectors)
      np.testing.assert_allclose(
        found.covariance, np.cov(vectors.T, bias=True), rtol=1e-4, atol=1e-5
      )


@pytest.fixture(scope='module')
def walked(weights):
  walk = analysis.sharded_walk(MODEL, SETTINGS, SEGMENTS, sharding.make_mesh())
  return jax.device_get(walk(*weights, _batch()))


def _predicted(weights, mode, steps):
  settings = ActSettings(steps, 0.1, 'q_learning')
  predict = inference.sharded_predict(
    MODEL, settings, mode, sharding.make_mesh()
  )
  found = predict(*weights, lambda size, rows: iter([_batch()]), B, B)
  return inference.Predictions(*map(np.concatenate, zip(*found, strict=True)))


@pytest.mark.parametrize('steps', [1, SEGMENTS])
def test_a_walk_is_every_number_of_segments_at_once(weights, walked, steps):
  """To the last bit: accuracies are compared for being equal."""
  expected = _predicted(weights, 'fixed', steps)
  for name, values in expected._asdict().items():
    np.testing.assert_array_equal(
      getattr(walked.found, name)[steps - 1], values, err_msg=name
    )
  # Its answer is not known.
  assert not walked.found.exact[:, 0].any()


def test_a_walk_tells_when_rows_halt(weights, walked):
  most = SEGMENTS - 1
  steps = _predicted(weights, 'act', most).steps
  assert len(set(steps.tolist())) > 1
  np.testing.assert_array_equal(
    analysis.steps_to_halt(walked.halts, most), steps
  )


def test_rows_that_never_want_to_halt_take_all_segments():
  halts = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]], bool)
  np.testing.assert_array_equal(analysis.steps_to_halt(halts, 3), [3, 1, 2, 3])
  np.testing.assert_array_equal(analysis.steps_to_halt(halts, 2), [2, 1, 2, 2])
  np.testing.assert_array_equal(analysis.steps_to_halt(halts, 1), [1, 1, 1, 1])


def test_calibration_error_is_that_of_the_bins():
  found = analysis.Calibration(bins=4)
  found.add(np.float32([0.1, 0.2, 1.0]), np.array([False, True, True]))
  found.add(np.float32([0.25, 0.9]), np.array([True, False]))
  assert found.count.tolist() == [2, 1, 0, 2]
  assert found.right.tolist() == [1, 1, 0, 1]
  by_hand = (2 * abs(0.5 - 0.15) + abs(1 - 0.25) + 2 * abs(0.5 - 0.95)) / 5
  assert found.error == pytest.approx(by_hand, rel=1e-6)
  assert np.isnan(analysis.Calibration().error)


def test_calibrated_confidences_have_no_error():
  rng = np.random.default_rng(3)
  confidence = rng.uniform(size=200_000)
  found = analysis.Calibration()
  found.add(confidence, rng.uniform(size=200_000) < confidence)
  assert found.error < 0.01
