"""One optimizer step: one segment of every row, over a mesh of devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from hrm_jax.models import ReasoningModel
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, DivergenceSettings, OptimizerSettings
from hrm_jax.training import act, divergence, losses, optimizers, puzzle_table
from hrm_jax.training.rngs import stream_key
from hrm_jax.training.state import (
  TrainState,
  check_model,
  init_variables,
  specs_of,
)

# The next state, metrics, and whether the step diverged.
Results = tuple[TrainState, dict[str, chex.Array], divergence.Diagnosis]
StepFunction = Callable[[TrainState, act.Batch], Results]


_DIVERGENCE = DivergenceSettings()


@dataclasses.dataclass(frozen=True)
class TrainSetup:
  """What defines the step besides its arrays.

  Attributes:
    model: any module with the interface of `hrm_jax.models`.
    act: how rows halt.
    optimizer: rates and decay.
    loss: a name in `losses.CELL_LOSSES`.
    total_steps: length of the schedule, in steps.
    batch_size: number of rows of a global batch.
    num_puzzle_identifiers: number of puzzles that have a row of the table.
    seed: seed of the parameters and of exploration.
    microbatches: number of parts that the batch is computed in, one after the
      other; a CPU may take more and smaller ones.
    divergence: what counts as divergence.
  """

  model: ReasoningModel
  act: ActSettings
  optimizer: OptimizerSettings
  loss: str
  total_steps: int
  batch_size: int
  num_puzzle_identifiers: int
  seed: int
  microbatches: int = 1
  divergence: DivergenceSettings = _DIVERGENCE

  @property
  def schedule(self) -> optax.Schedule:
    """Share of the base rates after a number of steps."""
    settings = self.optimizer
    return optimizers.warmup_cosine(
      settings.warmup_steps,
      self.total_steps,
      settings.min_ratio,
      settings.first_step,
    )

  def dense_rate(self, count: chex.Numeric, ratio: chex.Numeric) -> Any:
    """Rate of the dense parameters where `schedule` gives `ratio`."""
    rate = self.optimizer.learning_rate * ratio
    frozen = round(self.optimizer.rows_first * self.total_steps)
    return jnp.where(count < frozen, 0.0, rate) if frozen else rate

  def transform(self) -> optax.GradientTransformation:
    """The optimizer of the dense parameters."""
    settings, schedule = self.optimizer, self.schedule
    decays = settings.b1, settings.b2, settings.weight_decay

    def rate(count):
      return self.dense_rate(count, schedule(count))

    if settings.kind == 'muon':
      return optimizers.muon(rate, specs_of, *decays)
    return optimizers.adam_atan2(rate, *decays)

  def init(self, table_rows: int | None = None) -> TrainState:
    """A fresh state, pure; a row of the table for each identifier, or more."""
    variables = init_variables(self.model, self.seed)
    params, size = variables['params'], self.batch_size
    fresh_z = self.model.apply(variables, size, method='initial_state')
    rows = table_rows or self.num_puzzle_identifiers
    return TrainState(
      step=jnp.zeros([], jnp.int32),
      params=params,
      ema=params if self.optimizer.ema_decay > 0 else None,
      constants=variables['constants'],
      opt_state=self.transform().init(params),
      # Zero, as in the paper's section 3, "puzzle embedding".
      puzzle_table=jnp.zeros((rows, self.model.settings.puzzle_emb_ndim)),
      loss_mean=jnp.full([], jnp.inf, jnp.float32),
      carry=act.initial_carry(fresh_z, size, self.model.seq_len),
    )


def loss_and_gradients(
  setup: TrainSetup,
  state: TrainState,
  batch: act.Batch,
  min_steps_B: chex.Array,
) -> tuple[act.Carry, dict[str, chex.Array], tuple[Any, chex.Array]]:
  """Admits the batch, runs one segment and differentiates loss / batch size.

  Inside `sharding.over_rows`, of a device's own rows; nothing is summed over
  devices yet. Here `params` are whole.

  Returns:
    The new carry, the metrics as sums over the rows, and the gradients of the
    dense parameters and of each row's puzzle embedding [B, E].
  """
  rows = len(state.carry.halted)
  fresh_z = setup.model.apply(state.variables, rows, method='initial_state')
  carry = act.admit(state.carry, fresh_z, batch)
  puzzles = puzzle_table.lookup(
    state.puzzle_table, carry.data['puzzle_identifiers']
  )

  # In float16 so small gradients would be lost: they are divided in float32.
  half = setup.model.dtype == jnp.float16
  divisor = 1 if half else setup.batch_size

  def loss_fn(params, puzzles, carry, min_steps):
    if not setup.optimizer.learning_rate:
      # They stay as they are: their gradient need not be computed.
      params = jax.lax.stop_gradient(params)
    variables = {'params': params, 'constants': state.constants}
    new_carry, logits, q, target_continue = act.train_segment(
      setup.model, variables, puzzles, carry, setup.act, min_steps
    )
    loss, metrics = losses.segment_loss(
      losses.CELL_LOSSES[setup.loss],
      logits,
      q,
      carry.data['labels'],
      new_carry.halted,
      new_carry.steps,
      target_continue,
      q_trained=setup.act.halting != 'none',
    )
    return loss / divisor, (new_carry, metrics)

  def of_rows(*arguments):
    (dense, of_puzzles), (new_carry, metrics) = jax.grad(
      loss_fn, argnums=(0, 1), has_aux=True
    )(state.params, *arguments)
    if half:
      dense, of_puzzles = jax.tree.map(
        lambda x: x / setup.batch_size, (dense, of_puzzles)
      )
    return (dense, metrics), (of_puzzles, new_carry)

  arguments = (puzzles, carry, min_steps_B)
  parts = _parts(setup, rows)
  if parts == 1:
    (dense, metrics), (of_puzzles, carry) = of_rows(*arguments)
    return carry, metrics, (dense, of_puzzles)

  def add_rows(sums, arguments):
    new, results = of_rows(*arguments)
    return jax.tree.map(jnp.add, sums, new), results

  some = jax.tree.map(
    lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), arguments
  )
  shapes, _ = jax.eval_shape(of_rows, *jax.tree.map(lambda x: x[0], some))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (dense, metrics), results = jax.lax.scan(add_rows, zeros, some)
  of_puzzles, carry = jax.tree.map(
    lambda x: x.reshape(rows, *x.shape[2:]), results
  )
  return carry, metrics, (dense, of_puzzles)


def _parts(setup: TrainSetup, rows: int) -> int:
  """Parts that so many rows are computed in.

  On a CPU of the least size whose matrix products still outweigh summing the
  parts' gradients: then activations stay in the cache.
  """
  if sharding.platform() == 'cpu':
    # Measured on two cores: one device uses both, several have one each.
    times = 3 if sharding.batch_axes() else 6
    least = times * setup.model.settings.hidden_size
    for size in range(1, rows // setup.microbatches):
      if rows % size == 0 and size * setup.model.num_tokens >= least:
        return rows // size
  return setup.microbatches


def train_step(
  setup: TrainSetup, state: TrainState, batch: act.Batch
) -> Results:
  """One optimizer step on a global batch, as a pure function.

  One that diverges changes nothing but its number: what is trained stays as it
  was, and all rows halt, so that the next step takes other puzzles.

  Returns:
    The next state; metrics as sums over the batch (see `losses.segment_loss`)
    with `learning_rate`, the dense rate of this step, and `gradient_norm`; and
    the diagnosis.
  """
  key = stream_key(setup.seed, 'exploration', state.step)
  min_steps_B = act.exploration_min_steps(key, setup.act, setup.batch_size)
  specs, rows = specs_of(state), sharding.spec('batch')
  step = sharding.over_rows(
    functools.partial(_step_of_rows, setup, specs),
    (specs, rows, rows),
    (specs, sharding.spec(), sharding.spec()),
  )
  return step(state, batch, min_steps_B)


def _step_of_rows(
  setup: TrainSetup,
  specs: TrainState,
  state: TrainState,
  batch: act.Batch,
  min_steps_B: chex.Array,
) -> Results:
  """`train_step` as one device does it; five things and a diagnosis cross."""
  carry, metrics, (dense, of_puzzles) = loss_and_gradients(
    setup,
    # 1. Parameters, where they are split; 2. puzzle rows, in there.
    state.replace(params=sharding.whole(state.params, specs.params)),
    batch,
    min_steps_B,
  )
  # 3. and 4. Sums over rows.
  dense = sharding.total_split(dense, specs.params)
  metrics, squares_of_puzzles = sharding.total(
    (metrics, jnp.sum(jnp.square(of_puzzles)))
  )
  squares = jax.tree.map(lambda x: jnp.sum(jnp.square(x)), dense)
  squares = sharding.total_of_parts(squares, specs.params)
  # The rows worked on, which are not those of the incoming batch.
  identifiers = carry.data['puzzle_identifiers']
  diagnosis = divergence.diagnose(
    setup.divergence,
    metrics['loss'] / setup.batch_size,
    state.loss_mean,
    squares | {'puzzle_embeddings': squares_of_puzzles},
    sharding.whole(identifiers, sharding.spec('batch')),
  )
  healthy = diagnosis.reason == 0
  keep = functools.partial(
    jax.tree.map, lambda new, old: jnp.where(healthy, new, old)
  )
  with jax.named_scope('optimizer'):
    updates, opt_state = setup.transform().update(
      dense, state.opt_state, state.params
    )
  # Updates that were applied, as the dense rate counts; all counts are equal.
  count = optax.tree.get_all_with_path(state.opt_state, 'count')[0][1]
  ratio = setup.schedule(count)
  table = state.puzzle_table
  if setup.model.settings.puzzle_emb_ndim:
    # 5. Gradients of puzzle rows.
    table = puzzle_table.update(
      table,
      identifiers,
      of_puzzles,
      setup.optimizer.puzzle_learning_rate * ratio,
      setup.optimizer.puzzle_weight_decay,
      applied=healthy,
    )
  loss_mean = divergence.next_loss_mean(state.loss_mean, diagnosis.loss)
  params = optax.apply_updates(state.params, updates)
  old = state.params, state.opt_state, state.loss_mean
  params, opt_state, loss_mean = keep((params, opt_state, loss_mean), old)
  ema, new = state.ema, 1 - setup.optimizer.ema_decay
  if ema is not None:
    ema = keep(optax.incremental_update(params, ema, new), ema)
  metrics['learning_rate'] = setup.dense_rate(count, ratio)
  metrics['gradient_norm'] = diagnosis.gradient_norm
  new_state = state.replace(
    step=state.step + 1,
    params=params,
    ema=ema,
    opt_state=opt_state,
    puzzle_table=table,
    loss_mean=loss_mean,
    # What a halted row holds is not looked at again.
    carry=carry.replace(halted=carry.halted | ~healthy),
  )
  return new_state, metrics, diagnosis


def abstract_state(setup: TrainSetup, mesh: Mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state, once `check_mesh` has passed."""
  check_mesh(setup, mesh)
  shapes = jax.eval_shape(_init(setup, mesh))
  return sharding.placed(mesh, shapes, specs_of(shapes))


