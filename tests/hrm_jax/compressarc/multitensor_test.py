"""Means over grids that are no rectangle together."""

import numpy as np

from data_pipelines.arc.tasks import Pair, Task
from hrm_jax.compressarc import loss, multitensor
from hrm_jax.compressarc.multitensor import Multi
from hrm_jax.compressarc.problem import prepare


def test_means_are_along_columns_and_then_along_rows():
  """Along Y within the grids, and then along X within their first column.

  Inputs lie and outputs stand: the cells of both are an L.
  """
  rng = np.random.default_rng(0)
  X, Y = 4, 5
  grids = [rng.integers(0, 3, shape, np.uint8) for shape in ((2, Y), (X, 3))]
  task = Task('l', (Pair(*grids),), (Pair(grids[0], None),))
  problem = prepare(task)
  inside = np.array(loss.inside(problem.shape, X, Y).any(1), np.float32)
  assert not inside.all()
  E, C, _, _ = problem.sizes
  cells = rng.standard_normal((E, C, X, Y, 3)).astype(np.float32)
  n = np.zeros((E, C + 1, X + 1, Y + 2, 3), np.float32)
  n[:, 1:, 1:, 1:-1] = cells
  d = np.zeros((*n.shape[:4], multitensor.DIRECTIONS, 3), np.float32)

  scope = multitensor.frame(problem, inside)
  found = multitensor.share_down(Multi(n, d), scope).n[:, 1:, 0, 0]

  within = inside[:, None, :, :, None]
  rows = (cells * within).sum(3) / (within.sum(3) + 1e-4)
  first = within[:, :, :, 0]
  expected = (rows * first).sum(2) / (first.sum(2) + 1e-4)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
