"""Two real processes on one machine do what one does, by the commands."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from hrm_jax import checkpoints, preemption

_ROOT = pathlib.Path(__file__).parents[2]
_STEPS = 20
_TRAIN = (
  'experiments.train',
  '--config=experiments/configs/arc1.py:demo',
  '--config.data.num_aug=5',
  '--config.batch_size=32',
  '--config.model.hidden_size=32',
  '--config.model.num_heads=2',
  '--config.model.H_layers=1',
  '--config.model.L_layers=1',
  f'--config.stop_at_step={_STEPS}',
  '--config.log_every=1',
  # The second process must find the checkpoint and the position of both.
  '--config.checkpoint_every=10',
  f'--config.evaluate_every={_STEPS}',
  '--config.evaluation.batch_size=64',
  # Also parameters that lie in one process or the other.
  '--config.mesh.fsdp=2',
)


def _by_flags(number, processes, port):
  """The flags and environment by which a process joins the others."""
  return [
    f'--coordinator=localhost:{port}',
    f'--num_processes={processes}',
    f'--process_id={number}',
  ], {}


def _by_slurm(number, processes, port):
  """As `srun` would start it: JAX takes a port above 61440 by the job's id."""
  return ['--distributed'], {
    'SLURM_JOB_ID': str(port - 61440),
    'SLURM_STEP_NODELIST': 'localhost',
    'SLURM_STEP_NUM_NODES': '1',
    'SLURM_NTASKS': str(processes),
    'SLURM_PROCID': str(number),
    'SLURM_LOCALID': str(number),
  }


def _start(processes, join, *arguments):
  """Starts a command in so many processes, of eight devices together."""
  for port in range(61440 + os.getpid() % 4000, 65536):
    with socket.socket() as probe, contextlib.suppress(OSError):
      probe.bind(('localhost', port))
      break
  devices = 8 // processes
  started = []
  for number in range(processes):
    flags, variables = join(number, processes, port)
    started.append(
      subprocess.Popen(
        [sys.executable, '-m', *arguments, *(flags if processes > 1 else [])],
        cwd=_ROOT,
        # The last flag of a name holds.
        env=os.environ
        | {
          'XLA_FLAGS': os.environ['XLA_FLAGS']
          + f' --xla_force_host_platform_device_count={devices}'
        }
        | (variables if processes > 1 else {}),
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
def runs(tmp_path_factory):
  """Workdir and outputs of training and evaluation, by processes."""
  found = {}
  for processes in (1, 2):
    workdir = tmp_path_factory.mktemp(f'processes_{processes}')
    trained = _run(processes, _by_flags, *_TRAIN, f'--workdir={workdir}')
    evaluated = _run(
      processes, _by_slurm, 'experiments.evaluate', f'--workdir={workdir}'
    )
    found[processes] = workdir, trained, evaluated
  return found


def _lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [json.loads(line) for line in text.splitlines()]


def test_two_processes_train_as_one_does(runs):
  one, two = (_lines(runs[processes][0]) for processes in (1, 2))
  assert [line['step'] for line in two] == [*range(1, _STEPS + 1), _STEPS]
  assert two[0]['loss'] == pytest.approx(one[0]['loss'], rel=1e-6)
  for ours, theirs in zip(two, one, strict=True):
    # Sums over rows in another order; the held-out scores are equal.
    assert ours == pytest.approx(theirs, rel=1e-4), ours['step']
  assert two[-1] == one[-1]


def test_two_processes_evaluate_as_one_does(runs):
  for name in ('submission.json', 'scores.json', 'predictions.json'):
    one, two = (
      json.loads(
        (runs[n][0] / 'evaluation' / f'step_{_STEPS}' / name).read_text()
      )
      for n in (1, 2)
    )
    assert _rounded(two) == _rounded(one), name


def _rounded(item):
  """Without the last digits of confidences."""
  if isinstance(item, dict):
    return {key: _rounded(value) for key, value in item.items()}
  if isinstance(item, list):
    return [_rounded(value) for value in item]
  return pytest.approx(item, rel=1e-4) if isinstance(item, float) else item


def test_the_first_process_alone_speaks(runs):
  _, trained, evaluated = runs[2]
  assert '8 × cpu (data=4, fsdp=2, 2 processes)' in trained[0]
  assert 'step 1/' in trained[0]
  assert 'Scores of step 20' in evaluated[0]
  for second in (trained[1], evaluated[1]):
    assert not [
      line for line in second.splitlines() if 'step' in line or 'pass@' in line
    ]


def test_a_signal_to_one_process_stops_both_and_nothing_is_lost(tmp_path):
  # Along fsdp two processes do not always sum in the same order.
  command = (2, _by_flags, *_TRAIN, '--config.mesh.fsdp=1')
  peace, disturbed = tmp_path / 'peace', tmp_path / 'disturbed'
  _run(*command, f'--workdir={peace}')
  started = _start(*command, f'--workdir={disturbed}')
  seen = iter(started[0].stdout.readline, '')
  assert any('step 5/' in line for line in seen)
  # The second process: what it is told, the first has to hear.
  started[1].send_signal(signal.SIGTERM)
  first, _ = _end(started, code=preemption.EXIT_CODE)
  assert 'the same command goes on from there' in first
  assert 5 < max(checkpoints.Checkpoints(disturbed).steps()) < _STEPS
  _run(*command, f'--workdir={disturbed}')
  expected, found = (
    (workdir / 'metrics.jsonl').read_text() for workdir in (peace, disturbed)
  )
  assert found == expected
