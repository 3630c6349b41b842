"""What `experiments.analyze` measures: one function for each figure."""

import dataclasses
import functools
import math
import pathlib
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from absl import logging

from data_pipelines import scoring
from data_pipelines.arc import voting
from data_pipelines.batches import BLANK_IDENTIFIER, IGNORE_LABEL, Batch
from data_pipelines.progress import Progress
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.puzzles import judge_of
from data_pipelines.questions.scoring import BEST, by_rule
from data_pipelines.scoring import Result
from hrm_jax.inference import predict as inference
from hrm_jax.inference import probes as analysis
from hrm_jax.parallel import sharding
from hrm_jax.solver import Query, Solver
from hrm_jax.training.state import fresh_weights

# As many as in the paper: puzzles whose trajectories are looked at.
TRAJECTORIES = 100
# Parts of these that the participation ratio is drawn over.
_PARTS = 10
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Segments that the paper's evaluations go up to; small runs are walked as far.
_SEGMENTS = 16

# What each analysis measures, by its name.
_FILE = pathlib.Path(__file__).with_name('definitions.toml')
DEFINITIONS = tomllib.loads(_FILE.read_text())


class Finding(NamedTuple):
  """What one analysis found, as JSON takes it, and the result in a line.

  The settings are those in which it differs from `Subject.measured_with`.
  """

  numbers: dict[str, Any]
  headline: str
  settings: dict[str, Any]


class Walked(NamedTuple):
  """All that one walk of the held-out rows through the segments gave.

  Scores after 1, 2, ... segments, at each row's own halt, and, at
  halt_max_steps like the calibration, by the augmentations that vote; of
  puzzles with one answer also of the answers after all segments together.
  """

  after: list[Result]
  together: Result | None
  act: Result
  votes: dict[int, Result]
  calibration: analysis.Calibration


@dataclasses.dataclass(eq=False)
class Subject:
  """A model, and the held-out puzzles that it is looked at with.

  A walk has `segments`, `halt_max_steps` at least; the order of the tasks and
  the swapped identifiers have the seed.
  """

  solver: Solver
  query: Query
  batch_size: int
  segments: int
  seed: int

  @property
  def puzzles(self) -> PuzzleSet:
    """The set that the rows are of."""
    return self.query.puzzles

  @property
  def chosen(self) -> EvaluationRows:
    """The held-out rows."""
    return self.query.rows

  @property
  def halt_max_steps(self) -> int:
    """Segments that the run trains and evaluates with at most."""
    return self.solver.settings.act.halt_max_steps

  @functools.cached_property
  def measured_with(self) -> dict[str, int]:
    """The settings of an analysis, as JSON takes them."""
    return {
      'rows': len(self.chosen),
      'puzzles': len(np.unique(self.chosen.group)),
      'most_augmentations': int(self.chosen.place().max()) + 1,
      'segments': self.halt_max_steps,
      'halt_max_steps': self.halt_max_steps,
      'seed': self.seed,
    }

  @functools.cached_property
  def walked(self) -> Walked:
    """One walk for all analyses that need one."""
    return _walk(self)


def prepare(
  solver: Solver,
  max_augmentations: int = 0,
  max_puzzles: int = 0,
  batch_size: int | None = None,
  segments: int | None = None,
  seed: int = 0,
) -> Subject:
  """A model with the puzzles that its run holds out, see `Subject`.

  The arguments are those of `Solver.held_out` and `Solver.evaluate`; without
  `segments` a walk has twice as many as the run, 16 at least.
  """
  (query,) = solver.held_out(max_augmentations, max_puzzles).queries
  most = solver.settings.act.halt_max_steps
  return Subject(
    solver,
    query,
    solver.batch_size(batch_size),
    max(segments or max(2 * most, _SEGMENTS), most),
    seed,
  )


def not_applicable(name: str, subject: Subject) -> str | None:
  """Why an analysis has nothing to say of this checkpoint; None if it has."""
  model, chosen = subject.solver.model, subject.chosen
  tasks, act = subject.puzzles.evaluation_tasks, subject.solver.settings.act
  answers = [pair.output for task in tasks for pair in task.tests]
  walks = name in (
    'residuals', 'segments', 'halting', 'calibration', 'agreement',
  )  # fmt: skip
  halts = name in ('halting', 'calibration')
  votes, swaps = name in ('augmentations', 'agreement'), name == 'identifiers'
  reasons = {
    'nothing is held out: config.data.evaluate names no puzzles': (
      not len(chosen)
    ),
    'no held-out answer is known': (
      name not in ('dimensions', 'residuals')
      and tasks
      and all(answer is None for answer in answers)
    ),
    'direct prediction has no segments': walks and not model.settings.recurrent,
    'no Q value was trained (act.halting=none)': halts
    and act.halting == 'none',
    'one answer a puzzle: augmentations do not vote': votes and not tasks,
    'there is one augmentation of each task': (
      votes and chosen.place().max(initial=0) == 0
    ),
    'the model has no puzzle embeddings (model.puzzle_emb_ndim=0)': (
      swaps and not model.settings.puzzle_emb_ndim
    ),
    'all puzzles share one identifier': (
      swaps and len(np.unique(chosen.identifier)) == 1
    ),
    'there is one task: its identifier cannot be swapped': (
      swaps and len(np.unique(chosen.group)) == 1
    ),
  }
  return next((why for why, holds in reasons.items() if holds), None)


