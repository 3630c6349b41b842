"""The web page on which a model solves puzzles, as static files.

A folder of the page has the page itself, the runtime, and `models/NAME` for
each model that was written there, among which the page offers a choice.
"""

import dataclasses
import functools
import http.server
import importlib
import json
import os
import pathlib
import shutil
import sys
import threading
from typing import Any

import jax
import numpy as np

from data_pipelines import files
from data_pipelines.arc import voting
from data_pipelines.arc.encoding import VOCAB_SIZE
from data_pipelines.batches import padded
from data_pipelines.drawing import pictures
from data_pipelines.errors import ConfigError
from data_pipelines.questions.scoring import AnswerResult
from experiments.reporting import gallery
from hrm_jax.inference import portable
from hrm_jax.inference.evaluation import Query
from hrm_jax.solver import Solver

_HERE = pathlib.Path(__file__).parent
_SHARED = ('look.css', 'grids.mjs')
# Examples that a page offers at most.
_EXAMPLES = 60


def family(solver: Solver) -> str:
  """What the page calls a model's puzzles.

  Raises:
    ConfigError: the page does not know how they are drawn.
  """
  domain = solver.puzzles.domain
  if domain is None and solver.puzzles.vocab_size == VOCAB_SIZE:
    return 'arc'
  if domain is None or domain.name not in ('sudoku', 'maze'):
    raise ConfigError(
      f'{solver.origin}: the page shows Sudokus, mazes and ARC tasks, and not '
      f'{solver.puzzle_kind}; use --format=onnx'
    )
  return domain.name


def static_files() -> dict[str, pathlib.Path]:
  """All files of the page but its models, by their paths on it."""
  page = _HERE / 'page'
  own = {
    str(path.relative_to(page)): path
    for path in page.rglob('*.*')
    if path.suffix != '.md'
  }
  return own | {name: _HERE / name for name in _SHARED}


def copy_static_files(out: pathlib.Path) -> None:
  """Writes all files of the page but its models."""
  for name, path in static_files().items():
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, out / name)


def place(out: pathlib.Path, solver: Solver) -> pathlib.Path:
  """The folder of a model on the page."""
  return out / 'models' / solver.origin.absolute().name


def write(
  out: pathlib.Path,
  solver: Solver,
  asked: Query,
  told: dict[str, Any],
  found: portable.Difference,
) -> None:
  """Writes all but the model's segment.onnx, which stands in `place` already.

  `told` is what `experiments.export` says of the model, `found` how it differs
  from JAX.
  """
  copy_static_files(out)
  folder = place(out, solver)
  sizes = [x.size for x in jax.tree.leaves(asked.variables['params'])]
  segment = told.pop('graphs')['segment']
  state = next(iter(told['initial_state']))
  examples, rows, solved = _examples(solver, asked, told['segments'])
  known = sum(example['truth'] is not None for example in examples)
  contents = {
    **told,
    'name': folder.name,
    'family': family(solver),
    'style': pictures.style_of(
      asked.puzzles.domain, asked.puzzles.vocab_size
    )._asdict(),
    'parameters': sum(sizes),
    'state_shape': segment['inputs'][state]['shape'][1:],
    'examples': examples,
    'solved': [sum(solved), known],
    'rows': rows,
    'facts': [
      ['System', told['kind']],
      ['Trained on', told['trained_on']],
      ['Checkpoint', f'step {told["step"]:,}'],
      ['Weights', told['weights']],
      [
        'Examples',
        f'{sum(solved)} of {known} are solved after {told["segments"]} '
        'segments; one of them comes first',
      ],
      ['Compared with JAX', str(found)],
    ],
  }
  files.write_json(folder / 'page.json', contents)
  files.write_json(out / 'models.json', _ranked(out))


