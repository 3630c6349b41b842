"""A trained model that can be asked: it solves, shows how, scores and adapts.

  solver = load('runs/demo')
  answer = solver.solve('my_task.json')
  print(answer, answer.votes, answer.confidence)
  solver.trace('my_task.json').save('thought.gif')

A *puzzle* is whatever names one: the path of a task's JSON file or such a task
as a dict, the characters of a Sudoku, the lines of a maze, any SPEC of
`data_pipelines.puzzles` (which may name many), or a list of these. Nothing is
written to disk unless a method is told where.
"""

import collections
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import (
  Callable,
  Container,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from data_pipelines import files
from data_pipelines import puzzles as specs
from data_pipelines.arc import encoding, voting
from data_pipelines.arc.scoring import VoteResult, score_metrics
from data_pipelines.arc.tasks import Task, TaskSet, load_tasks, parse_task
from data_pipelines.arc.voting import Candidate
from data_pipelines.batches import BLANK_IDENTIFIER, padded
from data_pipelines.drawing import pictures
from data_pipelines.drawing.pictures import Style, Thought
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.leaks import Verdict
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.puzzles import Result
from data_pipelines.questions import kinds
from data_pipelines.questions import loading as questions
from data_pipelines.questions.domain import Domain, Questions
from data_pipelines.questions.pipeline import QuestionSet
from hrm_jax import build, shipped
from hrm_jax.inference import evaluation, probes
from hrm_jax.inference import predict as inference
from hrm_jax.inference.evaluation import Query
from hrm_jax.models import ReasoningModel, kernel_check
from hrm_jax.parallel import sharding
from hrm_jax.published import convert
from hrm_jax.settings import Fitting, Halting, Settings, Width
from hrm_jax.training.state import Weights, abstract_weights
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config

# Names of the Q values that each halting rule trains, in their order.
_Q_NAMES = {
  'q_learning': ('q_halt', 'q_continue'),
  'halt_only': ('q_halt',),
  'none': (),
}
_FITTING, _ONCE = Fitting(), Width()
_OWN_ROWS = 'its own rows, which the checkpoint has'

# Solvers of the same model share their compiled programs.
_predict_function = functools.cache(inference.sharded_predict)
_trace_function = functools.cache(probes.sharded_trace)

Puzzle = str | os.PathLike | Mapping[str, Any] | Task | TaskSet | Questions
Puzzles = Puzzle | Sequence[Puzzle]
# Reads variables and some rows of the puzzle table, placed as abstract weights.
ReadWeights = Callable[[Weights, np.ndarray], Weights]


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
  """What a model answers to one puzzle; tuples have an entry per test input.

  A grid of an ARC task holds colours 0 to 9, one of a Sudoku digits (0 where
  none is given), both uint8 [h, w]; one of a maze holds characters.

  Attributes:
    name: name of the puzzle.
    inputs: grids that were asked.
    truths: true answers; None where one is not known.
    attempts: candidate grids with their votes and confidence, best first.
    cast: number of votes that were cast.
    valid: whether the best attempt solves the Sudoku or maze, be it the true
      answer or another; None for other puzzles.
    way: which weights answered, in words.
  """

  name: str
  inputs: tuple[np.ndarray, ...]
  truths: tuple[np.ndarray | None, ...]
  attempts: tuple[tuple[Candidate, ...], ...]
  cast: tuple[int, ...]
  valid: tuple[bool | None, ...]
  way: str

  @property
  def grids(self) -> tuple[np.ndarray | None, ...]:
    """The best attempts; None where no vote gave a grid."""
    return tuple(best[0].grid if best else None for best in self.attempts)

  @property
  def votes(self) -> tuple[int, ...]:
    """Number of votes for the best attempts."""
    return tuple(best[0].votes if best else 0 for best in self.attempts)

  @property
  def confidence(self) -> tuple[float, ...]:
    """Mean sigmoid(q_halt), 0 to 1, of the votes for the best attempts."""
    return tuple(best[0].confidence if best else 0.0 for best in self.attempts)

  def right(self, attempts: int = 1) -> tuple[bool | None, ...]:
    """Whether one of the first attempts is the true answer; None: unknown."""
    return tuple(
      None if truth is None else voting.is_solved(ranked, truth, attempts)
      for ranked, truth in zip(self.attempts, self.truths, strict=True)
    )

  def __str__(self) -> str:
    """The best attempts as lines of characters."""
    return '\n\n'.join(
      '\n'.join(''.join(map(str, row)) for row in grid.tolist())
      if grid is not None
      else 'no answer'
      for grid in self.grids
    )


def tokens_of(domain: Domain, grid: np.ndarray) -> np.ndarray:
  """The tokens of a grid of an `Answer`."""
  tokens = {value: i for i, value in enumerate(domain.values.tolist())}
  return np.vectorize(tokens.get)(grid)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Trace:
  """How the answers to one puzzle form; tuples have an entry per test input.

  Attributes:
    name: name of the puzzle.
    style: how its tokens are drawn.
    inputs: tokens that were asked, int32 [S] each.
    thoughts: the answers after each update of each segment.
  """

  name: str
  style: Style
  inputs: tuple[np.ndarray, ...]
  thoughts: tuple[Thought, ...]

  def __repr__(self) -> str:
    return f"Trace('{self.name}')"

  def title(self, test: int = 0) -> str:
    """The name of a test input."""
    many = len(self.inputs) > 1
    return self.name + (f' test {test + 1}' if many else '')

  def save(self, path: str | os.PathLike, test: int = 0) -> None:
    """Draws one test input: `.gif` as an animation, `.png` as a strip.

    Raises:
      ConfigError: the suffix is another one, or the file cannot be written.
    """
    style, title, thought = self.style, self.title(test), self.thoughts[test]
    with files.writing(f'{path}:', 'name a file in a directory of yours'):
      match pathlib.Path(path).suffix.lower():
        case '.png':
          pictures.draw_thought(style, title, thought, path)
        case '.gif':
          inputs = self.inputs[test]
          pictures.animate_thought(style, title, inputs, thought, path)
        case _:
          raise ConfigError(
            f'{path}: a trace is drawn as .gif (animation) or .png (strip); '
            'name such a file'
          )

  def _repr_png_(self) -> bytes:
    """The strip of the first test input, which notebooks show."""
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder, 'strip.png')
      self.save(path)
      return path.read_bytes()


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """Puzzles that were read, and then made ready to be predicted."""

  # Tasks that fit the model's canvas, or questions; None: the run's held out.
  puzzles: TaskSet | Questions | None = None
  # Tasks that do not fit, and the names of all as they were given.
  left_out: tuple[Task, ...] = ()
  order: tuple[str, ...] = ()
  # Whether they were named as one puzzle, so that one answer is due.
  single: bool = False
  # What is predicted with which weights, once `Solver.ask` tells.
  queries: tuple[Query, ...] = ()

  @property
  def tasks(self) -> list[Task]:
    """ARC tasks as they were given, with those left out; else none."""
    if not isinstance(self.puzzles, TaskSet):
      return []
    named = {task.name: task for task in (*self.puzzles.tasks, *self.left_out)}
    return [named[name] for name in self.order]


