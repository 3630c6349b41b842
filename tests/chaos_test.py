"""A run that is disturbed in five ways ends as one in peace: see chaos.py."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import devices

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[1]


# A seed by which each kind comes once, and each phase: signals in training and
# compiling, a kill in an evaluation, a full disk in a save.
@pytest.mark.parametrize(
  ('events', 'flags'),
  [
    (5, ['--seed=576']),
    (2, ['--bucket', '--processes=2', '--kinds=kill']),
  ],
  ids=['disk', 'bucket'],
)
def test_a_disturbed_run_ends_as_one_in_peace(tmp_path, events, flags):
  done = subprocess.run(
    [
      sys.executable, '-m', 'tests.chaos', f'--events={events}', '--nocold',
      f'--workdir={tmp_path / "chaos"}', *flags,
    ],
    cwd=_ROOT,
    env=os.environ | {'XLA_FLAGS': devices.xla_flags(1)},
    capture_output=True,
    text=True,
    timeout=600,
  )  # fmt: skip
  assert done.returncode == 0, done.stdout + done.stderr
  assert 'The same to the last bit' in done.stdout
  assert f'{events}/{events}' in done.stdout
