"""The optimizer step on a mesh: what it changes, and what it must not."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from data_pipelines.errors import ConfigError
from hrm_jax.parallel import sharding
from hrm_jax.settings import (
  ActSettings,
  MeshSettings,
  OptimizerSettings,
  Settings,
)
from hrm_jax.training import divergence
from hrm_jax.training import step as train_step
from hrm_jax.training.losses import IGNORE_LABEL
from hrm_jax.training.state import (
  TrainState,
  abstract_weights,
  count_parameters,
)
from hrm_jax.workdir import checkpoints
from tests import builders

B, S, V, R, D = 8, 9, 12, 20, 32
HALT_MAX_STEPS = 3
STEPS = 20
RATE, PUZZLE_RATE, PUZZLE_DECAY = 1e-3, 0.01, 0.1
# The first step has half the rates, the others have all of them.
WARMUP_STEPS = 2


def _setup(batch_size=B, loss='stablemax', **fields):
  model = dict(
    vocab_size=V,
    seq_len=S,
    hidden_size=D,
    num_heads=4,
    H_layers=1,
    L_layers=1,
    puzzle_emb_ndim=D,
  )
  return train_step.TrainSetup(
    model=builders.model('hrm', **(model | fields)),
    act=ActSettings(HALT_MAX_STEPS, 0.5),
    optimizer=OptimizerSettings(
      learning_rate=RATE,
      puzzle_learning_rate=PUZZLE_RATE,
      puzzle_weight_decay=PUZZLE_DECAY,
      warmup_steps=WARMUP_STEPS,
    ),
    loss=loss,
    total_steps=100,
    batch_size=batch_size,
    num_puzzle_identifiers=R,
    seed=0,
  )


def _batch(number):
  """Batch `number`: random cells, a third of them ignored."""
  rng = np.random.default_rng(number)
  labels = rng.integers(0, V, (B, S), np.int32)
  labels[rng.uniform(size=(B, S)) < 0.3] = IGNORE_LABEL
  return {
    'inputs': rng.integers(0, V, (B, S), np.int32),
    'labels': labels,
    'puzzle_identifiers': rng.integers(0, R, B, np.int32),
  }


@dataclasses.dataclass
class Program:
  """A compiled step, and how to start and feed it."""

  mesh: Any
  first: TrainState
  step: train_step.StepFunction

  def start(self, table=None):
    """A copy of the first state: the step takes its argument's memory."""
    state = jax.tree.map(jnp.copy, self.first)
    if table is not None:
      placed = jax.device_put(table, self.first.puzzle_table.sharding)
      state = state.replace(puzzle_table=placed)
    return state

  def halting(self):
    """`start` with Q in favour of it: exploration decides who goes on."""
    state = self.start()
    bias = state.params['q_head']['bias']
    state.params['q_head']['bias'] = jax.device_put(
      np.float32([5, -5]), bias.sharding
    )
    return state

  def run(self, steps):
    """Metrics of all steps from `halting` on, by name, and the last state."""
    state, metrics = self.halting(), []
    for number in range(steps):
      batch = sharding.global_batch(self.mesh, _batch(number))
      state, new, _ = self.step(state, batch)
      metrics.append(jax.device_get(new | {'halted': state.carry.halted}))
    return {n: np.stack([m[n] for m in metrics]) for n in metrics[0]}, state


def _program(devices, microbatches=1, **axes):
  mesh = sharding.make_mesh(jax.devices()[:devices], MeshSettings(**axes))
  setup = dataclasses.replace(_setup(), microbatches=microbatches)
  return Program(
    mesh,
    train_step.sharded_init(setup, mesh),
    train_step.sharded_step(setup, mesh),
  )


@pytest.fixture(scope='module')
def program():
  return _program(8)


@pytest.fixture(scope='module')
def run(program):
  return program.run(STEPS)


def _table(seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(24, D)).astype(np.float32)


def _relative(a, b):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_the_run_below_admits_and_learns(run):
  # The premise of the tests that compare runs.
  metrics, state = run
  assert np.isfinite(metrics['loss']).all()
  assert metrics['loss'][-3:].mean() < metrics['loss'][:3].mean()
  assert np.any(state.puzzle_table)
  assert state.step == STEPS