Asking = Puzzles | Asked | Query


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """What a model answered to puzzles, and what that is worth."""

  asked: Asked
  # Predictions and scores of each query.
  results: tuple[Result, ...]
  # What was evaluated and how, as scores.json has it.
  facts: dict[str, Any]
  # Held-out answers that training showed; None for other puzzles.
  leaks: Verdict | None

  @property
  def tasks(self) -> list[Task]:
    """The ARC tasks that were predicted; empty for other puzzles."""
    return [
      query.puzzles.evaluation_tasks[group]
      for query in self.asked.queries
      if query.puzzles.evaluation_tasks
      for group in np.unique(query.rows.group)
    ]

  @functools.cached_property
  def candidates(self) -> voting.Candidates:
    """Ranked grids by name of the task and number of the test input."""
    votes = (x for x in self.results if isinstance(x, VoteResult))
    return {key: ranked for x in votes for key, ranked in x.candidates.items()}

  @functools.cached_property
  def metrics(self) -> dict[str, float]:
    """Scores by name; of known and fitted tasks together, pass@k alone."""
    if len(self.results) == 1:
      return self.results[0].metrics
    scores = voting.score(self.candidates, self.tasks)
    return score_metrics(scores) if scores[1].outputs.scored else {}

  @functools.cached_property
  def answers(self) -> tuple[Answer, ...]:
    """An answer for each puzzle, in the order in which they were given."""
    found: list[Answer] = []
    for query, result in zip(self.asked.queries, self.results, strict=True):
      found += _answers(query, result)
    if not self.asked.order:
      return tuple(found)
    way = "left out: larger than the model's canvas"
    for task in self.asked.left_out:
      tests = len(task.tests)
      found.append(answer_of(task, [()] * tests, [0] * tests, way))
    named = {answer.name: answer for answer in found}
    return tuple(named[name] for name in self.asked.order)

  @property
  def domain(self) -> Domain | None:
    """The domain of the puzzles; None for ARC and unknown ones."""
    return self.asked.queries[0].puzzles.domain

  def report(self) -> str:
    """The scores as a person reads them."""
    lines = [result.report() for result in self.results]
    scored, of = (self.facts.get(x) for x in ('puzzles', 'held_out_puzzles'))
    if scored != of:
      lines.append(f'Scored on a part of what is held out: {scored} of {of}')
    if ensemble := self.facts.get('width', {}).get('ensemble'):
      named = ', '.join((str(self.facts['step']), *ensemble))
      lines.append(f'An ensemble of the checkpoints {named}')
    lines.append(
      f'Cost: {self.facts["segments_run"]:,} segments, '
      f'{self.facts["seconds"]:.1f} s'
    )
    return '\n'.join(lines)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Solver:
  """A trained model, as `load` gives it. No method changes it.

  Attributes:
    origin: path that it was loaded from.
    settings: settings of its run.
    step: number of the training steps that it took.
    names: name of each row of its puzzle table.
    trained_on: version of the data that it was trained on.
    weights: reads its weights when they are needed.
    recorded_leaks: leaks that its training wrote down, if it did.
    adapted: tasks that it was adapted to, by name.
    sizes: numbers of tokens and of cells of its puzzles, where no data tell.
  """

  origin: pathlib.Path
  settings: Settings
  step: int
  names: Sequence[str]
  trained_on: str
  weights: ReadWeights
  recorded_leaks: dict[str, Any] | None = None
  adapted: Mapping[str, Task] = dataclasses.field(default_factory=dict)
  sizes: tuple[int, int] | None = None

  def __repr__(self) -> str:
    return f"Solver('{self.origin}', step {self.step})"

  def solve(
    self,
    puzzles: Asking,
    fitting: Fitting = _FITTING,
    width: Width = _ONCE,
  ) -> Answer | list[Answer]:
    """Answers puzzles.

    Tasks of ARC that the model was trained on, by name and by content, use
    their own rows of the puzzle table; others are fitted to their
    demonstrations first. Answers of test inputs are never trained on.

    Args:
      puzzles: a puzzle, or a list of puzzles, see the module.
      fitting: how tasks that the model does not know are fitted.
      width: how often each puzzle is predicted, and what chooses an answer.

    Returns:
      An answer; for a list, or what names a set of puzzles, a list of them in
      the same order.

    Raises:
      ConfigError, DataError: puzzles that cannot be used, or not with this
        model.
    """
    asked = self.ask(puzzles, fitting)
    answers = self.evaluate(asked, width=width).answers
    return answers[0] if asked.single else list(answers)

  def trace(
    self,
    puzzles: Asking,
    fitting: Fitting = _FITTING,
    segments: int | None = None,
    max_puzzles: int | None = None,
  ) -> Trace | list[Trace]:
    """Shows how the answers to unaugmented puzzles form, update by update.

    Args:
      puzzles: as `solve` takes them.
      fitting: as `solve` takes it.
      segments: number of segments, whether it would halt or not; None for the
        most that the model was trained with.
      max_puzzles: at most so many of each query, spread evenly; None for all.

    Returns:
      A trace; for a list, or what names a set of puzzles, a list of them.
    """
    asked = self.ask(puzzles, fitting)
    found = []
    for query in asked.queries:
      found += self._trace(query, segments, max_puzzles)
    return found[0] if asked.single else found

  def evaluate(
    self,
    puzzles: Asking | None = None,
    fitting: Fitting = _FITTING,
    halting: Halting | None = None,
    segments: int | None = None,
    batch_size: int | None = None,
    width: Width = _ONCE,
  ) -> Evaluation:
    """Predicts puzzles and scores what is known of them; writes nothing.

    Args:
      puzzles: as `solve` takes them; None for all that the run holds out.
      fitting: as `solve` takes it.
      halting: 'fixed' takes all segments, 'act' ends each row at its own halt,
        'settled' where its answer stays; None for the run's way.
      segments: most segments of a row; None for the run's.
      batch_size: most rows at a time, rounded up to equal parts for the
        devices; None for the run's.
      width: as `solve` takes it.

    Raises:
      ConfigError, DataError: there is nothing to score, or as `solve` does.
    """
    asked = self.held_out() if puzzles is None else self.ask(puzzles, fitting)
    asked = dataclasses.replace(
      asked, queries=tuple(self._wide(query, width) for query in asked.queries)
    )
    rows = sum(len(query.rows) for query in asked.queries)
    if not rows:
      raise ConfigError(
        f'{self.origin}: its config.data.evaluate names no puzzles: nothing to '
        'score'
      )
    mode = halting or self.settings.evaluation.halting
    version = asked.queries[0].puzzles.version
    if asked.puzzles is None and version != self.trained_on:
      logging.warning('Trained on %s, scored on %s', self.trained_on, version)
    logging.info('Predicting %d inputs, augmentations included', rows)
    begin = time.perf_counter()
    results = tuple(
      self.predict(query, mode, segments, batch_size, width)
      for query in asked.queries
    )
    facts: dict[str, Any] = {
      'halting': mode,
      'segments': segments or self.settings.act.halt_max_steps,
      'seconds': round(time.perf_counter() - begin, 2),
    }
    if width != _ONCE:
      facts['width'] = dataclasses.asdict(width)
    return self._evaluation(asked, results, facts)

  def evaluate_in_rounds(
    self, puzzles: Asking, stop: Callable[[], bool]
  ) -> Iterator[Evaluation]:
    """Predicts tasks of ARC that the model knows, some votes at a time.

    Yields what is known after each round of `evaluation.in_rounds`, until all
    is done or `stop`, which is asked after each batch, says so.
    """
    asked, begin = self.ask(puzzles), time.perf_counter()
    mode = self.settings.evaluation.halting
    run = self._function(mode)
    facts: dict[str, Any] = {
      'halting': mode, 'segments': self.settings.act.halt_max_steps,
    }  # fmt: skip
    done = list[Result]()
    for number, query in enumerate(asked.queries, 1):
      some = dataclasses.replace(asked, queries=asked.queries[:number])
      rounds = evaluation.in_rounds(query, run, self.batch_size(), stop)
      for found in rounds:
        seconds = {'seconds': round(time.perf_counter() - begin, 2)}
        yield self._evaluation(some, (*done, found), facts | seconds)
      done.append(found)

  def reproduced(
    self, puzzles: Asking, stop: Callable[[], bool]
  ) -> dict[str, tuple[int, int]]:
    """How many demonstrations of tasks are answered right, out of how many.

    Each is asked once, with the row of the task itself; where `stop` says so
    before the end, nothing is told.
    """
    told = dict[str, tuple[int, int]]()
    run = self._function(self.settings.evaluation.halting)
    for query in self.ask(puzzles).queries:
      rows = query.puzzles.demonstration_rows()
      part = dataclasses.replace(query, rows=rows)
      with contextlib.suppress(evaluation.Stopped):
        exact = evaluation.exact(part, run, self.batch_size(), stop)
        for group in np.unique(rows.group):
          right = exact[rows.group == group]
          name = query.puzzles.name_of(group)
          told[name] = int(right.sum()), len(right)
    return told

  def _evaluation(
    self, asked: Asked, results: tuple[Result, ...], facts: dict[str, Any]
  ) -> Evaluation:
    """The record of results, with the facts that hold for all of them."""
    counts = [
      sum(result.cast.values())
      if isinstance(result, VoteResult)
      else len(query.rows)
      for query, result in zip(asked.queries, results, strict=True)
    ]
    cost = sum(
      result.metrics['eval/steps'] * count
      for result, count in zip(results, counts, strict=True)
    )
    facts = {
      'step': self.step,
      'data_version': asked.queries[0].puzzles.version,
      'trained_on': self.trained_on,
      'rows': sum(counts),
      'segments_run': round(cost),
      'attention': self._settled[1],
      **facts,
    }
    leaks = None
    if asked.puzzles is None:
      query = asked.queries[0]
      known, scored = (
        {query.puzzles.name_of(group) for group in np.unique(rows.group)}
        for rows in (query.puzzles.evaluation_rows(1), query.rows)
      )
      leaks = self.leaks.without(known - scored)
      facts |= {'puzzles': len(scored), 'held_out_puzzles': len(known)}
      facts['leaks'] = leaks.record()
    elif self.domain is None:
      facts['ways'] = {
        query.puzzles.name_of(group): query.way
        for query in asked.queries
        for group in np.unique(query.rows.group)
      }
    else:
      facts['way'] = asked.queries[0].way
    if asked.left_out:
      facts['left_out'] = [task.name for task in asked.left_out]
    return Evaluation(asked, results, facts, leaks)

  def adapt(self, new_tasks: Puzzles, fitting: Fitting = _FITTING) -> 'Solver':
    """A solver that knows new tasks of ARC, fitted together; self stays.

    The tasks are as `solve` takes them; their test outputs are not looked at.

    Raises:
      ConfigError, DataError: tasks that cannot be used, a model without rows,
        or training that diverged.
    """
    if fitting.adapt == 'none':
      raise ConfigError("adapt='none' adapts nothing; use 'rows' or 'all'")
    found = self.read(new_tasks).puzzles
    # Refuses puzzles other than tasks, which have no rows.
    self.further(fitting)
    assert isinstance(found, TaskSet)
    fitted = self._fit(found, fitting)
    tasks = {task.name: task for task in found.tasks}
    old = names_without(tasks, self.names)
    first = len(old)
    return dataclasses.replace(
      self,
      names=[*old, *fitted.puzzles.identifier_names()[1:]],
      weights=lambda _, rows: self._beside(fitted, first, rows),
      adapted={**self.adapted, **tasks},
    )

  def further(self, fitting: Fitting, evaluate: str = '') -> Settings:
    """Settings of a run that trains this model further on other tasks.

    Rates, loss, halting and the size of a batch are those of its own run.

    Args:
      fitting: how it is trained.
      evaluate: SPEC of the tasks, where they are not at hand.

    Raises:
      ConfigError: its puzzles have no rows to be fitted.
    """
    if self.domain is not None or not self.settings.model.puzzle_emb_ndim:
      raise ConfigError(
        f'{self.origin}: its puzzles have no rows of their own: there is '
        "nothing to adapt to (adapt='none' predicts all the same)"
      )
    usual, own = Settings(), self.settings
    trunk = fitting.adapt == 'all' and fitting.rows_first < 1
    return own.of_length(fitting.steps).replace(
      {
        **{
          name: getattr(usual, name)
          for name in (
            'stop_at_step', 'stop_at_accuracy', 'stop_at_score', 'keep_best',
            'keep_every', 'evaluate_every',
          )
        },
        'start_from': str(self.origin),
        'new_rows': fitting.new_rows,
        'old_share': fitting.old_share,
        'seed': fitting.seed,
        'batch_size': sharding.round_up(self.mesh, 'batch', own.batch_size),
        'evaluation.batch_size': self.batch_size(),
        **{f'mesh.{k}': x for k, x in dataclasses.asdict(usual.mesh).items()},
        'model.attention': 'auto',
        # At a rate of 0 nothing moves or decays, and no gradient is computed.
        'optimizer.learning_rate': own.optimizer.learning_rate * trunk,
        'optimizer.rows_first': fitting.rows_first * trunk,
        'optimizer.ema_decay': 0.0,
        'data.train': '',
        'data.evaluate': evaluate,
        'data.num_aug': fitting.num_aug,
        'data.seed': fitting.seed,
        'data.known_leaks': (),
        # Answered all the same; what leaks is written down.
        'data.allow_leaks': True,
        'data.unscored': (),
      }
    )  # fmt: skip

  def _beside(self, fitted: Query, first: int, rows: np.ndarray) -> Weights:
    """Fitted weights; rows from `first` on are those that were fitted."""
    table = np.zeros((len(rows), self.shapes.puzzle_table.shape[1]), np.float32)
    new = rows >= first
    table[new] = np.asarray(fitted.puzzle_table)[rows[new] - first + 1]
    if not new.all():
      old = self._weights(rows[~new])[1]
      table[~new] = np.asarray(old)[: np.count_nonzero(~new)]
    return Weights(fitted.variables, place_table(self.mesh, table))

  def ask(self, puzzles: Asking, fitting: Fitting = _FITTING) -> Asked:
    """Reads puzzles, and fits the tasks that the model does not know.

    `solve`, `trace` and `evaluate` take the result in place of puzzles: so they
    are fitted once.
    """
    if isinstance(puzzles, Query):
      return Asked(queries=(puzzles,))
    asked = self.read(puzzles)
    found = asked.puzzles
    if asked.queries or found is None:
      return asked
    if isinstance(found, Questions):
      whole, way = QuestionSet(None, found, 0, 0), 'the checkpoint as it is'
      query = self.query(whole, whole.evaluation_rows(), way)
      return dataclasses.replace(asked, queries=(query,))
    known, new = self.split(found.tasks)
    queries = []
    if known:
      # TensorFlow takes half a gigabyte: only what uses it imports it.
      from data_pipelines.arc.pipeline import ArcSet

      own = ArcSet(
        None, found._replace(tasks=tuple(known)), self.canvas, 0, 0,
        identifier_names=self.names,
      )  # fmt: skip
      queries.append(self.query(own, own.evaluation_rows(), _OWN_ROWS))
    if new:
      queries.append(self._fit(found._replace(tasks=tuple(new)), fitting))
    return dataclasses.replace(asked, queries=tuple(queries))

  def held_out(self, max_augmentations: int = 0, max_puzzles: int = 0) -> Asked:
    """The puzzles that the run holds out, which may be none.

    At most so many augmentations of each puzzle, and at most so many puzzles,
    spread evenly over the set; 0 for all.
    """
    rows = self.puzzles.evaluation_rows(
      max_augmentations or None, max_puzzles or None
    )
    return Asked(queries=(self.query(self.puzzles, rows, _OWN_ROWS),))

  def query(self, puzzles: PuzzleSet, rows: EvaluationRows, way: str) -> Query:
    """Rows of a set that the model knows by name, with the weights they need.

    The blank row is among these; `way` says which they are, in words.

    Raises:
      ConfigError: the model does not know a puzzle, or cannot be read.
    """
    known = evaluation.match_identifiers(puzzles, rows, self.names)
    needed, places = evaluation.needed_rows(
      np.append(rows.identifier, BLANK_IDENTIFIER), known
    )
    return Query(puzzles, rows, places, *self._weights(needed), way)

  def predict(
    self,
    query: Query,
    halting: Halting,
    segments: int | None = None,
    batch_size: int | None = None,
    width: Width = _ONCE,
  ) -> Result:
    """Predicts and scores one query; the arguments are those of `evaluate`."""

    # Rows of the checkpoints alternate.
    others, count = [], 1 + len(width.ensemble)
    for number, name in enumerate(width.ensemble, 1):
      solver = self._named(name)
      rows = query.rows.take(np.arange(number, len(query.rows), count))
      own = solver.query(query.puzzles, rows, query.way)
      others.append((own, solver._function(halting, segments, width)))
    return evaluation.evaluate(
      query, self._function(halting, segments, width),
      self.batch_size(batch_size), others=others,
    )  # fmt: skip

  def _function(
    self, halting: Halting, segments: int | None = None, width: Width = _ONCE
  ) -> inference.PredictFunction:
    """What predicts with this model, compiled once."""
    settings = self.settings.act
    if segments is not None:
      settings = dataclasses.replace(settings, halt_max_steps=segments)
    return _predict_function(self.model, settings, halting, self.mesh, width)

  def _named(self, name: str) -> 'Solver':
    """A checkpoint of an ensemble, of the same kind of puzzles."""
    if name.isdigit():
      return load(self.origin, int(name))
    found = load(name)
    if found._sizes != self._sizes:
      raise ConfigError(
        f'ensemble: {name} was trained on other puzzles than {self.origin}'
      )
    return found

  def _wide(self, query: Query, width: Width) -> Query:
    """The query with as many rows of each puzzle as `width` asks for."""
    if width.choose != _ONCE.choose and query.puzzles.domain is None:
      raise ConfigError(
        f'choose={width.choose} is for Sudokus and mazes; other puzzles are '
        'voted on'
      )
    rows = query.puzzles.images(query.rows, width.symmetries)
    times = width.rollouts * (1 + len(width.ensemble))
    rows = rows.take(np.repeat(np.arange(len(rows)), times))
    return dataclasses.replace(query, rows=rows, choose=width.choose)

  def batch_size(self, wanted: int | None = None) -> int:
    """Rows at a time: so many, or the run's, in equal parts for the devices."""
    wanted = wanted or self.settings.evaluation.batch_size
    return sharding.round_up(self.mesh, 'batch', wanted)

  @functools.cached_property
  def mesh(self) -> Mesh:
    """All devices, which share the rows."""
    return sharding.make_mesh()

  @property
  def model(self) -> ReasoningModel:
    """The model; its attention is for this machine, not for the run's."""
    return self._settled[0]

  @functools.cached_property
  def _settled(self) -> tuple[ReasoningModel, str]:
    """The model, and how it computes attention."""
    settings = dataclasses.replace(self.settings.model, attention='auto')
    model = build.model(settings, *self._sizes)
    return kernel_check.settled(model, self.mesh)

  @functools.cached_property
  def puzzles(self) -> PuzzleSet:
    """The run's data, with the augmentations that the model has rows of."""
    if not self._spec:
      raise ConfigError(
        f'{self.origin}: no held-out puzzles are known of it; name some'
      )
    puzzles = build.puzzle_set(self.settings, self.names)
    puzzles.recognise(self.trained_on)
    return puzzles

  @functools.cached_property
  def leaks(self) -> Verdict:
    """Held-out answers that training showed, now or by the run's record."""
    found = build.check_leaks(self.settings, self.puzzles)
    return found.beside(self.recorded_leaks)

  @functools.cached_property
  def domain(self) -> Domain | None:
    """The domain of its puzzles; None for ARC and unknown ones."""
    if self.sizes:
      return next(iter(kinds.with_tokens(*self.sizes)), None)
    if self._kind == specs.QUESTIONS:
      return questions.domain_of(self._spec)
    return None if self._kind == specs.ARC else self.puzzles.domain

  @property
  def canvas(self) -> int:
    """The side of the canvas of ARC tasks, in cells."""
    return math.isqrt(self._sizes[1])

  @property
  def puzzle_kind(self) -> str:
    """What it solves, in words."""
    if self.domain is not None:
      return str(self.domain)
    return f'ARC tasks on a canvas of {self.canvas} × {self.canvas}'

  @property
  def _spec(self) -> str:
    return self.settings.data.evaluate or self.settings.data.train

  @functools.cached_property
  def _kind(self) -> str:
    return specs.kind(self._spec)

  @functools.cached_property
  def _sizes(self) -> tuple[int, int]:
    """Tokens and cells of its puzzles; data are read if nothing else tells."""
    if self.sizes:
      return self.sizes
    if self._kind == specs.ARC:
      return encoding.VOCAB_SIZE, self.settings.data.canvas**2
    told = self.domain or self.puzzles
    return told.vocab_size, told.seq_len

  @functools.cached_property
  def shapes(self) -> Weights:
    """Shapes, types and places of its weights; nothing is read."""
    return abstract_weights(self.model, len(self.names), self.mesh)

  def _weights(self, rows: np.ndarray) -> Weights:
    return self.weights(self.shapes, rows)

  def read(self, puzzles: Puzzles | Asked) -> Asked:
    """Reads puzzles, checks them as `solve` does, and logs what is left out.

    These are tasks that do not fit the canvas, where others do.
    """
    if isinstance(puzzles, Asked):
      return puzzles
    together, single, where = read(puzzles, self._check_kind)
    if isinstance(together, Questions):
      return Asked(together, single=single)
    order = tuple(task.name for task in together.tasks)
    large = tuple(task for task in together.tasks if not task.fits(self.canvas))
    if large:
      text = (
        f"{where}: task '{large[0].name}' has a grid larger than the "
        f"checkpoint's canvas of {self.canvas} × {self.canvas}"
      )
      if len(large) == len(together.tasks):
        raise DataError(
          f'{text}; give a smaller one, or train with a larger '
          '--config.data.canvas'
        )
      told = f'so have {len(large)} of {len(order)} tasks, which are left out'
      logging.warning('%s; %s', text, told)
      rest = tuple(task for task in together.tasks if task.fits(self.canvas))
      together = together._replace(tasks=rest)
    return Asked(together, large, order, single)

  def _check_kind(self, found: TaskSet | Questions, item: Puzzle) -> None:
    if self.domain is None and self._sizes[0] != encoding.VOCAB_SIZE:
      raise DataError(
        f'{self._spec}: neither ARC tasks nor Sudokus nor mazes: only '
        'experiments.evaluate can predict them'
      )
    domain = found.domain if isinstance(found, Questions) else None
    if domain != self.domain:
      what = item if isinstance(item, str) else 'the puzzle given'
      raise ConfigError(
        f'{self.origin}: was trained on {self.puzzle_kind}; {what} has '
        f'{domain or "ARC tasks"}: give it puzzles of its own kind and size'
      )

  def split(self, tasks: Sequence[Task]) -> tuple[list[Task], list[Task]]:
    """Tasks that are known by name and by content, and all others."""
    named = {encoding.parse_augmentation_name(name)[0] for name in self.names}
    trained = {}
    if any(task.name in named - self.adapted.keys() for task in tasks):
      if self._spec:
        trained = self._trained_tasks
      else:
        logging.warning(
          '%s: the tasks that it was trained on are known by their names alone',
          self.origin,
        )
        trained = {task.name: (task, 'evaluate') for task in tasks}
    known, new, whole = list[Task](), list[Task](), list[str]()
    for task in tasks:
      same, role = trained.get(task.name, (None, ''))
      same = self.adapted.get(task.name, same)
      is_known = (
        task.name in named
        and same is not None
        and _content(task) == _content(same)
      )
      if is_known and role == 'train' and task.name not in self.adapted:
        whole.append(task.name)
      if task.name in named and not is_known:
        logging.info(
          "Task '%s' has the name of one that was trained on, and is not (or "
          'not certainly) the same: it is taken for a new one', task.name,
        )  # fmt: skip
      (known if is_known else new).append(task)
    if whole:
      logging.warning(
        'The test pairs of %d tasks were trained on too (data.train): %s%s',
        len(whole), ', '.join(whole[:3]), ', …' * (len(whole) > 3),
      )  # fmt: skip
    return known, new

  @functools.cached_property
  def _trained_tasks(self) -> dict[str, tuple[Task, str]]:
    """The run's tasks and their roles by name; none if not at hand."""
    data = self.settings.data
    try:
      sets = {
        role: load_tasks(spec)
        for role, spec in (('train', data.train), ('evaluate', data.evaluate))
        if spec and specs.kind(spec) == specs.ARC
      }
    except DataError as error:
      logging.warning('The data of the run cannot be compared with: %s', error)
      return {}
    now = '; '.join(f'{role} {tasks.version}' for role, tasks in sets.items())
    then = self.trained_on
    if then != now and not then.startswith(checkpoints.UNKNOWN_DATA):
      logging.warning(
        'The data of the run are not what they were: %s then, %s now', then, now
      )
      return {}
    own = {t.name: (t, role) for role in sets for t in sets[role].tasks}
    if self.settings.old_share:
      # A part of each batch was theirs, and their rows are here.
      return load(self.settings.start_from)._trained_tasks | own
    return own

  def _fit(self, tasks: TaskSet, fitting: Fitting) -> Query:
    """New tasks with rows of their own, fitted to their demonstrations."""
    from data_pipelines.arc.pipeline import ArcSet

    count, trunk = len(tasks.tasks), fitting.adapt == 'all'
    unseen = ArcSet(None, tasks, self.canvas, fitting.num_aug, fitting.seed)
    rows = unseen.evaluation_rows()
    identifiers = np.arange(unseen.num_identifiers, dtype=np.int32)
    variables, blank = self._weights(np.array([BLANK_IDENTIFIER]))
    if fitting.adapt == 'none':
      way = (
        'the blank row: nothing was fitted, and the model cannot know the task'
      )
      return Query(unseen, rows, 0 * identifiers, variables, blank, way)
    # Which imports this module.
    from hrm_jax import training_run

    settings = self.further(fitting)
    logging.info(
      'Fitting %d new rows to %d demonstrations of %d task%s; the trunk %s',
      len(unseen.members), sum(len(t.demonstrations) for t in unseen.tasks),
      count, 's' * (count > 1), 'learns too' if trunk else 'is frozen',
    )  # fmt: skip
    state = training_run.fit(settings, unseen, self, fitting.seconds)
    way = (
      f'new rows{" and a copy of the trunk" * trunk}, fitted in '
      f'{int(state.step)} steps on the demonstrations'
      f'{"" if trunk else "; the trunk frozen"}'
    )
    return Query(unseen, rows, identifiers, *state.weights, way)

  def _trace(
    self, query: Query, segments: int | None, max_puzzles: int | None
  ) -> list[Trace]:
    act, of = self.settings.act, query.puzzles
    run = _trace_function(
      self.model, act, segments or act.halt_max_steps, self.mesh
    )
    rows = query.originals(max_puzzles)
    size = self.batch_size(min(len(rows), self.settings.evaluation.batch_size))
    thoughts: list[tuple[np.ndarray, Thought]] = []
    for batch in of.evaluation_batches(rows, size):
      identifiers = query.identifiers[batch['puzzle_identifiers']]
      embeddings = np.asarray(query.puzzle_table[identifiers])
      found = jax.device_get(run(query.variables, embeddings, batch['inputs']))
      labels = padded(batch['labels'])
      for row in range(min(size, len(rows) - len(thoughts))):
        q = zip(_Q_NAMES[act.halting], found.q[:, row].T, strict=False)
        thought = Thought(
          self.settings.model.update_levels,
          found.tokens[:, :, row],
          dict(q),
          found.halts[:, row],
          labels[row] if labels[row].any() else None,
        )
        thoughts.append((batch['inputs'][row], thought))
    style = pictures.style_of(of.domain, of.vocab_size)
    tests: dict[int, list[tuple[np.ndarray, Thought]]] = {}
    for group, shown in zip(rows.group, thoughts, strict=True):
      tests.setdefault(group, []).append(shown)
    return [
      Trace(of.name_of(group), style, *zip(*found, strict=True))
      for group, found in tests.items()
    ]


