"""config.json of a workdir: the settings of its run and which data they name.

Whoever trains claims the workdir by it; whatever reads the run reads it first.
"""

import fnmatch
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.leaks import Verdict, recorded
from data_pipelines.puzzle_set import PuzzleSet
from hrm_jax.settings import Settings, flat

# Keys that do not decide what a run gives: which data exactly it has is told by
# their version, and the last ones say how the same numbers are computed.
FREE_KEYS = (
  'data.train', 'data.evaluate', 'leaks', 'stop_at_step', 'log_every',
  'evaluate_every', 'checkpoint_every', 'keep_checkpoints', 'keep_best',
  'best_metric', 'keep_every', 'evaluation',
  'microbatches', 'mesh', 'model.attention', 'model.fusion', 'attention',
  'steps_per_call', 'step_flops',
)  # fmt: skip

# Keys that may change when a run continues in its workdir. With another batch
# size the puzzles at work are started anew.
_CHANGEABLE = (
  *FREE_KEYS,
  'batch_size',
  'stop_at_accuracy',
  'stop_at_score',
  'divergence',
  'start_from',
)

# Facts that stand beside the settings.
_FACTS = ('data_version', 'leaks', 'attention', 'step_flops')


def read(workdir: str | pathlib.Path) -> tuple[Settings, dict[str, Any]]:
  """The settings of a run, and the facts that stand beside them.

  Settings that have been added since the run began have their defaults.

  Raises:
    ConfigError: there is no run, or its config.json cannot be used.
  """
  workdir = files.place(workdir)
  path = workdir / 'config.json'
  fields = _read(path)
  if fields is None:
    raise ConfigError(
      f'{workdir}: no config.json; --workdir must name a directory that '
      'experiments.train has written'
    )
  facts = {name: fields.pop(name) for name in _FACTS if name in fields}
  if 'leaks' in facts:
    try:
      recorded(facts['leaks'])
    except DataError as error:
      raise ConfigError(f'{path}: {error}') from None
  return Settings.from_record(fields, path), facts


def claim(
  workdir: str | pathlib.Path,
  settings: Settings,
  puzzles: PuzzleSet,
  leaking: Verdict,
  **facts: Any,
) -> None:
  """Writes config.json into a workdir that is new or belongs to this run.

  `facts` are more of `_FACTS`: how attention is computed here, and the FLOPs of
  a step (`training.flops.ideal_step_flops`).

  Raises:
    ConfigError: the workdir belongs to a run with other settings; the message
      lists the keys that differ. Nothing is written then.
  """
  workdir = files.place(workdir)
  old = _read(workdir / 'config.json')
  puzzles.recognise((old or {}).get('data_version'))
  fields = {
    **settings.to_dict(),
    'data_version': puzzles.version,
    'leaks': leaking.record(),
    **facts,
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
    # JSON knows no tuples.
    before = {**flat(json.loads(json.dumps(defaults))), **flat(old)}
    if changes := differences(before, flat(json.loads(text)), _CHANGEABLE):
      raise ConfigError(
        f'{workdir}: belongs to a run with other settings: {changes}; use '
        'another --workdir, or the old settings to go on with it'
      )
  with files.writing(f'--workdir={workdir}', 'name a directory of yours'):
    workdir.mkdir(parents=True, exist_ok=True)
    files.write_text(workdir / 'config.json', text)


def place(workdir: str | os.PathLike) -> pathlib.Path:
  """The directory of a run that is to be written.

  Raises:
    ConfigError: what would be written there could not be read back.
  """
  path = files.place(workdir)
  whole = str(path.absolute())
  if path.absolute() == pathlib.Path(path.absolute().anchor):
    raise ConfigError(f'--workdir={path} is no directory of a run; name one')
  # Orbax takes it for a pattern, tensorstore \ for /.
  if '\\' in whole or not fnmatch.fnmatchcase(whole, whole):
    raise ConfigError(
      f'--workdir={path}: checkpoints under a path with brackets such as [1], '
      'or with a backslash, could not be read back; name another directory'
    )
  return path


def differences(
  before: dict[str, Any], now: dict[str, Any], free: Sequence[str]
) -> str:
  """The settings that differ, in words; `free` ones and groups may."""
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
    problem = 'must hold an object of settings'
  except files.errors(ValueError, RecursionError) as error:
    fields, problem = None, f'not readable as JSON ({error})'
  if not isinstance(fields, dict):
    raise ConfigError(
      f'{path}: {problem}; restore the file that experiments.train wrote'
    )
  return fields


def _has_results(workdir: pathlib.Path) -> bool:
  metrics = workdir / 'metrics.jsonl'
  has_lines = False
  if metrics.exists():
    with metrics.open('rb') as file:
      has_lines = file.read(1) != b''
  saved = workdir.glob('checkpoints/*')
  return has_lines or any(path.name.isdigit() for path in saved)
