"""Runs as their directories tell of them, and which are the same but for seed.

A run's files are read when they are asked for: a curve needs no scores, and
scores need no metrics.
"""

import dataclasses
import functools
import json
import math
import pathlib
import re
import textwrap
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import jax
import ml_collections
import orbax.checkpoint as ocp
from absl import flags
from flax.traverse_util import flatten_dict

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError
from experiments.drawing import training_curves
from hrm_jax import build
from hrm_jax.inference import predict as inference

# Shared: tests and notebooks import several commands at once.
RUNS = flags.DEFINE_list(
  'runs', [], 'Directories of training runs, separated by commas.'
)

# By `config.model.kind`.
_SYSTEMS = {
  'hrm': 'HRM',
  'direct': 'direct prediction',
  'recurrent_transformer': 'recurrent transformer',
  'trm': 'TRM attention',
}
_TRM_MLP = 'TRM mlp_t'

# What `experiments.evaluate` calls an evaluation of all that is held out, and
# any evaluation.
_WHOLE = re.compile(rf'step_(\d+)(?:_({"|".join(inference.HALTING_MODES)}))?')
_ANY = 'step_*/scores.json'
_METRIC = 'eval/'
# Too long for a label.
_NOT_IN_LABELS = {'data_version', 'data.known_leaks'}
# Settings that make a system what it is.
_OF_SYSTEM = ('model.', 'act.', 'loss', 'optimizer.ema_decay')


@dataclasses.dataclass(frozen=True)
class Scores:
  """What one evaluation gave.

  Attributes:
    path: of scores.json.
    step: of the checkpoint.
    halting: 'fixed' or 'act'.
    data_version: which data it was scored on.
    trained_on: which data the checkpoint was trained on.
    rows: inputs that were predicted, augmentations included.
    leaks: see `leak_check.Verdict.record`.
    metrics: by name, `eval/...`.
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
  """One directory that `experiments.train` wrote.

  Attributes:
    directory: of the run.
    config: its settings; those that have been added since at their defaults.
    data_version: which data it is trained and scored on.
  """

  directory: pathlib.Path
  config: ml_collections.ConfigDict
  data_version: str

  @property
  def seed(self) -> int:
    """Of the parameters and of the order of the examples."""
    return self.config.seed

  @property
  def system(self) -> str:
    """The name of the kind of model."""
    model = self.config.model
    if model.kind == 'trm' and model.mlp_t:
      return _TRM_MLP
    return _SYSTEMS[model.kind]

  @functools.cached_property
  def settings(self) -> dict[str, str]:
    """What decides the results besides the seed, as text by dotted key."""
    texts = {key: json.dumps(v) for key, v in decisive(self.config).items()}
    return {**texts, 'data_version': self.data_version}

  @property
  def changes(self) -> list[str]:
    """Settings of the system that are not those published for ARC."""
    fields = flatten_dict(self.config.to_dict(), sep='.')
    published = flatten_dict(build.defaults(self.config).to_dict(), sep='.')
    return [
      f'{key}={value}'
      for key, value in sorted(fields.items())
      if key.startswith(_OF_SYSTEM) and value != published[key]
    ]

  @functools.cached_property
  def scores(self) -> Scores:
    """The newest whole evaluation, the run's own mode of halting first.

    Raises:
      ConfigError: there is none, or it is damaged.
    """
    root = self.directory / 'evaluation'
    command = f'python -m experiments.evaluate --workdir={self.directory}'
    found, partial = [], []
    for path in sorted(root.glob(_ANY)):
      if match := _WHOLE.fullmatch(path.parent.name):
        found.append((int(match[1]), match[2] is None, path))
      else:
        partial.append(path.parent.name)
    if not found:
      has = f'only partial ones ({", ".join(partial)})' if partial else 'none'
      raise ConfigError(
        f'{root}: no scores of all that is held out, {has}; run {command}'
      )
    *_, path = max(found)
    return read_scores(path, f'run {command} --step={max(found)[0]} again')

  @functools.cached_property
  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, in order; each has a `step`.

    Raises:
      ConfigError: there is no such file, or it is damaged.
    """
    return training_curves.read(self.directory / 'metrics.jsonl')

  @functools.cached_property
  def evaluations(self) -> list[dict[str, float]]:
    """The evaluations made while training, by rising step.

    Raises:
      ConfigError: there are none, or metrics.jsonl is damaged.
    """
    found = {
      line['step']: line
      for line in self.metrics
      if any(name.startswith(_METRIC) for name in line)
    }
    if not found:
      raise ConfigError(
        f'{self.directory / "metrics.jsonl"}: holds no evaluation; train with '
        '--config.evaluate_every=N'
      )
    return [found[step] for step in sorted(found)]

  @functools.cached_property
  def parameters(self) -> int | None:
    """Trained values besides the puzzle table, None without a checkpoint.

    Counted in the checkpoint: the shapes there are what was trained.

    Raises:
      ConfigError: the newest checkpoint is damaged.
    """
    saved = self.directory.absolute() / 'checkpoints'
    steps = [path for path in saved.glob('*/weights') if _is_step(path.parent)]
    if not steps:
      return None
    newest = max(steps, key=lambda path: int(path.parent.name))
    handler = ocp.StandardCheckpointHandler()
    try:
      shapes = handler.metadata(newest)['params']
    # orbax and tensorstore each have their own errors for damage.
    except Exception as error:
      raise ConfigError(
        f'{newest}: its shapes cannot be read, the checkpoint may be damaged; '
        f'remove {newest.parent} ({type(error).__name__})'
      ) from error
    finally:
      handler.close()
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@dataclasses.dataclass(frozen=True)
class Group:
  """Runs that differ in their seeds and in nothing else that matters."""

  runs: tuple[Run, ...]

  @property
  def system(self) -> str:
    """The name of the kind of model."""
    return self.runs[0].system

  @property
  def seeds(self) -> list[int]:
    """One for each run."""
    return [run.seed for run in self.runs]

  @property
  def parameters(self) -> int | None:
    """See `Run.parameters`; None where no run has a checkpoint."""
    counts = (run.parameters for run in self.runs)
    return next((count for count in counts if count is not None), None)


