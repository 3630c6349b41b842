"""Sudokus and mazes as a TFDS data set: importing this registers `questions`.

    import tensorflow_datasets as tfds
    from data_pipelines.questions.tfds import QuestionConfig

    tfds.load('questions/sudoku_extreme_1k', split='train')

    config = QuestionConfig(name='mine', spec='maze:size=9x9')
    tfds.load('questions', builder_kwargs={'config': config})

The published sets come from the Hugging Face hub; with files of your own, name
a config with the spec `sudoku_extreme_1k@DIR`. TFDS prepares a data set once
under its name: give data that has changed another name, or delete the prepared
folder. What it was made from is in `info.metadata`, a version for each split.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from data_pipelines import citations, quiet
from data_pipelines.questions import loading as questions
from data_pipelines.questions.domain import Questions

quiet.tensorflow()  # TFDS would import it with all its start-up notes.
import tensorflow_datasets as tfds  # noqa: E402

_DESCRIPTION = """
Puzzles that a question states in full, with their one answer: Sudokus and
mazes, each as many cells of small numbers. 0 is padding; a Sudoku's blank is 1
and its digit d is d + 1; a maze's wall, free cell, start, goal and path are 1
to 5.
"""


@dataclasses.dataclass(eq=False, kw_only=True)
class QuestionConfig(tfds.core.BuilderConfig):
  """Which puzzles: a spec as `questions.load_questions` takes it."""

  spec: str


class QuestionPuzzles(tfds.core.GeneratorBasedBuilder):
  """One example for each puzzle, in the order of the file."""

  name = 'questions'
  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS: ClassVar = [
    QuestionConfig(name=name, spec=name, description=description)
    for name, description in (
      ('sudoku_extreme_1k', '1000 of the puzzles of Sudoku-Extreme.'),
      ('sudoku_extreme_full', 'All 3.8M training puzzles of Sudoku-Extreme.'),
      ('maze_30x30_hard_1k', '1000 mazes of 30 x 30 cells, and as many tests.'),
    )
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    cells = tfds.features.Tensor(shape=(None,), dtype=np.uint8)
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      homepage='https://huggingface.co/sapientinc',
      citation=citations.HRM,
      features=tfds.features.FeaturesDict(
        {'row': np.int64, 'question': cells, 'answer': cells}
      ),
      metadata=tfds.core.MetadataDict(),
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager  # `questions` finds the files.
    generators = {}
    for split in ('train', 'test'):
      found = questions.load_questions(self.builder_config.spec, split, seed=0)
      self.info.metadata[split] = found.version
      generators[split] = self._generate_examples(found)
    return generators

  def _generate_examples(self, found: Questions) -> Iterator[tuple[int, dict]]:
    for row, question, answer in zip(
      found.rows, found.questions, found.answers, strict=True
    ):
      yield int(row), {'row': row, 'question': question, 'answer': answer}
