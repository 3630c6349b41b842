"""A training that starts from the weights of another."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from data_pipelines.batches import BLANK_IDENTIFIER
from data_pipelines.errors import ConfigError
from data_pipelines.puzzle_set import PuzzleSet
from hrm_jax import solver as solvers
from hrm_jax.inference import evaluation
from hrm_jax.settings import Settings, flat
from hrm_jax.solver import Solver
from hrm_jax.training.state import TrainState, abstract_weights
from hrm_jax.training.step import TrainSetup

# Settings of a model that say how the same numbers are computed.
_FREE = ('attention', 'fusion', 'dtype')


@dataclasses.dataclass(frozen=True, eq=False)
class WarmStart:
  """Weights to start from.

  Attributes:
    solver: the trained model.
    rows: row of its puzzle table of each puzzle identifier, int32 [N]; -1 for
      puzzles that it does not know.
    mean: whether rows of these start from the mean of those it has, or at zero.
    setup: what the training is.
    mesh: devices of the training.
  """

  solver: Solver
  rows: np.ndarray
  mean: bool
  setup: TrainSetup
  mesh: Mesh

  def __call__(self, fresh: TrainState) -> TrainState:
    """A fresh state with the weights of the checkpoint."""
    known = self.rows >= 0
    # All of them have a part in the mean, which may be of fewer than these.
    needed = np.unique(self.rows[known])
    if self.mean:
      needed = np.arange(len(self.solver.names), dtype=np.int32)
    like = abstract_weights(self.setup.model, len(self.solver.names), self.mesh)
    found = self.solver.weights(like, needed)
    # Each process has a part of it alone.
    old = multihost_utils.process_allgather(found.puzzle_table, tiled=True)
    old = np.asarray(old)[: len(needed)]
    table = np.zeros(fresh.puzzle_table.shape, np.float32)
    if self.mean and len(needed) > 1:
      table[1 : len(self.rows)] = old[needed != BLANK_IDENTIFIER].mean(axis=0)
    table[np.flatnonzero(known)] = old[
      np.searchsorted(needed, self.rows[known])
    ]

    def copied(name):
      # The step takes its state's buffers for its own, each once.
      return jax.tree.map(jnp.copy, found.variables[name])

    return fresh.replace(
      params=copied('params'),
      ema=None if fresh.ema is None else copied('params'),
      constants=copied('constants'),
      puzzle_table=solvers.place_table(self.mesh, table),
    )


def prepare(
  settings: Settings, setup: TrainSetup, puzzles: PuzzleSet,
  names: Sequence[str], mesh: Mesh, solver: Solver | None = None,
) -> WarmStart:  # fmt: skip
  """Finds what `settings.start_from` names; its weights are read later.

  `names` are those of the rows of the table, and `solver` is what is named,
  where that is at hand.

  Raises:
    ConfigError: there is no such checkpoint, or it is of another model.
  """
  solver = solver or solvers.load(settings.start_from)
  theirs, ours = (flat(one.to_dict()) for one in (solver.settings, settings))
  differing = [
    f'{key} ({theirs.get(key)!r} there, {ours.get(key)!r} here)'
    for key in sorted(theirs.keys() | ours.keys())
    if key.startswith('model.')
    and key.removeprefix('model.') not in _FREE
    and theirs.get(key) != ours.get(key)
  ]
  if differing:
    raise ConfigError(
      f'start_from={settings.start_from}: is another model: '
      f'{", ".join(differing)}'
    )
  shapes = [
    jax.tree.map(lambda leaf: leaf.shape, weights.variables)
    for weights in (solver.shapes, abstract_weights(setup.model, 1, mesh))
  ]
  if shapes[0] != shapes[1]:
    raise ConfigError(
      f'start_from={settings.start_from}: was trained on {solver.puzzle_kind}; '
      f'here are {puzzles.describe()}'
    )
  # Tasks of a name that it knows, and not the same, are new.
  _, new = solver.split(getattr(puzzles, 'tasks', ()))
  known = solvers.names_without({task.name for task in new}, solver.names)
  rows = evaluation.rows_of(names, known)
  logging.info(
    'Starts from %s, step %d, which has rows of %d of %d puzzles',
    solver.origin, solver.step, np.count_nonzero(rows[1:] >= 0), len(rows) - 1,
  )  # fmt: skip
  return WarmStart(solver, rows, settings.new_rows == 'mean', setup, mesh)
