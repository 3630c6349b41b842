"""Scores of ARC tasks: each augmentation of a test input votes for one grid."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import scoring
from data_pipelines.arc import encoding, voting
from data_pipelines.arc.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class VoteResult(scoring.Result):
  """The ranked answers to test inputs of tasks, and their scores.

  The scores are pass@k under the three rules, by k; `cast` is the number of
  votes, of those for no grid too.
  """

  tasks: Sequence[Task]
  candidates: voting.Candidates
  cast: Mapping[tuple[str, int], int]
  scores: Mapping[int, voting.Score]

  def summary(self) -> str:
    tallies = ((k, self.scores[k].outputs) for k in (1, 2))
    return ', '.join(f'pass@{k} {x.solved}/{x.scored}' for k, x in tallies)

  def report(self) -> str:
    lines = [voting.format_scores(self.scores)]
    copied = voting.copy_baseline(self.tasks)[1].outputs
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


class VoteJudge(scoring.Judge):
  """Counts the votes for each test input when the last of them is in.

  Votes that an `earlier` judge has counted, of the same tasks, count too.
  """

  def __init__(
    self, ballots: voting.Ballots, earlier: 'VoteJudge | None' = None
  ):
    self._ballots = ballots
    tasks, group, test, *_ = ballots
    self._known = np.array(
      [
        tasks[task].tests[index].output is not None
        for task, index in zip(group, test, strict=True)
      ]
    )
    # A test input that was left out on purpose is not an unsolved one.
    self._tasks = [tasks[index] for index in np.unique(group)]
    # Where the next test input begins.
    changes = (np.diff(ballots.group) != 0) | (np.diff(ballots.test) != 0)
    self._bounds = [*(np.flatnonzero(changes) + 1), len(ballots.group)]
    self._done, self._waiting = 0, list[tuple[np.ndarray, np.ndarray]]()
    self._sums = dict.fromkeys(('exact', 'accuracy', 'steps'), 0.0)
    self._rows = self._scored = 0
    self._candidates: dict[tuple[str, int], list[voting.Candidate]] = {}
    self._cast = collections.Counter[tuple[str, int]]()
    if earlier:
      self._tasks, self._sums = earlier._tasks, {**earlier._sums}
      self._rows, self._scored = earlier._rows, earlier._scored
      self._candidates = {**earlier._candidates}
      self._cast += earlier._cast

  def add(self, found: scoring.Predictions) -> None:
    available = self._done + sum(len(part[0]) for part in self._waiting)
    self._waiting.append((found.tokens, found.q_halt))
    for name in self._sums:
      # In float64: the same however the rows are batched.
      self._sums[name] += float(np.sum(getattr(found, name), dtype=np.float64))
    added = slice(available, available := available + len(found.steps))
    self._rows += len(found.steps)
    self._scored += int(np.count_nonzero(self._known[added]))
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
    tasks, group, test, dihedral, colours = self._ballots
    canvases = encoding.decode(tokens, dihedral[rows], colours[rows])
    key = (tasks[group[rows.start]].name, int(test[rows.start]))
    found = voting.vote(
      *canvases, scoring.confidence(q), first=max(voting.ATTEMPTS)
    )
    self._candidates[key] = voting.merged(self._candidates.get(key, ()), found)
    self._cast[key] += len(q)

  def undecided(self) -> set[tuple[str, int]]:
    """The test inputs that were predicted and not always alike."""
    return {
      key
      for key, cast in self._cast.items()
      if [one.votes for one in self._candidates[key]] != [cast]
    }

  def result(self) -> VoteResult:
    """The scores; test inputs whose votes are not all in have none of these."""
    scores = voting.score(self._candidates, self._tasks)
    metrics = {'eval/steps': self._sums['steps'] / max(1, self._rows)}
    if self._scored:
      metrics['eval/exact'] = self._sums['exact'] / self._scored
      metrics['eval/accuracy'] = self._sums['accuracy'] / self._scored
      metrics |= score_metrics(scores)
    return VoteResult(
      metrics=metrics, tasks=self._tasks, candidates={**self._candidates},
      cast={**self._cast}, scores=scores,
    )  # fmt: skip


def score_metrics(scores: Mapping[int, voting.Score]) -> dict[str, float]:
  """The scores as numbers for a log, by name."""
  return {
    f'eval/pass@{k}/{rule}': tally.rate
    for k, score in scores.items()
    for rule, tally in score._asdict().items()
  }
