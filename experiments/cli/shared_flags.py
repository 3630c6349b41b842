"""Flags that several commands have, each with its sentence and its default.

A SPEC names puzzles, see `data_pipelines.puzzles`.
"""

import dataclasses
import difflib
import functools
import importlib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from data_pipelines import files
from hrm_jax.settings import Fitting, Width, choices, flat

# Flags of commands that run JAX; of those that several processes may run.
JAX = ('cpu_devices',)
PROCESSES = (*JAX, 'distributed', 'coordinator', 'num_processes', 'process_id')
# By how much an evaluation differs from the run's own.
BOUNDS = ('max_augmentations', 'max_puzzles', 'batch_size', 'segments')
# How a task that was never trained on gets its rows: `hrm_jax.Fitting`, which
# has the defaults.
FITTING = tuple(field.name for field in dataclasses.fields(Fitting))
# How often a puzzle is predicted: `hrm_jax.settings.Width`, likewise.
WIDTH = (
  'rollouts', 'noise', 'noise_at', 'symmetries', 'choose', 'seed', 'ensemble',
)  # fmt: skip
_FOLDER = pathlib.Path(__file__).parents[1] / 'configs'


def define(*names: str, **defaults: Any) -> flags.FlagValues:
  """Makes the flags of a command, which may then define some of its own.

  Its users must give `config` and `workdir` where `names` has them; `defaults`
  are flags with other defaults than here.
  """
  own = flags.FlagValues()
  for name in dict.fromkeys((*names, *defaults)):
    kind, default, sentence, *least = _SHARED[name]
    options = {'lower_bound': least[0]} if least else {}
    kind(
      name, defaults.get(name, default), help=sentence, flag_values=own,
      **options,
    )  # fmt: skip
  for name in ('config', 'workdir'):
    if name in names:
      require(own, name, _EXAMPLES[name])
  return own


def require(own: flags.FlagValues, name: str, example: str) -> None:
  """Makes a flag one that must be given; `example` is a value of it."""
  flags.register_validator(
    name,
    lambda value: value not in (None, '', []),
    f'--{name} is missing, e.g. --{name}={example}',
    flag_values=own,
  )


def values(own: flags.FlagValues, names: tuple[str, ...]) -> dict[str, Any]:
  """The values of some flags by name."""
  return {name: own[name].value for name in names}


def path(
  name: str, default: Any, help: str, flag_values: flags.FlagValues,
  parse: Callable[[str], pathlib.Path] = files.local,
) -> None:  # fmt: skip
  """Defines a flag whose value is a path."""
  flags.DEFINE(_PathParser(parse), name, default, help, flag_values)


class _PathParser(flags.ArgumentParser):
  def __init__(self, parse: Callable[[str], pathlib.Path]):
    self.parse = parse


def _define_config(
  name: str, default: None, help: str, flag_values: flags.FlagValues
) -> None:
  """Defines the flag, and --NAME.KEY=VALUE for each setting."""
  config_flags.DEFINE_config_file(name, default, help, flag_values=flag_values)
  flag_values[name].parser = _ConfigParser()


def configs() -> list[str]:
  """The experiments that --config takes by name."""
  found = {file.stem for file in _FOLDER.glob('*.py')}
  return sorted(found - {'__init__', 'base'})


def load_config(argument: str) -> ml_collections.ConfigDict:
  """The experiment that a config's name or path, with its variant, stands for.

  Raises:
    ValueError: there is none.
  """
  name, *variant = argument.split(':', 1)
  try:
    found = _get_config(name)(*variant)
  except ValueError:
    raise
  except Exception as error:  # A file may raise anything.
    raise ValueError(f'{type(error).__name__}: {error}') from None
  if not isinstance(found, ml_collections.ConfigDict):
    raise ValueError('its get_config returns no ConfigDict')
  return found


class _ConfigParser(flags.ArgumentParser):
  """Loads an experiment, and checks the names of the settings to change."""

  def parse(self, argument: str) -> ml_collections.ConfigDict:
    if not argument:
      raise ValueError('--config is missing, e.g. --config=arc1:demo')
    found = load_config(argument)
    known = [*flat(found.to_dict())]
    for word in sys.argv:
      if given := re.match(r'--?(?:no)?config\.([^=\[]*)', word):
        _check_setting(given[1], known)
    return found.lock()


def _get_config(name: str) -> Callable[..., Any]:
  """The function get_config that a name or a path stands for."""
  known = configs()
  if name in known:
    return importlib.import_module(f'experiments.configs.{name}').get_config
  others = f'name one of {", ".join(known)}, or a Python file with get_config'
  if not name.endswith('.py') or not pathlib.Path(name).is_file():
    what = 'file' if name.endswith('.py') else 'config'
    if pathlib.Path(name).is_file():
      raise ValueError(f'this is no Python file; {others}')
    raise ValueError(f'there is no such {what}; {others}')
  spec = importlib.util.spec_from_file_location('config', name)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise ValueError(f'it has no function get_config; {others}')
  return module.get_config


def _check_setting(name: str, known: list[str]) -> None:
  if name in known:
    return
  inside = [other for other in known if other.startswith(f'{name}.')]
  if inside:
    raise ValueError(
      f'{name} is a group of settings; change one of them, such as '
      f'--config.{inside[0]}'
    )
  close = difflib.get_close_matches(name, known, 1)
  raise ValueError(
    f"the config has no setting '{name}'"
    + (f"; did you mean '{close[0]}'?" if close else '')
  )


