"""Cell losses against float64, and what a segment's loss counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hrm_jax.training import losses

EPS = float(np.finfo(np.float32).eps)
IGNORE = losses.IGNORE_LABEL

# Where float32 has lost: large and tiny values of both signs, the seam at 0,
# and ±1, at which the unselected branch of the definition is infinite.
EDGES = [0.0, -0.0, 1.0, -1.0, 1e4, -1e4, 1e-6, -1e-6, 0.5, -0.5, 37.0, -37.0]


def _magnitudes(shape, seed=0):
  """Values of both signs from 1e-6 to 1e4, evenly in the logarithm."""
  rng = np.random.default_rng(seed)
  values = rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-6, 4, shape)
  return values.astype(np.float32)


def _stablemax_64(x):
  """s(x) by its definition, in float64."""
  x = np.asarray(x, np.float64)
  return np.where(x >= 0, x + 1, 1 / (1 - np.minimum(x, 0)))


def _scores_64(name, x):
  x = np.asarray(x, np.float64)
  if name == 'stablemax':
    return np.log(_stablemax_64(x))
  return x


def _cross_entropy_64(name, logits, labels):
  """The loss of each cell, and the sizes of the terms it is made of."""
  scores = _scores_64(name, logits)
  top = scores.max(-1, keepdims=True)
  log_sum = np.log(np.exp(scores - top).sum(-1)) + top[..., 0]
  chosen = np.take_along_axis(scores, labels[..., None], -1)[..., 0]
  return log_sum - chosen, np.abs(log_sum) + np.abs(chosen)


def _cells():
  """Logits [4, 64, 12] with every edge in some place, and labels."""
  logits = _magnitudes((4, 64, len(EDGES)))
  for i in range(len(EDGES)):
    logits[0, i] = np.roll(EDGES, i)
    logits[1, i, :] = EDGES[i]
  labels = np.random.default_rng(1).integers(0, len(EDGES), (4, 64))
  return logits, labels


def test_log_stablemax_is_exact_to_float32():
  x = np.concatenate([EDGES, _magnitudes(1000)]).astype(np.float32)
  ours = np.asarray(losses.log_stablemax(jnp.asarray(x)), np.float64)
  # log1p loses at most 2 ulp of its result, at any size of x.
  np.testing.assert_allclose(ours, np.log(_stablemax_64(x)), rtol=2 * EPS)


def test_log_stablemax_gradient_is_right_everywhere():
  x = np.concatenate([EDGES, _magnitudes(1000)]).astype(np.float32)
  ours = jax.vmap(jax.grad(losses.log_stablemax))(jnp.asarray(x))
  expected = 1 / (1 + np.abs(x.astype(np.float64)))
  # One addition and one division.
  np.testing.assert_allclose(ours, expected, rtol=2 * EPS)


@pytest.mark.parametrize('name', losses.CELL_LOSSES)
def test_cross_entropy_agrees_with_float64(name):
  logits, labels = _cells()
  ours = losses.CELL_LOSSES[name](jnp.asarray(logits), jnp.asarray(labels))
  expected, size = _cross_entropy_64(name, logits, labels)
  # A difference of two float32 numbers, each good to 2 ulp of its size. For
  # stablemax, whose scores are logarithms, the sizes stay below 21: this is
  # an absolute error of at most 6e-6 at any logits up to ±1e4.
  bound = 2 * EPS * (1 + size)
  assert ours.dtype == jnp.float32
  assert np.all(np.abs(np.asarray(ours, np.float64) - expected) <= bound)
  if name == 'stablemax':
    assert bound.max() < 6e-6


def test_stablemax_relative_error_of_ordinary_losses():
  logits, labels = _cells()
  expected, _ = _cross_entropy_64('stablemax', logits, labels)
  ordinary = expected > 0.5
  assert ordinary.sum() > 100
  ours = losses.stablemax_cross_entropy(jnp.asarray(logits), labels)
  # The bound above over the smallest of these losses.
  np.testing.assert_allclose(
    np.asarray(ours)[ordinary], expected[ordinary], rtol=6e-6 / 0.5
  )


@pytest.mark.parametrize('name', losses.CELL_LOSSES)
def test_cross_entropy_gradient_agrees_with_float64(name):
  logits, labels = _cells()

  def total(x):
    return jnp.sum(losses.CELL_LOSSES[name](x, labels))

  ours = np.asarray(jax.grad(total)(jnp.asarray(logits)), np.float64)
  scores = _scores_64(name, logits)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  softmax = weights / weights.sum(-1, keepdims=True)
  slope = 1.0
  if name == 'stablemax':
    slope = 1 / (1 + np.abs(logits.astype(np.float64)))
  expected = (softmax - np.eye(logits.shape[-1])[labels]) * slope
  # The share of a token is good to the ulps of its exponent, which is up to
  # 20 (stablemax) in size; exponents of softmax are exact differences here
  # or lead to shares of 0. Shares are at most 1 and slopes too.
  assert np.all(np.abs(ours - expected) <= 40 * EPS * slope)


@pytest.mark.parametrize('name', losses.CELL_LOSSES)
def test_bfloat16_logits_are_computed_in_float32(name):
  logits, labels = _cells()
  half = jnp.asarray(logits).astype(jnp.bfloat16)
  loss = losses.CELL_LOSSES[name]
  np.testing.assert_array_equal(
    loss(half, labels), loss(half.astype(jnp.float32), labels)
  )


def _segment(seed=0):
  """Arguments of a segment's loss: rows solved and not, halted and not."""
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(8, 5, 7)).astype(np.float32)
  labels = rng.integers(0, 7, (8, 5)).astype(np.int32)
  best = logits.argmax(-1)
  labels[:4] = best[:4]
  labels[3, 0] = (best[3, 0] + 1) % 7
  # Rows with different numbers of counted cells, none in row 5.
  labels[1, 3:] = IGNORE
  labels[4, 1:] = IGNORE
  labels[5] = IGNORE
  labels[6, ::2] = IGNORE
  q = rng.normal(size=(8, 2)).astype(np.float32)
  q[0, 0], q[1, 0] = 0.0, -0.0
  return dict(
    logits_BSV=logits,
    q_B2=q,
    labels_BS=labels,
    halted_B=np.array([1, 1, 0, 1, 1, 1, 0, 1], bool),
    steps_B=np.arange(1, 9, dtype=np.int32),
    target_continue_B=rng.uniform(size=8).astype(np.float32),
  )


