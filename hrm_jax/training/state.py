"""The training state: arrays only, and all that a run needs to go on."""

from typing import Any, NamedTuple

import chex
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from data_pipelines.errors import ConfigError
from hrm_jax.models import ReasoningModel, layers
from hrm_jax.parallel import sharding
from hrm_jax.training import act, puzzle_table
from hrm_jax.training.rngs import stream_key


class Weights(NamedTuple):
  """What predicts: parameters (or their average), constants, table [R, E]."""

  variables: dict[str, Any]
  puzzle_table: chex.Array


class TrainState(flax.struct.PyTreeNode):
  """Everything that one optimizer step reads and writes.

  Attributes:
    step: optimizer steps done, int32.
    params: dense parameters, float32.
    ema: their exponential moving average, which predicts; None without one.
    constants: initial states of the model, never trained.
    opt_state: optimizer state of `params`.
    puzzle_table: float32 [R, E], one row for each puzzle identifier.
    loss_mean: running mean of the loss, inf before the first step.
    carry: the rows being worked on.
  """

  step: chex.Array
  params: Any
  ema: Any
  constants: Any
  opt_state: optax.OptState
  puzzle_table: chex.Array
  loss_mean: chex.Array
  carry: act.Carry

  @property
  def variables(self) -> dict[str, Any]:
    """What `model.apply` takes while training."""
    return {'params': self.params, 'constants': self.constants}

  @property
  def trained(self) -> dict[str, Any]:
    """`variables` with the puzzle table, where the model has one."""
    if not self.puzzle_table.size:
      return self.variables
    return self.variables | {'puzzle_table': self.puzzle_table}

  @property
  def weights(self) -> Weights:
    """What predicts: the average, if kept, and the puzzle table."""
    params = self.params if self.ema is None else self.ema
    variables = {'params': params, 'constants': self.constants}
    return Weights(variables, self.puzzle_table)


def init_variables(model: ReasoningModel, seed: int) -> dict[str, Any]:
  """Fresh parameters and constants of a model."""
  inputs = jnp.zeros((1, model.seq_len), jnp.int32)
  puzzles = jnp.zeros((1, model.settings.puzzle_emb_ndim))
  variables = model.init(stream_key(seed, 'parameters'), inputs, puzzles)
  return {'constants': {}, **variables}


def abstract_weights(
  model: ReasoningModel, num_puzzle_identifiers: int, mesh: Mesh
) -> Weights:
  """Shapes, dtypes and shardings of a model's weights, nothing allocated.

  Raises:
    ConfigError: the mesh does not divide the model.
  """
  check_model(model, mesh)
  rows = puzzle_table.num_rows(mesh, num_puzzle_identifiers)
  shapes = Weights(
    jax.eval_shape(lambda: init_variables(model, 0)),
    jax.ShapeDtypeStruct((rows, model.settings.puzzle_emb_ndim), jnp.float32),
  )
  return sharding.placed(mesh, shapes, specs_of(shapes))


def fresh_weights(
  model: ReasoningModel, seed: int, num_puzzle_identifiers: int, mesh: Mesh
) -> Weights:
  """Untrained weights, each array made where it lives; the table is zero."""
  like = abstract_weights(model, num_puzzle_identifiers, mesh)
  shape = like.puzzle_table.shape
  return jax.jit(
    lambda: Weights(init_variables(model, seed), jnp.zeros(shape)),
    out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like),
  )()


def check_model(model: ReasoningModel, mesh: Mesh) -> None:
  """Raises ConfigError where the mesh does not divide the model."""
  settings = model.settings
  width = layers.swiglu_width(settings.hidden_size, settings.expansion)
  for field, size, name in (
    ('model.hidden_size', settings.hidden_size, 'embed'),
    ('model.num_heads', settings.num_heads, 'heads'),
    ('MLP width', width, 'mlp'),
  ):
    if size % (parts := sharding.count(mesh, name)):
      axis = ', '.join(sharding.RULES[name])
      raise ConfigError(
        f'{field}={size} is not divisible by mesh.{axis}={parts}; choose a '
        'size of that axis that divides it'
      )


class Position(NamedTuple):
  """Where a run stands besides its arrays.

  Attributes:
    data_position: number of the next training batch.
    identifier_names: name of each row of the puzzle table.
    data_version: which data the run trains on.
    batch_size: number of rows of the carry, and of the batches counted.
    scores: step and score of each of the run's evaluations; the best are kept.
    loop: what else the training loop has to remember, as JSON.
  """

  data_position: int
  identifier_names: list[str]
  data_version: str
  batch_size: int = 0
  scores: tuple[tuple[int, float], ...] = ()
  loop: dict[str, Any] | None = None


# Names of the axes of arrays, by the end of their paths; the names' meaning is
# in `sharding.RULES`. What is not here is copied.
_AXES = {
  'attention/qkv/kernel': ('embed', 'heads'),
  'attention/out/kernel': ('heads', 'embed'),
  'mlp/gate_up/kernel': ('embed', 'mlp'),
  'mlp/down/kernel': ('mlp', 'embed'),
  'token_embedding': (None, 'embed'),
  'position_embedding': (None, 'embed'),
  'lm_head/kernel': ('embed', None),
  'puzzle_table': ('puzzles',),
}


def specs_of(tree: Any) -> Any:
  """How each array of a `TrainState` or of `Weights` is split over a mesh."""

  def of_one(path, _):
    keys = [getattr(k, 'key', getattr(k, 'name', '')) for k in path]
    if keys[0] == 'carry':
      return sharding.spec('batch')
    for end, names in _AXES.items():
      parts = end.split('/')
      if keys[-len(parts) :] == parts:
        return sharding.spec(*names)
    return sharding.spec()

  return jax.tree_util.tree_map_with_path(of_one, tree)


def count_parameters(
  state: TrainState, num_puzzle_identifiers: int
) -> dict[str, int]:
  """Numbers of trained values: trunk, puzzle table, and total."""
  trunk = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  table = num_puzzle_identifiers * state.puzzle_table.shape[1]
  return {'trunk': trunk, 'puzzle table': table, 'total': trunk + table}