def check_mesh(setup: TrainSetup, mesh: Mesh) -> None:
  """Raises ConfigError where the mesh does not divide the model or batch."""
  check_model(setup.model, mesh)
  size, parts = setup.batch_size, setup.microbatches
  sharding.check_batch_size(mesh, size, 'batch_size', parts)


def sharded_init(setup: TrainSetup, mesh: Mesh) -> TrainState:
  """A fresh state, each array made where it lives."""
  shardings = _shardings(abstract_state(setup, mesh))
  return jax.jit(_init(setup, mesh), out_shardings=shardings)()


def sharded_carry(setup: TrainSetup, mesh: Mesh) -> act.Carry:
  """The carry of `sharded_init` alone: all rows start with the next batch."""
  shardings = _shardings(abstract_state(setup, mesh)).carry
  init = _init(setup, mesh)
  return jax.jit(lambda: init().carry, out_shardings=shardings)()


def sharded_step(
  setup: TrainSetup, mesh: Mesh, steps: int = 1
) -> jax.stages.Wrapped:
  """The jitted step: batch split over the mesh, the old state donated.

  With `steps` above 1 it takes so many steps in one call: the batches, the
  metrics and the diagnoses are stacked along a first axis.
  """
  shardings = _shardings(abstract_state(setup, mesh))

  # A function of its own: its cache counts its own traces.
  def step(state: TrainState, batch: act.Batch):
    with sharding.using(mesh):
      return train_step(setup, state, batch)

  def scanned(state: TrainState, batches: act.Batch):
    def one(state, batch):
      state, *told = step(state, batch)
      return state, told

    state, (metrics, diagnosis) = jax.lax.scan(one, state, batches)
    return state, metrics, diagnosis

  whole, stacked = sharding.replicated(mesh), steps > 1
  return jax.jit(
    scanned if stacked else step,
    donate_argnums=0,
    in_shardings=(shardings, sharding.by_batch(mesh, stacked)),
    out_shardings=(shardings, whole, whole),
  )


def abstract_batch(setup: TrainSetup, mesh: Mesh) -> act.Batch:
  """Shapes, dtypes and shardings of a global batch, nothing allocated."""
  rows = sharding.by_batch(mesh)
  cells = (setup.batch_size, setup.model.seq_len)
  shapes = {'inputs': cells, 'labels': cells, 'puzzle_identifiers': cells[:1]}
  return {
    name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows)
    for name, shape in shapes.items()
  }


def trace(setup: TrainSetup, mesh: Mesh) -> jax.stages.Traced:
  """The very step of `sharded_step`, to be lowered and compiled: from shapes.

  The mesh's devices may be described ones, see `jax.experimental.topologies`.
  """
  return sharded_step(setup, mesh).trace(
    abstract_state(setup, mesh), abstract_batch(setup, mesh)
  )


def _init(setup: TrainSetup, mesh: Mesh) -> Callable[[], TrainState]:
  rows = puzzle_table.num_rows(mesh, setup.num_puzzle_identifiers)
  return functools.partial(setup.init, rows)


def _shardings(abstract: TrainState) -> TrainState:
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)