def load(path: str | os.PathLike, step: int | None = None) -> Solver:
  """Finds a trained model; a run's weights are read when they are needed.

  Args:
    path: working directory of a run, be it in a bucket (gs://BUCKET/RUN), the
      name of a model that comes with the package, see `hrm_jax.shipped`, or a
      checkpoint of the published code (.pt, .safetensors), see
      `hrm_jax.published.convert`.
    step: which checkpoint of a run; None for the newest whole one.

  Raises:
    ConfigError, DataError: there is no such checkpoint, or it cannot be used.
  """
  if pathlib.PurePath(path).suffix in ('.pt', '.safetensors'):
    return _load_published(files.local(path))
  workdir = files.place(path)
  if folder := shipped.find(workdir):
    return _load_packed(folder)
  if not workdir.exists() and workdir.name == str(path):
    known = ', '.join(shipped.names())
    raise ConfigError(
      f'{path}: no config.json; there is no such directory, and the models '
      f'that come with the package are {known}'
    )
  settings, facts = workdir_config.read(workdir)
  with contextlib.closing(checkpoints.Checkpoints(workdir)) as saved:
    step = saved.find(step)
    position = saved.position(step)
  return Solver(
    origin=workdir,
    settings=settings,
    step=step,
    names=position.identifier_names,
    trained_on=position.data_version,
    weights=_saved_weights(workdir, step),
    recorded_leaks=facts.get('leaks'),
  )


