"""The notebooks: run in a real kernel at tiny size, and clean as committed."""

import json
import pathlib
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest

from tests import devices

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_FOLDER = _ROOT / 'experiments' / 'notebooks'
_COLAB = _FOLDER / 'hrm_colab.ipynb'
_INSIDE = _FOLDER / 'hrm_from_inside.ipynb'
_CONTEST = _ROOT / 'experiments' / 'contest' / 'solve.ipynb'
_MOST_BYTES = 300_000
# The system that compiles fastest of those with segments, and one task with as
# many rows as the own puzzle gets: the same programs predict both.
_CONFIG = 'arc1:demo,recurrent_transformer'
_TINY = {
  'data.canvas': 4,
  'data.num_aug': 2,
  'batch_size': 8,
  'model.hidden_size': 16,
  'model.num_heads': 2,
  'model.puzzle_emb_ndim': 16,
  'model.layers': 1,
  'evaluation.batch_size': 8,
}
_TASK = {
  'train': [{'input': [[1, 0], [2, 0]], 'output': [[0, 1], [0, 2]]}],
  'test': [{'input': [[3, 0], [4, 5]], 'output': [[0, 3], [5, 4]]}],
}
_STEPS = 10


def _code(read):
  return [cell for cell in read.cells if cell.cell_type == 'code']


def _execute(path, parameters):
  """Runs a notebook as Jupyter would, and returns its cells by id."""
  read = nbformat.read(path, as_version=4)
  (tagged,) = (
    cell for cell in read.cells if 'parameters' in cell.metadata.get('tags', ())
  )
  lines = [f'{name} = {value!r}' for name, value in parameters.items()]
  tagged.source = '\n'.join([tagged.source, *lines])
  client = nbclient.NotebookClient(
    read, timeout=240, resources={'metadata': {'path': str(_FOLDER)}}
  )
  with pytest.MonkeyPatch.context() as patch:
    # As in a notebook.
    patch.setenv('XLA_FLAGS', devices.xla_flags(1))
    client.execute()
  return {cell.id: cell for cell in read.cells}


def _text(cell):
  """All that a cell shows as text."""
  return ''.join(
    output.get('text', '') or output.get('data', {}).get('text/plain', '')
    for output in cell.outputs
  )


def _kinds(cell):
  return {kind for out in cell.outputs for kind in out.get('data', ())}


@pytest.fixture(scope='module')
def colab(tmp_path_factory):
  """The first notebook after it ran, by cell id, and its run's directory."""
  root = tmp_path_factory.mktemp('colab')
  workdir, task = root / 'run', root / 'task.json'
  task.write_text(json.dumps(_TASK))
  settings = {**_TINY, 'data.evaluate': task}
  parameters = {
    'CONFIG': _CONFIG,
    'WORKDIR': str(workdir),
    'STEPS': _STEPS,
    'SETTINGS': ' '.join(f'--config.{k}={v}' for k, v in settings.items()),
    'FITTING_STEPS': 2,
  }
  return _execute(_COLAB, parameters), workdir


def test_it_writes_scores_an_analysis_and_a_report(colab):
  _, workdir = colab
  scores = json.loads(
    (workdir / 'evaluation' / f'step_{_STEPS}' / 'scores.json').read_text()
  )
  assert 0 <= scores['eval/pass@2/outputs'] <= 1
  analysis = workdir / 'analysis' / f'step_{_STEPS}' / 'segments.json'
  assert json.loads(analysis.read_text())['analysis'] == 'segments'
  report = workdir / 'report' / f'step_{_STEPS}.html'
  assert report.read_text().startswith('<!DOCTYPE html>')


def test_it_restores_the_first_half_and_continues(colab):
  cells, workdir = colab
  half = _STEPS // 2
  assert f'Step {half} is saved' in _text(cells['train'])
  assert f'Step {_STEPS} is saved' in _text(cells['restore'])
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  trained = [line for line in map(json.loads, lines) if 'loss' in line]
  assert [line['step'] for line in trained] == list(range(1, _STEPS + 1))


