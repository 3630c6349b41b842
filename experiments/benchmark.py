"""Measures speed, and the ratios of what one run compared.

hrm-jax benchmark train_step
hrm-jax benchmark puzzle_table
hrm-jax benchmark halting
hrm-jax benchmark input_pipeline
hrm-jax benchmark generators
hrm-jax benchmark voting
hrm-jax benchmark saving
hrm-jax benchmark act_evaluation --workdir=DIR
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

import hrm_jax.solver
from data_pipelines.arc import encoding, voting
from data_pipelines.errors import ConfigError
from data_pipelines.questions import maze, sudoku
from experiments.benchmarks import step as benchmark_step
from experiments.cli import command, launch, shared_flags
from experiments.configs import arc1
from hrm_jax import build
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import sharding
from hrm_jax.training import optimizers
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints


def training_step() -> None:
  """A CPU's step against its matrix product, and the time until the first.

  HRM in float32, batch × cells × hidden size × blocks per level × heads; model
  FLOP utilisation is `flops.ideal_step_flops` over a step's time and over the
  rate of a product of 1024³ in the same process.
  """
  for size in ('32x81x512x4x8', '64x100x128x2x4', '2x900x512x4x8'):
    rows = int(size.split('x')[0])
    for devices in sorted({1, math.gcd(rows, len(os.sched_getaffinity(0)))}):
      with tempfile.TemporaryDirectory() as empty:
        cache = {'JAX_COMPILATION_CACHE_DIR': empty}
        cold, cached = (
          json.loads(
            _python(
              'experiments.benchmarks.step',
              size,
              seconds,
              f'--cpu_devices={devices}',
              **cache,
            )
          )
          for seconds in ('0', '20')
        )
      print(
        f'{size:14} on {devices} CPU devices: {cached["ms"]:5.0f} ms a step '
        f'(median of {cached["steps"]}), utilisation '
        f'{cached["utilisation"]:.2f} of {cached["gigaflops"]:.0f} GFLOP/s; '
        f'ready after {cold["ready"]:.1f} s, first step done after '
        f'{cold["first_step"]:.1f} s, with the cache {cached["ready"]:.1f} and '
        f'{cached["first_step"]:.1f} s; peak {cached["resident"]:.0f} MiB',
        flush=True,
      )


def puzzle_table() -> None:
  """Time of one table update against the table's rows, at the paper's sizes."""
  batch, width, repeats = 768, 512, 30
  update = jax.jit(
    functools.partial(
      optimizers.sign_sgd_rows, learning_rate=1e-2, weight_decay=0.1
    ),
    donate_argnums=0,
  )
  gradients = jax.random.normal(jax.random.key(0), (batch, width))
  medians = []
  for rows in (10**3, 10**6):
    table = jnp.zeros((rows, width))
    chosen = jax.random.randint(jax.random.key(1), (batch,), 0, rows)
    table = update(table, chosen, gradients).block_until_ready()
    times = []
    for _ in range(repeats):
      begin = time.perf_counter()
      table = update(table, chosen, gradients).block_until_ready()
      times.append(time.perf_counter() - begin)
    medians.append(statistics.median(times))
    print(
      f'{rows:>9,} rows × {width}: {1e3 * medians[-1]:.2f} ms an update of '
      f'{batch} rows (median of {repeats})'
    )
    del table
  print(f'ratio: {medians[1] / medians[0]:.2f}')


def halting() -> None:
  """Time of a training step with and without the Q target's segment."""
  batch_size, seq_len, repeats = 64, 100, 15
  mesh = sharding.make_mesh(jax.devices()[:1])
  steps, states, times = {}, {}, {}
  for rule in ('q_learning', 'halt_only'):
    setup, batch = benchmark_step.made(batch_size, seq_len, 128, 2, 4, rule)
    steps[rule] = train_step.sharded_step(setup, mesh)
    states[rule] = train_step.sharded_init(setup, mesh)
    times[rule] = []
  # In turns, so that whatever else the machine does hits both alike.
  for _ in range(repeats + 1):
    for rule, step in steps.items():
      begin = time.perf_counter()
      states[rule], *_ = jax.block_until_ready(step(states[rule], batch))
      times[rule].append(time.perf_counter() - begin)
  # The first compiles.
  medians = [statistics.median(times[rule][1:]) for rule in steps]
  for rule, median in zip(steps, medians, strict=True):
    print(
      f'{rule:10}  {1e3 * median:.0f} ms a step of {batch_size} × {seq_len} '
      f'cells, HRM 128 wide, 2 + 2 blocks (median of {repeats})'
    )
  print(f'ratio: {medians[1] / medians[0]:.2f}')


