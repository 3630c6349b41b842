"""What CompressARC costs on devices that are not there."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from data_pipelines.arc.tasks import load_tasks
from experiments.planning import compressing
from hrm_jax.compressarc import solving
from hrm_jax.compressarc.solving import Plan
from tests.run_fixtures import random_task

_ROOT = pathlib.Path(__file__).parents[3]


def test_the_time_of_all_follows_from_some():
  """Where a step takes as long as it has positions, some are enough."""
  tasks = load_tasks('arc1:training').tasks
  how = Plan(num_steps=3600, batch_size=4)
  groups = solving.grouped(tasks, how, 2**36, 2)
  turns = {group: -(-len(group.found) // group.lanes) for group in groups}
  assert max(turns.values()) > 1
  volumes = sorted({group.volume for group in groups})[:: len(groups) // 3]
  volumes += [max(group.volume for group in groups)]
  seconds = [1e-6 * volume for volume in volumes]
  found = compressing._hours(groups, volumes, seconds, how)
  whole = sum(1e-6 * group.volume * turns[group] for group in groups)
  assert found == pytest.approx(whole, rel=1e-9)


@pytest.mark.slow
def test_programs_are_compiled_for_a_gpu_that_is_not_there(tmp_path):
  for name in 'ab':
    (tmp_path / f'{name}.json').write_text(json.dumps(random_task(1)))
  environment = dict(os.environ)
  # As at a user's: neither simulated devices nor a chosen platform.
  for name in ('XLA_FLAGS', 'JAX_PLATFORMS'):
    environment.pop(name, None)
  done = subprocess.run(
    [
      sys.executable, '-m', 'experiments.compile', f'--compress={tmp_path}',
      '--target=gpu:h100:2',
    ],
    cwd=_ROOT, env=environment, capture_output=True, text=True, check=True,
  )  # fmt: skip
  first, line, whole, last = done.stdout.splitlines()
  assert first == 'gpu:h100:2: 2 tasks; 1 of 1 programs to be compiled'
  assert '2 of 2 tasks at a time' in line and 'memory' in line
  assert 'hours at full rate' in whole
  fields = json.loads(last)
  (one,) = fields['compiled']
  assert one['fits'] and 0 < one['peak_bytes_per_device'] < 2**30
  step = one['seconds_per_step']
  assert fields['roofline_hours'] == pytest.approx(1500 * step / 3600)
