"""Measures the training step of one size, for `hrm-jax benchmark train_step`.

python -m experiments.benchmarks.step 32x81x512x4x8 [SECONDS] [--cpu_devices=N]
"""

import json
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.errors import ConfigError
from experiments.cli import command, launch, shared_flags
from hrm_jax.models import HRM
from hrm_jax.parallel import sharding
from hrm_jax.settings import ActSettings, HRMSettings, OptimizerSettings
from hrm_jax.training import act, flops
from hrm_jax.training import step as train_step

VOCAB_SIZE = 12
# Side of the matrices, and products in one timing: as long as part of a step.
MATMUL, MATMULS = 1024, 16


def main(argv: Sequence[str]) -> None:
  """Prints one line of JSON.

  `ready` and `first_step` are the seconds from the first call of JAX to the
  first step's begin and end, `ms` is the median time of a step, `utilisation`
  its fraction of a matrix product's rate, `resident` a peak of memory in MiB.
  """
  try:
    size, seconds = argv[0], float(argv[1]) if argv[1:] else 30.0
    B, S, D, blocks, heads = map(int, size.split('x'))
  except (IndexError, ValueError):
    raise ConfigError(
      'give batch x cells x hidden size x blocks per level x heads, e.g. '
      '32x81x512x4x8, and seconds to measure for'
    ) from None
  setup, batch = made(B, S, D, blocks, heads)
  begin = time.perf_counter()
  mesh = sharding.make_mesh()
  state = train_step.sharded_init(setup, mesh)
  step = train_step.trace(setup, mesh).lower().compile()
  ready = time.perf_counter() - begin
  batch = sharding.global_batch(mesh, batch)
  state, *_ = jax.block_until_ready(step(state, batch))
  first_step = time.perf_counter() - begin

  resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  square = jnp.full((MATMUL, MATMUL), 1 / MATMUL)
  _time(_matmuls, square)
  steps, matmuls = [], []
  # In turns, so that other work on the machine slows both alike.
  while time.perf_counter() - begin - first_step < seconds:
    matmuls += [_time(_matmuls, square)[0] for _ in range(3)]
    spent, (state, *_) = _time(step, state, batch)
    steps.append(spent)
  found = {'ready': ready, 'first_step': first_step, 'resident': resident}
  if steps:
    rate = MATMULS * 2 * MATMUL**3 / statistics.median(matmuls)
    spent = statistics.median(steps)
    found |= {
      'steps': len(steps),
      'ms': 1e3 * spent,
      'gigaflops': rate / 1e9,
      'utilisation': flops.ideal_step_flops(setup) / spent / rate,
    }
  print(json.dumps(found))


def made(
  B: int, S: int, D: int, blocks: int, heads: int, halting: str = 'q_learning'
) -> tuple[train_step.TrainSetup, act.Batch]:
  """Makes an HRM of these sizes in float32, and a batch of random cells."""
  settings = HRMSettings(
    hidden_size=D, num_heads=heads, H_layers=blocks, L_layers=blocks,
    puzzle_emb_ndim=D, dtype='float32',
  )  # fmt: skip
  setup = train_step.TrainSetup(
    model=HRM(settings, VOCAB_SIZE, S),
    act=ActSettings(halting=halting),
    optimizer=OptimizerSettings(),
    loss='stablemax',
    total_steps=1000,
    batch_size=B,
    num_puzzle_identifiers=1,
    seed=0,
  )
  rng = np.random.default_rng(0)
  cells = rng.integers(1, VOCAB_SIZE, (2, B, S), np.int32)
  return setup, {
    'inputs': cells[0],
    'labels': cells[1],
    'puzzle_identifiers': np.zeros(B, np.int32),
  }


@jax.jit
def _matmuls(x):
  return jax.lax.fori_loop(0, MATMULS, lambda _, y: x @ y, x)


def _time(function: Callable, *arguments):
  begin = time.perf_counter()
  result = jax.block_until_ready(function(*arguments))
  return time.perf_counter() - begin, result


if __name__ == '__main__':
  command.run(
    main, shared_flags.define(*shared_flags.JAX), launch.start, positional=True
  )