def _run(cell_loss='stablemax', **arguments):
  arguments = {
    name: None if value is None else jnp.asarray(value)
    for name, value in arguments.items()
  }
  loss, metrics = losses.segment_loss(
    losses.CELL_LOSSES[cell_loss], **arguments
  )
  assert loss == metrics['loss']
  return {name: float(value) for name, value in metrics.items()}


def _bce_64(q, target):
  q = float(q)
  return np.log1p(np.exp(-abs(q))) + max(q, 0) - q * float(target)


def _segment_loss_64(a):
  """The specification of the loss and its metrics, row by row in float64."""
  out = dict.fromkeys(
    ('count', 'accuracy', 'exact_accuracy', 'q_halt_accuracy', 'steps'), 0.0
  )
  out |= {'lm_loss': 0.0, 'q_halt_loss': 0.0, 'q_continue_loss': 0.0}
  for row in range(len(a['q_B2'])):
    cells = [s for s, y in enumerate(a['labels_BS'][row]) if y != IGNORE]
    right, loss = 0, 0.0
    for s in cells:
      weights = _stablemax_64(a['logits_BSV'][row, s])
      label = a['labels_BS'][row, s]
      loss -= np.log(weights[label] / weights.sum())
      right += int(np.argmax(a['logits_BSV'][row, s]) == label)
    solved = right == len(cells)
    q_halt, q_continue = a['q_B2'][row]
    out['lm_loss'] += loss / max(len(cells), 1)
    out['q_halt_loss'] += _bce_64(q_halt, solved)
    out['q_continue_loss'] += _bce_64(q_continue, a['target_continue_B'][row])
    if a['halted_B'][row] and cells:
      out['count'] += 1
      out['accuracy'] += right / len(cells)
      out['exact_accuracy'] += solved
      out['q_halt_accuracy'] += (q_halt >= 0) == solved
      out['steps'] += a['steps_B'][row]
  out['loss'] = out['lm_loss'] + 0.5 * (
    out['q_halt_loss'] + out['q_continue_loss']
  )
  return out