def saving() -> None:
  """The demo's steps with a checkpoint every 50 against none at all.

  Until the last one is on the disk; in training the next steps hide that.
  """
  steps, every, repeats = 200, 50, 5
  config = arc1.get_config('demo')
  puzzles = build.puzzle_set(config)
  setup, mesh = build.train_setup(config, puzzles), build.mesh(config)
  names = puzzles.identifier_names()
  step = train_step.sharded_step(setup, mesh)
  batches = puzzles.train_batches(setup.batch_size, config.seed)
  state = train_step.sharded_init(setup, mesh)
  # The first compiles.
  state, *_ = step(state, sharding.global_batch(mesh, next(batches)))
  times = {'without': [], 'with': []}
  with tempfile.TemporaryDirectory() as workdir:
    saved = checkpoints.Checkpoints(
      workdir, checkpoints.Keep(config.keep_checkpoints)
    )
    # In turns, so that whatever else the machine does hits both alike.
    for kind in [*times] * repeats:
      begin = time.perf_counter()
      for number in range(1, steps + 1):
        batch = sharding.global_batch(mesh, next(batches))
        state, *rest = step(state, batch)
        jax.block_until_ready(rest)
        if kind == 'with' and number % every == 0:
          saved.save(
            state, checkpoints.Position(number, names, puzzles.version)
          )
      saved.wait()
      times[kind].append(time.perf_counter() - begin)
    saved.close()
    size = sum(
      path.stat().st_size
      for path in saved.directory.rglob('*')
      if path.is_file()
    ) / len(saved.steps())
  medians = {kind: statistics.median(spent) for kind, spent in times.items()}
  for kind, median in medians.items():
    print(
      f'{kind:7} checkpoints: {median:.2f} s for {steps} steps of the demo '
      f'(median of {repeats}, {min(times[kind]):.2f} to {max(times[kind]):.2f})'
    )
  print(
    f'a checkpoint is {size / 2**20:.1f} MiB; one every {every} steps costs '
    f'{100 * (medians["with"] / medians["without"] - 1):.1f} % of the time'
  )


def input_pipeline() -> None:
  """Each kind of set, in a process of its own; needs 0.4 GB of disk."""
  with tempfile.TemporaryDirectory() as scratch:
    published = pathlib.Path(scratch) / 'arc1'
    _python(
      'experiments.export_puzzles', '--train=arc1:training',
      '--evaluate=arc1:evaluation', '--num_aug=50', f'--out={published}',
    )  # fmt: skip
    for title, *arguments in (
      (
        'ARC-1 × 1000',
        '--train=arc1:training',
        '--evaluate=arc1:evaluation',
      ),
      (
        'ARC-2 × 1000',
        '--train=arc2:training',
        '--evaluate=arc2:evaluation',
      ),
      ('Sudoku 9 × 9, 1000 × 1000', '--train=sudoku'),
      ('mazes 30 × 30, 1000', '--train=maze', '--num_aug=0'),
      (
        'ARC-1 × 50, published format',
        f'--train={published}',
        f'--evaluate={published}',
      ),
    ):
      found = json.loads(_python('experiments.benchmarks.input', *arguments))
      print(
        f'{title:28}  {found["examples"]:9,.0f} examples/s  '
        f'{found["batches"]:6.1f} batches of 768/s  peak '
        f'{found["resident"]:5.0f} MiB  load {found["load"]:.1f} s, first '
        f'batch {found["first_batch"]:.1f} s later, at position 10^6 '
        f'{found["far"]:+.2f} s\n{"":28}  {found["set"]}'
      )


def generators() -> None:
  """1,000 Sudokus and mazes as large as the paper's; compiling included."""
  for name, make in (
    (
      'Sudokus of 9 × 9, at most 27 clues',
      lambda: sudoku.generate(sudoku.Sudoku(3, 3), 1000, 0, 27),
    ),
    (
      'mazes of 30 × 30, at least 110 steps',
      lambda: maze.generate(maze.Maze(30, 30), 1000, 0, 110),
    ),
  ):
    begin = time.perf_counter()
    made = make()
    print(f'{len(made.questions)} {name}: {time.perf_counter() - begin:.1f} s')