def test_exploration_is_drawn_anew_for_each_row_and_step(run):
  # All rows want to halt; those that explore go on. Drawn once per row, each
  # would halt at one pace; drawn once per step, all would halt together.
  halted = run[0]['halted']
  for row in halted.T:
    assert len(set(np.diff(np.flatnonzero(row)))) > 1
  assert (halted.any(axis=1) & ~halted.all(axis=1)).sum() > STEPS / 2
  np.testing.assert_array_equal(run[0]['count'], halted.sum(axis=1))


def test_the_step_is_traced_once(program, run):
  del run
  assert program.step._cache_size() == 1


def test_the_same_seed_gives_the_same_run_bit_for_bit(program, run):
  metrics, state = program.run(STEPS)
  for name, values in run[0].items():
    np.testing.assert_array_equal(metrics[name], values, err_msg=name)
  jax.tree.map(np.testing.assert_array_equal, state, run[1])


def test_steps_of_one_call_are_bitwise_those_of_one_at_a_time(program, run):
  call = train_step.sharded_step(_setup(), program.mesh, 4)
  state, metrics = program.halting(), []
  for first in range(0, STEPS, 4):
    batches = [_batch(first + i) for i in range(4)]
    batches = {
      name: np.stack([b[name] for b in batches]) for name in batches[0]
    }
    state, new, diagnosis = call(
      state, sharding.global_batch(program.mesh, batches, stacked=True)
    )
    metrics.append(jax.device_get(new))
    assert diagnosis.puzzle_identifiers.shape == (4, B)
  assert call._cache_size() == 1
  for name in metrics[0]:
    values = np.concatenate([m[name] for m in metrics])
    np.testing.assert_array_equal(values, run[0][name], err_msg=name)
  jax.tree.map(np.testing.assert_array_equal, state, run[1])


def test_one_device_and_eight_devices_train_alike(run):
  metrics, state = _program(1).run(STEPS)
  # Sums over rows in another order, float32, amplified over 20 steps: the
  # bars are the project's promise.
  for name, values in run[0].items():
    if name.endswith('loss'):
      np.testing.assert_allclose(metrics[name], values, rtol=1e-4)
    else:
      # Counts, their exact shares, and a schedule: nothing to reorder but
      # the sum of shares.
      np.testing.assert_allclose(metrics[name], values, rtol=1e-6)
  assert not np.any(run[1].puzzle_table[R:])
  assert _relative(state.puzzle_table, run[1].puzzle_table[:R]) < 1e-4
  for ours, theirs in zip(
    jax.tree.leaves(state.params), jax.tree.leaves(run[1].params), strict=True
  ):
    assert _relative(ours, theirs) < 1e-4


@pytest.fixture(scope='module')
def gradients():
  """What one device makes of the first two steps."""
  return _first_gradients(_program(1))


def _first_gradients(program):
  """Dense first moments after one step; table and metrics after two.

  The second step's gradients are at parameters that moved by signs of the
  first ones, of which some are zero but for rounding.
  """
  state = program.start(_table()[: len(program.first.puzzle_table)])
  for number in range(2):
    batch = sharding.global_batch(program.mesh, _batch(number))
    state, metrics, _ = program.step(state, batch)
    if not number:
      moments = jax.device_get(state.opt_state[0].mu)
  return moments, *jax.device_get((state.puzzle_table[:R], metrics))


MOVED = 3


def _losses(program, state):
  """Of twenty more steps."""
  losses = []
  for number in range(MOVED, MOVED + 20):
    batch = sharding.global_batch(program.mesh, _batch(number))
    state, metrics, _ = program.step(state, batch)
    losses.append(float(metrics['loss']))
  return losses


