"""Results that others published, and which of their experiments a run is.

A figure is the percentage of held-out puzzles solved exactly, by the rule of
its benchmark unless its note says otherwise; nothing was measured here.
"""

import pathlib
import tomllib
from typing import NamedTuple

from experiments.configs import arc1, arc2, maze, sudoku
from experiments.reporting import runs
from hrm_jax.settings import Settings

_TABLE = tomllib.loads(
  pathlib.Path(__file__).with_suffix('.toml').read_text(encoding='utf-8')
)
# The rule of each benchmark's figures, and where they come from.
BENCHMARKS: dict[str, str] = _TABLE['benchmarks']
SOURCES: dict[str, str] = _TABLE['sources']
# The command that runs a system on ARC-1, of those that this code has, and why
# nobody can run one.
COMMANDS: dict[str, str] = {
  row['name']: row['run'] for row in _TABLE['systems'] if 'run' in row
}
UNAVAILABLE: dict[str, str] = {
  row['name']: row['unavailable']
  for row in _TABLE['systems']
  if 'unavailable' in row
}


class System(NamedTuple):
  """A row of the table; fields are those of `Figure`, '' where not told."""

  name: str
  parameters: str
  test_time_training: str
  source: str


class Figure(NamedTuple):
  """One published figure: a percentage as text, of a key of `BENCHMARKS`.

  The text names the attempts (`p@2`) and the training set (`1k`) where they are
  told, and ends with † where the figure is not out of a table of the paper.
  Parameters are as published, without puzzle embeddings; `test_time_training`
  tells whether the network was trained on the tasks asked (`alone`: on nothing
  else), '' where that is not told; the source is a key of `SOURCES`, and the
  note what must be known to read the figure.
  """

  system: str
  parameters: str
  test_time_training: str
  benchmark: str
  text: str
  source: str
  note: str


SYSTEMS = tuple(
  System(*(row.get(field, '') for field in System._fields))
  for row in _TABLE['systems']
)
FIGURES = tuple(
  Figure(
    row['name'], row['parameters'], row.get('test_time_training', ''),
    benchmark, text, row['source'], row.get('notes', {}).get(benchmark, ''),
  )
  for row in _TABLE['systems']
  for benchmark, text in row.get('figures', {}).items()
)  # fmt: skip

# The settings that a paper publishes for a system, and the number of examples
# in a pass over its training data.
_PAPERS = {
  'ARC-1': (arc1.get_config, 3078.3),
  'ARC-2': (arc2.get_config, 4649.7),
  'Sudoku-Extreme': (sudoku.get_config, 1000),
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
