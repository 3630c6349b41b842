"""A task is solved by a network that is trained on it alone."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.arc.tasks import Pair, load_tasks
from hrm_jax.compressarc import fit


@pytest.mark.slow
def test_a_task_is_solved_without_its_answer():
  (task,) = (
    task
    for task in load_tasks('arc1:training').tasks
    if task.name == 'c8f0f002'
  )
  (test,) = task.tests
  asked = dataclasses.replace(task, tests=(Pair(test.input, None),))
  seen = []
  found = fit.compress(asked, 200, seed=1, progress=lambda n, _: seen.append(n))
  assert seen == [*range(25, 201, 25)]
  (attempts,) = found.attempts
  assert any(np.array_equal(grid, test.output) for grid in attempts)
  # It begins at 10⁴ nats for each tensor, and few are needed.
  assert sum(found.kl.values()) < 1000
