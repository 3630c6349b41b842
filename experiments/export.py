"""Exports a checkpoint: ONNX, StableHLO, a web page, a package.

  hrm-jax export --workdir=DIR [--step=N] --out=NEW
      --format=onnx|stablehlo|web|package
      [--weights=float32|float16] [--segments=N] [--walk] [--augmentations=N]

As onnx and stablehlo it writes into the directory NEW `segment`, one segment
from state to state, `predict`, a prediction of N segments, with --walk also
`walk`, which gives the answer after each update, and `model.json`, which tells
what they take and give. As web it writes a page of static files on which the
model solves puzzles in the browser, or adds the model to such a page. As
package it writes what `hrm_jax.load` reads: settings and float16 weights, and
of the puzzle table the rows of N augmentations of each ARC task.

All are run beside JAX on held-out puzzles; the exit code is 1 where they differ
by more than rounding explains. See docs/how_to/export.md.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

import hrm_jax.solver
from data_pipelines import files, scoring
from data_pipelines.arc import encoding
from data_pipelines.drawing import pictures
from experiments.cli import command, launch, shared_flags
from experiments.reporting import browser_page
from hrm_jax import shipped
from hrm_jax.inference import portable
from hrm_jax.inference.evaluation import Query
from hrm_jax.solver import Solver

FLAGS = shared_flags.define(
  'workdir', 'step', 'segments', *shared_flags.JAX, max_puzzles=100
)
shared_flags.path('out', None, 'Directory that is made and written.', FLAGS)
shared_flags.require(FLAGS, 'out', 'exported')
flags.DEFINE_enum(
  'format', 'onnx', (*portable.FORMATS, 'web', 'package'),
  'Form in which the checkpoint is written.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_enum(
  'weights', 'float32', ('float32', 'float16'), 'Type in which the weights are '
  'stored; all arithmetic is in float32.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
  'walk', False, 'Writes also the segment that gives the answer after each '
  'update.', flag_values=FLAGS,
)  # fmt: skip
flags.DEFINE_integer(
  'augmentations', 1, 'Number of augmentations of each ARC task whose rows of '
  'the puzzle table a package has, the task itself first; 0 stands for all.',
  lower_bound=0, flag_values=FLAGS,
)  # fmt: skip

# Largest difference of logits in float32, and smallest fraction of answers that
# are equal, that pass.
_LOGITS, _EQUAL = 1e-3, 0.99
# Rows that are compared at a time; more would need much memory.
_BATCH = 25


def main(_) -> int:
  if FLAGS.format == 'package':
    pack(FLAGS.workdir, FLAGS.out, FLAGS.step, FLAGS.augmentations)
    return 0
  difference = run(
    FLAGS.workdir, FLAGS.out, FLAGS.format, FLAGS.step, FLAGS.weights,
    FLAGS.segments, FLAGS.walk, FLAGS.max_puzzles,
  )  # fmt: skip
  return 0 if passes(difference, FLAGS.weights) else 1


def passes(found: portable.Difference, weights: str) -> bool:
  """Whether an exported model is the model."""
  exact = found.logits <= _LOGITS or weights != 'float32'
  return exact and min(found.answers, found.predicted) >= _EQUAL


def run(
  workdir: pathlib.Path,
  out: pathlib.Path,
  form: str = 'onnx',
  step: int | None = None,
  weights: str = 'float32',
  segments: int | None = None,
  walk: bool = False,
  max_puzzles: int = 100,
) -> portable.Difference:
  """Exports and compares; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such checkpoint, or it cannot be
      exported.
  """
  web = form == 'web'
  if web or form == 'onnx':
    portable.onnx_tools()
  solver = hrm_jax.solver.load(workdir, step)
  if web:
    browser_page.family(solver)
  asked = solver.held_out(1, max_puzzles).queries[0]
  segments = segments or solver.settings.act.halt_max_steps
  graphs = portable.graphs(solver.model, asked.variables, weights, segments)
  if not walk:
    del graphs['walk']
  if web:
    graphs = {'segment': graphs['segment']}
  told = facts(solver, asked.variables, weights, segments)
  told['graphs'] = {
    name: {
      'inputs': {
        key: {'shape': ['B', *shape], 'type': dtype}
        for key, (shape, dtype) in graph.inputs.items()
      },
      'outputs': graph.outputs,
    }
    for name, graph in graphs.items()
  }
  runs, folder = {}, browser_page.place(out, solver) if web else out
  with command.writing(folder / 'model.json'):
    for name, graph in graphs.items():
      path = folder / f'{name}.{"onnx" if web else form}'
      runs[name] = portable.write(name, graph, told, path)
      command.say(
        f'{path}: {path.stat().st_size / 1e6:.1f} MB, '
        f'{portable.milliseconds(graph, runs[name]):.1f} ms for one puzzle'
      )
    found = portable.compare(
      solver.model, asked.variables, rows_of(solver, asked), segments, runs,
      _BATCH,
    )  # fmt: skip
    if web:
      browser_page.write(out, solver, asked, told, found)
    else:
      files.write_json(out / 'model.json', told)
  written = 'index.html' if web else f'{", ".join(graphs)}, model.json'
  command.say(f'Written to {out}: {written}')
  verdict = 'as JAX' if passes(found, weights) else 'NOT as JAX'
  command.say(f'{verdict}: {found}')
  return found


def pack(
  workdir: pathlib.Path,
  out: pathlib.Path,
  step: int | None = None,
  augmentations: int = 1,
) -> tuple[scoring.Result, scoring.Result]:
  """Packs a checkpoint for `hrm_jax.load`, and scores it before and after.

  Of an ARC run's puzzle table the rows of so many augmentations of each task
  are packed, the task itself first; 0 stands for all.

  Returns:
    What the checkpoint solves of the held-out puzzles, with as many of their
    augmentations, and what the packed one solves.
  """
  solver = hrm_jax.solver.load(workdir, step)
  write_package(solver, out, augmentations)
  before, after = (
    one.evaluate(one.held_out(augmentations))
    for one in (solver, hrm_jax.solver.load(out))
  )
  results = before.results[0], after.results[0]
  command.say(
    f'Written to {out}: config.json, weights.safetensors; of '
    f'{len(after.asked.queries[0].rows):,} held-out inputs '
    f'{results[1].summary()}; before: {results[0].summary()}'
  )
  return results


def _packed_rows(names: Sequence[str], most: int) -> list[int]:
  """Rows of a puzzle table: at most so many of each task, its own first."""
  of_task: dict[str, list[int]] = {}
  for row, name in enumerate(names):
    task = encoding.parse_augmentation_name(name)[0]
    rows = of_task.setdefault(task, [])
    rows.insert(0 if name == task else len(rows), row)
  return sorted(
    row for rows in of_task.values() for row in rows[: most or None]
  )


def write_package(
  solver: Solver, out: pathlib.Path, augmentations: int = 1
) -> None:
  """Packs a model for `hrm_jax.load`, see `pack`."""
  kept = _packed_rows(solver.names, augmentations)
  weights = solver.weights(solver.shapes, np.array(kept))
  # It stands alone: the model that it started from may not be where it goes.
  alone = solver.settings.replace({'start_from': '', 'old_share': 0.0})
  config = {
    **alone.to_dict(),
    'data_version': solver.trained_on,
    'leaks': solver.leaks.record(),
  }
  with command.writing(out / 'config.json'):
    shipped.write(
      out, config, solver.step, solver.trained_on,
      [solver.names[row] for row in kept],
      np.asarray(weights.puzzle_table)[: len(kept)], weights.variables,
    )  # fmt: skip


def rows_of(solver: Solver, asked: Query) -> list[np.ndarray]:
  """The tokens of rows, and their rows of the puzzle table where they have."""
  size = min(len(asked.rows), _BATCH)
  batches = [*asked.puzzles.evaluation_batches(asked.rows, size)]
  inputs, numbers = (
    np.concatenate([batch[name] for batch in batches])[: len(asked.rows)]
    for name in ('inputs', 'puzzle_identifiers')
  )
  if not solver.settings.model.prefix_len:
    return [inputs]
  table = np.asarray(asked.puzzle_table)
  return [inputs, table[asked.identifiers[numbers]]]


def facts(
  solver: Solver, variables: Any, weights: str, segments: int
) -> dict[str, Any]:
  """What another program must know of a model, as JSON takes it."""
  puzzles, model = solver.puzzles, portable.in_float32(solver.model)
  style = pictures.style_of(puzzles.domain, puzzles.vocab_size)
  state = model.apply(variables, 1, method='initial_state')
  canvas = pictures.canvas_of(np.arange(puzzles.seq_len), style)
  return {
    'source': solver.origin.absolute().name,
    'step': solver.step,
    'trained_on': solver.trained_on,
    'kind': solver.settings.model.kind,
    'puzzles': solver.puzzle_kind,
    # The character of each token; of ARC padding, end of grid, 0 to 9.
    'tokens': puzzles.domain.characters if puzzles.domain else '?|0123456789',
    'shape': canvas.shape,
    'halting': solver.settings.act.halting,
    'segments': segments,
    'updates': solver.settings.model.update_levels,
    'weights': weights,
    'hrm_jax': hrm_jax.__version__,
    # The vector that every token of a state begins with.
    'initial_state': {
      name: np.asarray(leaf[0, 0], np.float64).tolist()
      for name, leaf in state._asdict().items()
    },
  }


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