def _load_published(path: pathlib.Path) -> Solver:
  found = convert.read(path)
  return Solver(
    origin=path,
    settings=found.settings,
    step=found.step,
    names=found.identifier_names,
    trained_on=f'{checkpoints.UNKNOWN_DATA}, published as {path.name}',
    weights=_weights_at_hand(lambda _: found.variables, found.puzzle_table),
    sizes=(found.vocab_size, found.seq_len),
  )


def _load_packed(folder: pathlib.Path) -> Solver:
  settings, facts = workdir_config.read(folder)
  found = shipped.read(folder)
  return Solver(
    origin=folder,
    settings=settings,
    step=found.step,
    names=found.names,
    trained_on=found.data_version,
    weights=_weights_at_hand(found.like, found.table),
    recorded_leaks=facts.get('leaks'),
  )


def _weights_at_hand(
  variables_like: Callable[[Any], Any], table: np.ndarray
) -> ReadWeights:
  """Weights that have been read; variables are given the shapes they have."""

  def weights(like, rows):
    places = jax.tree.map(lambda leaf: leaf.sharding, like.variables)
    variables = jax.device_put(variables_like(like.variables), places)
    mesh = like.puzzle_table.sharding.mesh
    return Weights(variables, place_table(mesh, table[rows]))

  return weights


