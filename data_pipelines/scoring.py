"""From predictions to scores and files, for every kind of puzzle."""

import abc
import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from data_pipelines import files
from data_pipelines.arc import encoding, voting
from data_pipelines.arc.tasks import Task
from data_pipelines.drawing import pictures as picture

# Candidates of each test input in predictions.json.
_KEPT = 10


class Predictions(Protocol):
  """What a model answers, see `hrm_jax.inference.predict.Predictions`."""

  tokens: np.ndarray
  q_halt: np.ndarray
  steps: np.ndarray
  exact: np.ndarray
  accuracy: np.ndarray


class Judge(abc.ABC):
  """Takes predictions, batch by batch, then tells what they are worth.

  Attributes:
    metrics: scalars for the log, once all predictions have been added.
  """

  metrics: dict[str, float]

  @abc.abstractmethod
  def add(self, found: Predictions) -> None:
    """Takes the next rows' predictions, in the order of the chosen rows."""

  @abc.abstractmethod
  def finish(self) -> None:
    """Ends the adding: fills in `metrics`."""

  @abc.abstractmethod
  def summary(self) -> str:
    """The headline in a few words."""

  @abc.abstractmethod
  def report(self) -> str:
    """The scores as a person reads them."""

  @abc.abstractmethod
  def write(self, directory: pathlib.Path, facts: dict[str, Any]) -> None:
    """Writes the files of one evaluation, each whole or not at all.

    `facts` stand beside the scores: what was evaluated, and how.
    """


class VoteJudge(Judge):
  """ARC: each augmentation of a test input votes for one grid.

  Attributes:
    candidates: ranked answers of each (task name, test index).
    scores: pass@k under the three rules.
  """

  def __init__(
    self,
    tasks: Sequence[Task],
    group: np.ndarray,
    test: np.ndarray,
    dihedral: np.ndarray,
    colours: np.ndarray,
  ):
    """Arrays have one entry for each row, those of a test input together.

    Args:
      tasks: those that are scored.
      group: index into `tasks`.
      test: test pair of the task.
      dihedral: see `encoding.dihedral`.
      colours: [rows, 10], see `encoding.augment`.
    """
    self._tasks, self._group, self._test = tasks, group, test
    self._dihedral, self._colours = dihedral, colours
    # Where the next test input begins.
    changes = (np.diff(group) != 0) | (np.diff(test) != 0)
    self._bounds = [*(np.flatnonzero(changes) + 1), len(group)]
    self._done, self._waiting = 0, []
    self._sums = dict.fromkeys(('exact', 'accuracy', 'steps'), 0.0)
    self.candidates: dict[tuple[str, int], list[voting.Candidate]] = {}
    self.scores: dict[int, voting.Score] = {}

  def add(self, found: Predictions) -> None:
    self._waiting.append((found.tokens, found.q_halt))
    for name in self._sums:
      # In float64: the same however the rows are batched.
      self._sums[name] += float(np.sum(getattr(found, name), dtype=np.float64))
    available = self._done + sum(len(part[0]) for part in self._waiting)
    if not self._bounds or self._bounds[0] > available:
      return
    tokens, q = map(np.concatenate, zip(*self._waiting, strict=True))
    start = self._done
    while self._bounds and self._bounds[0] <= available:
      end = self._bounds.pop(0)
      part = slice(self._done - start, end - start)
      self._vote(slice(self._done, end), tokens[part], q[part])
      self._done = end
    self._waiting = [(tokens[self._done - start :], q[self._done - start :])]

  def _vote(self, rows: slice, tokens: np.ndarray, q: np.ndarray) -> None:
    grids, heights, widths = encoding.decode(
      tokens, self._dihedral[rows], self._colours[rows]
    )
    task = self._tasks[self._group[rows.start]]
    key = (task.name, int(self._test[rows.start]))
    self.candidates[key] = voting.vote(
      grids, heights, widths, _sigmoid(q), first=max(voting.ATTEMPTS)
    )

  def finish(self) -> None:
    # A test input that was left out on purpose is not an unsolved one.
    chosen = [self._tasks[group] for group in np.unique(self._group)]
    self.scores = voting.score(self.candidates, chosen)
    self.metrics = {'eval/steps': self._sums['steps'] / len(self._group)}
    known = sum(
      self._tasks[task].tests[test].output is not None
      for task, test in zip(self._group, self._test, strict=True)
    )
    if known:
      self.metrics['eval/exact'] = self._sums['exact'] / known
      self.metrics['eval/accuracy'] = self._sums['accuracy'] / known
      self.metrics |= score_metrics(self.scores)
    self._chosen = chosen

  def summary(self) -> str:
    parts = []
    for k in (1, 2):
      tally = self.scores[k].outputs
      parts.append(f'pass@{k} {tally.solved}/{tally.scored}')
    return ', '.join(parts)

  def report(self) -> str:
    lines = [voting.format_scores(self.scores)]
    copied = voting.copy_baseline(self._chosen)[1].outputs
    if copied.scored:
      lines += [
        f'Baseline, the input as its own answer: {100 * copied.rate:.2f} % of '
        f'the test outputs ({copied.solved}/{copied.scored})',
        'Single predictions, before voting: '
        f'{100 * self.metrics["eval/exact"]:.2f} % exact, '
        f'{100 * self.metrics["eval/accuracy"]:.2f} % of the cells, '
        f'{self.metrics["eval/steps"]:.1f} segments',
      ]
    return '\n'.join(lines)

  def write(self, directory: pathlib.Path, facts: dict[str, Any]) -> None:
    write_votes(
      directory, self._chosen, self.candidates, {**facts, **self.metrics}
    )


