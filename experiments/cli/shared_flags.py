"""Flags that several commands have, each with its sentence and its default.

A SPEC names puzzles, see `data_pipelines.puzzles`.
"""

import pathlib
from typing import Any

from absl import flags

from experiments.cli import config_flag

# Flags of commands that run JAX; of those that several processes may run.
JAX = ('cpu_devices', 'end_with_parent')
PROCESSES = (*JAX, 'distributed', 'coordinator', 'num_processes', 'process_id')
# By how much an evaluation differs from the run's own.
BOUNDS = ('max_augmentations', 'max_puzzles', 'batch_size', 'segments')
# How a task that was never trained on gets its rows.
FITTING = ('adapt', 'steps', 'seconds', 'num_aug', 'seed')


def define(*names: str, **defaults: Any) -> flags.FlagValues:
  """Makes the flags of a command, which may then define some of its own.

  Args:
    *names: shared flags that the command has; `config` and `workdir` must be
      given then.
    **defaults: flags with defaults that differ from those here.
  """
  own = flags.FlagValues()
  for name in dict.fromkeys((*names, *defaults)):
    kind, default, sentence, *bound = _SHARED[name]
    options = {'lower_bound': bound[0]} if bound else {}
    kind(
      name, defaults.get(name, default), sentence, flag_values=own, **options
    )
  for name in ('config', 'workdir'):
    if name in names:
      require(own, name, _EXAMPLES[name])
  return own


def require(own: flags.FlagValues, name: str, example: str) -> None:
  """Makes a flag one that must be given.

  Args:
    own: the flags of the command.
    name: of the flag.
    example: a value, shown where the flag is missing.
  """
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
  name: str, default: Any, sentence: str, flag_values: flags.FlagValues
) -> None:
  """Defines a flag whose value is a path."""
  flags.DEFINE(_PathParser(), name, default, sentence, flag_values)


def _adapt(
  name: str, default: str, sentence: str, flag_values: flags.FlagValues
) -> None:
  ways = ('rows', 'all', 'none')
  flags.DEFINE_enum(name, default, ways, sentence, flag_values)


class _PathParser(flags.ArgumentParser):
  """Reads a path."""

  def parse(self, argument: str) -> pathlib.Path:
    if not argument:
      raise ValueError('give a path')
    return pathlib.Path(argument)

  def flag_type(self) -> str:
    return 'path'


_SPEC = 'as a SPEC such as arc1:training, sudoku:box=2x2 or a path.'
_EXAMPLES = {'config': 'arc1:demo', 'workdir': 'runs/demo'}
_SHARED = {
  'config': (
    config_flag.define,
    None,
    'Experiment, which is the name of a config '
    f'({", ".join(config_flag.names())}) or the path of a Python file with a '
    'function get_config, with a variant after a colon as in arc1:demo. '
    '--config.KEY=VALUE changes one of its settings, as in '
    '--config.batch_size=64 or --config.model.hidden_size=256.',
  ),
  'workdir': (path, None, 'Directory of the training run.'),
  'step': (
    flags.DEFINE_integer,
    None,
    'Step of the checkpoint to read, the newest one if unset.',
  ),
  'runs': (
    flags.DEFINE_list,
    [],
    'Directories of training runs, separated by commas.',
  ),
  'data': (flags.DEFINE_string, '', f'Puzzles to draw, {_SPEC}'),
  'train': (flags.DEFINE_string, '', f'Puzzles that are trained on, {_SPEC}'),
  'evaluate': (flags.DEFINE_string, '', f'Puzzles that are held out, {_SPEC}'),
  'task': (flags.DEFINE_string, '', f'Puzzles to solve, {_SPEC}'),
  'canvas': (
    flags.DEFINE_integer,
    30,
    'Side of the canvas of ARC grids in cells; tasks with larger grids are '
    'left out.',
    1,
  ),
  'num_aug': (
    flags.DEFINE_integer,
    None,
    'Number of augmentations of each puzzle beside the puzzle itself.',
    0,
  ),
  'seed': (
    flags.DEFINE_integer,
    0,
    'Seed of all that this command draws at random.',
    0,
  ),
  'max_augmentations': (
    flags.DEFINE_integer,
    0,
    'Number of augmentations of each test input that are predicted, the input '
    'itself first; 0 stands for all.',
    0,
  ),
  'max_puzzles': (
    flags.DEFINE_integer,
    0,
    'Number of held-out puzzles that are predicted, spread evenly over the '
    'set; 0 stands for all.',
    0,
  ),
  'batch_size': (
    flags.DEFINE_integer,
    None,
    "Number of puzzles predicted at a time, the run's evaluation.batch_size "
    'if unset.',
    1,
  ),
  'segments': (
    flags.DEFINE_integer,
    None,
    "Greatest number of segments for each puzzle, the run's "
    'act.halt_max_steps if unset.',
    1,
  ),
  'adapt': (
    _adapt,
    'rows',
    'What is fitted to a task that was never trained on: new rows with the '
    'trunk frozen, new rows and a copy of the trunk, or nothing, which leaves '
    'the blank row.',
  ),
  'steps': (
    flags.DEFINE_integer,
    300,
    'Number of fitting steps for each new task.',
    1,
  ),
  'seconds': (
    flags.DEFINE_float,
    None,
    'Greatest time of fitting for each new task in seconds, unlimited if '
    'unset.',
    0,
  ),
  'cpu_devices': (
    flags.DEFINE_integer,
    None,
    'Number of devices that the CPU is split into, which share the batch; as '
    'many as there are cores make small models faster.',
    1,
  ),
  'end_with_parent': (
    flags.DEFINE_bool,
    False,
    'Ends this process with a SIGTERM when the process that started it ends '
    '(Linux alone), so that a notebook leaves nothing behind.',
  ),
  'distributed': (
    flags.DEFINE_bool,
    False,
    'Joins the other processes of this run, which find each other by '
    'themselves on Cloud TPU slices, under Slurm and under Open MPI.',
  ),
  'coordinator': (
    flags.DEFINE_string,
    None,
    'Address HOST:PORT of process 0 where the processes do not find each other '
    'by themselves; goes with --num_processes and --process_id.',
  ),
  'num_processes': (
    flags.DEFINE_integer,
    None,
    'Number of processes that take part in this run.',
  ),
  'process_id': (
    flags.DEFINE_integer,
    None,
    'Number of this process in the run, counted from 0.',
  ),
}