def dimensions(subject: Subject) -> Finding:
  """Participation ratios of the states, trained against fresh."""
  solver, query = subject.solver, subject.query
  model, mesh = solver.model, solver.mesh
  segments = subject.halt_max_steps if model.settings.recurrent else 1
  rows = query.originals(TRAJECTORIES)
  tasks = np.random.default_rng(subject.seed).permutation(np.unique(rows.group))
  ends = np.unique(np.arange(1, _PARTS + 1) * len(tasks) // _PARTS)
  ends = ends[ends > 0]
  parts = [
    np.flatnonzero(np.isin(rows.group, part))
    for part in np.split(tasks, ends[:-1])
  ]
  size = min(subject.batch_size, max(map(len, parts)))
  size = sharding.round_up(mesh, 'batch', size)
  fresh = fresh_weights(model, solver.settings.seed, len(solver.names), mesh)
  measure = analysis.sharded_state_moments(model, segments, mesh)
  batches = sum(math.ceil(len(part) / size) for part in parts)
  progress = Progress('Trajectories: batches', 2 * batches)
  ratios = {'trained': {}, 'fresh': {}}
  for found, variables, table in (
    (ratios['trained'], query.variables, query.puzzle_table),
    (ratios['fresh'], *fresh),
  ):
    moments: analysis.StateMoments = {}
    for part in parts:
      # Batches of its own, filled up by its last row.
      padded = np.pad(part, (0, -len(part) % size), 'edge')
      counted = np.split(
        np.arange(len(padded)) < len(part), len(padded) // size
      )
      some = _batches(subject, rows.take(padded), size)
      for batch, mask in zip(some, counted, strict=True):
        measure(variables, *_embedded(table, batch), mask, moments)
        progress.add()
      for state, pooled in moments.items():
        for pooling, sums in pooled.items():
          ratio = analysis.participation_ratio(sums.covariance)
          of_state = found.setdefault(state, {})
          of_state.setdefault(pooling, []).append(_number(ratio))
  vectors = {
    state: {pooling: int(sums.count) for pooling, sums in pooled.items()}
    for state, pooled in moments.items()
  }
  return Finding(
    {'tasks': ends.tolist(), 'participation_ratio': ratios},
    '; '.join(
      f'{network} '
      + ', '.join(f'{z} {pooled["tokens"][-1]:.1f}' for z, pooled in of.items())
      for network, of in ratios.items()
    )
    + f' of {model.settings.hidden_size}, {ends[-1]} tasks',
    {
      'initial_seed': solver.settings.seed,
      'segments': segments,
      'rows': len(rows),
      'hidden_size': model.settings.hidden_size,
      'vectors': vectors,
    },
  )


def residuals(subject: Subject) -> Finding:
  """How far each update moves the state."""
  solver, mesh = subject.solver, subject.solver.mesh
  rows = subject.query.originals(TRAJECTORIES)
  size = sharding.round_up(mesh, 'batch', min(subject.batch_size, len(rows)))
  trace = analysis.sharded_trace(
    solver.model, solver.settings.act, subject.segments, mesh
  )
  found = []
  progress = Progress('Residuals: rows', len(rows))
  for batch in _batches(subject, rows, size):
    puzzles, inputs = _embedded(subject.query.puzzle_table, batch)
    found.append(
      jax.device_get(trace(subject.query.variables, puzzles, inputs).residuals)
    )
    progress.add(size)
  # [segments, updates, rows]
  found = np.concatenate(found, axis=-1)[..., : len(rows)].astype(np.float64)
  levels = solver.model.settings.update_levels
  numbers = {}
  for level in sorted(set(levels)):
    mine = [update for update, name in enumerate(levels) if name == level]
    values = found[:, mine]
    numbers[f'z_{level}'] = {
      # Counted from 1 over all updates of both states.
      'update': [
        segment * len(levels) + update + 1
        for segment in range(len(values))
        for update in mine
      ],
      'mean': values.mean(axis=-1).ravel().tolist(),
      'quantiles': {
        str(q): np.quantile(values, q, axis=-1).ravel().tolist()
        for q in QUANTILES
      },
    }
  return Finding(
    numbers,
    '; '.join(
      f'{state} {values["mean"][0]:.1f} at first, {values["mean"][-1]:.2f} at '
      'last'
      for state, values in numbers.items()
    ),
    {
      'segments': subject.segments,
      'updates_of_a_segment': levels,
      'rows': len(rows),
    },
  )


def segments(subject: Subject) -> Finding:
  """Accuracy after 1, 2, ... segments, from one walk."""
  walked = subject.walked
  scores = [_scores(judge) for judge in walked.after]
  count = len(scores)
  shown = [2**power for power in range(count.bit_length())]
  numbers = {'segments': list(range(1, count + 1)), **_columns(scores)}
  if walked.together:
    found = by_rule(walked.together.metrics)
    numbers['chosen'] = {
      'segments': list(found[BEST]),
      **{rule: list(rates.values()) for rule, rates in found.items()},
    }
  return Finding(
    numbers,
    _headline({f'at {k}': scores[k - 1] for k in shown}),
    {'segments': count},
  )


def augmentations(subject: Subject) -> Finding:
  """Accuracy by the number of augmentations that vote."""
  votes = subject.walked.votes
  scores = [_scores(judge) for judge in votes.values()]
  by_count = zip(votes, scores, strict=True)
  return Finding(
    {'augmentations': list(votes), **_columns(scores)},
    _headline({f'of {count}': score for count, score in by_count}),
    {},
  )


def halting(subject: Subject) -> Finding:
  """All segments against each row's own halt."""
  fixed = subject.walked.after[subject.halt_max_steps - 1]
  numbers = {
    mode: {**_scores(judge), 'segments': judge.metrics['eval/steps']}
    for mode, judge in (('fixed', fixed), ('act', subject.walked.act))
  }
  ways = numbers.items()
  return Finding(
    numbers,
    _headline(
      {f'{mode} in {one["segments"]:.2f} segments': one for mode, one in ways}
    ),
    {},
  )


def identifiers(subject: Subject) -> Finding:
  """The right puzzle identifier against a blank or a wrong one."""
  query, numbers = subject.query, {}
  known = query.identifiers
  for way, rows in (
    ('right', known),
    ('blank', np.full_like(known, known[BLANK_IDENTIFIER])),
    ('swapped', known[_swapped(subject)]),
  ):
    logging.info('Identifiers: %s', way)
    asked = dataclasses.replace(query, identifiers=rows)
    size = subject.batch_size
    judge = subject.solver.predict(asked, 'fixed', batch_size=size)
    numbers[way] = _scores(judge)
  return Finding(numbers, _headline(numbers), {})


def calibration(subject: Subject) -> Finding:
  """Whether q_halt tells how sure an answer may be taken for."""
  return _calibrated(subject.walked.calibration)


def agreement(subject: Subject) -> Finding:
  """Whether votes that agree tell the same of what they agree on."""
  votes = subject.walked.votes
  result, found = votes[max(votes)], analysis.Calibration()
  for task in result.tasks:
    for test, pair in enumerate(task.tests):
      key = task.name, test
      if pair.output is not None and (ranked := result.candidates[key]):
        right = voting.is_solved(ranked, pair.output, 1)
        share = ranked[0].votes / result.cast[key]
        found.add(np.array([share]), np.array([right]))
  return _calibrated(found)


def _calibrated(found: analysis.Calibration) -> Finding:
  rows = int(found.count.sum())
  confidence, exact = (
    float(part.sum() / max(rows, 1)) for part in (found.confidence, found.right)
  )
  return Finding(
    {
      'edges': np.linspace(0, 1, found.bins + 1).tolist(),
      'count': found.count.tolist(),
      'confidence': _shares(found.confidence, found.count),
      'exact': _shares(found.right, found.count),
      'mean_confidence': confidence,
      'mean_exact': exact,
      'ece': _number(found.error),
    },
    f'ECE {found.error:.3f}; mean confidence {confidence:.3f}, exact '
    f'{exact:.3f}',
    {'rows': rows, 'bins': found.bins},
  )


# By name, in the order in which they are made.
ANALYSES: dict[str, Callable[[Subject], Finding]] = {
  one.__name__: one for one in (
    dimensions, residuals, segments, augmentations, halting, identifiers,
    calibration, agreement,
  )
}  # fmt: skip


def _walk(subject: Subject) -> Walked:
  solver, puzzles, chosen = subject.solver, subject.puzzles, subject.chosen
  mesh, most = solver.mesh, subject.halt_max_steps
  size = sharding.round_up(mesh, 'batch', min(subject.batch_size, len(chosen)))
  walk = analysis.sharded_walk(
    solver.model, solver.settings.act, subject.segments, mesh
  )
  place = chosen.place()
  counts = _counts(place.max() + 1) if puzzles.evaluation_tasks else []
  after_judges = [judge_of(puzzles, chosen) for _ in range(subject.segments)]
  act_judge = judge_of(puzzles, chosen)
  # The answers of a puzzle after each segment, one after another.
  every = np.repeat(np.arange(len(chosen)), subject.segments)
  together = (
    None if puzzles.evaluation_tasks else judge_of(puzzles, chosen.take(every))
  )
  vote_judges = {
    count: judge_of(puzzles, chosen.take(np.flatnonzero(place < count)))
    for count in counts
  }
  calibration = analysis.Calibration()
  progress = Progress('Walk: rows', len(chosen))
  done = 0
  for batch in _batches(subject, chosen, size):
    inputs = sharding.global_batch(mesh, batch)
    found, halts = jax.device_get(
      walk(subject.query.variables, subject.query.puzzle_table, inputs)
    )
    rows = np.arange(min(size, len(chosen) - done))

    def after(steps, rows=rows, found=found):
      return inference.Predictions(*(leaf[steps - 1, rows] for leaf in found))

    for steps, judge in enumerate(after_judges, 1):
      judge.add(after(steps))
    act_judge.add(after(analysis.steps_to_halt(halts, most)[rows]))
    if together:
      ordered = (np.swapaxes(leaf[:, rows], 0, 1) for leaf in found)
      together.add(
        inference.Predictions(*(x.reshape(-1, *x.shape[2:]) for x in ordered))
      )
    for count, judge in vote_judges.items():
      judge.add(after(most, rows[place[done + rows] < count]))
    last = after(most)
    known = (batch['labels'][rows] != IGNORE_LABEL).any(axis=1)
    calibration.add(scoring.confidence(last.q_halt[known]), last.exact[known])
    done += len(rows)
    progress.add(len(rows))
  votes = {count: judge.result() for count, judge in vote_judges.items()}
  after = [judge.result() for judge in after_judges]
  return Walked(
    after,
    together and together.result(),
    act_judge.result(),
    votes,
    calibration,
  )


def _batches(
  subject: Subject, rows: EvaluationRows, size: int
) -> Iterator[Batch]:
  """Batches with the checkpoint's puzzle identifiers."""
  for batch in subject.puzzles.evaluation_batches(rows, size):
    identifiers = subject.query.identifiers[batch['puzzle_identifiers']]
    yield {**batch, 'puzzle_identifiers': identifiers}


def _embedded(table: chex.Array, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
  """Puzzle embeddings and inputs of a batch."""
  rows = jax.device_get(table[batch['puzzle_identifiers']])
  return rows, batch['inputs']


def _counts(most: int) -> list[int]:
  """1, 3, 10, 30, ... and `most`, with nothing just below it."""
  steps = (digit * 10**power for power in range(9) for digit in (1, 3))
  return [*(count for count in steps if count < 0.9 * most), int(most)]


def _swapped(subject: Subject) -> np.ndarray:
  """For each chosen puzzle identifier one of another task's."""
  chosen = subject.chosen
  own = {
    group: np.unique(chosen.identifier[chosen.group == group])
    for group in np.unique(chosen.group)
  }
  ring = np.random.default_rng(subject.seed).permutation(list(own))
  swapped = np.arange(len(subject.query.identifiers))
  for group, other in zip(ring, np.roll(ring, -1), strict=True):
    index = np.arange(len(own[group])) % len(own[other])
    swapped[own[group]] = own[other][index]
  return swapped


def _scores(result: Result) -> dict[str, float]:
  """The scores that the figures show, by short names."""
  names = {name: f'eval/{name}' for name in ('exact', 'accuracy', 'valid')}
  names |= {f'pass@{k}': f'eval/pass@{k}/outputs' for k in voting.ATTEMPTS[:2]}
  return {
    short: result.metrics[name]
    for short, name in names.items()
    if name in result.metrics
  }


def _headline(ways: dict[str, dict[str, float]]) -> str:
  """The score that counts most, for each way."""
  name = next(n for n in ('pass@2', 'exact') if n in next(iter(ways.values())))
  texts = (f'{100 * found[name]:.1f} % {way}' for way, found in ways.items())
  return f'{name} {", ".join(texts)}'


def _columns(scores: list[dict[str, float]]) -> dict[str, list[float]]:
  return {name: [score[name] for score in scores] for name in scores[0]}


def _shares(part: np.ndarray, count: np.ndarray) -> list[float | None]:
  """None where there is nothing to share."""
  return [float(p / n) if n else None for p, n in zip(part, count, strict=True)]


def _number(value: float) -> float | None:
  """JSON has no NaN."""
  return None if np.isnan(value) else float(value)
