"""One optimizer step: one segment of every row, over a mesh of devices."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import optax
from jax.sharding import Mesh

from hrm_jax import act, losses, optimizers, rngs, sharding
from hrm_jax.errors import ConfigError
from hrm_jax.train_state import TrainState, init_state, state_shardings

StepFunction = Callable[
  [TrainState, act.Batch], tuple[TrainState, dict[str, chex.Array]]
]


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
  """Rates and decay; both rates follow one schedule.

  Attributes:
    learning_rate: of the dense parameters.
    weight_decay: of the dense parameters.
    b1: decay of the first moment.
    b2: decay of the second moment.
    puzzle_learning_rate: of the puzzle table.
    puzzle_weight_decay: of the puzzle table.
    warmup_steps: of the schedule, see `optimizers.warmup_cosine`.
    min_ratio: share of the rates at the last step; 1 keeps them constant.
    ema_decay: of the moving average of the dense parameters that predicts
      (TRM: 0.999); 0 for none, the parameters themselves predict.
  """

  learning_rate: float = 1e-4
  weight_decay: float = 0.1
  b1: float = 0.9
  b2: float = 0.95
  puzzle_learning_rate: float = 1e-2
  puzzle_weight_decay: float = 0.1
  warmup_steps: int = 2000
  min_ratio: float = 1.0
  ema_decay: float = 0.0

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      below_one = name in ('b1', 'b2', 'ema_decay')
      limit = 1.0 if below_one or name == 'min_ratio' else math.inf
      if not 0 <= value <= limit or (below_one and value == 1):
        raise ConfigError(
          f'optimizer.{name}={value} is out of range: rates, decays and steps '
          'are not negative, b1, b2 and ema_decay lie in [0, 1), min_ratio in '
          '[0, 1]'
        )


@dataclasses.dataclass(frozen=True)
class TrainSetup:
  """What defines the step besides its arrays.

  Attributes:
    model: any module with the face of `hrm_jax.models`.
    act: how rows halt.
    optimizer: rates and decay.
    loss: a name in `losses.CELL_LOSSES`.
    total_steps: length of the schedule.
    batch_size: rows of a global batch.
    num_puzzle_identifiers: rows of the puzzle table.
    seed: of the parameters and the exploration.
  """

  model: nn.Module
  act: act.ActSettings
  optimizer: OptimizerSettings
  loss: str
  total_steps: int
  batch_size: int
  num_puzzle_identifiers: int
  seed: int

  def __post_init__(self):
    self.model.validate()
    if not self.model.recurrent and (
      self.act.halt_max_steps > 1 or self.act.halting != 'none'
    ):
      raise ConfigError(
        'the model predicts directly: it has no segments to halt after; set '
        "act.halt_max_steps=1 and act.halting='none'"
      )
    if self.loss not in losses.CELL_LOSSES:
      raise ConfigError(
        f"loss='{self.loss}' is unknown; use one of "
        + ', '.join(losses.CELL_LOSSES)
      )

  @property
  def schedule(self) -> optax.Schedule:
    """Share of the base rates after a number of steps."""
    return optimizers.warmup_cosine(
      self.optimizer.warmup_steps, self.total_steps, self.optimizer.min_ratio
    )

  def transform(self) -> optax.GradientTransformation:
    """The optimizer of the dense parameters."""
    settings, schedule = self.optimizer, self.schedule
    return optimizers.adam_atan2(
      lambda count: settings.learning_rate * schedule(count),
      settings.b1,
      settings.b2,
      settings.weight_decay,
    )

  def init(self) -> TrainState:
    """A fresh state; pure, so that it can be traced or jitted."""
    return init_state(
      self.model,
      self.transform(),
      self.seed,
      self.batch_size,
      self.num_puzzle_identifiers,
      keep_ema=self.optimizer.ema_decay > 0,
    )


def loss_and_gradients(
  setup: TrainSetup, state: TrainState, batch: act.Batch
) -> tuple[act.Carry, dict[str, chex.Array], tuple[Any, chex.Array]]:
  """Admits the batch, runs one segment and differentiates loss / batch size.

  Returns:
    The new carry, the metrics as sums over the batch, and the gradients of
    the dense parameters and of each row's puzzle embedding [B, E].
  """
  batch_size = len(state.carry.halted)
  fresh_z = setup.model.apply(
    state.variables, batch_size, method='initial_state'
  )
  carry = act.admit(state.carry, fresh_z, batch)
  puzzles = state.puzzle_table[carry.data['puzzle_identifiers']]
  key = rngs.stream_key(setup.seed, 'exploration', state.step)

  def loss_fn(params, puzzles):
    variables = {'params': params, 'constants': state.constants}
    new_carry, logits, q, target_continue = act.train_segment(
      setup.model, variables, puzzles, carry, setup.act, key
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
    return loss / batch_size, (new_carry, metrics)

  gradients, (carry, metrics) = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)(
    state.params, puzzles
  )
  return carry, metrics, gradients


def train_step(
  setup: TrainSetup, state: TrainState, batch: act.Batch
) -> tuple[TrainState, dict[str, chex.Array]]:
  """One optimizer step as a pure function.

  Args:
    setup: static.
    state: of the last step.
    batch: global; rows enter where the carry's rows have halted.

  Returns:
    The next state, and metrics as sums over the batch (see
    `losses.segment_loss`) with `learning_rate`, the dense rate of this step.
  """
  carry, metrics, (dense, rows) = loss_and_gradients(setup, state, batch)
  updates, opt_state = setup.transform().update(
    dense, state.opt_state, state.params
  )
  ratio = setup.schedule(state.step)
  table = state.puzzle_table
  if setup.model.puzzle_emb_ndim:
    table = optimizers.sign_sgd_rows(
      table,
      # The rows worked on, which are not those of the incoming batch.
      carry.data['puzzle_identifiers'],
      rows,
      setup.optimizer.puzzle_learning_rate * ratio,
      setup.optimizer.puzzle_weight_decay,
    )
  params = optax.apply_updates(state.params, updates)
  ema = state.ema
  if ema is not None:
    ema = optax.incremental_update(params, ema, 1 - setup.optimizer.ema_decay)
  metrics['learning_rate'] = setup.optimizer.learning_rate * ratio
  return state.replace(
    step=state.step + 1,
    params=params,
    ema=ema,
    opt_state=opt_state,
    puzzle_table=table,
    carry=carry,
  ), metrics


def abstract_state(setup: TrainSetup, mesh: Mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state, nothing allocated."""
  shapes = jax.eval_shape(setup.init)
  return jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=place
    ),
    shapes,
    state_shardings(mesh, shapes),
  )


def sharded_init(setup: TrainSetup, mesh: Mesh) -> TrainState:
  """A fresh state, each array made where it lives."""
  shardings = state_shardings(mesh, jax.eval_shape(setup.init))
  return jax.jit(setup.init, out_shardings=shardings)()


def sharded_step(setup: TrainSetup, mesh: Mesh) -> StepFunction:
  """The jitted step: batch split over the mesh, the old state donated."""
  sharding.check_batch_size(mesh, setup.batch_size, 'batch_size')
  shardings = state_shardings(mesh, jax.eval_shape(setup.init))

  # A function of its own: its cache counts its own traces.
  def step(state: TrainState, batch: act.Batch):
    with sharding.using(mesh):
      return train_step(setup, state, batch)

  return jax.jit(
    step,
    donate_argnums=0,
    in_shardings=(shardings, sharding.by_batch(mesh)),
    out_shardings=(shardings, sharding.replicated(mesh)),
  )
