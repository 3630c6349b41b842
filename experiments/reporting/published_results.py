"""Results that others published, and which of their experiments a run is.

A figure is the percentage of held-out puzzles solved exactly, by the rule of
its benchmark unless its note says otherwise; nothing was measured here.
"""

from typing import NamedTuple

from experiments.configs import arc1, arc2, maze, sudoku
from experiments.reporting import runs
from hrm_jax.settings import Settings

# The rule of each benchmark's figures.
BENCHMARKS = {
  'ARC-1': 'two attempts at each test input, the 400 public evaluation tasks',
  'ARC-2': 'two attempts at each test input, the 120 public evaluation tasks',
  'Sudoku-Extreme 1k': 'one answer, all 422,786 test puzzles, 1,000 trained on',
  'Maze-Hard': 'one answer, all 1,000 test mazes, 1,000 trained on',
}

SOURCES = {
  'HRM': 'arXiv 2506.21734, Hierarchical Reasoning Model',
  'TRM': 'arXiv 2510.04871, Less is More: Recursive Reasoning with Tiny '
  'Networks',
  'CompressARC': 'arXiv 2512.06104, Liao & Gu, ARC-AGI Without Pretraining',
  'ARC Prize': 'arcprize.org/blog/hrm-analysis',
}


class Figure(NamedTuple):
  """One published figure: a percentage as text, of a key of `BENCHMARKS`.

  Parameters are as published, without puzzle embeddings; the source is a key of
  `SOURCES`, and the note what must be known to read the figure.
  """

  system: str
  parameters: str
  benchmark: str
  text: str
  source: str
  note: str = ''


_DIRECT = 'direct prediction, 8-layer transformer'
_SEMI_PRIVATE = 'HRM, ARC Prize semi-private'
_LIAO_GU = 'Liao & Gu (CompressARC), one 76K network per task'

# System, parameters, source, and a figure for each of `BENCHMARKS`.
_ROWS = (
  ('HRM', '27M', 'HRM', '40.3', '5.0', '55.0', '74.5'),
  (_SEMI_PRIVATE, '27M', 'ARC Prize', '32', '2', '', ''),
  (_DIRECT, '27M', 'HRM', '21.0', '0.0', '0', '0'),
  ('TRM attention', '7M', 'TRM', '44.6', '7.8', '74.7', '85.3'),
  ('TRM mlp_t', '5M (ARC 19M)', 'TRM', '29.6', '2.4', '87.4', '0'),
  (_LIAO_GU, '0.076M', 'CompressARC', '20.0', '~4', '', ''),
  ('o3-mini-high', 'not public', 'HRM', '34.5', '3.0', '0', '0'),
  ('Claude 3.7, 8K', 'not public', 'HRM', '21.2', '0.9', '0', '0'),
  ('DeepSeek R1', '671B', 'HRM', '15.8', '1.3', '0', '0'),
)
_NOTES = {
  ('HRM', 'Sudoku-Extreme 1k'): 'reruns gave 45.8, 55.4 and 57.5',
  (_SEMI_PRIVATE, 'ARC-1'): 'on the semi-private set, not on the public one',
  (_SEMI_PRIVATE, 'ARC-2'): 'on the semi-private set, not on the public one',
  (_DIRECT, 'ARC-1'): 'a blog table quotes 15.8',
  (_LIAO_GU, 'ARC-2'): 'an approximate figure',
  ('o3-mini-high', 'ARC-2'): 'a blog table quotes 1.3',
}

FIGURES = tuple(
  Figure(
    *(system, parameters, benchmark, text, source),
    note=_NOTES.get((system, benchmark), ''),
  )
  for system, parameters, source, *texts in _ROWS
  for benchmark, text in zip(BENCHMARKS, texts, strict=True)
  if text
)

# The settings that a paper publishes for a system, and the number of examples
# in a pass over its training data.
_PAPERS = {
  'ARC-1': (arc1.get_config, 3078.3),
  'ARC-2': (arc2.get_config, 4649.7),
  'Sudoku-Extreme 1k': (sudoku.get_config, 1000),
  'Maze-Hard': (maze.get_config, 1000),
}
# Settings that must be the published ones; others are told beside the result.
_MUST_AGREE = ('model.', 'act.', 'loss', 'data.num_aug', 'data.canvas')
# Augmentations that are drawn anew and batches that are cut change the length
# of training by less.
_LENGTH = 0.99


def experiment_of(run: runs.Run) -> tuple[str | None, tuple[str, ...]]:
  """The published experiment that a run is, and the settings that differ.

  Where it is none, there are the reasons instead. A run's settings name the
  data and say how long it was to train; its scores say how far it got.
  """
  model, scores = run.config.model, run.scores
  system = model.kind + '_mlp' * getattr(model, 'mlp_t', False)
  settings = {
    benchmark: Settings.from_config(preset(system))
    for benchmark, (preset, _) in _PAPERS.items()
  }
  same = [b for b, one in settings.items() if _data(one) == _data(run.config)]
  if not same:
    return None, ('other data than the papers train and score on',)
  (benchmark,) = same
  published = settings[benchmark]
  theirs = runs.decisive(published)
  changes = {
    key: f'{key}={value}'
    for key, value in sorted(runs.decisive(run.config).items())
    # Leaks are told with the scores.
    if value != theirs[key] and key != 'data.known_leaks'
  }
  reasons = [
    f'{role} on other data ({version})'
    for role, version in (
      ('trained', scores.trained_on),
      ('scored', scores.data_version),
    )
    if version != run.data_version
  ]
  changed = [
    text
    for key, text in changes.items()
    # The type changes the last digits only.
    if key.startswith(_MUST_AGREE) and key != 'model.dtype'
  ]
  if changed:
    reasons.append(f'settings that are not published: {", ".join(changed)}')
  wanted = int(published.epochs * _PAPERS[benchmark][1])
  shown = scores.step * run.config.batch_size
  if shown < _LENGTH * wanted:
    reasons.append(f'{shown:,} examples shown in training, not {wanted:,}')
  steps = wanted // published.batch_size
  if scores.step < _LENGTH * steps:
    reasons.append(f'{scores.step:,} optimizer steps, not {steps:,}')
  return (None, (*reasons,)) if reasons else (benchmark, (*changes.values(),))


def _data(config: Settings) -> list[str]:
  """The two SPECs; no package carries ConceptARC, which may be missing."""
  train = config.data.train.partition(',concept')[0]
  # Where the files lie does not matter.
  return [spec.partition('@')[0] for spec in (train, config.data.evaluate)]