def _saved_weights(workdir: pathlib.Path, step: int) -> ReadWeights:
  """Reads a run's checkpoint; its variables once."""
  variables = None

  def read(like, rows):
    nonlocal variables
    with contextlib.closing(checkpoints.Checkpoints(workdir)) as saved:
      if variables is None:
        variables, table = saved.restore_weights(step, like, rows)
      else:
        table = saved.restore_rows(step, like.puzzle_table, rows)
    return Weights(variables, table)

  return read


def place_table(mesh: Mesh, table: np.ndarray) -> chex.Array:
  """A puzzle table on the devices, filled up to equal parts."""
  parts = sharding.count(mesh, 'puzzles')
  table = np.pad(table, ((0, -len(table) % parts), (0, 0)))
  return jax.device_put(table, sharding.place(mesh, 'puzzles'))


def names_without(
  tasks: Container[str], names: Sequence[str], instead: str = '<replaced>'
) -> list[str]:
  """Names of rows, of which those of some tasks stand for nothing."""
  return [
    instead if encoding.parse_augmentation_name(name)[0] in tasks else name
    for name in names
  ]


class Given(NamedTuple):
  """Puzzles of one kind, as they were given."""

  puzzles: TaskSet | Questions
  # Whether they were named as one puzzle, so that one answer is due.
  single: bool
  # What names them in a message.
  where: str