_SPEC = 'as a SPEC such as arc1:training, sudoku:box=2x2 or a path.'
_EXAMPLES = {'config': 'arc1:demo', 'workdir': 'runs/demo'}
_BOOL, _TEXT, _LIST = flags.DEFINE_bool, flags.DEFINE_string, flags.DEFINE_list
_INT, _FLOAT = flags.DEFINE_integer, flags.DEFINE_float
_ADAPT = functools.partial(
  flags.DEFINE_enum, enum_values=choices(Fitting, 'adapt')
)
_NEW_ROWS = functools.partial(
  flags.DEFINE_enum, enum_values=choices(Fitting, 'new_rows')
)
_NOISE_AT, _CHOOSE = (
  functools.partial(flags.DEFINE_enum, enum_values=choices(Width, name))
  for name in ('noise_at', 'choose')
)
_CONFIGS = ', '.join(configs())
# How each flag is defined, its default, its sentence, and its least value.
# fmt: off
_SHARED = {
  'config': (_define_config, None,
    f'Experiment, which is the name of a config ({_CONFIGS}) or the path of a '
    'Python file with a function get_config, with a variant after a colon as '
    'in arc1:demo. --config.KEY=VALUE changes one of its settings, as in '
    '--config.batch_size=64 or --config.model.hidden_size=256.'),
  'workdir': (functools.partial(path, parse=files.place), None,
    'Directory of the training run, which may be in a bucket: gs://BUCKET/RUN.'
  ),
  'step': (_INT, None,
    'Step of the checkpoint to read, the newest one if unset.'),
  'runs': (_LIST, [], 'Directories of training runs, separated by commas.'),
  'data': (_TEXT, '', f'Puzzles to draw, {_SPEC}'),
  'train': (_TEXT, '', f'Puzzles that are trained on, {_SPEC}'),
  'evaluate': (_TEXT, '', f'Puzzles that are held out, {_SPEC}'),
  'task': (_TEXT, '', f'Puzzles to solve, {_SPEC}'),
  'canvas': (_INT, 30,
    'Side of the canvas of ARC grids in cells; tasks with larger grids are '
    'left out.', 1),
  'num_aug': (_INT, None,
    'Number of augmentations of each puzzle beside the puzzle itself.', 0),
  'seed': (_INT, 0, 'Seed of all that this command draws at random.', 0),
  'max_augmentations': (_INT, 0,
    'Number of augmentations of each test input that are predicted, the input '
    'itself first; 0 stands for all.', 0),
  'max_puzzles': (_INT, 0,
    'Number of held-out puzzles that are predicted, spread evenly over the '
    'set; 0 stands for all.', 0),
  'batch_size': (_INT, None,
    "Number of puzzles predicted at a time, the run's evaluation.batch_size "
    'if unset.', 1),
  'segments': (_INT, None,
    "Greatest number of segments for each puzzle, the run's "
    'act.halt_max_steps if unset.', 1),
  'adapt': (_ADAPT, None,
    'What is fitted to a task that was never trained on: new rows and a copy '
    'of the trunk, new rows with the trunk frozen, or nothing, which leaves '
    'the blank row.'),
  'steps': (_INT, None,
    'Number of training steps, for all new tasks together.', 1),
  'seconds': (_FLOAT, None,
    'Greatest time of fitting in seconds, for all new tasks together; '
    'unlimited if unset.', 0),
  'rows_first': (_FLOAT, None,
    'Fraction of the steps, the first ones, in which only rows of the puzzle '
    'table learn, where the network learns too.', 0),
  'new_rows': (_NEW_ROWS, None,
    'What new rows start from: zeros or the mean of the rows that there are.'),
  'old_share': (_FLOAT, None,
    'Fraction of each batch that is of tasks that the model knows already, so '
    'that it does not forget them.', 0),
  'rollouts': (_INT, 1,
    'Number of runs of each puzzle, each with noise of its own.', 1),
  'noise': (_FLOAT, 0.0,
    'Standard deviation of the noise on the state; 0 stands for none.', 0),
  'noise_at': (_NOISE_AT, 'segments',
    'Whether noise is added to the initial state alone or before each '
    'segment.'),
  'symmetries': (_INT, 1,
    'Number of symmetric images of each Sudoku or maze that are predicted, the '
    'puzzle itself first.', 1),
  'choose': (_CHOOSE, 'vote',
    'Rule that chooses among several predictions of a Sudoku or maze: the '
    'highest q_halt, the highest sum of confidences, the most frequent answer, '
    'or the surest valid one.'),
  'ensemble': (_LIST, [],
    'Other checkpoints that predict each puzzle too, separated by commas: '
    'steps of the same run or paths of others.'),
  'cpu_devices': (_INT, None,
    'Number of devices that the CPU is split into, which share the batch; as '
    'many as there are cores make small models faster.', 1),
  'color': (_BOOL, None,
    'Colours the text; unset, where it goes to a terminal.'),
  'distributed': (_BOOL, False,
    'Joins the other processes of this run, which find each other by '
    'themselves on Cloud TPU slices, under Slurm and under Open MPI.'),
  'coordinator': (_TEXT, None,
    'Address HOST:PORT of process 0 where the processes do not find each other '
    'by themselves; goes with --num_processes and --process_id.'),
  'num_processes': (_INT, None,
    'Number of processes that take part in this run.'),
  'process_id': (_INT, None,
    'Number of this process in the run, counted from 0.'),
}
# fmt: on