@pytest.fixture(scope='module')
def moving(program, tmp_path_factory):
  """A checkpoint that eight devices made, and how they went on."""
  _, state = program.run(MOVED)
  assert not np.all(state.carry.halted)
  workdir = tmp_path_factory.mktemp('moving')
  saved = checkpoints.Checkpoints(workdir, Settings(keep_checkpoints=1))
  saved.save(state, checkpoints.Position(MOVED, ['<blank>'], ''))
  saved.close()
  return workdir, _losses(program, state)


def _restored(program, workdir, step=MOVED):
  def abstract(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

  saved = checkpoints.Checkpoints(workdir)
  state = saved.restore(step, jax.tree.map(abstract, program.first))
  saved.close()
  return state


@pytest.mark.parametrize(
  'devices, microbatches, axes',
  [
    (1, 2, {}),
    pytest.param(1, 4, {}, marks=pytest.mark.slow),
    pytest.param(2, 2, {}, marks=pytest.mark.slow),
    pytest.param(4, 1, {'fsdp': 2}, marks=pytest.mark.slow),
    pytest.param(8, 1, {'fsdp': 8}, marks=pytest.mark.slow),
    pytest.param(8, 1, {'fsdp': 2, 'tensor': 2}, marks=pytest.mark.slow),
    (8, 2, {'data': 1, 'fsdp': 2, 'tensor': 4}),
    pytest.param(8, 1, {'tensor': 4}, marks=pytest.mark.slow),
  ],
)
def test_every_mesh_and_microbatches_give_the_same_gradients(
  gradients, moving, devices, microbatches, axes
):
  program = _program(devices, microbatches, **axes)
  moments, table, metrics = _first_gradients(program)
  # The project's promise; sums in another order alone differ.
  for (path, ours), theirs in zip(
    jax.tree_util.tree_leaves_with_path(moments),
    jax.tree.leaves(gradients[0]),
    strict=True,
  ):
    assert _relative(ours, theirs) < 1e-5, path
  # Signs times a rate: equal but for a gradient that is zero but for rounding.
  assert np.mean(np.abs(table - gradients[1]) > 1e-6) < 0.005
  for name, value in metrics.items():
    assert float(value) == pytest.approx(float(gradients[2][name]), rel=1e-5), (
      name
    )
  # And a run that has moved here goes on as it would have where it was.
  workdir, expected = moving
  losses = _losses(program, _restored(program, workdir))
  assert losses[0] == pytest.approx(expected[0], rel=1e-6)
  assert losses == pytest.approx(expected, rel=1e-4)


def _muon(devices, filter_dtype='float32', **axes):
  """URM's step with Muon on so many devices."""
  mesh = sharding.make_mesh(jax.devices()[:devices], MeshSettings(**axes))
  setup = dataclasses.replace(
    _setup(),
    model=builders.model(
      'urm', V, S, hidden_size=D, num_heads=4, layers=1, puzzle_emb_ndim=D,
      L_cycles=2, filter_dtype=filter_dtype,
    ),
    act=ActSettings(HALT_MAX_STEPS, 0.5, 'halt_only'),
    optimizer=OptimizerSettings(
      'muon', RATE, warmup_steps=WARMUP_STEPS, ema_decay=0.999
    ),
  )  # fmt: skip
  return Program(
    mesh,
    train_step.sharded_init(setup, mesh),
    train_step.sharded_step(setup, mesh),
  )


@pytest.mark.parametrize(
  'axes',
  [
    {'fsdp': 4},
    pytest.param({'data': 1, 'fsdp': 2, 'tensor': 4}, marks=pytest.mark.slow),
  ],
)
def test_muon_makes_whole_matrices_orthogonal_on_every_mesh(axes, tmp_path):
  _, expected = _muon(1).run(4)
  program = _muon(8, **axes)
  _, state = program.run(2)
  kernel = state.params['level']['blocks_0']['mlp']['gate_up']['kernel']
  momentum = optax.tree.get(state.opt_state, 'trace')
  momentum = momentum['level']['blocks_0']['mlp']['gate_up']['kernel']
  # A device has its part of either.
  assert momentum.sharding == kernel.sharding
  assert kernel.addressable_shards[0].data.size * 8 <= 2 * kernel.size
  # Saved, restored, and gone on with.
  saved = checkpoints.Checkpoints(tmp_path, Settings(keep_checkpoints=1))
  saved.save(state, checkpoints.Position(2, ['<blank>'], ''))
  saved.close()
  state = _restored(program, tmp_path, 2)
  for number in (2, 3):
    batch = sharding.global_batch(program.mesh, _batch(number))
    state, _, _ = program.step(state, batch)
  for (path, ours), theirs in zip(
    jax.tree_util.tree_leaves_with_path((state.params, state.opt_state)),
    jax.tree.leaves((expected.params, expected.opt_state)),
    strict=True,
  ):
    # Sums in another order, which the turns multiply.
    assert _relative(ours, theirs) < 1e-4, path


@pytest.mark.slow
def test_a_diverged_step_leaves_muon_as_it_was(monkeypatch):
  original = train_step.loss_and_gradients

  def poisoned(setup, state, batch, min_steps_B):
    carry, metrics, (dense, of_puzzles) = original(
      setup, state, batch, min_steps_B
    )
    hit = jnp.where(state.step == 1, jnp.nan, 0.0)
    dense['lm_head']['kernel'] += hit
    return carry, metrics, (dense, of_puzzles)

  monkeypatch.setattr(train_step, 'loss_and_gradients', poisoned)
  program = _muon(8, 'bfloat16', fsdp=4)
  _, before = program.run(1)
  before = jax.device_get(before)
  _, after = program.run(2)
  assert after.step == 2
  after = jax.device_get(after)
  jax.tree.map(
    np.testing.assert_array_equal,
    after.replace(step=None, carry=None),
    before.replace(step=None, carry=None),
  )


@pytest.mark.slow
def test_split_parameters_stay_split():
  program = _program(8, fsdp=4, tensor=2)
  state, *_ = program.step(
    program.start(), sharding.global_batch(program.mesh, _batch(0))
  )
  for tree in (state.params, state.opt_state[0].mu, state.opt_state[0].nu):
    kernel = tree['H_level']['blocks_0']['mlp']['gate_up']['kernel']
    assert kernel.shape == (D, 512)
    assert {s.data.shape for s in kernel.addressable_shards} == {(8, 256)}


@pytest.mark.parametrize(
  'axes, text',
  [
    ({'tensor': 8}, r'num_heads=4 .* mesh\.tensor=8'),
    ({'data': 1, 'fsdp': 8}, r'hidden_size=36 .* mesh\.fsdp=8'),
  ],
)
def test_what_an_axis_does_not_divide_is_named(axes, text):
  mesh = sharding.make_mesh(settings=MeshSettings(**axes))
  sizes = {'hidden_size': 36, 'num_heads': 2} if 'fsdp' in axes else {}
  with pytest.raises(ConfigError, match=text):
    train_step.sharded_step(_setup(**sizes), mesh)


@pytest.mark.parametrize(
  'rows, microbatches, parts',
  [(64, 1, 2), (64, 4, 4), (20, 1, 1), (23, 1, 1), (60, 2, 3)],
)
def test_a_cpu_takes_the_fewest_rows_that_are_worth_it(
  rows, microbatches, parts
):
  # 10 tokens a row, 6 · 32 at least.
  setup = dataclasses.replace(_setup(), microbatches=microbatches)
  assert train_step._parts(setup, rows) == parts


def test_parts_need_no_puzzle_rows():
  setup = dataclasses.replace(_setup(puzzle_emb_ndim=0), microbatches=2)
  state, *_ = train_step.trace(
    setup, sharding.make_mesh(jax.devices()[:1])
  ).out_info
  assert state.carry.halted.shape == (B,)


def test_microbatches_that_do_not_divide_are_named():
  with pytest.raises(ConfigError, match='microbatches=3'):
    setup = dataclasses.replace(_setup(), microbatches=3)
    train_step.sharded_step(setup, sharding.make_mesh())


def test_the_state_is_made_of_arrays_alone(program):
  for leaf in jax.tree.leaves(program.first):
    assert isinstance(leaf, jax.Array)
    # No keys: nothing random is stored.
    assert leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_)
  abstract = train_step.abstract_state(_setup(), program.mesh)

  def same(leaf, like):
    assert (leaf.shape, leaf.dtype) == (like.shape, like.dtype)
    assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)

  jax.tree.map(same, program.first, abstract)