def read(
  puzzles: Puzzles,
  check: Callable[[TaskSet | Questions, Puzzle], None] | None = None,
) -> Given:
  """Reads puzzles; `check` is called with what each item of a list names.

  Raises:
    DataError: they cannot be used, or not together.
  """
  # Both kinds of sets are sequences themselves.
  is_set = isinstance(puzzles, TaskSet | Questions)
  if listed := isinstance(puzzles, Sequence) and not isinstance(
    puzzles, str | TaskSet | Questions
  ):
    items = puzzles
  else:
    items = [puzzles]
  if not items:
    raise DataError('the list of puzzles is empty; give at least one')
  found = []
  for number, item in enumerate(items, 1):
    found.append(_load(item, f'task {number}' if listed else 'task'))
    if check:
      check(found[-1], item)
  together = found[0] if len(found) == 1 else _joined(found)
  path = items[0] if isinstance(items[0], str | os.PathLike) else ''
  # These name a set of puzzles, though it may hold only one.
  is_set |= os.path.isdir(path)
  is_set |= os.fspath(path).lower().endswith(('.csv', 'challenges.json'))
  if isinstance(together, TaskSet):
    count = len(together.tasks)
  else:
    count = len(together.questions)
  where = os.fspath(path if len(items) == 1 else '') or 'the puzzles given'
  return Given(together, not listed and not is_set and count == 1, where)


