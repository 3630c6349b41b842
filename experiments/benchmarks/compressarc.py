"""Measures CompressARC's step on CPUs, in products of matrices."""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from data_pipelines.arc.tasks import Task, load_tasks
from hrm_jax.compressarc import fit
from hrm_jax.compressarc.problem import prepare

# Tasks, how many at a time, and the better published time of a step, seconds on
# two cores that make 196 GFLOP/s.
_CASES = (
  ('c8f0f002', 1, 0.58), ('c8f0f002', 8, 0.58), ('7c008303', 1, 0.78),
  ('6aa20dc0', 1, 1.65),
)  # fmt: skip
_RATE = 196e9
_SIDE, _STEPS, _REPEATS = 1024, 5, 5


def step() -> None:
  """Times steps and products in turns, by wall clock and by CPU time."""
  tasks = {task.name: task for task in load_tasks('arc1:training').tasks}
  square = jax.numpy.full((_SIDE, _SIDE), 1 / _SIDE)
  product = jax.jit(lambda a: a @ a)
  for name, lanes, published in _CASES:
    run = _steps(tasks[name], lanes)
    spent = []
    for _ in range(_REPEATS):
      products = _time(lambda: [product(square) for _ in range(_STEPS)])
      spent.append((*_time(run), *products))
    wall, cpu, product_wall, product_cpu = map(
      statistics.median, zip(*spent[1:], strict=True)
    )
    # What the published step takes, in products of its machine.
    best, ours = published * _RATE / (2 * _SIDE**3), wall / product_wall / lanes
    rate = 2 * _SIDE**3 / product_wall / 1e9
    print(
      f'{name}, {lanes} at a time: a step of one {wall / lanes:.4f} s, '
      f'{cpu / lanes:.4f} s of CPU time; {ours:.2f} products of {_SIDE}³ '
      f'(float32, {rate:.0f} GFLOP/s), by CPU time '
      f'{cpu / product_cpu / lanes:.2f}; published {best:.0f}, '
      f'{best / ours:.1f} times as many',
      flush=True,
    )


def _steps(task: Task, lanes: int) -> Callable[[], object]:
  problem = prepare(task)
  states, problems = jax.device_put(
    jax.tree.map(
      lambda leaf: np.stack([leaf] * lanes), (fit.initial(0, problem), problem)
    )
  )

  def run():
    nonlocal states
    key = jax.random.key(0)
    taken = np.zeros(lanes, np.int32)
    states, told = fit.steps(states, problems, key, taken, _STEPS)
    return told

  return run


def _time(function: Callable[[], object]) -> tuple[float, float]:
  """Seconds of one of `_STEPS`, of wall clock and of CPU time."""
  wall, cpu = time.perf_counter(), time.process_time()
  jax.block_until_ready(function())
  return (
    (time.perf_counter() - wall) / _STEPS, (time.process_time() - cpu) / _STEPS,
  )  # fmt: skip
