"""Update rules against plain numpy, and rows that must stay as they are."""

import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hrm_jax.parallel import sharding
from hrm_jax.training import optimizers

EPS = float(np.finfo(np.float32).eps)


def test_doctests():
  results = doctest.testmod(optimizers, optionflags=doctest.ELLIPSIS)
  assert results.attempted > 0
  assert results.failed == 0


def _gradients(steps, sizes, seed=0):
  rng = np.random.default_rng(seed)
  # Gradients over many orders of size, zeros too: there is no epsilon.
  return [
    {
      name: (rng.normal(size=size) * 10 ** rng.uniform(-8, 2, size)).astype(
        np.float32
      )
      * (rng.uniform(size=size) > 0.1).astype(np.float32)
      for name, size in sizes.items()
    }
    for _ in range(steps)
  ]


def _rate(count):
  return 0.01 * (count + 1)


def _run_adam(params, gradients, b1=0.9, b2=0.95, weight_decay=0.1, scale=1):
  tx = optimizers.adam_atan2(_rate, b1, b2, weight_decay)

  @jax.jit
  def step(params, state, gradients):
    updates, state = tx.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  params = jax.tree.map(jnp.asarray, params)
  state = tx.init(params)
  for gradient in gradients:
    gradient = jax.tree.map(lambda g: g * np.float32(scale), gradient)
    params, state = step(params, state, gradient)
  return jax.tree.map(np.asarray, params)


def _params(sizes):
  rng = np.random.default_rng(9)
  return {n: rng.normal(size=s).astype(np.float32) for n, s in sizes.items()}


SIZES = {'kernel': (5, 7), 'bias': (3,)}


@pytest.mark.parametrize('b1, b2', [(0.9, 0.95), (0.5, 0.999)])
def test_adam_atan2_is_the_formula(b1, b2):
  weight_decay, steps = 0.1, 8
  params = _params(SIZES)
  gradients = _gradients(steps, SIZES)
  ours = _run_adam(params, gradients, b1, b2, weight_decay)
  for name, size in SIZES.items():
    p = params[name].astype(np.float64)
    m, v = np.zeros(size), np.zeros(size)
    for t in range(1, steps + 1):
      g = gradients[t - 1][name].astype(np.float64)
      lr = _rate(t - 1)
      m = b1 * m + (1 - b1) * g
      v = b2 * v + (1 - b2) * g * g
      p = p * (1 - lr * weight_decay)
      p = p - lr / (1 - b1**t) * np.arctan2(m, np.sqrt(v) / np.sqrt(1 - b2**t))
    # Eight steps, each of a handful of roundings on numbers of size 1; the
    # correction 1 - b2**t cancels and loses up to 1 / (1 - b2) = 1000 ulp,
    # halved by the root, in an update of at most 0.08 · π/2.
    np.testing.assert_allclose(
      ours[name], p, rtol=0, atol=8 * 8 * EPS + 500 * EPS * 0.13
    )


def test_arctan2_is_exact_to_two_units_in_the_last_place():
  rng = np.random.default_rng(0)
  y = rng.normal(size=10**5) * 10 ** rng.uniform(-30, 30, 10**5)
  x = np.abs(y) * 10 ** rng.uniform(-5, 5, 10**5)
  y, x = y.astype(np.float32), x.astype(np.float32)
  exact = np.arctan2(y.astype(np.float64), x)
  error = np.abs(jax.jit(optimizers._arctan2)(y, x) - exact)
  assert np.all(error <= 2.1 * np.spacing(np.abs(exact).astype(np.float32)))


def test_arctan2_at_the_edges():
  y = jnp.array([0.0, -0.0, 0.0, 1.0, -1.0, 1.0, -1.0, jnp.inf, 1e-42])
  x = jnp.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, jnp.inf, 1e-42])
  angles = optimizers._arctan2(y, x)
  np.testing.assert_allclose(angles[:-1], np.arctan2(y, x)[:-1], rtol=1.3e-7)
  np.testing.assert_array_equal(np.signbit(angles), np.signbit(y))
  # XLA takes the smallest numbers for 0; `jnp.arctan2` makes NaN of them.
  assert np.isfinite(angles[-1])
  nan = jnp.float32(jnp.nan)
  assert jnp.isnan(optimizers._arctan2(nan, jnp.float32(1)))
  assert jnp.isnan(optimizers._arctan2(jnp.float32(1), nan))


def test_adam_atan2_ignores_the_scale_of_the_gradients():
  params, gradients = _params(SIZES), _gradients(5, SIZES)
  # A power of two changes no digit of m and √v (v by a power of four), and
  # the gradients, 1e-8 to 1e2, stay clear of the range's ends.
  ours = _run_adam(params, gradients, scale=1024)
  jax.tree.map(
    np.testing.assert_array_equal, ours, _run_adam(params, gradients)
  )


