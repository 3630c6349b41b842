"""Puzzles with what was answered and how, as plain JSON for the report.

A grid is a text with a character for each cell (base 36) and `/` between rows.
Padding at the ends of the rows and at the end of a canvas is left out.
"""

import collections
import csv
import io
import pathlib
import string
from typing import Any

import numpy as np

from data_pipelines import files, sampler
from data_pipelines.arc import tasks as arc
from data_pipelines.arc import voting
from data_pipelines.arc.voting import Candidate
from data_pipelines.drawing import pictures as picture
from data_pipelines.drawing.pictures import Thought
from data_pipelines.errors import ConfigError
from experiments.reporting import evaluation_files, runs
from hrm_jax.solver import Solver

# Number of attempts that count, and of ranked answers that are shown.
_ATTEMPTS, _SHOWN = 2, 5
# Largest fraction of wrong cells of an answer that is nearly right.
NEARLY = 0.2

_CHARACTERS = np.frombuffer(
  (string.digits + string.ascii_lowercase).encode(), np.uint8
)


def gather(
  solver: Solver, scores: runs.Scores | None, max_puzzles: int
) -> dict[str, Any]:
  """Chooses puzzles, evenly among those scored, and says how to draw them.

  The status of a puzzle is `solved` (all outputs, in two attempts), `nearly`
  (one output is solved, or an answer of the right size is wrong in at most a
  fraction `NEARLY` of its cells, which are the cells to be filled for a Sudoku
  or maze, or the true answer is among the ranked ones), `failed` or `unscored`.

  Returned are `entries`; `counts` of each status, over all that were scored;
  `styles` of grids and of canvases; `copied_cells`, for Sudokus and mazes the
  fraction of cells that the question has right.
  """
  puzzles, directory = solver.puzzles, scores and scores.path.parent
  rows = puzzles.evaluation_rows(1)
  found = {'entries': [], 'counts': {}, 'styles': {}, 'copied_cells': None}
  if not len(rows):
    return found
  domain = puzzles.domain
  style = picture.style_of(domain, puzzles.vocab_size)
  if domain is None:
    source = _Tasks(puzzles, rows, directory, scores.rows if scores else 0)
  else:
    source = _Questions(puzzles, rows, directory)
    found['copied_cells'] = source.copied_cells()
  shown = sampler.spread(len(source.statuses), max_puzzles)
  entries = [source.entry(index) for index in shown]
  chosen = np.concatenate([source.rows_of(index) for index in shown])
  query = solver.query(puzzles, source.rows.take(chosen), 'its own rows')
  for entry, trace in zip(entries, solver.trace(query), strict=True):
    for test, inputs, thought in zip(
      entry['tests'], trace.inputs, trace.thoughts, strict=True
    ):
      if domain is not None:
        source.complete(test, inputs, thought, style)
      test['trace'] = _trace(thought, style)
  grid_style = picture.ARC_GRID if domain is None else style
  return {
    **found,
    'entries': entries,
    'counts': dict(collections.Counter(source.statuses)),
    'styles': {'grid': grid_style._asdict(), 'canvas': style._asdict()},
  }


class _Tasks:
  """ARC tasks, with the answers of predictions.json."""

  def __init__(self, puzzles, rows, directory, num_rows):
    self.rows = rows
    everything = puzzles.evaluation_rows()
    # How many rows voted in a partial evaluation is not known here.
    self._votes = collections.Counter(
      zip(everything.group.tolist(), everything.test.tolist(), strict=True)
      if len(everything) == num_rows
      else ()
    )
    self._candidates = found = _read_votes(directory) if directory else {}
    self._tasks = [
      (group, task)
      for group in np.unique(rows.group).tolist()
      if (task := puzzles.evaluation_tasks[group]).name in found
      or directory is None
    ]
    if len(self._tasks) < len(found) or any(
      len(found.get(task.name, task.tests)) != len(task.tests)
      for _, task in self._tasks
    ):
      raise ConfigError(
        f'{directory}/predictions.json: has other tasks than the run holds '
        'out; evaluate again'
      )
    self.statuses = [self._status(task) for _, task in self._tasks]

  def rows_of(self, index: int) -> np.ndarray:
    return np.flatnonzero(self.rows.group == self._tasks[index][0])

  def _status(self, task: arc.Task) -> str:
    solved, near = [], False
    ranked = self._candidates.get(task.name, ())
    for found, pair in zip(ranked, task.tests, strict=False):
      if pair.output is None:
        continue
      solved.append(voting.is_solved(found, pair.output, _ATTEMPTS))
      near |= voting.is_solved(found, pair.output, len(found)) or any(
        candidate.grid.shape == pair.output.shape
        and np.mean(candidate.grid != pair.output) <= NEARLY
        for candidate in found[:_ATTEMPTS]
      )
    if not solved:
      return 'unscored'
    if all(solved):
      return 'solved'
    return 'nearly' if any(solved) or near else 'failed'

  def entry(self, index: int) -> dict[str, Any]:
    group, task = self._tasks[index]
    ranked = self._candidates.get(task.name, [[]] * len(task.tests))
    tests = []
    for number in self.rows.test[self.rows_of(index)].tolist():
      pair = task.tests[number]
      attempts = [
        {
          'grid': text_of(candidate.grid),
          'votes': candidate.votes,
          'confidence': round(candidate.confidence, 3),
        }
        for candidate in ranked[number][:_SHOWN]
      ]
      tests.append(
        {
          'votes': self._votes[group, number],
          'input': text_of(pair.input),
          'truth': None if pair.output is None else text_of(pair.output),
          'attempts': attempts,
        }
      )
    return {
      'name': task.name,
      'concept': arc.concept_of(task.name),
      'status': self.statuses[index],
      'demonstrations': [
        [text_of(grid) for grid in pair.grids] for pair in task.demonstrations
      ],
      'tests': tests,
    }


