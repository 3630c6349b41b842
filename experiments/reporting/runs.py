"""Reads the directories of runs, and groups runs that differ in seed alone.

A run's files are read when they are asked for: a curve needs no scores, and
scores need no metrics. What is missing or damaged raises a ConfigError.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
import reprlib
import sys
import textwrap
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.leaks import recorded
from experiments.cli import command
from experiments.reporting import training_curves
from hrm_jax.inference import predict as inference
from hrm_jax.settings import Settings, flat
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from hrm_jax.workdir.config import FREE_KEYS

# The name of each `config.model.kind`.
_SYSTEMS = {
  'hrm': 'HRM',
  'direct': 'direct prediction',
  'recurrent_transformer': 'recurrent transformer',
  'trm': 'TRM attention',
  'urm': 'URM',
}

# Name that `experiments.evaluate` gives the directory of an evaluation of all
# that is held out.
_WHOLE = re.compile(rf'step_(\d+)(?:_({"|".join(inference.HALTING_MODES)}))?')
_METRIC = 'eval/'
# Number of settings that a label has at most, and those too long for one.
_MOST = 3
_NOT_IN_LABELS = {'data_version', 'data.known_leaks'}
# Beginnings of the settings that make a system what it is.
_OF_SYSTEM = ('model.', 'act.', 'loss', 'optimizer.ema_decay')


class Scores(NamedTuple):
  """The result of one evaluation, as its scores.json has it.

  Rows are counted with augmentations; leaks are `leaks.Verdict.record()`.
  """

  path: pathlib.Path
  step: int
  halting: str
  data_version: str
  trained_on: str
  rows: int
  leaks: dict[str, Any]
  metrics: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Run:
  """A directory that `experiments.train` wrote.

  `data_version` says which data the run trains on and holds out, `step_flops`
  what arithmetic a step is (None for runs of earlier versions); settings that
  did not exist when it began have their defaults.
  """

  directory: pathlib.Path
  config: Settings
  data_version: str
  step_flops: float | None

  @property
  def system(self) -> str:
    """Name of the kind of model."""
    model = self.config.model
    if getattr(model, 'mlp_t', False):
      return 'TRM mlp_t'
    return _SYSTEMS[model.kind]

  @functools.cached_property
  def settings(self) -> dict[str, str]:
    """All that decides the results besides the seed, as text by dotted key."""
    texts = {key: json.dumps(v) for key, v in decisive(self.config).items()}
    return {**texts, 'data_version': self.data_version}

  @property
  def held_out(self) -> str:
    """Which data are held out."""
    return self.data_version.rpartition('evaluate ')[2]

  @property
  def changes(self) -> list[str]:
    """Settings of the system that differ from those published for ARC."""
    usual = flat(Settings.published(self.config.model.kind).to_dict())
    return [
      f'{key}={value}'
      for key, value in sorted(flat(self.config.to_dict()).items())
      if key.startswith(_OF_SYSTEM) and value != usual[key]
    ]

  @functools.cached_property
  def scores(self) -> Scores:
    """Scores of the newest whole evaluation, by the run's own halting first."""
    root = self.directory / 'evaluation'
    evaluate = command.typed('experiments.evaluate')
    again = f'{evaluate} --workdir={self.directory}'
    paths = sorted(root.glob('step_*/scores.json'))
    found = [
      (int(match[1]), match[2] is None, path)
      for path in paths
      if (match := _WHOLE.fullmatch(path.parent.name))
    ]
    if not found:
      partial = ', '.join(path.parent.name for path in paths)
      has = f'only partial ones ({partial})' if partial else 'none'
      raise ConfigError(
        f'{root}: no scores of all that is held out, {has}; run {again}'
      )
    step, _, path = max(found)
    return read_scores(path, f'run {again} --step={step} again')

  @functools.cached_property
  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, each with a `step`; none without the file."""
    path = self.directory / 'metrics.jsonl'
    return training_curves.read(path) if path.exists() else []

  @property
  def evaluations(self) -> list[dict[str, float]]:
    """The evaluations made during training, by rising step; may be none."""
    found = {
      line['step']: line
      for line in self.metrics
      if any(name.startswith(_METRIC) for name in line)
    }
    return [found[step] for step in sorted(found)]

  @functools.cached_property
  def parameters(self) -> int | None:
    """Trained values of the newest checkpoint, if any, but no puzzle table."""
    saved = self.directory.absolute() / 'checkpoints'
    steps = [p for p in saved.glob('*/weights') if p.parent.name.isdigit()]
    if not steps:
      return None
    newest = max(steps, key=lambda path: int(path.parent.name))
    handler = ocp.StandardCheckpointHandler()
    try:
      shapes = handler.metadata(newest)['params']
    # orbax and tensorstore raise errors of their own for damage.
    except Exception as error:
      if checkpoints.was_cleared(newest.parent):
        raise checkpoints.gone(newest.parent) from error
      raise ConfigError(
        f'{newest}: its shapes cannot be read, the checkpoint may be damaged '
        f'({type(error).__name__}); restore its files from a copy'
      ) from error
    finally:
      handler.close()
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


# Runs that differ in their seeds and in nothing else that matters.
Group = tuple[Run, ...]


def parameters(group: Group) -> int | None:
  """See `Run.parameters`; None where no run has a checkpoint."""
  counts = (run.parameters for run in group)
  return next((count for count in counts if count is not None), None)


def decisive(config: Settings) -> dict[str, Any]:
  """Returns the settings that decide results besides the seed, dotted keys."""
  return {
    key: value
    for key, value in flat(config.to_dict()).items()
    if key != 'seed'
    and not any(key == free or key.startswith(free + '.') for free in FREE_KEYS)
  }


def read_all(directories: Sequence[str]) -> list[Run]:
  """Reads the runs that the flag --runs names, each of them once."""
  found = {}
  for path in map(files.place, directories):
    if path.resolve() in found:
      raise ConfigError(f'--runs names {path} twice; name each run once')
    found[path.resolve()] = read(path)
  return list(found.values())


def read(directory: pathlib.Path) -> Run:
  """Reads a run; only its config.json must be there."""
  config, facts = workdir_config.read(directory)
  version = facts.get('data_version')
  if not isinstance(version, str):
    raise ConfigError(
      f'{directory}/config.json: data_version is {version!r} and must be text; '
      'restore the file that experiments.train wrote'
    )
  flops = facts.get('step_flops')
  if 'step_flops' in facts and not (
    type(flops) is float and 0 < flops < math.inf
  ):
    raise ConfigError(
      f'{directory}/config.json: step_flops is {reprlib.repr(flops)} and must '
      'be a positive number; remove that line'
    )
  return Run(directory, config, version, flops)


def read_scores(path: pathlib.Path, fix: str) -> Scores:
  """Reads a scores.json; where it is damaged, `fix` says what to do."""
  try:
    found = files.parse_json(files.read(path), path)
  except DataError as error:
    raise ConfigError(f'{error}; {fix}') from None
  if not isinstance(found, dict):
    raise ConfigError(f'{path}: must hold a JSON object; {fix}')

  def take(name: str, what: str, *kinds: type) -> Any:
    # `type`, since JSON's true is an int to isinstance.
    value = found.get(name)
    if type(value) not in kinds or (
      float in kinds and not abs(value) <= sys.float_info.max
    ):
      raise ConfigError(
        f'{path}: {name} is {reprlib.repr(value)} and must be {what}; {fix}'
      )
    return value

  leaks = take('leaks', 'an object', dict)
  if type(leaks.get('answers')) is not int:
    raise ConfigError(f'{path}: leaks has no number of answers; {fix}')
  try:
    recorded(leaks)
  except DataError as error:
    raise ConfigError(f'{path}: {error}') from None
  names = [name for name in found if name.startswith(_METRIC)]
  return Scores(
    path,
    take('step', 'a whole number', int),
    *(take(name, 'text', str) for name in Scores._fields[2:5]),
    take('rows', 'a whole number', int),
    leaks,
    {name: float(take(name, 'a number', int, float)) for name in names},
  )


def group(
  runs: Iterable[Run], also_by: Callable[[Run], Hashable] = lambda run: None
) -> list[Group]:
  """Puts runs that differ in seed alone together, in the order they came.

  What `also_by` gives must be the same besides the settings. No two runs of a
  group may have one seed: their spread would not be one over seeds.
  """
  groups: dict[Hashable, dict[int, Run]] = {}
  for run in runs:
    key = (tuple(sorted(run.settings.items())), also_by(run))
    seeds = groups.setdefault(key, {})
    seed = run.config.seed
    if seed in seeds:
      raise ConfigError(
        f'--runs: {seeds[seed].directory} and {run.directory} have the '
        f'same settings and the same seed {seed}; name one of them'
      )
    seeds[seed] = run
  return [
    tuple(run for _, run in sorted(seeds.items())) for seeds in groups.values()
  ]


def labelled(
  runs: Iterable[Run],
  also_by: Callable[[Run], Hashable],
  table: Callable[[Run], str],
) -> list[tuple[str, Group]]:
  """Groups with their labels; those beside each other have one `table`."""
  tables: dict[str, list[Group]] = {}
  for one in group(runs, also_by):
    tables.setdefault(table(one[0]), []).append(one)
  return [
    pair
    for groups in tables.values()
    for pair in zip(labels(groups), groups, strict=True)
  ]


def labels(groups: Sequence[Group]) -> list[str]:
  """Names groups by their system and what sets them apart within it."""
  firsts = [group[0] for group in groups]
  out = []
  for run in firsts:
    settings = [one.settings for one in firsts if one.system == run.system]
    differing = [
      key
      for key in sorted(set().union(*settings) - _NOT_IN_LABELS)
      if len({of.get(key) for of in settings}) > 1
    ]
    parts = [
      f'{key}={textwrap.shorten(run.settings[key], 24, placeholder=" …")}'
      for key in differing[:_MOST]
      if key in run.settings
    ]
    if len(differing) > _MOST:
      parts.append(f'{len(differing) - _MOST} more')
    out.append(run.system + (f' ({", ".join(parts)})' if parts else ''))
  # Equal names are of groups that differ in their data or in the step scored.
  return [
    f'{name} [{run.directory.name}]' if out.count(name) > 1 else name
    for name, run in zip(out, firsts, strict=True)
  ]
