"""Two real processes on one machine do what one does."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from experiments import evaluate
from experiments.configs import arc1
from hrm_jax.parallel import preemption
from hrm_jax.workdir import checkpoints
from tests import builders, devices
from tests.run_fixtures import random_task

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_STEPS = 10
_SETTINGS = {
  'data.num_aug': 5,
  'batch_size': 32,
  'model.hidden_size': 32,
  'model.num_heads': 2,
  'model.H_layers': 1,
  'model.L_layers': 1,
  'stop_at_step': _STEPS,
  'log_every': 1,
  # The second process must find the checkpoint and the position of both.
  'checkpoint_every': 5,
  'evaluate_every': _STEPS,
  'evaluation.batch_size': 64,
  # Also parameters that lie in one process or the other.
  'mesh.fsdp': 2,
}
_TRAIN = (
  'experiments.train',
  '--config=experiments/configs/arc1.py:demo',
  *(f'--config.{name}={value}' for name, value in _SETTINGS.items()),
)


def _by_flags(number, port):
  """The flags and environment by which a process joins the other."""
  return [
    f'--coordinator=localhost:{port}',
    '--num_processes=2',
    f'--process_id={number}',
  ], {}


def _by_slurm(number, port):
  """As `srun` would start it: JAX takes a port above 61440 by the job's id."""
  return ['--distributed'], {
    'SLURM_JOB_ID': str(port - 61440),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_STEP_NUM_NODES': '1',
    'SLURM_NTASKS': '2',
    'SLURM_PROCID': str(number),
    'SLURM_LOCALID': str(number),
  }


