"""From the predictions for a test input to attempts, a score, a submission.

Each augmentation of a test input votes for one grid. The grids with most votes
are the attempts, and a test output is solved where one of them equals it cell
for cell.

Shape letters: N predictions of one test input, C canvas side, G groups of
equal grids.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.arc.tasks import MAX_SIDE, Pair, Task

ATTEMPTS = (1, 2, 5, 10, 100, 1000)


class Candidate(NamedTuple):
  """A grid that was predicted for a test input.

  The grid is uint8 [h, w] of colours 0 to 9; `votes` is the number of
  predictions that equal it, and `confidence` the mean of theirs.
  """

  grid: np.ndarray
  votes: int
  confidence: float


# By (task name, index of the test input), best first; entries may miss.
Candidates = Mapping[tuple[str, int], Sequence[Candidate]]


class Ballots(NamedTuple):
  """Which test input each prediction votes for, and how it was augmented.

  Arrays have one entry for each prediction, those of a test input together.
  """

  tasks: Sequence[Task]
  group: np.ndarray  # int [rows], index into `tasks`
  test: np.ndarray  # int [rows], test pair of the task
  dihedral: np.ndarray  # int [rows], see `encoding.dihedral`
  colours: np.ndarray  # uint8 [rows, 10], see `encoding.augment`


class Tally(NamedTuple):
  """So many solved out of so many scored."""

  solved: float
  scored: int

  @property
  def rate(self) -> float:
    """The fraction that was solved; NaN where nothing was scored."""
    return self.solved / self.scored if self.scored else float('nan')


class Score(NamedTuple):
  """Scores within some number of attempts, by the rules in use."""

  # Mean over test outputs (Kaggle).
  outputs: Tally
  # Mean over tasks of the fraction of their outputs that was solved (ARC Prize,
  # TRM); `solved` is the sum of the fractions.
  tasks: Tally
  # Tasks with all of their outputs solved (HRM's notebook).
  whole_tasks: Tally


def vote(
  grids_NCC: np.ndarray,
  height_N: np.ndarray,
  width_N: np.ndarray,
  confidence_N: np.ndarray,
  first: int | None = None,
) -> list[Candidate]:
  """Ranks the grids predicted for one test input.

  More votes come first, then the higher mean confidence, then the smaller
  canvas when compared as bytes: the order of the predictions never matters. A
  prediction of 0 x 0 is no grid and is dropped.

  The first three arrays are those of `encoding.decode`. `confidence_N` is the
  sigmoid of the q_halt of each prediction, and `first` the number of candidates
  to return; None for all.
  """
  # By rising confidence: rounding does not depend on the order either.
  order = np.argsort(confidence_N)
  order = order[height_N[order] > 0]
  # As one opaque item each, canvases are compared whole, byte by byte.
  _, canvas, _ = grids_NCC.shape
  items = grids_NCC[order].reshape(-1).view(f'V{canvas * canvas}')
  _, member_G, group_N, votes_G = np.unique(
    items, return_index=True, return_inverse=True, return_counts=True
  )
  sum_G = np.bincount(group_N, confidence_N[order], len(votes_G))
  confidence_G = sum_G / votes_G
  # lexsort is stable and `unique` sorts by bytes: that settles the last ties.
  ranking = np.lexsort((-confidence_G, -votes_G))[:first]
  members = order[member_G[ranking]]
  return [
    Candidate(
      grids_NCC[member, : height_N[member], : width_N[member]].copy(),
      int(votes_G[group]),
      float(confidence_G[group]),
    )
    for group, member in zip(ranking, members, strict=True)
  ]


def merged(
  first: Sequence[Candidate], second: Sequence[Candidate]
) -> list[Candidate]:
  """The candidates of two votes for one test input, as if they were one."""
  if not first or not second:
    return [*first, *second]
  sums: dict[bytes, Candidate] = {}
  for one in (*first, *second):
    canvas = np.full((MAX_SIDE, MAX_SIDE), 255, np.uint8)
    canvas[tuple(map(slice, one.grid.shape))] = one.grid
    key = canvas.tobytes()
    votes, sure = one.votes, one.confidence
    if key in sums:
      votes += sums[key].votes
      before = sums[key].confidence * sums[key].votes
      sure = (before + one.confidence * one.votes) / votes
    sums[key] = Candidate(one.grid, votes, sure)
  # Sorted by their bytes at first: that settles the last ties, as in `vote`.
  ranked = [sums[key] for key in sorted(sums)]
  return sorted(ranked, key=lambda x: (-x.votes, -x.confidence))


def is_solved(
  candidates: Sequence[Candidate], output: np.ndarray, attempts: int
) -> bool:
  """Whether one of the first candidates equals the output, cell for cell."""
  return any(
    np.array_equal(candidate.grid, output)
    for candidate in candidates[:attempts]
  )


def score(
  candidates: Candidates,
  tasks: Sequence[Task],
  attempts: Sequence[int] = ATTEMPTS,
) -> dict[int, Score]:
  """pass@k, for each number of attempts k, by the three rules in use.

  A test output that is None is not scored, and a task without a known output
  does not count. A list of candidates shorter than k has fewer attempts.
  """
  scores = {}
  for k in attempts:
    solved_of_task = [
      [
        is_solved(candidates.get((task.name, index), ()), pair.output, k)
        for index, pair in enumerate(task.tests)
        if pair.output is not None
      ]
      for task in tasks
    ]
    solved_of_task = [solved for solved in solved_of_task if solved]
    fractions = (sum(solved) / len(solved) for solved in solved_of_task)
    scores[k] = Score(
      Tally(sum(map(sum, solved_of_task)), sum(map(len, solved_of_task))),
      Tally(sum(fractions), len(solved_of_task)),
      Tally(sum(map(all, solved_of_task)), len(solved_of_task)),
    )
  return scores


def format_scores(scores: Mapping[int, Score]) -> str:
  """A plain-text table of pass@k: a row for each k, a column for each rule."""
  lines = [
    '            test outputs                tasks          whole tasks',
    '   k            (Kaggle)    (ARC Prize, TRM)       (HRM notebook)',
  ]
  for k, score_k in scores.items():
    if not score_k.outputs.scored:
      return 'No test output is known: nothing to score.'
    cells = [
      f'{100 * tally.rate:6.2f} % {tally.solved:{digits}}/{tally.scored:<4}'
      for tally, digits in zip(score_k, ('4d', '6.1f', '4d'), strict=True)
    ]
    lines.append(f'{k:4}  ' + '  '.join(cells).rstrip())
  return '\n'.join(lines)


def copy_baseline(
  tasks: Sequence[Task], attempts: Sequence[int] = (1,)
) -> dict[int, Score]:
  """The score of answering every test input with the input itself."""
  candidates = {
    (task.name, index): [Candidate(pair.input, 1, 1.0)]
    for task in tasks
    for index, pair in enumerate(task.tests)
  }
  return score(candidates, tasks, attempts)


def submission(
  candidates: Candidates, tasks: Sequence[Task]
) -> dict[str, list[dict[str, list[list[int]]]]]:
  """Two attempts for every test input, as Kaggle's ARC competitions want them.

  Returns:
    `{name: [{'attempt_1': grid, 'attempt_2': grid}, ...]}` of plain lists, in
    the order of the tasks. A single candidate is both attempts; without one,
    they are those of `fallback`.
  """
  submitted = {}
  for task in tasks:
    tests = []
    for index, test in enumerate(task.tests):
      best = candidates.get((task.name, index), ())[:2]
      grids = [candidate.grid for candidate in best] or fallback(task, test)
      first, second = grids[0].tolist(), grids[-1].tolist()
      tests.append({'attempt_1': first, 'attempt_2': second})
    submitted[task.name] = tests
  return submitted


def fallback(task: Task, test: Pair) -> list[np.ndarray]:
  """Two answers to a test input that nothing was predicted for.

  They are the input itself and the most frequent output of the demonstrations,
  the first one where all differ.
  """
  outputs = [pair.output for pair in task.demonstrations]
  seen = collections.Counter(
    (grid.shape, grid.tobytes()) for grid in outputs if grid is not None
  )
  if not seen:
    return [test.input]
  ((shape, cells), _), *_ = seen.most_common(1)
  return [test.input, np.frombuffer(cells, np.uint8).reshape(shape)]