@pytest.mark.parametrize('seed', range(3))
def test_loss_and_metrics_are_those_of_the_specification(seed):
  arguments = _segment(seed)
  ours = _run(**arguments)
  expected = _segment_loss_64(arguments)
  assert ours.keys() == expected.keys()
  # Sums over 8 rows of numbers of size 1, each good to a few ulp.
  for name, value in expected.items():
    np.testing.assert_allclose(ours[name], value, rtol=20 * EPS, err_msg=name)


@pytest.mark.parametrize('name', losses.CELL_LOSSES)
def test_ignored_cells_never_count(name):
  arguments = _segment()
  ignored = arguments['labels_BS'] == IGNORE
  other = arguments['logits_BSV'].copy()
  other[ignored] = _magnitudes(other[ignored].shape)
  assert _run(name, **arguments) == _run(
    name, **(arguments | {'logits_BSV': other})
  )

  def loss(logits):
    return losses.segment_loss(
      losses.CELL_LOSSES[name], **(arguments | {'logits_BSV': logits})
    )[0]

  gradient = np.asarray(jax.grad(loss)(jnp.asarray(other)))
  assert np.all(gradient[ignored] == 0)
  assert np.all(gradient[~ignored] != 0)


def test_every_row_weighs_the_same():
  # One counted cell or five of the same logits and label: the same loss.
  arguments = _segment()
  arguments['logits_BSV'][:] = arguments['logits_BSV'][0, 0]
  arguments['labels_BS'][:] = 2
  full = _run(**arguments)['lm_loss']
  arguments['labels_BS'][::2, 1:] = IGNORE
  # Sums of 5 equal numbers, times 1/5.
  assert _run(**arguments)['lm_loss'] == pytest.approx(full, rel=8 * EPS)


def test_a_row_without_counted_cells_is_solved_and_in_no_metric():
  arguments = _segment()
  arguments['labels_BS'][:] = IGNORE
  ours = _run(**arguments)
  expected = sum(_bce_64(q, 1.0) for q in arguments['q_B2'][:, 0])
  assert ours['q_halt_loss'] == pytest.approx(expected, rel=20 * EPS)
  for name in ('count', 'accuracy', 'exact_accuracy', 'q_halt_accuracy'):
    assert ours[name] == 0
  assert ours['steps'] == 0
  assert ours['lm_loss'] == 0


def test_rows_that_go_on_are_in_the_losses_and_in_no_metric():
  arguments = _segment()
  some = _run(**arguments)
  none = _run(**(arguments | {'halted_B': np.zeros(8, bool)}))
  for name, value in some.items():
    assert none[name] == (value if name.endswith('loss') else 0)


def test_no_target_no_continue_loss():
  arguments = _segment()
  ours = _run(**(arguments | {'target_continue_B': None}))
  assert 'q_continue_loss' not in ours
  expected = ours['lm_loss'] + 0.5 * ours['q_halt_loss']
  assert ours['loss'] == pytest.approx(expected, rel=2 * EPS)


def test_untrained_q_is_in_no_loss_and_no_metric():
  arguments = _segment() | {'target_continue_B': None}
  trained = _run(**arguments)
  ours = _run(**arguments, q_trained=False)
  del trained['q_halt_loss'], trained['q_halt_accuracy']
  assert ours == trained | {'loss': trained['lm_loss']}


def test_solved_is_a_target_and_carries_no_gradient_to_the_logits():
  # The halt loss reaches the logits by no path: only q learns from it.
  arguments = _segment()

  def halt_loss(logits):
    _, metrics = losses.segment_loss(
      losses.stablemax_cross_entropy,
      **(arguments | {'logits_BSV': logits}),
    )
    return metrics['q_halt_loss']

  gradient = jax.grad(halt_loss)(jnp.asarray(arguments['logits_BSV']))
  assert not np.any(gradient)
