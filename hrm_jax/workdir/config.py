"""config.json of a workdir: the settings of its run and which data they name.

Whoever trains claims the workdir by it; whatever reads the run reads it first.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from data_pipelines import files
from data_pipelines.errors import ConfigError
from data_pipelines.leaks import Verdict
from data_pipelines.puzzle_set import PuzzleSet
from hrm_jax.settings import Settings, flat

# Keys that do not decide what a run gives. Which data exactly it has is told by
# their version; they may lie elsewhere.
FREE_KEYS = (
  'data.train',
  'data.evaluate',
  'leaks',
  'stop_at_step',
  'log_every',
  'evaluate_every',
  'checkpoint_every',
  'keep_checkpoints',
  'keep_best',
  'best_metric',
  'keep_every',
  'evaluation',
  # How the same numbers are computed.
  'microbatches',
  'mesh',
  'model.attention',
  'model.fusion',
)

# Keys that may change when a run continues in its workdir.
_CHANGEABLE = (
  *FREE_KEYS,
  # The puzzles at work are started anew.
  'batch_size',
  'stop_at_accuracy',
  'divergence',
)

# Facts that stand beside the settings.
_FACTS = ('data_version', 'leaks')


def read(workdir: str | pathlib.Path) -> tuple[Settings, dict[str, Any]]:
  """The settings of a run, and the facts that stand beside them.

  Settings that have been added since the run began have their defaults.

  Raises:
    ConfigError: there is no run, or its config.json cannot be used.
  """
  path = pathlib.Path(workdir) / 'config.json'
  fields = _read(path)
  if fields is None:
    raise ConfigError(
      f'{workdir}: no config.json; --workdir must name a directory that '
      'experiments.train has written'
    )
  facts = {name: fields.pop(name) for name in _FACTS if name in fields}
  return Settings.from_record(fields, path), facts


def claim(
  workdir: str | pathlib.Path,
  settings: Settings,
  puzzles: PuzzleSet,
  leaking: Verdict,
) -> None:
  """Writes config.json into a workdir that is new or belongs to this run.

  Args:
    workdir: directory of the run, made where it is missing.
    settings: the experiment.
    puzzles: its data.
    leaking: which held-out answers are trained on.

  Raises:
    ConfigError: the workdir belongs to a run with other settings; the message
      lists the keys that differ. Nothing is written then.
  """
  workdir = pathlib.Path(workdir)
  old = _read(workdir / 'config.json')
  puzzles.recognise((old or {}).get('data_version'))
  fields = {
    **settings.to_dict(),
    'data_version': puzzles.version,
    'leaks': leaking.record(),
  }
  text = json.dumps(fields, indent=2, sort_keys=True) + '\n'
  # Where nothing was trained yet, a first start that failed blocks nothing.
  if _has_results(workdir):
    if old is None:
      raise ConfigError(
        f'{workdir}: holds the results of a run but not its config.json; use '
        'another --workdir'
      )
    defaults = Settings.published(settings.model.kind).to_dict()
    before = {**flat(defaults), **flat(old)}
    if changes := differences(before, flat(json.loads(text)), _CHANGEABLE):
      raise ConfigError(
        f'{workdir}: belongs to a run with other settings: {changes}; use '
        'another --workdir, or the old settings to go on with it'
      )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_text(workdir / 'config.json', text)
  except OSError as error:
    raise ConfigError(
      f'--workdir={workdir} cannot be written ({error.strerror}); name a '
      'directory of yours'
    ) from None


def differences(
  before: dict[str, Any], now: dict[str, Any], free: Sequence[str]
) -> str:
  """The settings that differ, in words.

  Args:
    before: settings by dotted keys.
    now: the same, later.
    free: names of settings and of groups that may differ.
  """
  return ', '.join(
    f'{key} ({before.get(key)!r} there, {now.get(key)!r} here)'
    for key in sorted(before.keys() | now.keys())
    if before.get(key) != now.get(key)
    and not any(key == name or key.startswith(f'{name}.') for name in free)
  )


def _read(path: pathlib.Path) -> dict[str, Any] | None:
  """What config.json holds; None where there is none."""
  if not path.exists():
    return None
  try:
    fields = json.loads(path.read_text())
  except (ValueError, OSError, RecursionError) as error:
    raise ConfigError(
      f'{path}: not readable as JSON ({error}); restore the file that '
      'experiments.train wrote'
    ) from None
  if not isinstance(fields, dict):
    raise ConfigError(
      f'{path}: must hold an object of settings; restore the file that '
      'experiments.train wrote'
    )
  return fields


def _has_results(workdir: pathlib.Path) -> bool:
  metrics = workdir / 'metrics.jsonl'
  if metrics.exists() and metrics.stat().st_size:
    return True
  saved = workdir / 'checkpoints'
  return saved.is_dir() and any(path.name.isdigit() for path in saved.iterdir())