def decisive(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The settings that decide results besides the seed, by dotted key."""
  return {
    key: value
    for key, value in flatten_dict(config.to_dict(), sep='.').items()
    if key != 'seed'
    and not any(
      key == free or key.startswith(free + '.') for free in build.FREE_KEYS
    )
  }


def read_all(directories: Sequence[str]) -> list[Run]:
  """The runs of the flag --runs.

  Raises:
    ConfigError: a directory holds no run, or is named twice.
  """
  found = {}
  for directory in directories:
    path = pathlib.Path(directory)
    if path.resolve() in found:
      raise ConfigError(f'--runs names {path} twice; name each run once')
    found[path.resolve()] = read(path)
  return list(found.values())


def read(directory: pathlib.Path) -> Run:
  """The run of a directory; its config.json is all that must be there.

  Raises:
    ConfigError: there is no such file, or it is damaged.
  """
  path = directory / 'config.json'
  if not path.exists():
    raise ConfigError(
      f'{directory}: no config.json; --runs must name directories that '
      'experiments.train has written'
    )
  fix = 'restore the file that experiments.train wrote'
  fields = _read_object(path, fix)
  version = fields.get('data_version')
  if not isinstance(version, str):
    raise ConfigError(
      f'{path}: data_version is {version!r} and must be text; {fix}'
    )
  try:
    config = build.from_record(fields, path)
  # Of the types that settings have.
  except (TypeError, AttributeError, KeyError) as error:
    raise ConfigError(
      f'{path}: a setting has another type than it must have ({error}); {fix}'
    ) from None
  return Run(directory, config, version)


def read_scores(path: pathlib.Path, fix: str) -> Scores:
  """What `experiments.evaluate` wrote into a scores.json.

  Args:
    path: of the file.
    fix: what to do where it is damaged, for the error.

  Raises:
    ConfigError: it is damaged.
  """
  found = _read_object(path, fix)

  def take(name: str, what: str, *kinds: type) -> Any:
    # `type`, since JSON's true is an int to isinstance.
    if type(found.get(name)) not in kinds:
      raise ConfigError(
        f'{path}: {name} is {found.get(name)!r} and must be {what}; {fix}'
      )
    return found[name]

  leaks = take('leaks', 'an object', dict)
  if type(leaks.get('answers')) is not int or 'allow_leaks' not in leaks:
    raise ConfigError(f'{path}: leaks has no answers or allow_leaks; {fix}')
  return Scores(
    path,
    take('step', 'a whole number', int),
    take('halting', 'text', str),
    take('data_version', 'text', str),
    take('trained_on', 'text', str),
    take('rows', 'a whole number', int),
    leaks,
    {
      name: float(take(name, 'a number', int, float))
      for name in found
      if name.startswith(_METRIC)
    },
  )


def group(
  runs: Iterable[Run], also_by: Callable[[Run], Hashable] = lambda run: None
) -> list[Group]:
  """Runs that differ in seed alone, together, in the order they came.

  Args:
    runs: to be grouped.
    also_by: what must be the same besides the settings.

  Raises:
    ConfigError: two runs of a group have one seed: a spread over them would
      not be one over seeds.
  """
  groups: dict[Hashable, dict[int, Run]] = {}
  for run in runs:
    key = (tuple(sorted(run.settings.items())), also_by(run))
    seeds = groups.setdefault(key, {})
    if run.seed in seeds:
      raise ConfigError(
        f'--runs: {seeds[run.seed].directory} and {run.directory} have the '
        f'same settings and the same seed {run.seed}; name one of them'
      )
    seeds[run.seed] = run
  return [
    Group(tuple(seeds[seed] for seed in sorted(seeds)))
    for seeds in groups.values()
  ]


def labels(groups: Sequence[Group], most: int = 3) -> list[str]:
  """A name for each group: its system, and what sets it apart from the others
  of that system; at most `most` settings are named."""
  out = []
  for one in groups:
    others = [g for g in groups if g.system == one.system]
    settings = [g.runs[0].settings for g in others]
    mine = one.runs[0].settings
    differing = [
      key
      for key in sorted(set().union(*settings) - _NOT_IN_LABELS)
      if len({of.get(key) for of in settings}) > 1
    ]
    parts = [
      f'{key}={textwrap.shorten(mine[key], 24, placeholder=" …")}'
      for key in differing[:most]
      if key in mine
    ]
    if len(differing) > most:
      parts.append(f'{len(differing) - most} more')
    out.append(f'{one.system} ({", ".join(parts)})' if parts else one.system)
  # What is left sets them apart elsewhere: in the data, or in the step scored.
  return [
    f'{name} [{one.runs[0].directory.name}]' if out.count(name) > 1 else name
    for name, one in zip(out, groups, strict=True)
  ]


def _read_object(path: pathlib.Path, fix: str) -> dict[str, Any]:
  try:
    found = files.parse_json(files.read(path), path)
  except DataError as error:
    raise ConfigError(f'{error}; {fix}') from None
  if not isinstance(found, dict):
    raise ConfigError(f'{path}: must hold a JSON object; {fix}')
  return found


def _is_step(directory: pathlib.Path) -> bool:
  return directory.name.isdigit()
