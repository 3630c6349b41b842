"""What solving tasks by CompressARC costs on devices that need not be there.

A set of tasks needs many programs. Some are compiled, the least and the largest
among them, and the time of the others follows from how much they train at a
time.
"""

import json
import math
from collections.abc import Sequence

import numpy as np

from data_pipelines.arc.tasks import TaskSet
from experiments.planning import cost
from experiments.planning.targets import Target
from hrm_jax.compressarc import solving
from hrm_jax.compressarc.solving import Group, Plan

_GIB = 2**30


def plan(
  tasks: TaskSet, how: Plan, target: Target, programs: int, attained: float
) -> bool:
  """Prints what tasks cost, and JSON as the last line.

  Args:
    tasks: as `solving.read` gives them.
    how: how they are compressed.
    target: the devices; there may be fewer tasks than these.
    programs: number of programs that are compiled.
    attained: fraction of the roofline that the projected time assumes.

  Returns:
    Whether all that was compiled fits.
  """
  on_cpus = target.devices[0].platform == 'cpu'
  memory = 0 if on_cpus else solving.room(int(target.hardware.memory))
  groups = solving.grouped(tasks.tasks, how, memory, len(target.devices))
  groups.sort(key=lambda group: group.volume)
  some = np.unique(np.linspace(0, len(groups) - 1, programs).astype(int))
  print(
    f'{target.name}: {len(tasks.tasks)} tasks; {len(some)} of {len(groups)} '
    'programs to be compiled'
  )
  told = []
  for group in (groups[i] for i in some):
    found = cost.of_program(
      group.lower(target.devices), group.mesh(target.devices), target
    )
    one = {
      'tasks': len(group.found), 'lanes': group.lanes, 'volume': group.volume,
      'fits': found.fits, 'peak_bytes_per_device': found.peak_bytes,
      'compile_seconds': found.compile_seconds, 'bound': found.bound,
      'seconds_per_step': found.seconds and found.seconds / solving.STEPS,
    }  # fmt: skip
    told.append(one)
    print(_line(one, target), flush=True)
  hours = None
  if all(one['seconds_per_step'] for one in told):
    seconds = [one['seconds_per_step'] for one in told]
    hours = _hours(groups, [one['volume'] for one in told], seconds, how)
    print(
      f'all tasks, {how.num_steps} steps each: {hours:.3g} hours at full rate, '
      f'{hours / attained:.3g} if {attained:.0%} of that is attained (an '
      'assumption); compilation not counted'
    )
  fields = {
    'target': target.name, 'devices': len(target.devices),
    'num_steps': how.num_steps, 'tasks': len(tasks.tasks),
    'programs': len(groups), 'compiled': told, 'roofline_hours': hours,
  }  # fmt: skip
  print(json.dumps(fields))
  return all(one['fits'] for one in told)


def _line(one: dict, target: Target) -> str:
  """What a person reads of a program that was compiled."""
  peak, memory = one['peak_bytes_per_device'], target.hardware.memory
  parts = [
    f'{min(one["lanes"], one["tasks"])} of {one["tasks"]} tasks at a time, of '
    f'{one["volume"]:,} array positions',
    f'{peak / _GIB:.2f} of {memory / _GIB:.2f} GiB a device',
    f'compiled in {one["compile_seconds"]:.0f} s',
  ]
  if step := one['seconds_per_step']:
    parts.append(
      f'a step of all of these {step:.3g} s at full rate, by {one["bound"]}'
    )
  if not one['fits']:
    parts.append('does not fit')
  return '; '.join(parts)


def _hours(
  groups: Sequence[Group], volumes: Sequence[int], seconds: Sequence[float],
  how: Plan,
) -> float:  # fmt: skip
  """The time of all, between the compiled ones in proportion of logarithms."""
  whole = 0.0
  for group in groups:
    step = math.exp(
      np.interp(math.log(group.volume), np.log(volumes), np.log(seconds))
    )
    turns = -(-len(group.found) // group.lanes)
    whole += how.num_steps * turns * step
  return whole / 3600
