"""The carry: who is admitted, who halts when, and what is learned from it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.settings import ActSettings
from hrm_jax.training import act


@dataclasses.dataclass
class Adder:
  """The smallest model with the face of `hrm_jax.models`.

  Its state is a running sum of the puzzle embedding, and is q itself: after
  t segments q = t · w · puzzle. It counts its segments while it is traced.
  """

  segments: int = 0

  def apply(self, variables, *args, method):
    return getattr(self, method)(variables, *args)

  def embed(self, variables, inputs_BS, puzzles_BE):
    return variables['w'] * puzzles_BE + 0 * inputs_BS[:, :1]

  def segment(self, variables, z, x):
    del variables
    self.segments += 1
    return {'sum': z['sum'] + x}

  segment_without_gradient = segment

  def heads(self, variables, z):
    del variables
    return z['sum'][:, None, :], z['sum']


W = {'w': jnp.float32(1)}


def _batch(size, offset=0):
  return {
    'inputs': jnp.arange(size * 3).reshape(size, 3) + offset,
    'labels': jnp.arange(size * 3).reshape(size, 3) + 100 + offset,
    'puzzle_identifiers': jnp.arange(size) + 1000 + offset,
  }


def _zeros(size):
  return {'sum': jnp.zeros((size, 2))}


def _fresh(size):
  """The carry of `size` rows just admitted."""
  carry = act.initial_carry(_zeros(size), size, 3)
  return act.admit(carry, _zeros(size), _batch(size)).replace(
    halted=jnp.zeros(size, bool)
  )


def _segments(settings, puzzles, count):
  """Halted flags [count, B] of segments on end, no row being admitted."""
  puzzles = jnp.asarray(puzzles, jnp.float32)

  @jax.jit
  def step(carry, key):
    min_steps = act.exploration_min_steps(key, settings, len(puzzles))
    return act.train_segment(Adder(), W, puzzles, carry, settings, min_steps)[0]

  carry, halted = _fresh(len(puzzles)), []
  for i in range(count):
    carry = step(carry, jax.random.key(i))
    assert np.all(carry.steps == i + 1)
    halted.append(np.asarray(carry.halted))
  return np.stack(halted)


NEVER, ALWAYS = (-1.0, 1.0), (1.0, -1.0)


def test_the_first_batch_enters_every_row():
  batch = _batch(4)
  carry = act.initial_carry(_zeros(4), 4, 3)
  fresh = {'sum': jnp.arange(8.0).reshape(4, 2)}
  admitted = act.admit(carry, fresh, batch)
  jax.tree.map(np.testing.assert_array_equal, admitted.data, batch)
  jax.tree.map(np.testing.assert_array_equal, admitted.z, fresh)
  np.testing.assert_array_equal(admitted.steps, np.zeros(4))


def test_a_row_resets_only_where_it_halted():
  rng = np.random.default_rng(0)
  halted = np.array([True, False, False, True])
  # States of any shape, as many as the model has.
  old_z = {
    'a': rng.normal(size=(4, 2, 3)).astype(np.float32),
    'b': rng.normal(size=4).astype(np.float32),
  }
  fresh_z = jax.tree.map(np.ones_like, old_z)
  # What a row that goes on holds may not be changed even by a NaN beside it.
  fresh_z['a'][1] = np.nan
  old_z['a'][0] = np.nan
  carry = act.Carry(
    z=old_z, steps=jnp.arange(4) + 5, halted=halted, data=_batch(4)
  )
  new = act.admit(carry, fresh_z, _batch(4, offset=50))
  for row in range(4):
    want_z = fresh_z if halted[row] else old_z
    want_data = _batch(4, offset=50 if halted[row] else 0)
    for got, want in [(new.z, want_z), (new.data, want_data)]:
      assert got.keys() == want.keys()
      for name in want:
        np.testing.assert_array_equal(got[name][row], want[name][row])
    assert new.steps[row] == (0 if halted[row] else row + 5)


def test_rows_halt_at_halt_max_steps_at_the_latest():
  halted = _segments(ActSettings(4, 0.5), [NEVER] * 64, 4)
  assert not halted[:3].any()
  assert halted[3].all()


def test_without_exploration_q_alone_decides():
  halted = _segments(ActSettings(4, 0.0), [NEVER, ALWAYS] * 4, 1)
  np.testing.assert_array_equal(halted[0], [False, True] * 4)


def test_exploring_rows_do_their_minimum():
  settings = ActSettings(6, 1.0)
  halted = _segments(settings, [ALWAYS] * 256, 6)
  # The minimum is at least 2, at most the maximum; drawn anew in each
  # segment. One drawn for the whole batch would halt all rows or none.
  assert not halted[0].any()
  assert halted[5].all()
  for i in range(1, 5):
    # Of 256 rows a share of i / 5 may halt; 5σ are at most 0.16.
    assert abs(halted[i].mean() - i / 5) < 0.16


def test_with_two_segments_exploring_rows_do_both():
  halted = _segments(ActSettings(2, 1.0), [ALWAYS] * 16, 2)
  assert not halted[0].any()
  assert halted[1].all()


def test_exploration_rate_and_minimum_steps():
  rows, rate, longest = 20_000, 0.1, 16
  settings = ActSettings(longest, rate)
  steps = np.asarray(
    act.exploration_min_steps(jax.random.key(0), settings, rows)
  )
  explores = steps > 0
  # 4σ of a binomial, for the rate and for each of the minima 2 … 16.
  assert abs(explores.sum() - rows * rate) < 4 * (rows * rate * 0.9) ** 0.5
  assert set(steps[explores]) == set(range(2, longest + 1))
  share = rows * rate / (longest - 1)
  counts = np.bincount(steps[explores])[2:]
  assert np.all(np.abs(counts - share) < 4 * share**0.5)


def test_exploration_is_a_function_of_its_key():
  settings = ActSettings(16, 0.5)

  def draw(key):
    return np.asarray(act.exploration_min_steps(key, settings, 64))

  keys = jax.random.split(jax.random.key(0))
  np.testing.assert_array_equal(draw(keys[0]), draw(keys[0]))
  assert np.any(draw(keys[0]) != draw(keys[1]))


def test_halting_rules():
  q = jnp.array([[1.0, 2.0], [2.0, 1.0], [-2.0, -3.0], [0.0, 0.0]])
  # Strictly: at the start both Q values are -5, and no row halts for that.
  wants = act.wants_halt(ActSettings(halting='q_learning'), q)
  np.testing.assert_array_equal(wants, [False, True, True, False])
  wants = act.wants_halt(ActSettings(halting='halt_only'), q)
  np.testing.assert_array_equal(wants, [True, True, False, False])
  wants = act.wants_halt(ActSettings(halting='none'), q)
  np.testing.assert_array_equal(wants, [False] * 4)


def test_without_halting_all_segments_are_done_and_no_more():
  halted = _segments(ActSettings(3, 0.5, 'none'), [ALWAYS] * 8, 3)
  assert not halted[:2].any()
  assert halted[2].all()


PUZZLES = jnp.array([[-0.5, 0.25], [0.5, -0.25], [-1.0, -2.0], [0.0, 1.0]])
# No row explores.
AT_ONCE = jnp.zeros(4, jnp.int32)


def _target(steps, puzzles=PUZZLES, variables=W):
  carry = _fresh(4).replace(steps=jnp.asarray(steps))
  return act.train_segment(
    Adder(), variables, puzzles, carry, ActSettings(5, 0.0),
    AT_ONCE,
  )  # fmt: skip


def _sigmoid(x):
  return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def test_target_is_the_best_q_of_one_more_segment():
  carry, _, q, target = _target([0, 0, 2, 3])
  np.testing.assert_array_equal(q, PUZZLES)
  # The extra segment starts from the new state, and leaves no trace in it.
  np.testing.assert_array_equal(carry.z['sum'], PUZZLES)
  # Sigmoids of exact numbers, to float32.
  np.testing.assert_allclose(target, _sigmoid(2 * PUZZLES.max(-1)), rtol=1e-6)


def test_target_at_the_last_segment_is_q_halt():
  *_, target = _target([4, 4, 0, 4])
  expected = _sigmoid(2 * PUZZLES[:, 0])
  expected[2] = _sigmoid(2 * PUZZLES[2].max())
  np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_neither_target_nor_carry_has_a_gradient():
  def outputs(variables, puzzles):
    carry, logits, q, target = _target([0, 1, 2, 4], puzzles, variables)
    return {'z': carry.z['sum'], 'target': target, 'logits': logits, 'q': q}

  jacobians = jax.jacobian(outputs, argnums=(0, 1))(W, PUZZLES)
  for name, of in jacobians.items():
    for leaf in jax.tree.leaves(of):
      assert np.any(leaf) == (name in ('logits', 'q')), name


@pytest.mark.parametrize(
  'settings, segments',
  [
    (ActSettings(4, 0.1, 'q_learning'), 2),
    (ActSettings(4, 0.1, 'halt_only'), 1),
    (ActSettings(1, 0.1, 'q_learning'), 1),
    (ActSettings(1, 0.1, 'halt_only'), 1),
  ],
)
def test_the_extra_segment_runs_only_for_a_target(settings, segments):
  model = Adder()
  carry, *_, target = act.train_segment(
    model, W, PUZZLES, _fresh(4), settings, AT_ONCE
  )
  assert model.segments == segments
  assert (target is None) == (segments == 1)
  if settings.halt_max_steps == 1:
    # No exploration either: nothing may keep a row from its last segment.
    assert np.all(carry.halted)


def test_segments_work_on_the_carrys_data():
  carry = _fresh(4)
  new, *_ = act.train_segment(
    Adder(), W, PUZZLES, carry, ActSettings(), AT_ONCE
  )
  jax.tree.map(np.testing.assert_array_equal, new.data, carry.data)


@pytest.mark.parametrize(
  'fields',
  [
    {'halt_max_steps': 0},
    {'halt_exploration_prob': -0.1},
    {'halt_exploration_prob': 1.1},
    {'halt_exploration_prob': float('nan')},
    {'halting': 'never'},
  ],
)
def test_wrong_settings_are_named(fields):
  with pytest.raises(ConfigError, match=rf'act\.{next(iter(fields))}='):
    ActSettings(**fields)
