"""Which held-out answers can be reached from what is trained on.

Tasks are compared pair by pair, whatever their names, order and files: most of
ARC-1's evaluation tasks are in ARC-2's training tasks with their demonstrations
in another order.

Two pairs are the same where one of the eight dihedral transforms and one
permutation of the colours, each applied to input and output alike, turn one
into the other. Training shows pairs under all transforms and under the
permutations that leave 0 where it is; here 0 may change its place with another
colour too. So a leak is found where the background was recoloured as well.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.arc import encoding
from data_pipelines.arc import tasks as arc

# What may be the same, the worst first. An answer without its question lies
# nearer to the held-out answer than the question with another answer does.
_KINDS = ('both', 'output', 'input')

_COLOURS = tuple(bytes([colour]) for colour in range(arc.NUM_COLOURS))


class NamedPair(NamedTuple):
  """A pair of grids and where it stands.

  Attributes:
    task: name of its task.
    place: `train[2]` or `test[0]`, as in the task's file.
    pair: the grids.
  """

  task: str
  place: str
  pair: arc.Pair


@dataclasses.dataclass(frozen=True, order=True)
class Leak:
  """A held-out pair that training shows, whole or in part.

  Attributes:
    evaluated: name of the held-out pair's task.
    place: of the held-out pair, e.g. `test[0]`.
    trained: name of the trained task.
    trained_place: of the trained task's first pair that is the same.
    what: is the same: `both`, `input` or `output`; `question` is an input
      whose output is not known here. `both` and `question` make the answer
      reachable.
  """

  evaluated: str
  place: str
  trained: str
  trained_place: str
  what: str

  @property
  def reaches_answer(self) -> bool:
    """Whether training shows the answer to the held-out question."""
    return self.what in ('both', 'question')

  @property
  def name(self) -> str:
    """As `data.known_leaks` lists it."""
    return f'{self.trained}->{self.evaluated}'

  def __str__(self) -> str:
    places = (self.trained, self.trained_place, self.evaluated, self.place)
    return f'{self.what:8}  {"{} {} -> {} {}".format(*places)}'


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What leaks between two sets, and whether a run may train on them.

  Attributes:
    leaks: all that were found.
    known: names of those that may be.
    allowed: whether all may be.
  """

  leaks: Sequence[Leak]
  known: Sequence[str]
  allowed: bool

  @property
  def answers(self) -> list[Leak]:
    """Of each held-out answer that can be reached, the first leak."""
    first = {}
    for leak in self.leaks:
      if leak.reaches_answer:
        first.setdefault((leak.evaluated, leak.place), leak)
    return list(first.values())

  @property
  def refused(self) -> list[Leak]:
    """What keeps the run from starting."""
    return [
      leak
      for leak in self.leaks
      if leak.reaches_answer
      and not self.allowed
      and leak.name not in self.known
    ]

  def note(self) -> str:
    """A line to stand beside every score; empty where nothing leaks."""
    if not self.answers:
      return ''
    return f'\nTrained on {_listed(self.answers)}'

  def metrics(self) -> dict[str, float]:
    """For the log."""
    return {'eval/leaking_answers': float(len(self.answers))}

  def record(self) -> dict[str, Any]:
    """For the files of an evaluation."""
    return {
      'answers': len(self.answers),
      'names': sorted({leak.name for leak in self.answers}),
      'allow_leaks': self.allowed,
    }

  def beside(self, recorded: dict[str, Any] | None) -> 'Verdict':
    """Together with what `record` wrote when the run was trained."""
    if recorded is None:
      return self
    names = set(recorded['names']) - {leak.name for leak in self.answers}
    before = [
      Leak(evaluated, 'then', trained, 'then', 'both')
      for trained, evaluated in (name.split('->', 1) for name in sorted(names))
    ]
    return dataclasses.replace(
      self,
      leaks=[*self.leaks, *before],
      allowed=self.allowed or recorded['allow_leaks'],
    )

  def refusal(self) -> str:
    """One line for the user whose run is refused."""
    return (
      f'Training would show {_listed(self.refused)}; leave these puzzles out '
      'of data.train or data.evaluate, name them in data.known_leaks, or say '
      '--config.data.allow_leaks=True: every score will say so'
    )