def test_carry_and_table_are_split_and_the_rest_is_whole(program):
  state = program.first
  for leaf in jax.tree.leaves(state.carry):
    assert {s.data.shape[0] for s in leaf.addressable_shards} == {1}
    assert leaf.shape[0] == B
  # Four more rows than identifiers, that the parts be equal.
  assert state.puzzle_table.shape == (24, D)
  assert {s.data.shape for s in state.puzzle_table.addressable_shards} == {
    (3, D)
  }
  for leaf in jax.tree.leaves(state.replace(carry=None, puzzle_table=None)):
    assert leaf.is_fully_replicated
    assert len(leaf.addressable_shards) == 8


def test_the_old_state_is_donated(program):
  state = program.start()
  batch = sharding.global_batch(program.mesh, _batch(0))
  new, *_ = program.step(state, batch)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, batch)))


def test_constants_are_never_trained(program, run):
  jax.tree.map(
    np.testing.assert_array_equal, run[1].constants, program.first.constants
  )
  # Whereas every dense parameter is.
  for before, after in zip(
    jax.tree.leaves(program.first.params),
    jax.tree.leaves(run[1].params),
    strict=True,
  ):
    assert np.mean(np.asarray(before) != np.asarray(after)) > 0.5


def test_the_puzzle_rows_worked_on_move_and_the_others_stay(program):
  # Batches of rows 0 to 4 and 5 to 9; no row halts before HALT_MAX_STEPS.
  table = _table()
  state, first, second = program.start(table), _batch(0), _batch(1)
  first['puzzle_identifiers'] = np.array([0, 1, 2, 3, 4, 4, 4, 0], np.int32)
  second['puzzle_identifiers'] = np.array([5, 6, 7, 8, 9, 9, 9, 5], np.int32)
  for number, batch in enumerate((first, second)):
    assert np.all(state.carry.halted) == (number == 0)
    before = np.asarray(state.puzzle_table)
    state, *_ = program.step(state, sharding.global_batch(program.mesh, batch))
    after = np.asarray(state.puzzle_table)
    # Twice those of the first batch, which the carry holds on to.
    np.testing.assert_array_equal(after[5:], table[5:])
    rate = PUZZLE_RATE * (number + 1) / WARMUP_STEPS
    decayed = before[:5].astype(np.float64) * (1 - rate * PUZZLE_DECAY)
    # Each value moves by the rate, up or down, however often its row
    # stands there. Two roundings of numbers below 4.
    np.testing.assert_allclose(
      np.abs(after[:5] - decayed), rate, rtol=0, atol=1e-6
    )
  np.testing.assert_array_equal(
    state.carry.data['puzzle_identifiers'], first['puzzle_identifiers']
  )


