"""The commands as a user runs them: one clear line for each mistake."""

import json
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_DEMO = '--config=experiments/configs/arc1.py:demo'


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def _fails(*arguments):
  """The one line on standard error of a command that must fail."""
  done = _run(*arguments)
  assert done.returncode != 0
  assert done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  return line


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], '--config=FILE.py is missing'),
    ([_DEMO], '--workdir=DIR is missing'),
    (['--config=nope.py'], "No such file or directory: 'nope.py'"),
    (['--config=experiments/configs/arc1.py:big'], "variant 'big' is unknown"),
    ([_DEMO, '--config.data.canvs=3'], '"canvas" instead of "canvs"'),
    (
      [f'{_DEMO},direct', '--config.model.gradient=full'],
      "no setting 'gradient'",
    ),
    ([_DEMO, '--config.batch_size=many'], '--config.batch_size=many: invalid'),
    ([_DEMO, 'stray'], 'unexpected arguments: stray'),
    (
      [_DEMO, '--coordinator=localhost:1'],
      '--num_processes and --process_id go together',
    ),
    ([_DEMO, '--distributed'], 'did not find each other'),
    (
      [
        _DEMO,
        '--coordinator=host',
        '--num_processes=2',
        '--process_id=0',
      ],
      'must be HOST:PORT',
    ),
    (
      [
        _DEMO,
        '--coordinator=localhost:1',
        '--num_processes=2',
        '--process_id=2',
      ],
      '--process_id=2 must be from 0',
    ),
    (
      [_DEMO, '--workdir=x', '--config.model.attention=pallas'],
      "use 'auto'",
    ),
    ([_DEMO, '--workdir=x', '--config.mesh.tensor=3'], 'mesh.tensor=3'),
  ],
)
def test_train_mistakes_in_the_command_line(flags, message):
  assert message in _fails('experiments.train', *flags)


def test_train_names_the_file_and_leaves_no_workdir(tmp_path):
  tasks = tmp_path / 'tasks'
  tasks.mkdir()
  grid = [[1, 2], [3]]
  pair = {'input': grid, 'output': [[1]]}
  path = tasks / 'ragged.json'
  path.write_text(json.dumps({'train': [pair], 'test': [pair]}))
  workdir = tmp_path / 'run'
  line = _fails(
    'experiments.train',
    _DEMO,
    f'--config.data.evaluate={tasks}',
    f'--workdir={workdir}',
  )
  assert str(path) in line
  assert 'train' in line
  assert not workdir.exists()


def test_evaluate_of_a_directory_that_is_no_run(tmp_path):
  line = _fails('experiments.evaluate', f'--workdir={tmp_path}')
  assert 'no config.json' in line


def test_parity_command_prints_json_last_and_tells_by_its_exit_code():
  golden = _ROOT / 'tests' / 'golden' / 'hrm_no_puzzle.npz'
  done = _run('experiments.verify_parity', f'--golden={golden}')
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result['ok'] is True
  assert result['file'] == str(golden)
  assert result['worst']['final parameters'] <= 2e-6


def test_benchmark_that_does_not_exist():
  assert 'unknown: speed' in _fails('experiments.benchmark', 'speed')