def _listed(leaks: Sequence[Leak]) -> str:
  names = list(dict.fromkeys(leak.name for leak in leaks))
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  answers = len({(leak.evaluated, leak.place) for leak in leaks})
  return (
    f'{answers} held-out answer{"s" * (answers != 1)}: {", ".join(names[:5])}'
    f'{more}'
  )


def between_tasks(
  train: Sequence[arc.Task], evaluate: Sequence[arc.Task]
) -> list[Leak]:
  """Compares as training uses tasks: the `evaluate` tasks' demonstrations are
  trained on, and their tests are held out."""
  trained = trained_pairs(train, whole=True)
  trained += trained_pairs(evaluate, whole=False)
  return between_pairs(trained, held_out_pairs(evaluate))


def trained_pairs(tasks: Iterable[arc.Task], whole: bool) -> list[NamedPair]:
  """The demonstrations of tasks, or all of their pairs that have an output."""
  pairs = []
  for task in tasks:
    pairs += [
      NamedPair(task.name, f'train[{i}]', pair)
      for i, pair in enumerate(task.demonstrations)
    ]
    if whole:
      tests = held_out_pairs([task])
      pairs += [named for named in tests if named.pair.output is not None]
  return pairs


def held_out_pairs(tasks: Iterable[arc.Task]) -> list[NamedPair]:
  """The test pairs of tasks."""
  return [
    NamedPair(task.name, f'test[{i}]', pair)
    for task in tasks
    for i, pair in enumerate(task.tests)
  ]


class Asked(NamedTuple):
  """Questions with one answer each.

  Attributes:
    questions: tokens, [N, S].
    answers: tokens, [N, S].
    name: of a row.
  """

  questions: np.ndarray
  answers: np.ndarray
  name: Callable[[int], str]


def between_questions(
  domain: Any, trained: Asked, held_out: Asked
) -> list[Leak]:
  """Compares Sudokus or mazes, up to the symmetries of their domain.

  `both` is a question that is trained on: it has but one answer. Of 9 x 9
  Sudokus it is also the same answer from some of the question's clues or more,
  and `output` an answer that is trained on with other clues or turned, as among
  millions of Sudokus some are by chance.

  Args:
    domain: `Sudoku` or `Maze`; None compares questions cell for cell.
    trained: what is trained on.
    held_out: what is scored.

  Returns:
    One leak at most for each held-out question.
  """
  signatures = _equality if domain is None else domain.signatures
  found = {}
  if domain is not None and domain.has_rare_answers:
    same = _matches(domain.answer_signatures, trained.answers, held_out.answers)
    for theirs, ours in same.items():
      questions, other = trained.questions[ours], held_out.questions[theirs]
      nested = (
        (questions == other)
        | domain.is_blank(questions)
        | domain.is_blank(other)
      ).all(axis=1)
      in_place = trained.answers[ours] == held_out.answers[theirs]
      reaching = np.flatnonzero(nested & in_place.all(axis=1))
      if len(reaching):
        found[theirs] = (ours[reaching[0]], 'both')
      else:
        found[theirs] = (ours[0], 'output')
  same = _matches(signatures, trained.questions, held_out.questions)
  found |= {theirs: (ours[0], 'both') for theirs, ours in same.items()}
  return [
    Leak(
      held_out.name(theirs), 'question', trained.name(ours), 'question', what
    )
    for theirs, (ours, what) in sorted(found.items())
  ]


def _matches(
  signatures: Callable[[np.ndarray], np.ndarray],
  trained: np.ndarray,
  held_out: np.ndarray,
) -> dict[int, list[int]]:
  """Of each held-out row that has some, the trained rows of its signature."""
  ours, theirs = signatures(trained), signatures(held_out)
  rows = {}
  for row in np.flatnonzero(np.isin(ours, theirs)).tolist():
    rows.setdefault(int(ours[row]), []).append(row)
  return {
    row: rows[int(theirs[row])]
    for row in np.flatnonzero(np.isin(theirs, ours)).tolist()
  }