def test_adam_atan2_without_gradient_only_decays():
  params = _params(SIZES)
  gradients = _gradients(3, SIZES)
  ours = _run_adam(params, gradients, weight_decay=0.5, scale=0)
  decay = np.prod([1 - _rate(t) * 0.5 for t in range(3)])
  for name, value in params.items():
    np.testing.assert_allclose(ours[name], value * decay, rtol=8 * EPS)


def test_decay_uses_the_parameter_before_the_update():
  # One step by hand: p ← p·(1 - lr·wd), then p ← p - lr·u. Decaying after
  # the update would give (p - lr·u)·(1 - lr·wd), 0.5 % less here.
  tx = optimizers.adam_atan2(0.1, weight_decay=0.5)
  p = jnp.array([2.0])
  updates, _ = tx.update(jnp.array([3.0]), tx.init(p), p)
  u = np.arctan2(0.3, 3.0) / 0.1
  expected = 2.0 * (1 - 0.1 * 0.5) - 0.1 * u
  np.testing.assert_allclose(p + updates, [expected], rtol=8 * EPS)


def _whole(tree):
  return jax.tree.map(lambda _: sharding.spec(), tree)


# Of the published optimizer, in turn.
TURNS = (
  (7.2086, -15.5131, 9.0178),
  (3.9623, -2.5813, 0.4542),
  (3.9466, -2.5765, 0.4544),
  (3.8991, -2.5671, 0.4566),
  (3.7186, -2.5308, 0.4653),
)


def test_muon_is_the_formula():
  # Wide, tall and square matrices; a filter of three axes, and a bias.
  sizes = {'wide': (4, 6), 'tall': (6, 4), 'square': (5, 5), 'bias': (3,)}
  sizes['filter'] = (2, 1, 3)
  params, steps, decay = _params(sizes), 4, 0.1
  rng = np.random.default_rng(0)
  gradients = [
    {n: 1e-3 * rng.normal(size=s).astype(np.float32) for n, s in sizes.items()}
    for _ in range(steps)
  ]
  tx = optimizers.muon(_rate, _whole, weight_decay=decay)
  ours, state = jax.tree.map(jnp.asarray, params), tx.init(params)
  for g in gradients:
    updates, state = tx.update(g, state, ours)
    ours = optax.apply_updates(ours, updates)
  for name, size in sizes.items():
    p = params[name].astype(np.float64)
    m, v = np.zeros(size), np.zeros(size)
    for t in range(1, steps + 1):
      g, lr = gradients[t - 1][name].astype(np.float64), _rate(t - 1)
      p = p * (1 - lr * decay)
      if len(size) == 2:
        m = 0.95 * m + g
        n = g + 0.95 * m
        x = n / np.linalg.norm(n)
        for a, b, c in TURNS:
          A = x @ x.T
          x = a * x + (b * A + c * A @ A) @ x
        p = p - lr * 0.2 * max(size) ** 0.5 * x
      else:
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        root = np.sqrt(v) + 1e-8
        p = p - lr * np.sqrt(1 - 0.95**t) / (1 - 0.9**t) * m / root
    # Each turn multiplies the rounding of small singular values by up to 7.
    np.testing.assert_allclose(ours[name], p, rtol=0, atol=2e-4 * 0.08)


def test_muon_without_gradient_only_decays():
  params = _params({'matrix': (4, 6), 'bias': (3,)})
  tx = optimizers.muon(0.1, _whole, weight_decay=0.5)
  zeros = jax.tree.map(np.zeros_like, params)
  updates, _ = tx.update(zeros, tx.init(params), params)
  for name, value in optax.apply_updates(params, updates).items():
    np.testing.assert_allclose(value, params[name] * 0.95, rtol=4 * EPS)


def test_a_schedule_from_0_is_one_step_behind():
  later = optimizers.warmup_cosine(5, 40, 0.1)
  schedule = optimizers.warmup_cosine(5, 40, 0.1, first_step=0)
  assert float(schedule(0)) == 0
  assert [schedule(t + 1) for t in range(39)] == [later(t) for t in range(39)]


@pytest.mark.parametrize(
  'warmup, total, min_ratio',
  [(5, 40, 0.1), (0, 40, 0.1), (1, 40, 0.0), (5, 40, 1.0), (41, 40, 0.1)],
)
def test_schedule_is_linear_then_cosine(warmup, total, min_ratio):
  schedule = optimizers.warmup_cosine(warmup, total, min_ratio)
  ours = [float(schedule(count)) for count in range(total)]
  expected = []
  for step in range(1, total + 1):
    if step < warmup:
      expected.append(step / warmup)
    else:
      progress = (step - warmup) / max(1, total - warmup)
      cosine = 0.5 * (1 + np.cos(np.pi * progress))
      expected.append(min_ratio + (1 - min_ratio) * cosine)
  # The argument of the sine is good to 2 ulp of at most π/2; near the end
  # of a cosine down to 0 only the absolute error is small.
  np.testing.assert_allclose(ours, expected, rtol=4 * EPS, atol=4 * EPS)