def test_halted_rows_take_the_next_batch(program):
  state, seen = program.start(), []
  for number in range(HALT_MAX_STEPS + 1):
    batch = sharding.global_batch(program.mesh, _batch(number))
    state, metrics, _ = program.step(state, batch)
    seen.append((np.asarray(state.carry.steps), int(metrics['count'])))
    assert metrics['steps'] == seen[-1][1] * HALT_MAX_STEPS
  # Q starts at (-5, -5), and halts nobody early in these few steps.
  for steps, (row_steps, count) in zip((1, 2, 3, 1), seen, strict=True):
    np.testing.assert_array_equal(row_steps, np.full(B, steps))
    assert count == (B if steps == HALT_MAX_STEPS else 0)
  expected = _batch(HALT_MAX_STEPS)
  jax.tree.map(np.testing.assert_array_equal, state.carry.data, expected)


def test_a_row_without_counted_cells_teaches_its_puzzle_nothing(program):
  # At first the q head has weight 0 and passes nothing on: with no counted
  # cell there is no gradient, and the row only decays.
  table, batch = _table(), _batch(0)
  batch['puzzle_identifiers'] = np.arange(B, dtype=np.int32)
  batch['labels'][:] = 3
  batch['labels'][2] = IGNORE_LABEL
  state, *_ = program.step(
    program.start(table), sharding.global_batch(program.mesh, batch)
  )
  moved = np.asarray(state.puzzle_table)
  rate = PUZZLE_RATE / WARMUP_STEPS
  decayed = table * np.float32(1 - rate * PUZZLE_DECAY)
  # One rounding of the factor and one of the product.
  np.testing.assert_allclose(moved[2], decayed[2], rtol=3e-7)
  assert np.all(np.abs(moved - decayed)[[0, 1, 3, 4]] > rate / 2)


