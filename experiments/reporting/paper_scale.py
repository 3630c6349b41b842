"""Tells which published experiment a run is, or why it is none.

A run's settings name the data and say how long it was to train; its scores say
how far it got. Its data are the published ones where their SPECs are.
"""

from collections.abc import Callable
from typing import NamedTuple

import ml_collections

from experiments.configs import arc1, arc2, maze, sudoku
from experiments.reporting import runs
from hrm_jax.settings import Settings

# Settings that must be the published ones. Those of `runs.decisive` that are
# not among them are told beside the result.
_MUST_AGREE = ('model.', 'act.', 'loss', 'data.num_aug', 'data.canvas')
# Augmentations that are drawn anew and batches that are cut change the length
# of training by less.
_LENGTH = 0.99


class PaperSet(NamedTuple):
  """A benchmark as the papers train on it.

  Attributes:
    benchmark: a key of `published_results.BENCHMARKS`.
    preset: function that returns the published settings of a system.
    examples: number of examples in a pass over the training data.
  """

  benchmark: str
  preset: Callable[[str], ml_collections.ConfigDict]
  examples: float


PAPER_SETS = (
  PaperSet('ARC-1', arc1.get_config, 3078.3),
  PaperSet('ARC-2', arc2.get_config, 4649.7),
  PaperSet('Sudoku-Extreme 1k', sudoku.get_config, 1000),
  PaperSet('Maze-Hard', maze.get_config, 1000),
)


def find(run: runs.Run) -> tuple[PaperSet | None, str]:
  """The published experiment that a run is, or None and why it is none.

  Raises:
    ConfigError: the run has no scores.
  """
  for paper in PAPER_SETS:
    published = _published(run, paper)
    if _data(run.config) == _data(published):
      reasons = _differences(run, published, paper.examples)
      return (None, '; '.join(reasons)) if reasons else (paper, '')
  return None, 'other data than the papers train and score on'


def unlike(run: runs.Run, paper: PaperSet) -> list[str]:
  """The settings that decide a run's result and are not the published ones."""
  return [text for _, text in _changes(run, _published(run, paper))]


def _changes(run: runs.Run, published: Settings) -> list[tuple[str, str]]:
  theirs = runs.decisive(published)
  return [
    (key, f'{key}={value}')
    for key, value in sorted(runs.decisive(run.config).items())
    # Leaks are told with the scores.
    if value != theirs[key] and key != 'data.known_leaks'
  ]


def _published(run: runs.Run, paper: PaperSet) -> Settings:
  model = run.config.model
  system = model.kind + '_mlp' * getattr(model, 'mlp_t', False)
  return Settings.from_config(paper.preset(system))


def _data(config: Settings) -> list[str]:
  """The two SPECs; no package carries ConceptARC, which may be missing."""
  train = config.data.train.partition(',concept')[0]
  # Where the files lie does not matter.
  return [spec.partition('@')[0] for spec in (train, config.data.evaluate)]


def _differences(
  run: runs.Run, published: Settings, examples: float
) -> list[str]:
  scores, reasons = run.scores, []
  for role, version in (
    ('trained', scores.trained_on),
    ('scored', scores.data_version),
  ):
    if version != run.data_version:
      reasons.append(f'{role} on other data ({version})')
  changed = [
    text
    for key, text in _changes(run, published)
    # The type changes the last digits only.
    if key.startswith(_MUST_AGREE) and key != 'model.dtype'
  ]
  if changed:
    reasons.append(f'settings that are not published: {", ".join(changed)}')
  wanted = int(published.epochs * examples)
  shown = scores.step * run.config.batch_size
  if shown < _LENGTH * wanted:
    reasons.append(f'{shown:,} examples shown in training, not {wanted:,}')
  steps = wanted // published.batch_size
  if scores.step < _LENGTH * steps:
    reasons.append(f'{scores.step:,} optimizer steps, not {steps:,}')
  return reasons