def _start(join, *arguments):
  """Starts a command in two processes, of four devices together."""
  for port in range(61440 + os.getpid() % 4000, 65536):
    with socket.socket() as probe, contextlib.suppress(OSError):
      probe.bind(('localhost', port))
      break
  started = []
  for number in range(2):
    flags, variables = join(number, port)
    started.append(
      subprocess.Popen(
        [sys.executable, '-m', *arguments, *flags],
        cwd=_ROOT,
        env=os.environ | {'XLA_FLAGS': devices.xla_flags(2)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  return started


def _end(started, code=0):
  """What they printed, once they have ended."""
  outputs = [process.communicate(timeout=300)[0] for process in started]
  for process, output in zip(started, outputs, strict=True):
    assert process.returncode == code, output
  return outputs


def _run(*arguments):
  return _end(_start(*arguments))


@pytest.fixture(scope='module')
def one(tmp_path_factory):
  """The workdir of this process alone, trained and evaluated."""
  workdir = tmp_path_factory.mktemp('one')
  config = arc1.get_config('demo')
  config.update_from_flattened_dict(_SETTINGS)
  builders.train(config, workdir)
  evaluate.run(workdir)
  return workdir


@pytest.fixture(scope='module')
def two(tmp_path_factory):
  """The workdir of two processes, and what each of them printed."""
  workdir = tmp_path_factory.mktemp('two')
  trained = _run(_by_flags, *_TRAIN, f'--workdir={workdir}')
  evaluated = _run(_by_slurm, 'experiments.evaluate', f'--workdir={workdir}')
  return workdir, trained, evaluated


def _lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_two_processes_train_as_one_does(one, two):
  expected, found = _lines(one), _lines(two[0])
  assert [line['step'] for line in found] == [*range(1, _STEPS + 1), _STEPS]
  assert found[0]['loss'] == pytest.approx(expected[0]['loss'], rel=1e-6)
  for ours, theirs in zip(found, expected, strict=True):
    # Sums over rows in another order; the held-out scores are equal.
    assert ours == pytest.approx(theirs, rel=1e-4), ours['step']
  assert found[-1] == expected[-1]


def test_two_processes_evaluate_as_one_does(one, two):
  for name in ('submission.json', 'scores.json', 'predictions.json'):
    expected, found = (
      json.loads((workdir / 'evaluation' / f'step_{_STEPS}' / name).read_text())
      for workdir in (one, two[0])
    )
    if name == 'scores.json':
      assert found.pop('seconds') > 0 < expected.pop('seconds')
    assert _rounded(found) == _rounded(expected), name


def _rounded(item):
  """Without the last digits of confidences."""
  if isinstance(item, dict):
    return {key: _rounded(value) for key, value in item.items()}
  if isinstance(item, list):
    return [_rounded(value) for value in item]
  return pytest.approx(item, rel=1e-4) if isinstance(item, float) else item


def test_the_first_process_alone_speaks(two):
  _, trained, evaluated = two
  assert '4 × cpu (data=2, fsdp=2, 2 processes)' in trained[0]
  assert 'step 1/' in trained[0]
  assert f'Scores of step {_STEPS}' in evaluated[0]
  for second in (trained[1], evaluated[1]):
    assert not [
      line for line in second.splitlines() if 'step' in line or 'pass@' in line
    ]


def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(tmp_path):
  # Along fsdp two processes do not always sum in the same order.
  command = (_by_flags, *_TRAIN, '--config.mesh.fsdp=1')
  peace, disturbed = tmp_path / 'peace', tmp_path / 'disturbed'
  _run(*command, f'--workdir={peace}')
  started = _start(*command, f'--workdir={disturbed}')
  seen = iter(started[0].stdout.readline, '')
  assert any('step 2/' in line for line in seen)
  # The second process: what it is told, the first has to hear.
  started[1].send_signal(signal.SIGTERM)
  first, _ = _end(started, code=preemption.EXIT_CODE)
  assert 'the same command goes on from there' in first
  assert 2 < max(checkpoints.Checkpoints(disturbed).steps()) < _STEPS
  _run(*command, f'--workdir={disturbed}')
  expected, found = (
    (workdir / 'metrics.jsonl').read_text() for workdir in (peace, disturbed)
  )
  assert found == expected


@pytest.mark.parametrize('dead', [0, 1])
def test_where_one_dies_the_other_ends(tmp_path, dead):
  started = _start(_by_flags, *_TRAIN, f'--workdir={tmp_path / "run"}')
  seen = iter(started[0].stdout.readline, '')
  assert any('step 2/' in line for line in seen)
  started[dead].kill()
  other = started[1 - dead]
  told, _ = other.communicate(timeout=120)
  started[dead].communicate()
  # Either the step notices, or first JAX's own thread, which aborts.
  assert other.returncode in (2, -signal.SIGABRT)
  if other.returncode == 2:
    assert 'error: another process of this run cannot be reached' in told
    assert 'Traceback' not in told


def test_two_processes_share_the_tasks_that_are_compressed(tmp_path):
  tasks = tmp_path / 'tasks'
  tasks.mkdir()
  # Of two sizes, and so two groups.
  for name, width in (('a', 3), ('b', 6)):
    path = tasks / f'{name}.json'
    path.write_text(json.dumps(random_task(1, width)))
  alone, shared = tmp_path / 'alone', tmp_path / 'shared'
  command = 'experiments.compress', f'--task={tasks}', '--steps=25'
  # Of as many devices as each of the two has: then nothing may differ.
  subprocess.run(
    [sys.executable, '-m', *command, f'--out={alone}'],
    cwd=_ROOT, env=os.environ | {'XLA_FLAGS': devices.xla_flags(2)}, check=True,
  )  # fmt: skip
  first, second = _run(_by_flags, *command, f'--out={shared}')
  assert 'a, test 1 of 1' in first and 'b, test 1 of 1' in first
  assert 'test 1 of 1' not in second
  for name in ('submission.json', 'predictions.json'):
    assert (shared / name).read_bytes() == (alone / name).read_bytes()
  expected, found = (
    json.loads((out / 'scores.json').read_text())['tasks']
    for out in (alone, shared)
  )
  assert found == expected
  # All of it is kept, and both hear why it cannot go on otherwise.
  assert {path.name for path in (shared / 'work').iterdir()} == {
    'work.json', 'group_0.npz', 'group_1.npz',
  }  # fmt: skip
  command = *command[:-1], '--steps=50', f'--out={shared}'
  started = _start(_by_flags, *command)
  first, second = _end(started, code=2)
  assert 'has work with other num_steps 50, not 25' in first
  assert 'stopped: process 0 says why' in second


def test_two_processes_adapt_as_one_does(one, tmp_path):
  tasks = tmp_path / 'tasks'
  tasks.mkdir()
  for seed, name in enumerate('ab'):
    (tasks / f'{name}.json').write_text(json.dumps(random_task(seed)))
  alone, shared = tmp_path / 'alone', tmp_path / 'shared'
  command = (
    'experiments.adapt', f'--workdir={one}', f'--task={tasks}', '--steps=8',
    '--rows_first=0.5', '--num_aug=3',
  )  # fmt: skip
  subprocess.run(
    [sys.executable, '-m', *command, f'--out={alone}'],
    cwd=_ROOT, env=os.environ | {'XLA_FLAGS': devices.xla_flags(4)}, check=True,
  )  # fmt: skip
  started = _start(_by_flags, *command, f'--out={shared}')
  seen = iter(started[0].stdout.readline, '')
  assert any('step 2/' in line for line in seen)
  # The second process: it ends in the training, and both know that.
  started[1].send_signal(signal.SIGTERM)
  _end(started, code=preemption.EXIT_CODE)
  assert 2 < max(checkpoints.Checkpoints(shared).steps()) < 8
  first, second = _run(_by_flags, *command, f'--out={shared}')
  assert 'predictions for 2 of 2 tests' in first and 'test 1 of 1' in first
  assert 'test' not in second
  for name in ('submission', 'predictions', 'tasks'):
    expected, found = (
      json.loads((run / f'predictions/{name}.json').read_text())
      for run in (alone, shared)
    )
    assert _rounded(found) == _rounded(expected), name