def embed(folder: str | os.PathLike, height: int = 900) -> None:
  """Shows a page that was written inside a notebook, Colab's or Jupyter's.

  It is served to this machine alone for as long as the notebook's process runs.
  """
  port, path = serve(folder), '/index.html'
  if 'google.colab' in sys.modules:
    # There the browser is on another machine; this finds a way.
    colab = importlib.import_module('google.colab.output')
    colab.serve_kernel_port_as_iframe(port, path=path, height=str(height))
    return
  from IPython import display

  address = f'http://localhost:{port}{path}'
  display.display(display.IFrame(address, width='100%', height=height))


def serve(folder: str | os.PathLike) -> int:
  """Serves a folder to this machine until the process ends; the port."""
  handler = functools.partial(_Quiet, directory=os.fspath(folder))
  server = http.server.ThreadingHTTPServer(('localhost', 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  return server.server_port


class _Quiet(http.server.SimpleHTTPRequestHandler):
  """A server of files that logs nothing into the notebook's cells."""

  def log_message(self, *_):
    pass


def _ranked(out: pathlib.Path) -> list[str]:
  """Names of the models of a page, first who solves most of its examples."""
  shares = {}
  for path in out.glob('models/*/page.json'):
    # A page of an earlier version counted none.
    solved, known = json.loads(path.read_text()).get('solved', (0, 0))
    shares[path.parent.name] = solved / max(1, known)
  return sorted(shares, key=lambda name: (-shares[name], name))


def _examples(
  solver: Solver, asked: Query, segments: int
) -> tuple[list[Any], Any, list[bool]]:
  """Puzzles to choose from, a solved one first where there is one.

  Returns:
    The puzzles, the rows of the puzzle table that they use, and which of them
    the model solves.
  """
  puzzles = asked.puzzles
  rows = asked.originals(_EXAMPLES)
  solved = _solved(solver, dataclasses.replace(asked, rows=rows), segments)
  # The others stay in their order, solved or not.
  order = [*range(len(rows))]
  order.insert(0, order.pop(solved.index(True) if any(solved) else 0))
  rows = rows.take(np.array(order))
  style = pictures.style_of(puzzles.domain, puzzles.vocab_size)

  def text(tokens):
    return gallery.text_of(pictures.canvas_of(tokens, style))

  (batch,) = puzzles.evaluation_batches(rows, len(rows))
  labels = padded(batch['labels'])
  numbers = asked.identifiers[batch['puzzle_identifiers']]
  used, places = np.unique(numbers, return_inverse=True)
  found = []
  for i, (group, test) in enumerate(zip(rows.group, rows.test, strict=True)):
    entry = {
      'name': f'puzzle {i + 1}',
      'input': text(batch['inputs'][i]),
      'truth': text(labels[i]) if labels[i].any() else None,
      'row': int(places[i]),
    }
    if puzzles.domain is None:
      task = puzzles.evaluation_tasks[group]
      many = len(task.tests) > 1
      entry['name'] = task.name + (f', test {test + 1}' if many else '')
      # In tokens, as everything on the page.
      entry['demonstrations'] = [
        [gallery.text_of(grid + 2) for grid in pair.grids]
        for pair in task.demonstrations
      ]
    found.append(entry)
  if not solver.settings.model.prefix_len:
    return found, None, solved
  digits = [
    [float(f'{value:.5g}') for value in row]
    for row in np.asarray(asked.puzzle_table)[used].tolist()
  ]
  return found, digits, solved


def _solved(solver: Solver, query: Query, segments: int) -> list[bool]:
  """Which test inputs are answered right, the rest being wrong or not known."""
  # As few rows at a time as are compared with the exported model.
  result = solver.predict(query, 'fixed', segments, batch_size=25)
  if isinstance(result, AnswerResult):
    # A maze may have several answers.
    right = result.found.get('valid', result.found['exact'])
    return [bool(one) for one in right]
  solved = []
  for group, test in zip(query.rows.group, query.rows.test, strict=True):
    task = query.puzzles.evaluation_tasks[group]
    ranked, truth = result.candidates[task.name, test], task.tests[test].output
    solved.append(truth is not None and voting.is_solved(ranked, truth, 1))
  return solved
