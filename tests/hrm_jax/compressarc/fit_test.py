"""A task is solved by a network that is trained on it alone."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.arc.tasks import Pair, TaskSet, load_tasks
from hrm_jax.compressarc import solving
from hrm_jax.compressarc.solving import Plan


@pytest.mark.slow
def test_a_task_is_solved_without_its_answer():
  (task,) = (
    task
    for task in load_tasks('arc1:training').tasks
    if task.name == 'c8f0f002'
  )
  (test,) = task.tests
  asked = dataclasses.replace(task, tests=(Pair(test.input, None),))
  (found,) = solving.solve(TaskSet('one', (asked,)), Plan(num_steps=175))
  first, second, *_ = found.answer().attempts[0]
  assert any(np.array_equal(x.grid, test.output) for x in (first, second))
  # It begins at 10⁴ nats for each tensor, and few are needed.
  assert sum(found.kl.values()) < 2000