def _python(module: str, *arguments: str, **variables: str) -> str:
  """Runs a module in a new interpreter; returns the last line it printed.

  Args:
    module: its name.
    *arguments: of its command line.
    **variables: of its environment, beside this process's own.
  """
  done = subprocess.run(
    [sys.executable, '-m', module, *arguments],
    stdout=subprocess.PIPE,
    env=os.environ | variables,
    text=True,
    check=True,
  )
  return done.stdout.strip().splitlines()[-1]


def decode_and_vote() -> None:
  """419 test inputs × 1000 augmentations of 30 × 30, made-up predictions.

  A tenth of the predictions has another size, 60 % differ from the answer in
  one to five cells, the rest are the answer.
  """
  rng = np.random.default_rng(0)
  made = [_predictions(rng, 1000) for _ in range(20)]
  spent = 0.0
  for number in range(419):
    tokens, dihedral, colours, confidence = made[number % len(made)]
    begin = time.perf_counter()
    grids, heights, widths = encoding.decode(tokens, dihedral, colours)
    voting.vote(grids, heights, widths, confidence)
    spent += time.perf_counter() - begin
  print(f'419 test inputs × 1000 predictions: {spent:.1f} s')


def _predictions(rng: np.random.Generator, count: int):
  answer = rng.integers(0, 10, rng.integers(3, 31, 2)).astype(np.uint8)
  dihedral = rng.integers(0, 8, count)
  colours = np.tile(np.arange(10, dtype=np.uint8), (count, 1))
  colours[:, 1:] = rng.permuted(colours[:, 1:], axis=1)
  tokens = []
  for transform, permutation in zip(dihedral, colours, strict=True):
    grid, kind = answer.copy(), rng.random()
    if kind < 0.1:
      grid = rng.integers(0, 10, rng.integers(1, 31, 2)).astype(np.uint8)
    elif kind < 0.7:
      cells = rng.integers(0, grid.size, rng.integers(1, 6))
      grid.flat[cells] = rng.integers(0, 10, len(cells))
    tokens.append(
      encoding.encode(encoding.augment(grid, transform, permutation))
    )
  return np.stack(tokens), dihedral, colours, rng.random(count)


def act_evaluation() -> None:
  """A trained run's evaluation: time and segments of `act` against `fixed`.

  Of few rows the last ones, which run all segments, are many; so also of each
  row ten times.
  """
  if FLAGS.workdir is None:
    raise ConfigError('--workdir is missing, e.g. --workdir=runs/demo')
  repeats = 5
  solver = hrm_jax.solver.load(FLAGS.workdir, FLAGS.step)
  (query,) = solver.held_out().queries
  rows, modes = query.rows, inference.HALTING_MODES
  for copies, batch_size in ((1, solver.batch_size()), (10, 128)):
    chosen = rows.take(np.tile(np.arange(len(rows)), copies))
    times = {mode: [] for mode in modes}
    segments = {}
    # In turns, so that whatever else the machine does hits both alike.
    for _ in range(repeats + 1):
      for mode in modes:
        begin = time.perf_counter()
        judge = solver.predict(
          dataclasses.replace(query, rows=chosen), mode, batch_size=batch_size
        )
        times[mode].append(time.perf_counter() - begin)
        segments[mode] = judge.metrics['eval/steps']
    # The first compiles.
    medians = {mode: statistics.median(times[mode][1:]) for mode in modes}
    for mode, median in medians.items():
      print(
        f'{mode:5}  {median:.3f} s for {len(chosen)} rows, at most '
        f'{batch_size} at a time, {segments[mode]:.2f} segments each (median '
        f'of {repeats})'
      )
    time_ratio = medians['act'] / medians['fixed']
    ratio = segments['act'] / segments['fixed']
    print(
      f'ratio of times: {time_ratio:.2f}, of segments: {ratio:.2f}; one by the '
      f'other: {time_ratio / ratio:.2f}'
    )


FLAGS = shared_flags.define('step', *shared_flags.JAX, workdir=None)
BENCHMARKS: dict[str, Callable[[], None]] = {
  'train_step': training_step,
  'puzzle_table': puzzle_table,
  'halting': halting,
  'input_pipeline': input_pipeline,
  'generators': generators,
  'voting': decode_and_vote,
  'saving': saving,
  'act_evaluation': act_evaluation,
}


def main(argv: Sequence[str]) -> None:
  names = argv
  unknown = set(names) - BENCHMARKS.keys()
  if not names or unknown:
    raise ConfigError(
      f'name benchmarks to run, out of {", ".join(BENCHMARKS)}'
      + (f'; unknown: {", ".join(sorted(unknown))}' if unknown else '')
    )
  for name in names:
    BENCHMARKS[name]()


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start, positional=True)