def test_metrics_are_sums_and_gradients_means_over_the_global_batch(program):
  # A batch of eight equal rows, for each row: together as much as the rows.
  def step(batch):
    batch = sharding.global_batch(program.mesh, batch)
    state, metrics, _ = program.step(program.start(), batch)
    # After one step the first moment is the gradient, but for a factor.
    return metrics, state.opt_state[0].mu

  batch = _batch(0)
  metrics, moment = step(batch)
  rows = [
    step({name: np.stack([v[i]] * B) for name, v in batch.items()})
    for i in range(B)
  ]
  for name in ('lm_loss', 'q_halt_loss', 'q_continue_loss', 'loss'):
    expected = sum(float(of_row[name]) / B for of_row, _ in rows)
    assert float(metrics[name]) == pytest.approx(expected, rel=1e-6), name
  assert metrics['learning_rate'] == np.float32(RATE / WARMUP_STEPS)
  mean = jax.tree.map(lambda *g: sum(g) / B, *(of_row for _, of_row in rows))
  for ours, theirs in zip(
    jax.tree.leaves(moment), jax.tree.leaves(mean), strict=True
  ):
    # Sums over rows and tokens in another order.
    assert _relative(ours, theirs) < 1e-5
  # Its size, where it can be told by hand: no row is solved and q is -5 at
  # first, half the halt loss of a mean row; q_continue is on target.
  of_bias = np.asarray(moment['q_head']['bias']) / (1 - 0.9)
  expected = [0.5 / (1 + np.exp(5)), 0]
  np.testing.assert_allclose(of_bias, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.slow
def test_float16_has_the_gradients_of_a_row_among_very_many():
  """Divided by so large a batch first, they would all be zero."""

  def gradients(dtype):
    of_many = dataclasses.replace(_setup(dtype=dtype), batch_size=2**22)
    state = _setup().init()
    # The initial states are drawn in the model's type: others in each.
    constants, z = jax.tree.map(
      lambda x: x.astype(dtype), (state.constants, state.carry.z)
    )
    state = state.replace(constants=constants, carry=state.carry.replace(z=z))

    @jax.jit
    def run(batch):
      steps = jnp.zeros(B, jnp.int32)
      return train_step.loss_and_gradients(of_many, state, batch, steps)[2]

    return run(_batch(0))

  half, exact = gradients('float16'), gradients('float32')
  for ours, theirs in zip(
    jax.tree.leaves(half), jax.tree.leaves(exact), strict=True
  ):
    assert _relative(ours, theirs) < 0.02
    assert ours.dtype == jnp.float32


@pytest.mark.slow
def test_no_puzzle_embedding_at_all():
  mesh = sharding.make_mesh()
  setup = _setup(puzzle_emb_ndim=0, H_cycles=1, L_cycles=1)
  state = train_step.sharded_init(setup, mesh)
  assert state.puzzle_table.shape == (24, 0)
  assert state.carry.z.z_H.shape == (B, S, D)
  step, losses = train_step.sharded_step(setup, mesh), []
  for _ in range(STEPS):
    state, metrics, _ = step(state, sharding.global_batch(mesh, _batch(0)))
    losses.append(float(metrics['lm_loss']))
  assert losses[-1] < losses[0]


@pytest.mark.slow
def test_the_average_starts_at_the_parameters_and_follows_them():
  mesh = sharding.make_mesh()
  setup = _setup()
  decay = 0.75
  setup = dataclasses.replace(
    setup, optimizer=dataclasses.replace(setup.optimizer, ema_decay=decay)
  )
  state = train_step.sharded_init(setup, mesh)
  step = train_step.sharded_step(setup, mesh)
  expected = jax.device_get(state.params)
  jax.tree.map(np.testing.assert_array_equal, state.ema, expected)
  for number in range(4):
    state, *_ = step(state, sharding.global_batch(mesh, _batch(number)))
    expected = jax.tree.map(
      lambda old, new: decay * old + (1 - decay) * np.asarray(new),
      expected,
      state.params,
    )
  # A few roundings of float32.
  jax.tree.map(
    lambda ours, right: np.testing.assert_allclose(
      ours, right, rtol=4 * 2**-23, atol=1e-9
    ),
    state.ema,
    expected,
  )
  # It predicts, with the initial states and the table as they are.
  assert state.weights.variables == {
    'params': state.ema,
    'constants': state.constants,
  }
  moved = jax.tree.map(lambda a, b: np.any(a != b), state.ema, state.params)
  assert all(jax.tree.leaves(moved))


def test_the_average_changes_nothing_in_training(run):
  mesh = sharding.make_mesh()
  setup = _setup()
  setup = dataclasses.replace(
    setup, optimizer=dataclasses.replace(setup.optimizer, ema_decay=0.9)
  )
  with_average = Program(
    mesh,
    train_step.sharded_init(setup, mesh),
    train_step.sharded_step(setup, mesh),
  ).run(5)[0]
  for name, values in with_average.items():
    np.testing.assert_array_equal(values, run[0][name][:5])


def test_direct_prediction_takes_a_new_batch_in_every_step():
  mesh = sharding.make_mesh()
  setup = _direct()
  state = train_step.sharded_init(setup, mesh)
  step, losses = train_step.sharded_step(setup, mesh), []
  q_bias = np.array([-5.0, -5.0])
  for _ in range(STEPS):
    state, metrics, _ = step(state, sharding.global_batch(mesh, _batch(0)))
    assert np.all(state.carry.halted)
    assert np.all(state.carry.steps == 1)
    assert {name for name in metrics if name.startswith('q_')} == set()
    losses.append(float(metrics['lm_loss']))
    assert metrics['loss'] == metrics['lm_loss']
    # Its Q head is decayed, never trained: every answer is equally sure.
    q_bias *= 1 - float(metrics['learning_rate']) * 0.1
    np.testing.assert_allclose(
      state.params['q_head']['bias'], q_bias, rtol=1e-6
    )
    assert not np.any(state.params['q_head']['kernel'])
  assert losses[-1] < losses[0]


def _direct(**settings):
  setup = _setup()
  model = builders.model(
    'direct',
    vocab_size=V,
    seq_len=S,
    hidden_size=D,
    num_heads=4,
    layers=1,
    puzzle_emb_ndim=D,
  )
  settings = ActSettings(**{'halt_max_steps': 1, 'halting': 'none'} | settings)
  return dataclasses.replace(setup, model=model, act=settings)


def test_parameters_are_reported_apart(program):
  counts = count_parameters(program.first, R)
  F, P = 256, D * D
  level = 3 * P + P + 3 * F * D
  trunk = 2 * level + 2 * V * D + 2 * D + 2
  assert counts == {
    'trunk': trunk,
    'puzzle table': R * D,
    'total': trunk + R * D,
  }


def test_batch_that_devices_do_not_divide_is_named():
  with pytest.raises(ConfigError, match=r'batch_size=12 .* 8 devices'):
    train_step.sharded_step(_setup(batch_size=12), sharding.make_mesh())


def test_weights_are_read_on_devices_that_the_batch_does_not_suit():
  setup = dataclasses.replace(_setup(batch_size=12), microbatches=3)
  mesh = sharding.make_mesh()
  with pytest.raises(ConfigError, match='batch_size=12'):
    train_step.abstract_state(setup, mesh)
  like = abstract_weights(setup.model, R, mesh)
  assert like.puzzle_table.shape == (24, D)


def _poison(monkeypatch):
  """In the second step an element of a gradient is no number."""
  original = train_step.loss_and_gradients

  def poisoned(setup, state, batch, min_steps_B):
    carry, metrics, (dense, of_puzzles) = original(
      setup, state, batch, min_steps_B
    )
    down = dense['H_level']['blocks_0']['mlp']['down']
    hit = jnp.where(state.step == 1, jnp.nan, 0.0)
    down['kernel'] = down['kernel'].at[0, 0].add(hit)
    return carry, metrics, (dense, of_puzzles)

  monkeypatch.setattr(train_step, 'loss_and_gradients', poisoned)


def test_a_diverged_step_changes_nothing_but_its_number(monkeypatch):
  _poison(monkeypatch)
  # Parameters are split: one device alone has the element that is no number.
  program = _program(8, fsdp=4, tensor=2)
  state, _, diagnosis = program.step(
    program.start(_table()), sharding.global_batch(program.mesh, _batch(0))
  )
  assert diagnosis.reason == 0
  before = jax.device_get(state)
  state, metrics, diagnosis = program.step(
    state, sharding.global_batch(program.mesh, _batch(1))
  )
  assert divergence.REASONS[diagnosis.reason] == 'the gradient is not finite'
  norms = jax.device_get(diagnosis.gradient_norms)
  assert np.isnan(norms.pop('H_level'))
  assert norms.keys() == {
    'L_level', 'lm_head', 'puzzle_embeddings', 'q_head', 'token_embedding',
  }  # fmt: skip
  assert np.all(np.isfinite(list(norms.values())))
  assert np.isnan(metrics['gradient_norm'])
  assert np.isfinite(metrics['loss'])
  # The puzzles worked on: those that stayed, and new ones in the free rows.
  np.testing.assert_array_equal(
    diagnosis.puzzle_identifiers,
    np.where(
      before.carry.halted,
      _batch(1)['puzzle_identifiers'],
      before.carry.data['puzzle_identifiers'],
    ),
  )
  after = jax.device_get(state)
  jax.tree.map(
    np.testing.assert_array_equal,
    after.replace(step=None, carry=None),
    before.replace(step=None, carry=None),
  )
  assert after.step == 2
  # All rows take other puzzles in the next step, which is healthy.
  assert np.all(after.carry.halted)
  state, _, diagnosis = program.step(
    state, sharding.global_batch(program.mesh, _batch(2))
  )
  assert diagnosis.reason == 0
  np.testing.assert_array_equal(state.carry.data['inputs'], _batch(2)['inputs'])


def test_gradient_norms_are_those_of_the_gradients(program):
  state, metrics, diagnosis = program.step(
    program.start(_table()), sharding.global_batch(program.mesh, _batch(0))
  )
  b1 = OptimizerSettings().b1
  squares = 0.0
  # After one step the first moment is the gradient, but for a factor.
  for name, moments in state.opt_state[0].mu.items():
    parts = [np.asarray(m, np.float64) for m in jax.tree.leaves(moments)]
    expected = sum(np.sum((m / (1 - b1)) ** 2) for m in parts)
    np.testing.assert_allclose(
      diagnosis.gradient_norms[name] ** 2, expected, rtol=1e-5
    )
    squares += expected
  squares += float(diagnosis.gradient_norms['puzzle_embeddings']) ** 2
  assert diagnosis.gradient_norms['puzzle_embeddings'] > 0
  np.testing.assert_allclose(diagnosis.gradient_norm**2, squares, rtol=1e-5)
  assert metrics['gradient_norm'] == diagnosis.gradient_norm
  np.testing.assert_allclose(diagnosis.loss, metrics['loss'] / B, rtol=1e-6)


def test_the_mean_loss_follows_the_losses(run):
  metrics, state = run
  losses, mean = metrics['loss'] / B, np.inf
  for loss in losses:
    mean = loss if np.isinf(mean) else 0.99 * mean + 0.01 * loss
  np.testing.assert_allclose(state.loss_mean, mean, rtol=1e-5)