def _load(item: Puzzle, name: str) -> TaskSet | Questions:
  """What one item of a list of puzzles names."""
  if isinstance(item, TaskSet | Questions):
    return item
  if isinstance(item, Task):
    return TaskSet(f'task {item.name}', (item,))
  if isinstance(item, Mapping):
    task = parse_task(str(item.get('name', name)), dict(item), 'the task given')
    digest = hashlib.sha256(json.dumps(item, default=str).encode()).hexdigest()
    return TaskSet(f'task {digest[:12]}', (task,))
  if not isinstance(item, str | os.PathLike):
    raise DataError(
      f'{type(item).__name__} is no puzzle; give a path, a task as a dict, the '
      'characters of a Sudoku, the lines of a maze or a list of these'
    )
  spec = os.fspath(item)
  if '\n' in spec.strip() and not os.path.lexists(spec):
    return questions.load_text(spec, 'maze' if '#' in spec else 'Sudoku')
  kind = specs.kind(spec)
  if kind == specs.PUBLISHED:
    raise DataError(
      f'{spec}: a directory of the published format has no tasks of its own; '
      'name it in --config.data.evaluate'
    )
  if kind == specs.ARC:
    return load_tasks(spec)
  return questions.load_questions(spec, 'test', 0)


def _joined(found: Sequence[TaskSet | Questions]) -> TaskSet | Questions:
  """Puzzles of one kind from several sources, in their order."""
  version = ', '.join(one.version for one in found)
  if sets := [one for one in found if isinstance(one, TaskSet)]:
    tasks = tuple(task for one in sets for task in one.tasks)
    ((name, count),) = collections.Counter(t.name for t in tasks).most_common(1)
    if count > 1:
      raise DataError(
        f"task '{name}' is given {count} times; give each a name of its own"
      )
    return TaskSet(version, tasks)
  sources = [one for one in found if isinstance(one, Questions)]
  asked = np.concatenate([one.questions for one in sources])
  answers = np.concatenate([one.answers for one in sources])
  origins = {one.origin for one in sources}
  origin = origins.pop() if len(origins) == 1 else 'puzzles'
  lines, domain = np.arange(1, len(asked) + 1), sources[0].domain
  return Questions(version, domain, asked, answers, origin, lines)


