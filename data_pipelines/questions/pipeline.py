"""Sudokus and mazes as training batches and evaluation rows."""

import dataclasses
import os

import numpy as np

from data_pipelines import hashing, puzzle_set, sampler
from data_pipelines.batches import BLANK_IDENTIFIER, Batch
from data_pipelines.errors import DataError
from data_pipelines.puzzle_set import EvaluationRows, PuzzleSet
from data_pipelines.questions.domain import Asked, Questions


class QuestionSet(PuzzleSet):
  """Questions with one answer each; all share the blank puzzle identifier.

  As in the paper, augmentation multiplies the questions that are trained on
  (section 3): variant 0 is the question itself, each other one a symmetric
  image of it, always the same for the same seed. Images are made when they are
  needed. Evaluation sees the questions as they are, and other `images` of them
  where it asks for them.
  """

  def __init__(
    self,
    train: Questions | None,
    evaluate: Questions | None,
    num_aug: int,
    seed: int,
  ):
    """Puts training and evaluation questions of one domain together.

    Each training question has `num_aug` variants besides itself.

    Raises:
      DataError: they do not fit together, or a setting is out of range.
    """
    given = [questions for questions in (train, evaluate) if questions]
    first, last = given[0], given[-1]
    self.domain = first.domain
    if last.domain != self.domain:
      raise DataError(
        f'data.train ({first.origin}) holds {first.domain}, data.evaluate '
        f'({last.origin}) {last.domain}; name puzzles of one kind'
      )
    if num_aug < 0:
      raise DataError(f'data.num_aug={num_aug} must not be negative')
    most = self.domain.max_variants
    if most is not None and num_aug >= most:
      raise DataError(
        f'data.num_aug={num_aug}: {self.domain} have {most - 1} augmentations '
        'besides the puzzle itself; lower it'
      )
    nothing = first.take(slice(0))
    self.train, self.evaluate = train or nothing, evaluate or nothing
    self._seed = seed
    self.version = puzzle_set.version_of(train, evaluate)
    self.vocab_size = self.domain.vocab_size
    self.seq_len = self.domain.seq_len
    count = len(self.train.rows)
    self.variants = np.full(count, num_aug + 1)
    self.members = np.broadcast_to(np.uint8(1), count * (num_aug + 1))

  def describe(self) -> str:
    return (
      f'{self.version}: {self.domain}, {len(self.variants):,} puzzles to train '
      f'on, {len(self.members):,} with their augmentations, '
      f'{len(self.evaluate.rows):,} held out'
    )

  def evaluation_rows(
    self, max_augmentations: int | None = None, max_puzzles: int | None = None
  ) -> EvaluationRows:
    chosen = sampler.spread(len(self.evaluate.rows), max_puzzles)
    nothing = np.zeros_like(chosen)
    return EvaluationRows(chosen, nothing, nothing, chosen)

  def name_of(self, group: int) -> str:
    return _asked(self.evaluate).name(group)

  def images(self, chosen: EvaluationRows, count: int) -> EvaluationRows:
    most = self.evaluate.domain.max_variants
    if most is not None and count > most:
      raise DataError(
        f'symmetries={count}: {self.evaluate.domain} have {most}; lower it'
      )
    rows = chosen.take(np.repeat(np.arange(len(chosen)), count))
    image = np.tile(np.arange(count), len(chosen))
    shift = image * len(self.evaluate.rows)
    return dataclasses.replace(rows, example=rows.example + shift)

  def undo(self, tokens: np.ndarray, chosen: EvaluationRows) -> np.ndarray:
    _, *image = self._image(chosen)
    domain = self.evaluate.domain
    return domain.undo(tokens, *image) if image[0].any() else tokens

  def _image(self, chosen: EvaluationRows) -> tuple[np.ndarray, ...]:
    """Of each row the puzzle, which image of it, and that one's key."""
    variant, puzzle = np.divmod(chosen.example, max(1, len(self.evaluate.rows)))
    return puzzle, variant, _keys(self._seed, puzzle, variant)

  def held_out(self, chosen: EvaluationRows) -> Asked:
    return _asked(self.evaluate).take(chosen.group)

  def compared(self) -> tuple[Asked, Asked]:
    return _asked(self.train), _asked(self.evaluate)

  def _train_index(self, examples: sampler.Examples) -> Batch:
    questions, answers = self.train.domain.augment(
      self.train.questions[examples.group],
      self.train.answers[examples.group],
      examples.variant,
      _keys(self._seed, examples.group, examples.variant),
    )
    return _batch(questions, answers)

  def _evaluation_index(self, chosen: EvaluationRows) -> Batch:
    puzzle, *image = self._image(chosen)
    shown = self.evaluate.questions[puzzle], self.evaluate.answers[puzzle]
    if image[0].any():
      shown = self.evaluate.domain.augment(*shown, *image)
    return _batch(*shown)


def _asked(source: Questions) -> Asked:
  # The file's name and row, wherever the file lies.
  name = os.path.basename(source.origin)
  return Asked(
    source.domain,
    source.domain.vocab_size,
    source.domain.seq_len,
    len(source.rows),
    lambda rows: (source.questions[rows], source.answers[rows]),
    lambda index: f'{name}:{source.rows[index]}',
  )


def _batch(questions: np.ndarray, answers: np.ndarray) -> Batch:
  return {
    'inputs': questions.astype(np.int32),
    'labels': answers.astype(np.int32),
    'puzzle_identifiers': np.full(len(questions), BLANK_IDENTIFIER, np.int32),
  }


def _keys(seed: int, group: np.ndarray, variant: np.ndarray) -> np.ndarray:
  """A random number for each variant of each group, uint64."""
  key = np.random.SeedSequence(seed).generate_state(1, np.uint64)
  for part in (group, variant):
    key = hashing.mix(key + part.astype(np.uint64))
  return key
