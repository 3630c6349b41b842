"""Measures a model: training steps, checkpoints and evaluation."""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

import hrm_jax.solver
from experiments.benchmarks import step as benchmark_step
from experiments.benchmarks import timing
from experiments.cli import command
from experiments.configs import sudoku
from hrm_jax import build
from hrm_jax.inference import predict as inference
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import optimizers
from hrm_jax.training import step as train_step
from hrm_jax.training.loop import batch_of_call


def training_step() -> None:
  """Compares a CPU's step with its matrix product, and times the first step.

  HRM in float32, batch × cells × hidden size × blocks per level × heads; model
  FLOP utilisation is by the rate of a product of 1024³ in the same process.
  """
  for size in ('32x81x512x4x8', '64x100x128x2x4', '2x900x512x4x8'):
    rows = int(size.split('x')[0])
    for devices in sorted({1, math.gcd(rows, command.cores())}):
      with tempfile.TemporaryDirectory() as empty:
        cold, cached = (
          json.loads(
            timing.run_module(
              'experiments.benchmarks.step',
              *(size, seconds, f'--cpu_devices={devices}'),
              JAX_COMPILATION_CACHE_DIR=empty,
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
  """Times an update of tables of few and many rows, at the paper's sizes."""
  batch, width, repeats = 768, 512, 30
  update = functools.partial(
    optimizers.sign_sgd_rows, learning_rate=1e-2, weight_decay=0.1
  )
  apply = jax.jit(update, donate_argnums=0)
  gradients = jax.random.normal(jax.random.key(0), (batch, width))
  tables, chosen = {}, {}
  for rows in (10**3, 10**6):
    tables[rows] = jnp.zeros((rows, width))
    chosen[rows] = jax.random.randint(jax.random.key(1), (batch,), 0, rows)

  def run(rows):
    table = apply(tables[rows], chosen[rows], gradients)
    tables[rows] = table.block_until_ready()

  medians = timing.in_turns(run, tables, repeats)
  for rows, median in medians.items():
    print(
      f'{rows:>9,} rows × {width}: {1e3 * median:.2f} ms an update of '
      f'{batch} rows (median of {repeats})'
    )
  print(f'ratio: {medians[10**6] / medians[10**3]:.2f}')


def steps_per_call() -> None:
  """Times the steps of `sudoku:demo`, with its puzzles, by those of a call."""
  counts, repeats = (1, 4, 16), 5
  settings = Settings.from_config(sudoku.get_config('demo'))
  # In float32: no kernel is to be chosen by the device.
  puzzles, mesh = build.puzzle_set(settings), build.mesh(settings)
  setup = build.train_setup(settings, puzzles)
  steps = {n: train_step.sharded_step(setup, mesh, n) for n in counts}
  states = {n: train_step.sharded_init(setup, mesh) for n in counts}
  size, used = settings.batch_size, {n: [] for n in counts}
  with contextlib.ExitStack() as stack:
    batches = {
      n: stack.enter_context(
        contextlib.closing(puzzles.train_batches(size, seed=0))
      )
      for n in counts
    }

    def run(n):
      begin = time.process_time()
      for _ in range(max(counts) // n):
        batch = batch_of_call(mesh, [next(batches[n]) for _ in range(n)])
        states[n], metrics, _ = steps[n](states[n], batch)
        jax.device_get(metrics)
      jax.block_until_ready(states[n])
      used[n].append(time.process_time() - begin)

    medians = timing.in_turns(run, counts, repeats)
  for n, median in medians.items():
    spent = statistics.median(used[n][1:])
    print(
      f'{n:2} steps in a call: {1e3 * median / max(counts):.3g} ms a step '
      f'({median / medians[1]:.2f}), {1e3 * spent / max(counts):.3g} ms of CPU '
      f'time ({spent / statistics.median(used[1][1:]):.2f}); median of '
      f'{repeats} times {max(counts)} steps'
    )


def halting() -> None:
  """Times a training step with and without the Q target's segment."""
  batch_size, seq_len, repeats = 64, 100, 15
  mesh = sharding.make_mesh(jax.devices()[:1])
  states, steps = {}, {}
  for rule in ('q_learning', 'halt_only'):
    setup, batch = benchmark_step.made(batch_size, seq_len, 128, 2, 4, rule)
    states[rule] = train_step.sharded_init(setup, mesh)
    steps[rule] = train_step.sharded_step(setup, mesh)

  def run(rule):
    states[rule], *_ = jax.block_until_ready(steps[rule](states[rule], batch))

  medians = timing.in_turns(run, states, repeats)
  for rule, median in medians.items():
    print(
      f'{rule:10}  {1e3 * median:.0f} ms a step of {batch_size} × {seq_len} '
      f'cells, HRM 128 wide, 2 + 2 blocks (median of {repeats})'
    )
  print(f'ratio: {medians["halt_only"] / medians["q_learning"]:.2f}')


def act_evaluation(workdir: pathlib.Path, step: int | None) -> None:
  """Compares time and segments of `act` with those of `fixed` evaluation.

  Among few rows many are the last ones, which run all segments; so each row is
  also predicted ten times.
  """
  repeats = 5
  solver = hrm_jax.solver.load(workdir, step)
  (query,) = solver.held_out().queries
  for copies, batch_size in ((1, solver.batch_size()), (10, 128)):
    rows = query.rows.take(np.tile(np.arange(len(query.rows)), copies))
    tiled, segments = dataclasses.replace(query, rows=rows), {}

    def run(mode, tiled=tiled, size=batch_size, segments=segments):
      judge = solver.predict(tiled, mode, batch_size=size)
      segments[mode] = judge.metrics['eval/steps']

    medians = timing.in_turns(run, inference.HALTING_MODES, repeats)
    for mode, median in medians.items():
      print(
        f'{mode:5}  {median:.3f} s for {len(rows)} rows, at most '
        f'{batch_size} at a time, {segments[mode]:.2f} segments each (median '
        f'of {repeats})'
      )
    times, ratio = (x['act'] / x['fixed'] for x in (medians, segments))
    print(
      f'ratio of times: {times:.2f}, of segments: {ratio:.2f}; one by the '
      f'other: {times / ratio:.2f}'
    )