def _content(task: Task) -> set[Any]:
  """The demonstrations, in no order."""
  return {
    tuple((grid.shape, grid.tobytes()) for grid in pair.grids)
    for pair in task.demonstrations
  }


def answer_of(
  task: Task, attempts: Iterable, cast: Iterable[int], way: str
) -> Answer:
  """The answer to a task of ARC, whose truths are those of its tests."""
  return Answer(
    task.name,
    tuple(test.input for test in task.tests),
    tuple(test.output for test in task.tests),
    tuple(map(tuple, attempts)),
    tuple(cast),
    (None,) * len(task.tests),
    way,
  )


def _answers(query: Query, result: Result) -> Iterator[Answer]:
  """An answer for each puzzle of a query, in the order of its rows."""
  if isinstance(result, VoteResult):
    tasks = query.puzzles.evaluation_tasks
    for group in np.unique(query.rows.group):
      task = tasks[group]
      tests = range(len(task.tests))
      attempts = [
        result.candidates.get((task.name, test), []) for test in tests
      ]
      cast = [result.cast.get((task.name, test), 0) for test in tests]
      yield answer_of(task, attempts, cast, query.way)
    return
  domain, found = query.puzzles.domain, result.found
  votes = found.get('votes', np.ones(len(result.names)))
  style = pictures.style_of(domain, query.puzzles.vocab_size)

  def readable(tokens):
    grid = pictures.canvas_of(tokens, style)
    return grid if domain is None else domain.values[grid]

  for row, name in enumerate(result.names):
    grid, confidence = readable(found['tokens'][row]), found['confidence'][row]
    yield Answer(
      name,
      (readable(result.questions[row]),),
      (readable(result.labels[row]),),
      ((Candidate(grid, int(votes[row]), float(confidence)),),),
      (result.cast,),
      (bool(found['valid'][row]) if 'valid' in found else None,),
      query.way,
    )