class _Questions:
  """Sudokus and mazes, with the answers of predictions.csv."""

  def __init__(self, puzzles, rows, directory):
    self._characters = puzzles.domain.characters
    self._lines = _read_lines(directory) if directory else []
    self._path = directory and directory / 'predictions.csv'
    self.rows, self.statuses = rows, ['unscored'] * len(rows)
    if directory is not None:
      self.statuses = [self._status(line) for line in self._lines]
      if len(self._lines) != len(rows):
        self.rows = puzzles.evaluation_rows(None, len(self._lines))
      if len(self._lines) != len(self.rows):
        raise self._other_puzzles()

  def copied_cells(self) -> float | None:
    same = [
      a == b
      for line in self._lines
      for a, b in zip(line['question'], line['answer'], strict=True)
    ]
    return sum(same) / len(same) if same else None

  def rows_of(self, index: int) -> np.ndarray:
    return np.array([index])

  def _status(self, line: dict[str, Any]) -> str:
    if 1.0 in (line['exact'], line.get('valid')):
      return 'solved'
    wrong, open_cells = (
      sum(a != b for a, b in zip(text, line['answer'], strict=True))
      for text in (line['prediction'], line['question'])
    )
    return 'nearly' if wrong <= NEARLY * open_cells else 'failed'

  def entry(self, index: int) -> dict[str, Any]:
    # The question comes with the trace, as tokens.
    name, test = f'puzzle {index + 1}', {'attempts': []}
    if self._lines:
      line = self._lines[index]
      name, test['question'] = line['puzzle'], line['question']
      test['attempts'].append(
        {
          'grid': line['prediction'],
          'confidence': round(line['confidence'], 3),
          'exact': line['exact'] == 1,
          'valid': line.get('valid') == 1,
        }
      )
    return {
      'name': name,
      'concept': None,
      'status': self.statuses[index],
      'demonstrations': [],
      'tests': [test],
    }

  def complete(self, test, inputs, thought, style) -> None:
    """Fills in the grids, and compares the question with the file's."""
    question = ''.join(self._characters[token] for token in inputs)
    if test.pop('question', question) != question:
      raise self._other_puzzles()
    test['input'] = text_of(picture.canvas_of(inputs, style))
    test['truth'] = None
    if thought.answer is not None:
      test['truth'] = text_of(picture.canvas_of(thought.answer, style))
    for attempt in test['attempts']:
      tokens = [self._characters.index(c) for c in attempt['grid']]
      canvas = picture.canvas_of(np.array(tokens, np.uint8), style)
      attempt['grid'] = text_of(canvas)

  def _other_puzzles(self) -> ConfigError:
    return ConfigError(
      f'{self._path}: has other puzzles than the run holds out; evaluate again'
    )


_Votes = dict[str, list[list[Candidate]]]


def _read_votes(directory: pathlib.Path) -> _Votes:
  """Ranked answers of each task's test inputs."""
  path = directory / 'predictions.json'
  contents = files.parse_json(files.read(path), path)
  try:
    return {
      name: [
        [
          Candidate(
            np.array(one['grid'], np.uint8).reshape(len(one['grid']), -1),
            int(one['votes']),
            float(one['confidence']),
          )
          for one in ranked
        ]
        for ranked in tests
      ]
      for name, tests in contents.items()
    }
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise _damaged(path, error) from None


def _read_lines(directory: pathlib.Path) -> list[dict[str, Any]]:
  """The lines of predictions.csv, numbers as such."""
  path = directory / 'predictions.csv'
  texts = ('puzzle', 'question', 'answer', 'prediction')
  try:
    lines = [
      {
        k: evaluation_files.text_of(v) if k in texts else float(v)
        for k, v in line.items()
      }
      for line in csv.DictReader(io.StringIO(files.read(path).decode()))
    ]
    for line in lines:
      if (
        len({len(line[name]) for name in texts[1:]}) > 1
        or not {'exact', 'confidence'} <= line.keys()
      ):
        raise ValueError(f'puzzle {line["puzzle"]}')
  except (csv.Error, KeyError, TypeError, ValueError) as error:
    raise _damaged(path, error) from None
  return lines


def _damaged(path: pathlib.Path, error: Exception) -> ConfigError:
  return ConfigError(
    f'{path}: damaged ({type(error).__name__}: {error}); evaluate again'
  )


def _trace(thought: Thought, style: picture.Style) -> dict[str, Any]:
  """A trace: `frames` has each distinct answer once, and `order` names the one
  after each update of each segment."""
  frames, rights, order = {}, [], []
  for tokens in thought.tokens.reshape(-1, thought.tokens.shape[-1]):
    text = text_of(picture.canvas_of(tokens, style), trimmed=True)
    if text not in frames:
      frames[text] = len(frames)
      rights.append(thought.right(tokens))
    order.append(frames[text])
  label = thought.answer
  if label is not None:
    label = text_of(picture.canvas_of(label, style), trimmed=True)
  return {
    'levels': thought.levels,
    'frames': list(frames),
    'right': rights,
    'order': order,
    'told': [thought.told(k) for k in range(len(thought.tokens))],
    'label': label,
  }


def text_of(grid: np.ndarray, trimmed: bool = False) -> str:
  """A grid as text; trimmed at the ends of its rows where that is asked."""
  rows = [_CHARACTERS[row].tobytes().decode() for row in np.asarray(grid)]
  if not trimmed:
    return '/'.join(rows)
  return '/'.join(row.rstrip('0') for row in rows).rstrip('/')
