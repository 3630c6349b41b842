"""Predictions against a loop by hand, however the rows share the batches."""

import jax
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, Width
from hrm_jax.training import act
from hrm_jax.training.losses import IGNORE_LABEL
from tests import builders

# N rows are predicted, of a table of R.
N, S, V, R, D = 21, 9, 12, 24, 32
SEGMENTS = 4
SETTINGS = {
  'q_learning': ActSettings(SEGMENTS, 0.5, 'q_learning'),
  'halt_only': ActSettings(SEGMENTS, 0.5, 'halt_only'),
}
# Of Q values of size 10, after up to 16 blocks of float32 that amplify what
# two compilations of the same sums differ by.
Q_TOLERANCE = 2e-4
MODEL = builders.model(
  'hrm',
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


def _puzzles():
  rng = np.random.default_rng(66)
  return {
    'inputs': rng.integers(0, V, (N, S), np.int32),
    'labels': rng.integers(0, V, (N, S), np.int32),
    'puzzle_identifiers': rng.permutation(R)[:N].astype(np.int32),
  }


def _read(puzzles):
  """Reads these rows in batches, filled up by the last row."""

  def read(size, rows):
    for begin in range(0, N, size):
      index = np.minimum(np.arange(begin, begin + size)[rows], N - 1)
      yield {name: column[index] for name, column in puzzles.items()}

  return read


def _by_hand(weights):
  """Logits [4, N, S, V] and q [4, N, 2] after each of four segments."""
  variables, table = weights
  batch = _puzzles()
  puzzles = table[batch['puzzle_identifiers']]

  @jax.jit
  def start(inputs, puzzles):
    x = MODEL.apply(variables, inputs, puzzles, method='embed')
    return MODEL.apply(variables, N, method='initial_state'), x

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
  return np.stack(logits), np.stack(q)


@pytest.fixture(scope='module')
def by_hand(weights):
  logits, q = _by_hand(weights)
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

  def run(
    weights, puzzles, mode, halting='q_learning', devices=8, batch_size=8,
    width=None,
  ):  # fmt: skip
    mesh = sharding.make_mesh(jax.devices()[:devices])
    width = width or Width()
    key = mode, halting, devices, width
    if key not in programs:
      programs[key] = inference.sharded_predict(
        MODEL, SETTINGS[halting], mode, mesh, width
      )
    found = programs[key](*weights, _read(puzzles), N, batch_size)
    parts = zip(*found, strict=True)
    return inference.Predictions(*map(np.concatenate, parts))

  return run


def _assert_as_after(steps, by_hand, ours):
  """Asserts that row b is answered as after its steps[b] segments."""
  logits, q = by_hand
  rows = np.arange(N)
  np.testing.assert_array_equal(ours.steps, steps)
  np.testing.assert_array_equal(ours.tokens, logits[steps - 1, rows].argmax(-1))
  np.testing.assert_allclose(
    ours.q_halt, q[steps - 1, rows, 0], rtol=0, atol=Q_TOLERANCE
  )
  assert ours.tokens.dtype == np.uint8


# Devices, and rows at a time: some, or more than there are.
BATCHES = [(1, 4), (1, 64), (8, 16)]


@pytest.mark.parametrize('devices, batch_size', BATCHES)
def test_fixed_runs_all_segments(
  devices, batch_size, weights, by_hand, predict
):
  ours = predict(
    weights, _puzzles(), 'fixed', devices=devices, batch_size=batch_size
  )
  _assert_as_after(np.full(N, SEGMENTS), by_hand, ours)


def _steps_to_halt(q, halting):
  """Segments of each row until it first wants to halt, by hand."""
  bar = {'q_learning': q[..., 1], 'halt_only': 0}[halting]
  wants = q[..., 0] > bar
  steps = np.where(wants.any(axis=0), wants.argmax(axis=0) + 1, SEGMENTS)
  # Rows must differ, and some must want to go on after their first halt:
  # else stopping all rows at once, or at the last halt, would do.
  assert len(set(steps.tolist())) >= 3
  assert any(not wants[steps[b] - 1 :, b].all() for b in range(N))
  return steps


@pytest.mark.parametrize(
  'halting, devices, batch_size',
  [*(('q_learning', *batch) for batch in BATCHES), ('halt_only', 8, 16)],
)
def test_act_answers_each_row_at_its_own_first_halt(
  halting, devices, batch_size, weights, by_hand, predict
):
  steps = _steps_to_halt(by_hand[1], halting)
  ours = predict(weights, _puzzles(), 'act', halting, devices, batch_size)
  _assert_as_after(steps, by_hand, ours)


@pytest.mark.parametrize('devices, batch_size', BATCHES)
def test_act_works_on_rows_that_have_not_halted(
  devices, batch_size, weights, by_hand, predict, monkeypatch
):
  """Slots times segments, against what a queue before the slots needs."""
  sizes = []
  global_batch = sharding.global_batch

  def spy(mesh, local):
    sizes.append(len(local['row']))
    return global_batch(mesh, local)

  monkeypatch.setattr(sharding, 'global_batch', spy)
  predict(weights, _puzzles(), 'act', 'q_learning', devices, batch_size)
  queue = _steps_to_halt(by_hand[1], 'q_learning').tolist()
  left, work = len(queue), []
  for size in sizes:
    # A multiple of the devices, full while there are rows, no more than half
    # empty when there are none.
    assert size % devices == 0 and size >= len(work)
    assert size <= max(2 * left, devices)
    while queue and len(work) < size:
      work.append(queue.pop(0))
    work = [steps - 1 for steps in work if steps > 1]
    left = len(work) + len(queue)
  assert left == 0


@pytest.mark.parametrize('devices, batch_size', [(1, 64), (8, 16)])
def test_settled_answers_each_row_where_its_answer_stays(
  devices, batch_size, weights, predict
):
  # Of two tokens each: some rows answer alike twice.
  kernel = np.zeros((D, V), np.float32)
  kernel[:, 1] = np.random.default_rng(0).normal(size=D)
  variables, table = weights
  params = variables['params'] | {'lm_head': {'kernel': kernel}}
  weights = variables | {'params': params}, table
  by_hand = _by_hand(weights)
  assert np.abs(by_hand[0][..., 1]).min() > 10 * Q_TOLERANCE
  tokens = by_hand[0].argmax(axis=-1)
  same = (tokens[1:] == tokens[:-1]).all(axis=-1)
  steps = np.where(same.any(axis=0), same.argmax(axis=0) + 2, SEGMENTS)
  assert len(set(steps.tolist())) >= 3
  ours = predict(
    weights, _puzzles(), 'settled', devices=devices, batch_size=batch_size
  )
  _assert_as_after(steps, by_hand, ours)


@pytest.mark.parametrize(
  'noise_at', ['initial', pytest.param('segments', marks=pytest.mark.slow)]
)
def test_noise_is_of_the_row_and_not_of_its_slot(noise_at, weights, predict):
  width = Width(noise=0.5, noise_at=noise_at, seed=3)
  # Each row twice: their noise differs.
  puzzles = {n: np.repeat(x, 2, axis=0)[:N] for n, x in _puzzles().items()}

  def run(width=width, **fields):
    return predict(weights, puzzles, width=width, **fields)

  ours = run(mode='fixed')
  for fields in ({'batch_size': 24}, {'devices': 1, 'batch_size': 5}):
    again = run(mode='fixed', **fields)
    np.testing.assert_allclose(
      again.q_halt, ours.q_halt, rtol=0, atol=Q_TOLERANCE
    )
  # In whichever mode: a row that never halts is as in the other.
  acting = run(mode='act')
  whole = acting.steps == SEGMENTS
  assert whole.any() and not whole.all()
  np.testing.assert_allclose(
    acting.q_halt[whole], ours.q_halt[whole], rtol=0, atol=Q_TOLERANCE
  )
  pairs = ours.q_halt[: N - 1].reshape(-1, 2)
  assert np.all(np.abs(pairs[:, 0] - pairs[:, 1]) > 10 * Q_TOLERANCE)
  other = run(Width(noise=0.5, noise_at=noise_at, seed=4), mode='fixed')
  assert np.all(np.abs(other.q_halt - ours.q_halt) > Q_TOLERANCE)


def test_noise_has_its_standard_deviation_and_its_place():
  z = {name: np.ones((3, 50, 40), np.float32) for name in ('z_H', 'z_L')}
  rows, numbers = np.arange(3), np.array([0, 1, 2])
  for noise_at, noised in (('segments', 3), ('initial', 1)):
    width = Width(noise=0.25, noise_at=noise_at)
    found = inference.noisy(z, width, rows, numbers)
    high, low = ((found[name] - 1) / 0.25 for name in ('z_H', 'z_L'))
    # Of 2000 draws a row, 5σ.
    for noise in (high, low):
      spread = np.std(noise, axis=(1, 2))
      assert np.all(np.abs(spread[:noised] - 1) < 5 / 4000**0.5)
      assert not np.any(noise[noised:])
    # And each state has its own.
    product = np.mean(high * low, axis=(1, 2))
    assert np.all(np.abs(product) < 5 / 2000**0.5)


def test_fixed_does_not_depend_on_q(weights, predict):
  ours = predict(weights, _puzzles(), 'fixed')
  variables, table = weights
  q_head = {
    'kernel': np.zeros((D, 2), np.float32),
    'bias': np.float32([9, -9]),
  }
  changed = variables | {'params': variables['params'] | {'q_head': q_head}}
  other = predict((changed, table), _puzzles(), 'fixed')
  np.testing.assert_array_equal(ours.tokens, other.tokens)
  np.testing.assert_array_equal(ours.steps, other.steps)


def test_shrinking_keeps_the_rows_at_work():
  rows = np.arange(6, dtype=np.int32)
  carry = act.Carry(
    z={'z': 10.0 * rows},
    steps=rows + 1,
    halted=np.array([1, 0, 1, 1, 0, 0], bool),
    data={'row': rows},
  )
  ours = inference.shrink(carry, 4)
  np.testing.assert_array_equal(ours.halted, [False, False, False, True])
  for leaf, expected in (
    (ours.data['row'], [1, 4, 5, 0]),
    (ours.steps, [2, 5, 6, 1]),
    (ours.z['z'], [10, 40, 50, 0]),
  ):
    np.testing.assert_array_equal(leaf, expected)


def test_accuracy_counts_the_labels_cells_alone(weights, predict):
  batch = _puzzles()
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
    [True, False, False, True, False, False] + [True] * (N - 6),
  )
  expected = [1, 8 / 9, 0, 1, 2 / 3, 0] + [1] * (N - 6)
  np.testing.assert_allclose(ours.accuracy, expected, rtol=1e-6)


def test_an_unknown_mode_is_named():
  with pytest.raises(
    ConfigError, match=r"halting='sometimes'.*fixed, act, settled"
  ):
    inference.sharded_predict(
      MODEL, SETTINGS['q_learning'], 'sometimes', sharding.make_mesh()
    )
