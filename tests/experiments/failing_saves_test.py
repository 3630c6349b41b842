"""A save that fails ends the command with one line, whatever made it fail."""

import os
import socket
import subprocess
import sys

import pytest

from tests import devices

pytestmark = pytest.mark.slow

_TRAIN = """
import os, pathlib, shutil, sys
from experiments import train
from experiments.cli import command, launch
from hrm_jax.workdir.checkpoints import Checkpoints

workdir, number, kind = pathlib.Path(sys.argv.pop()), *sys.argv[-2:]
del sys.argv[-2:]
save, place = Checkpoints.save, workdir / 'checkpoints'

def fail(self, state, position):
  if int(state.step) == 4 and number == '0':
    if kind == 'permission':
      for parent in place.parents[:-2]:  # All below /tmp.
        parent.chmod(0o755)
      place.chmod(0o555)
      os.setuid(65534)
    elif kind == 'vanished':
      self.wait()
      shutil.rmtree(workdir)
    elif kind == 'no directory':
      self.wait()
      shutil.rmtree(place)
      place.write_text('')
    elif kind == 'full':
      free = shutil.disk_usage(workdir).free
      (workdir / 'others').write_bytes(b'x' * (free - 20_000))
      real = shutil.disk_usage
      shutil.disk_usage = lambda path: real(path)._replace(free=2**40)
  save(self, state, position)

Checkpoints.save = fail
command.run(train.main, train.FLAGS, launch.start)
"""


def _start(workdir, kind, number=0, *flags):
  return subprocess.Popen(
    [
      sys.executable, '-c', _TRAIN,
      '--config=sudoku:demo,direct',
      '--config.data.train=sudoku:box=2x2:count=20:tests=10',
      '--config.data.evaluate=sudoku:box=2x2:count=20:tests=10',
      '--config.data.num_aug=3',
      '--config.total_steps=8',
      '--config.checkpoint_every=2',
      '--config.evaluate_every=0',
      '--config.batch_size=16',
      '--config.model.hidden_size=16',
      '--config.model.num_heads=2',
      f'--workdir={workdir}',
      *flags, str(number), kind, workdir,
    ],
    env=os.environ | {'XLA_FLAGS': devices.xla_flags(1)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )  # fmt: skip


@pytest.mark.parametrize('kind', ['permission', 'vanished', 'no directory'])
def test_the_process_ends_with_one_line(tmp_path, generated, monkeypatch, kind):
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  if kind == 'permission' and os.getuid():
    pytest.skip('needs root, to become somebody who is not')
  _, told = _start(tmp_path / 'run', kind).communicate(timeout=120)
  assert 'error: ' in told.splitlines()[-1], told
  assert 'Traceback' not in told
  assert 'could not be written' in told or 'cannot be written' in told


def test_a_full_disk_ends_it_too(mount, generated, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  started = _start(mount('size=4m') / 'run', 'full')
  _, told = started.communicate(timeout=120)
  assert started.returncode == 2
  assert 'free some space' in told.splitlines()[-1]
  assert 'Traceback' not in told


def test_two_processes_end_together(tmp_path, generated, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(generated))
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  flags = (f'--coordinator=localhost:{port}', '--num_processes=2')
  started = [
    _start(tmp_path / 'run', 'permission', n, *flags, f'--process_id={n}')
    for n in range(2)
  ]
  told = [process.communicate(timeout=60)[1] for process in started]
  assert all(process.returncode for process in started)
  assert any('error: ' in text for text in told), told