def score_metrics(scores: Mapping[int, voting.Score]) -> dict[str, float]:
  """The scores as scalars for a log, by name."""
  return {
    f'eval/pass@{k}/{rule}': tally.rate
    for k, score in scores.items()
    for rule, tally in score._asdict().items()
  }


def write_votes(
  directory: pathlib.Path,
  tasks: Sequence[Task],
  candidates: voting.Candidates,
  facts: dict[str, Any],
) -> None:
  """Writes the files of ARC's predictions, each whole or not at all.

  submission.json (Kaggle's form), predictions.json (ranked candidates),
  scores.json (the facts) and predictions.png.
  """
  files.write_json(
    directory / 'submission.json', voting.submission(candidates, tasks)
  )
  predictions = {
    task.name: [
      [
        candidate._replace(grid=candidate.grid.tolist())._asdict()
        for candidate in candidates.get((task.name, test), [])[:_KEPT]
      ]
      for test in range(len(task.tests))
    ]
    for task in tasks
  }
  files.write_json(directory / 'predictions.json', predictions)
  files.write_json(directory / 'scores.json', facts)
  picture.draw_predictions(tasks, candidates, directory / 'predictions.png')


class AnswerJudge(Judge):
  """Puzzles with one answer each: exact, by cells, and whether it is valid.

  An answer is valid where it solves the question, be it the label or not.

  Attributes:
    questions: tokens, uint8 [rows, S].
    labels: tokens, uint8 [rows, S].
    names: names of the puzzles.
    found: once all predictions have been added, `tokens` [rows, S] and, [rows]
      each, `confidence`, `steps`, `exact`, `accuracy` and, where it can be
      told, `valid`.
  """

  def __init__(
    self,
    domain: Any,
    vocab_size: int,
    questions: np.ndarray,
    labels: np.ndarray,
    names: Sequence[str],
  ):
    """Arrays have one entry for each row.

    Args:
      domain: a `Sudoku` or `Maze`; None where validity cannot be told.
      vocab_size: of the tokens.
      questions: tokens, uint8 [rows, S].
      labels: tokens, uint8 [rows, S].
      names: of the puzzles, for the files.
    """
    self._domain, self._vocab_size = domain, vocab_size
    self.questions, self.labels, self.names = questions, labels, names
    self._parts = []
    self.found: dict[str, np.ndarray] = {}

  def add(self, found: Predictions) -> None:
    self._parts.append(
      {
        'tokens': found.tokens,
        'confidence': _sigmoid(found.q_halt),
        'steps': found.steps,
        'exact': found.exact,
        'accuracy': found.accuracy,
      }
    )

  def finish(self) -> None:
    found = {
      name: np.concatenate([part[name] for part in self._parts])
      for name in self._parts[0]
    }
    if self._domain is not None:
      valid = self._domain.valid(self.questions, found['tokens'])
      found['valid'] = valid | found['exact']
    self.found = found
    self.metrics = {
      f'eval/{name}': float(np.mean(found[name]))
      for name in ('exact', 'accuracy', 'valid', 'steps')
      if name in found
    }

  def summary(self) -> str:
    count = len(self.names)
    text = f'exact {int(self.found["exact"].sum())}/{count}'
    if 'valid' in self.found:
      text += f', valid {int(self.found["valid"].sum())}/{count}'
    return f'{text}, {100 * self.metrics["eval/accuracy"]:.2f} % of the cells'

  def report(self) -> str:
    lines = [
      f'Exact accuracy  {100 * self.metrics["eval/exact"]:6.2f} % '
      f'({int(self.found["exact"].sum())}/{len(self.names)})',
      f'Cell accuracy   {100 * self.metrics["eval/accuracy"]:6.2f} %',
    ]
    if 'valid' in self.found:
      lines.append(
        f'Valid solutions {100 * self.metrics["eval/valid"]:6.2f} % '
        f'({int(self.found["valid"].sum())}/{len(self.names)})'
      )
    copied = (self.questions == self.labels).mean()
    lines.append(
      f'Baseline, the question as its own answer: {100 * copied:.2f} % of the '
      f'cells; {self.metrics["eval/steps"]:.1f} segments a puzzle'
    )
    return '\n'.join(lines)

  def write(self, directory: pathlib.Path, facts: dict[str, Any]) -> None:
    out = io.StringIO()
    writer = csv.writer(out)
    kept = ('exact', 'valid', 'accuracy', 'confidence', 'steps')
    kept = [name for name in kept if name in self.found]
    writer.writerow(['puzzle', 'question', 'answer', 'prediction', *kept])
    texts = (
      _texts(self._domain, tokens)
      for tokens in (self.questions, self.labels, self.found['tokens'])
    )
    columns = [
      [f'{value:.6g}' for value in self.found[name].astype(float)]
      for name in kept
    ]
    writer.writerows(zip(self.names, *texts, *columns, strict=True))
    files.write_text(directory / 'predictions.csv', out.getvalue())
    files.write_json(directory / 'scores.json', {**facts, **self.metrics})
    picture.draw_answers(
      picture.style_of(self._domain, self._vocab_size),
      self.names,
      self.questions,
      self.labels,
      self.found,
      directory / 'predictions.png',
    )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
  return 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))


def _texts(domain: Any, tokens: np.ndarray) -> list[str]:
  """A line for each row of tokens, in the characters of the domain."""
  if domain is None:
    return [' '.join(map(str, row)) for row in tokens]
  characters = np.frombuffer(domain.characters.encode(), np.uint8)
  return [row.tobytes().decode() for row in characters[tokens]]