def test_schedule_of_warmup_alone_ends_at_the_base_rate():
  # The published code's progress is (step - warmup) / max(1, 0) = 0 there.
  schedule = optimizers.warmup_cosine(10, 10, 0.1)
  assert float(schedule(9)) == 1.0


def test_schedule_ends_and_constants_are_exact():
  constant = optimizers.warmup_cosine(4, 20, 1.0)
  assert [float(constant(c)) for c in (0, 1, 2)] == [0.25, 0.5, 0.75]
  # Exactly the base rate from the end of the warm-up on.
  assert {float(constant(c)) for c in range(3, 30)} == {1.0}
  falling = optimizers.warmup_cosine(4, 20, 0.125)
  assert float(falling(3)) == 1.0
  assert float(falling(19)) == 0.125
  # And no further: a run may overshoot its schedule.
  assert float(falling(100)) == 0.125


def _sign_sgd_rows_by_hand(table, rows, gradients, lr, weight_decay):
  """The rule row by row, in float64."""
  out = table.astype(np.float64)
  for row in sorted(set(rows.tolist())):
    total = np.zeros(table.shape[1])
    for i in range(len(rows)):
      if rows[i] == row:
        total = total + gradients[i].astype(np.float64)
    out[row] = out[row] * (1 - lr * weight_decay) - lr * np.sign(total)
  return out


R, E = 11, 6
ROWS = {
  'some repeated': [3, 0, 3, 7, 10, 0, 3, 2],
  'all equal': [4] * 8,
  'all distinct': [9, 1, 8, 0, 10, 2, 5, 7],
  'only the first': [0] * 8,
  'only the last': [R - 1] * 8,
}


def _table(rows):
  rng = np.random.default_rng(3)
  table = rng.normal(size=(R, E)).astype(np.float32)
  # Sixteenths add without rounding, in any order.
  gradients = rng.integers(-32, 33, (len(rows), E)).astype(np.float32) / 16
  gradients[rng.uniform(size=gradients.shape) < 0.2] = 0
  return table, np.asarray(rows, np.int32), gradients


@pytest.mark.parametrize('rows', ROWS.values(), ids=ROWS.keys())
def test_sign_sgd_is_the_rule_and_leaves_other_rows_alone(rows):
  table, rows, gradients = _table(rows)
  # Jitted as in training, where the table is donated.
  update = jax.jit(optimizers.sign_sgd_rows, donate_argnums=0)
  ours = np.asarray(update(jnp.asarray(table), rows, gradients, 0.1, 0.5))
  expected = _sign_sgd_rows_by_hand(table, rows, gradients, 0.1, 0.5)
  # Two roundings of numbers below 4; a wrong sign is off by 0.1.
  np.testing.assert_allclose(ours, expected, rtol=0, atol=8 * EPS)
  others = np.setdiff1d(np.arange(R), rows)
  np.testing.assert_array_equal(ours[others], table[others])


def test_sign_sgd_row_with_cancelling_gradients_only_decays():
  table = jnp.full((R, E), 2.0)
  rows = jnp.array([5, 1, 5, 5, 2])
  gradients = jnp.stack(
    [jnp.full(E, 0.75), jnp.ones(E), jnp.full(E, -0.5), jnp.full(E, -0.25),
     jnp.zeros(E)]
  )  # fmt: skip
  ours = optimizers.sign_sgd_rows(table, rows, gradients, 0.25, 0.5)
  # Exact: 2 · (1 - 1/8), once however often the row stands there.
  np.testing.assert_array_equal(ours[5], np.full(E, 1.75))
  np.testing.assert_array_equal(ours[2], np.full(E, 1.75))
  np.testing.assert_array_equal(ours[1], np.full(E, 1.5))
  np.testing.assert_array_equal(ours[0], np.full(E, 2.0))


def test_sign_sgd_costs_nothing_per_table_row():
  def temporary_bytes(size):
    arguments = (
      jax.ShapeDtypeStruct((size, E), jnp.float32),
      jax.ShapeDtypeStruct((8,), jnp.int32),
      jax.ShapeDtypeStruct((8, E), jnp.float32),
    )
    update = jax.jit(
      lambda table, rows, gradients: optimizers.sign_sgd_rows(
        table, rows, gradients, 0.1, 0.5
      ),
      donate_argnums=0,
    )
    compiled = update.lower(*arguments).compile()
    memory = compiled.memory_analysis()
    # The table is updated in place.
    assert memory.alias_size_in_bytes == size * E * 4
    return memory.temp_size_in_bytes, compiled.cost_analysis()['flops']

  assert temporary_bytes(100) == temporary_bytes(100_000)
