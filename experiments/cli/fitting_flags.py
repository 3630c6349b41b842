"""Flags of the commands that fit tasks which a model was never trained on."""

from absl import flags

from data_pipelines.errors import ConfigError
from experiments.cli import data_flags
from hrm_jax.solver import ADAPT, Fitting

_TASK = flags.DEFINE_string('task', None, 'SPEC of your puzzles.')
_ADAPT = flags.DEFINE_enum(
  'adapt',
  Fitting.adapt,
  ADAPT,
  'What a task that was never trained on gets: new rows, the trunk frozen; new '
  'rows and a copy of the trunk; or nothing but the blank row.',
)
_STEPS = flags.DEFINE_integer(
  'steps',
  Fitting.steps,
  'Number of steps of fitting for each new task.',
  lower_bound=1,
)
_SECONDS = flags.DEFINE_float(
  'seconds',
  None,
  'Time limit of fitting for each new task; no limit if unset.',
  lower_bound=0,
)


def task() -> str:
  """The value of --task.

  Raises:
    ConfigError: it is missing.
  """
  if not _TASK.value:
    raise ConfigError(
      '--task=SPEC is missing, e.g. --task=my_task.json, or the 81 characters '
      'of a Sudoku'
    )
  return _TASK.value


def fitting() -> Fitting:
  """What the flags say of new tasks."""
  num_aug = data_flags.NUM_AUG.value
  return Fitting(
    _ADAPT.value,
    _STEPS.value,
    _SECONDS.value,
    Fitting.num_aug if num_aug is None else num_aug,
    data_flags.SEED.value,
  )
