"""From SPECs to sets of puzzles: the one way in, for every kind of puzzle.

A SPEC names where puzzles come from. It is one of

* tasks of ARC, comma-separated (see `arc.load_tasks`): `arc1`,
  `arc2:training`, `concept@PATH`, a directory of task files, Kaggle's files;
* Sudokus or mazes (see `questions.load_questions`): `sudoku_extreme_1k`,
  `maze_30x30_hard_1k@DIR`, `sudoku:box=2x2:count=500`, a CSV file, a text
  file or the very characters of a Sudoku;
* a directory that the published builders wrote (see `published.reader`).
"""

import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.arc import leaks as arc_leaks
from data_pipelines.arc import tasks as arc
from data_pipelines.arc.scoring import VoteJudge, VoteResult
from data_pipelines.arc.voting import Ballots
from data_pipelines.errors import DataError
from data_pipelines.leaks import Leak
from data_pipelines.published.reader import PublishedSet, is_published
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.questions import leaks as question_leaks
from data_pipelines.questions import loading as questions
from data_pipelines.questions.pipeline import QuestionSet
from data_pipelines.questions.scoring import AnswerJudge, AnswerResult

# What the judges give.
Result = VoteResult | AnswerResult

ARC, QUESTIONS, PUBLISHED = 'ARC tasks', 'questions', 'a published directory'


def kind(spec: str) -> str:
  """What kind of puzzles a SPEC names."""
  sources = files.sources(spec)
  kinds = {
    QUESTIONS
    if questions.is_question_spec(source)
    else PUBLISHED
    if is_published(pathlib.Path(source))
    else ARC
    for source in sources
  }
  if len(kinds) > 1:
    raise DataError(
      f'{spec!r} mixes {" and ".join(sorted(kinds))}; name puzzles of one kind'
    )
  found = kinds.pop()
  if found != ARC and len(sources) > 1:
    raise DataError(f'{spec!r}: names several sources of {found}; name one')
  return found


class Shapes(NamedTuple):
  """What a training step must know of a set to be compiled, see `PuzzleSet`."""

  vocab_size: int
  seq_len: int
  num_identifiers: int
  examples_per_pass: float


def load_shapes(train: str, *settings: Any) -> Shapes:
  """The shapes of what `load_puzzles` loads from the same arguments.

  Nothing is downloaded: the sizes of the sets on the hub are known.
  """
  if known := questions.known_size(train):
    domain, count = known
    return Shapes(domain.vocab_size, domain.seq_len, 1, float(count))
  puzzles = load_puzzles(train, *settings)
  return Shapes(
    puzzles.vocab_size,
    puzzles.seq_len,
    puzzles.num_identifiers,
    puzzles.examples_per_pass if len(puzzles.variants) else 0.0,
  )


def load_puzzles(
  train: str,
  evaluate: str,
  canvas: int,
  num_aug: int,
  seed: int,
  allow_leaks: bool = False,
  identifier_names: Sequence[str] | None = None,
  unscored: Sequence[str] = (),
  at_most: int | None = None,
) -> PuzzleSet:
  """The puzzles that two SPECs name; '' names none.

  Args:
    train: puzzles to train on, answers included.
    evaluate: puzzles that are held out and scored. The demonstrations of ARC
      tasks are trained on all the same.
    canvas: side of the canvas for ARC tasks, cells; larger ones are left out.
    num_aug: number of augmentations of each puzzle besides itself; a directory
      of the published format brings its own.
    seed: seed of the augmentations and of random subsets.
    allow_leaks: whether an ARC task may stand in both SPECs.
    identifier_names: puzzle identifiers of a checkpoint, to predict with it:
      ARC tasks then have the augmentations that these name, not drawn ones.
    unscored: test pairs of ARC tasks of `evaluate` that are predicted and not
      scored, each `TASK test[INDEX]`.
    at_most: number of ARC tasks to be prepared, spread evenly over those that
      fit, where that suffices; all are read.

  Raises:
    DataError: a SPEC cannot be loaded, or the two do not fit together.
  """
  if seed < 0:
    raise DataError(f'data.seed={seed} must not be negative')
  kinds = {kind(spec) for spec in (train, evaluate) if spec}
  if not kinds:
    raise DataError(
      "data.train and data.evaluate are both empty; name one, e.g. 'arc1'"
    )
  if len(kinds) > 1:
    raise DataError(
      f'data.train={train!r} names {kind(train)}, data.evaluate={evaluate!r} '
      f'{kind(evaluate)}; name puzzles of one kind'
    )
  found = kinds.pop()
  if found == ARC:
    # TensorFlow takes half a gigabyte: only what uses it imports it.
    from data_pipelines.arc.pipeline import ArcSet

    tasks = [arc.load_tasks(x) if x else None for x in (train, evaluate)]
    if at_most is not None:
      tasks = [of_role and of_role.some(canvas, at_most) for of_role in tasks]
    puzzles: PuzzleSet = ArcSet(
      tasks[0], tasks[1], canvas, num_aug, seed,
      allow_leaks, identifier_names, unscored,
    )  # fmt: skip
  elif found == QUESTIONS:
    puzzles = QuestionSet(
      questions.load_questions(train, 'train', seed) if train else None,
      questions.load_questions(evaluate, 'test', seed) if evaluate else None,
      num_aug, seed,
    )  # fmt: skip
  else:
    if train and evaluate and train != evaluate:
      raise DataError(
        f'data.train={train!r} and data.evaluate={evaluate!r} have published '
        'identifiers of their own; name one directory for both'
      )
    puzzles = PublishedSet(
      files.local((train or evaluate).strip()), bool(train), bool(evaluate)
    )
  logging.info('Data: %s', puzzles.describe())
  return puzzles


def judge_of(
  puzzles: PuzzleSet, chosen: EvaluationRows, choose: str = 'vote'
) -> VoteJudge | AnswerJudge:
  """A judge of the predictions of `chosen`.

  `choose` is a rule of `questions.choosing`, for puzzles other than tasks of
  ARC, each of which has as many rows as all others.
  """
  held_out = puzzles.held_out(chosen)
  if isinstance(held_out, Ballots):
    return VoteJudge(held_out)
  firsts = np.flatnonzero(chosen.place() == 0)
  return AnswerJudge(
    held_out.take(firsts),
    len(chosen) // max(1, len(firsts)),
    choose,
    lambda tokens: puzzles.undo(tokens, chosen),
  )


def leaks_of(puzzles: PuzzleSet) -> list[Leak]:
  """The leaks: puzzles that are held out and yet trained on."""
  compared = puzzles.compared()
  if isinstance(compared, arc.NamedPairs):
    return arc_leaks.between_pairs(*compared)
  return question_leaks.between(*compared)