def test_it_shows_curves_scores_and_an_answer_as_it_forms(colab):
  cells, _ = colab
  for name in ('curves', 'restore', 'evaluate', 'analyze', 'trace'):
    assert 'image/png' in _kinds(cells[name]), name
  assert f'Scores of step {_STEPS}' in _text(cells['evaluate'])
  assert re.search(r'of 31 votes; right: (True|False)\n', _text(cells['own']))
  assert 'image/gif' in _kinds(cells['gif'])


def test_its_model_is_on_a_page_in_the_notebook(colab):
  cells, workdir = colab
  assert 'Written to' in _text(cells['page'])
  assert json.loads((workdir / 'page' / 'models.json').read_text()) == ['run']
  (frame,) = (
    out.data['text/html']
    for out in cells['page'].outputs
    if 'text/html' in out.get('data', ())
  )
  assert re.search(r'src="http://localhost:\d+/index.html', frame)


@pytest.fixture(scope='module')
def inside(tmp_path_factory):
  """The cells of the second notebook after it ran, by id."""
  workdir = tmp_path_factory.mktemp('inside')
  return _execute(_INSIDE, {'WORKDIR': str(workdir), 'STEPS': 2})


def test_from_inside_no_gradient_reaches_what_it_says(inside):
  before, into_x = _text(inside['gradient']).splitlines()
  assert before == 'into the segment before: 0.0 0.0'
  assert float(into_x.split()[-1]) > 0
  largest, difference = (
    float(line.split()[-1]) for line in _text(inside['by-hand']).splitlines()
  )
  assert difference < 1e-5 * largest
  for line in _text(inside['full']).splitlines():
    assert float(line.split()[-1]) < 0.999


def test_from_inside_rows_halt_and_a_task_is_answered(inside):
  *_, last, _ = _text(inside['carry']).splitlines()
  assert last == 'segments [3 3 3 1 1 1 1 1] halted [1 1 1 0 0 0 0 0]'
  assert 'Trained for 2 steps' in _text(inside['train'])
  assert 'of 20 right' in _text(inside['solve'])
  assert 'image/png' in _kinds(inside['trace'])


@pytest.mark.parametrize('path', [_COLAB, _INSIDE], ids=lambda path: path.stem)
def test_elsewhere_it_asks_for_the_repository(tmp_path, path):
  # As on Colab: no clone around it, and no package installed.
  (set_up,) = (
    cell
    for cell in _code(nbformat.read(path, as_version=4))
    if cell.id == 'set-up'
  )
  # `%pip` is no Python; nothing comes to it.
  source = re.sub('%pip.*', 'raise AssertionError', set_up.source)
  done = subprocess.run(
    [sys.executable, '-IS', '-c', source],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    check=False,
  )
  *_, last = done.stderr.splitlines()
  assert last.startswith('ValueError: Set REPOSITORY in this cell')


@pytest.mark.parametrize(
  'path', [_COLAB, _INSIDE, _CONTEST], ids=lambda path: path.stem
)
def test_the_committed_file_is_clean(path):
  text = path.read_text()
  read = nbformat.reads(text, as_version=4)
  nbformat.validate(read)
  assert len(text) < _MOST_BYTES
  assert read.metadata.kernelspec.name == 'python3'
  # Paths of the machine that it ran on.
  assert not re.search(r'(?<![\w.:/])/(root|home|tmp|content|Users)/', text)
  # Outputs are of one run of these cells, or there are none.
  counts = [cell.execution_count for cell in _code(read)]
  assert counts in ([None] * len(counts), [*range(1, len(counts) + 1)])
  for cell in _code(read):
    assert all(out.output_type != 'error' for out in cell.outputs)
  for check in (['check'], ['format', '--check']):
    done = subprocess.run(
      [sys.executable, '-m', 'ruff', *check, path],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    assert done.returncode == 0, done.stdout
  for cell in read.cells:
    if cell.cell_type == 'markdown':
      for link in re.findall(r'\]\((?!https?:)([^)#]+)', cell.source):
        assert (_FOLDER / link).exists(), link