def _equality(tokens: np.ndarray) -> np.ndarray:
  """A number for each row, the same where all cells are, uint64."""
  digests = (
    hashlib.blake2b(np.ascontiguousarray(row, np.int32), digest_size=8).digest()
    for row in tokens
  )
  return np.frombuffer(b''.join(digests), np.uint64)


def between_pairs(
  trained: Sequence[NamedPair], held_out: Sequence[NamedPair]
) -> list[Leak]:
  """Compares every held-out pair with every trained one.

  A held-out pair and a trained task give one leak at most, the worst: `both`,
  else `output` (the answer, under another input), else `input` (with another
  answer) or `question` (the answer not being known). A single grid of one
  colour, 1 x 1 among them, tells nothing and is no leak by itself, though a
  pair of two such grids may be.

  Args:
    trained: what is trained on; the demonstrations of held-out tasks too.
    held_out: what is predicted. Where its output is not known, a pair can leak
      by its input only, and then its answer may be reached.

  Returns:
    The leaks in the order of `held_out`, and for each pair of `trained`.
  """
  # Canonical forms take the time, so only pairs of which some part has the
  # same shape and counts of colours as a held-out part are given one.
  wanted = {
    (kind, _signature(grids))
    for named in held_out
    for kind, grids in _parts(named.pair)
  }
  # The first place in each trained task of each canonical form.
  places: dict[tuple[str, bytes], dict[str, str]] = {}
  for named in trained:
    for kind, grids in _parts(named.pair):
      if (kind, _signature(grids)) in wanted:
        same = places.setdefault((kind, _canonical(grids)), {})
        same.setdefault(named.task, named.place)

  order = {}
  for named in trained:
    order.setdefault(named.task, len(order))
  leaks = []
  for named in held_out:
    found: dict[str, Leak] = {}
    for kind, grids in _parts(named.pair):
      same = places.get((kind, _canonical(grids)), {})
      for task, place in same.items():
        what = 'question' if named.pair.output is None else kind
        leak = Leak(named.task, named.place, task, place, what)
        found.setdefault(task, leak)
    leaks += sorted(found.values(), key=lambda leak: order[leak.trained])
  return leaks


def _parts(pair: arc.Pair) -> Iterator[tuple[str, tuple[np.ndarray, ...]]]:
  """What of a pair is compared: the kind and its grids, the worst first."""
  grids = {'input': (pair.input,)}
  if pair.output is not None:
    grids['both'] = (pair.input, pair.output)
    grids['output'] = (pair.output,)
  for kind in _KINDS:
    if kind in grids and (kind == 'both' or np.ptp(grids[kind][0])):
      yield kind, grids[kind]


def _signature(grids: Sequence[np.ndarray]) -> tuple:
  """A rough form that no transform and no permutation changes."""
  counts = sum(
    (arc.MAX_SIDE**2 + 1) ** i
    * np.bincount(grid.ravel(), minlength=arc.NUM_COLOURS)
    for i, grid in enumerate(grids)
  )
  shapes = tuple(tuple(sorted(grid.shape)) for grid in grids)
  return shapes, np.sort(counts).tobytes()


def _canonical(grids: Sequence[np.ndarray]) -> bytes:
  """The same for grids that are the same, and for no others."""
  forms = []
  for transform in range(8):
    turned = [encoding.dihedral(grid, transform) for grid in grids]
    shapes = bytes(side for grid in turned for side in grid.shape)
    cells = b''.join(grid.tobytes() for grid in turned)
    # Colours are numbered by where they come first; those that are not there
    # (-1) have no number to take.
    colours = sorted((c for c in _COLOURS if c in cells), key=cells.index)
    table = bytes.maketrans(b''.join(colours), bytes(range(len(colours))))
    forms.append(shapes + cells.translate(table))
  return min(forms)
