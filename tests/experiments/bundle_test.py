"""A bundle is whole, and answers a contest's tasks without a network."""

import ensurepip
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import nbclient
import nbformat
import numpy as np
import packaging.tags
import pytest

import hrm_jax
from data_pipelines.errors import ConfigError
from experiments import bundle
from experiments.contest import solve, wheels
from tests.run_fixtures import random_task

_ROOT = pathlib.Path(__file__).parents[2]


def _wheel(folder, name, needs=(), version='1.0', files=None):
  """Writes a wheel of no package, with files beside; returns its path."""
  folder.mkdir(exist_ok=True)
  info = f'{name}-{version}.dist-info'
  files = {
    **(files or {}),
    f'{info}/METADATA': '\n'.join(
      ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}']
      + [f'Requires-Dist: {need}' for need in needs]
    ),
    f'{info}/WHEEL': 'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n'
    'Tag: py3-none-any\n',
  }
  record = [f'{file},,' for file in (*files, f'{info}/RECORD')]
  files[f'{info}/RECORD'] = '\n'.join(record) + '\n'
  path = folder / f'{name}-{version}-py3-none-any.whl'
  with zipfile.ZipFile(path, 'w') as archive:
    for file, text in files.items():
      archive.writestr(file, text)
  return path


def _offline(patch, folder):
  """An index of one folder, which has pip and what is built elsewhere."""
  _wheel(folder, 'promise', version='2.3')
  _wheel(folder, 'needed')
  for pip in (pathlib.Path(ensurepip.__file__).parent / '_bundled').iterdir():
    shutil.copy(pip, folder)
  patch.setenv('PIP_CONFIG_FILE', os.devnull)
  patch.setenv('PIP_NO_INDEX', '1')
  patch.setenv('PIP_FIND_LINKS', str(folder))
  return folder


@pytest.fixture
def index(tmp_path, monkeypatch):
  return _offline(monkeypatch, tmp_path / 'index')


@pytest.fixture
def refused(random_arc_run, tmp_path):
  """The one line of a bundle that is not made; nothing is left of it."""

  def run(**changes):
    given = dict(workdir=random_arc_run, out=tmp_path / 'outs' / 'out')
    with pytest.raises(ConfigError) as error:
      bundle.run(**(given | changes))
    assert not any(tmp_path.glob('outs/*'))
    assert '\n' not in str(error.value)
    return str(error.value)

  return run


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'python': '3.10'}, '--python_version=3.10 must be'),
    ({'python': '3.11.7'}, '--python_version=3.11.7 must be'),
    ({'platform': 'linux_x86_64'}, '--platform=linux_x86_64 must be manylinux'),
    ({'wheel': pathlib.Path('setup.py')}, '--wheel=setup.py: is no wheel'),
    ({'step': 3}, 'no checkpoint of step 3; there are 7'),
    ({'workdir': pathlib.Path('sudoku-6x6')}, 'have no rows of their own'),
  ],
)
def test_what_cannot_be_bundled_is_refused_at_the_door(
  refused, changes, message
):
  assert message in refused(**changes)


def test_a_directory_with_files_is_not_written_to(random_arc_run, tmp_path):
  (tmp_path / 'mine').touch()
  with pytest.raises(ConfigError, match='is there already; name a new'):
    bundle.run(random_arc_run, tmp_path)
  assert [path.name for path in tmp_path.iterdir()] == ['mine']


@pytest.mark.slow
def test_what_pip_does_not_find_is_named(refused, index, tmp_path):
  def without(*needs):
    return refused(wheel=_wheel(tmp_path, 'hrm_jax', needs))

  assert 'pip download: No matching distribution found for nowhere>=7;' in (
    without('nowhere>=7')
  )
  # The version that is installed here is not the one that there is.
  _wheel(index, 'numpy', version='1.0')
  told = without('numpy')
  here = f'installed here is numpy=={np.__version__}; name another --platform'
  assert f'pip download: hrm-jax 1.0 depends on numpy, {here}' in told
  (index / 'promise-2.3-py3-none-any.whl').unlink()
  assert 'pip wheel: promise, installed here is promise==2.3; ' in without()


def test_an_index_out_of_reach_is_told(refused, index, monkeypatch, tmp_path):
  monkeypatch.setenv('PIP_NO_INDEX', '0')
  monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
  monkeypatch.setenv('PIP_RETRIES', '1')
  told = refused(wheel=_wheel(tmp_path, 'hrm_jax', ['nowhere']))
  assert 'for nowhere; no package index could be reached: mend the' in told


def test_without_sources_a_wheel_is_asked_for(refused, monkeypatch, tmp_path):
  monkeypatch.setattr(wheels, '_ROOT', tmp_path)
  assert 'name that with --wheel=FILE' in refused()


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_wheels_for_older_platforms_are_taken_too():
  """As pip has them for the machine that it runs on, in its order."""
  minor = platform.libc_ver()[1].split('.')[1]
  ours = wheels.tags(f'manylinux_2_{minor}_{platform.machine()}')
  theirs = {tag.platform for tag in packaging.tags.sys_tags()}
  assert {*ours} == {name for name in theirs if name.startswith('manylinux')}
  assert ours[0] == f'manylinux_2_{minor}_{platform.machine()}'


@pytest.fixture(scope='module')
def made(random_arc_run, tmp_path_factory):
  """A bundle whose wheel brings the packages of this environment."""
  root = tmp_path_factory.mktemp('made')
  here = [str(_ROOT), sysconfig.get_path('purelib')]
  ours = _wheel(
    root, 'hrm_jax', ['needed'], files={'here.pth': '\n'.join(here)}
  )
  with pytest.MonkeyPatch.context() as patch:
    _offline(patch, root / 'index')
    bundle.run(random_arc_run, root / 'bundle', wheel=ours)
  return root / 'bundle'


def test_it_has_the_checkpoint_and_all_that_is_needed(made, random_arc_run):
  assert {path.name for path in made.iterdir()} == {
    'README.md', 'bundle.json', 'checkpoint', 'solve.ipynb', 'solve.py',
    'wheels',
  }  # fmt: skip
  found = {path.name.split('-')[0] for path in (made / 'wheels').iterdir()}
  assert found == {'hrm_jax', 'needed', 'pip', 'promise'}
  packed, run = hrm_jax.load(made / 'checkpoint'), hrm_jax.load(random_arc_run)
  assert (packed.step, packed.canvas) == (7, 4)
  # Rows of the tasks themselves; those of augmentations stay behind.
  assert packed.names == [n for n in run.names if n in ('<blank>', 'a', 'b')]


@pytest.fixture
def tasks(tmp_path):
  """A contest's file: tasks that fit, one that does not, and no task."""
  made = {name: random_task(i, known=False) for i, name in enumerate('cdefg')}
  path = tmp_path / 'arc-agi_test_challenges.json'
  path.write_text(
    json.dumps({'large': random_task(9, width=9), 'odd': 3, **made})
  )
  return path


def _solve(made, folder, *flags, rerun=False):
  """Runs the script without a network, where this user may cut it off."""
  cut = ['unshare', '--map-root-user', '--net']
  if (
    shutil.which('unshare') is None or subprocess.run([*cut, 'true']).returncode
  ):
    cut = []
  variables = {name: x for name, x in os.environ.items() if name != solve.RERUN}
  return subprocess.run(
    [
      *cut, sys.executable, made / 'solve.py', f'--environment={folder}/env',
      f'--out={folder}/submission.json', *flags,
    ],
    env=variables | ({solve.RERUN: '1'} if rerun else {}),
    capture_output=True, text=True, check=False,
  )  # fmt: skip


def _fallbacks(tasks):
  return {
    name: [
      {'attempt_1': test['input'], 'attempt_2': test['input']}
      for test in (task['test'] if task != 3 else [{'input': [[0]]}])
    ]
    for name, task in json.loads(tasks.read_text()).items()
  }


@pytest.mark.slow
def test_a_rehearsal_answers_a_few_tasks_and_the_rerun_all(
  made, tasks, tmp_path
):
  def ends(run, **how):
    done = _solve(
      made, tmp_path, f'--challenges={tasks}', f'--run={tmp_path / run}',
      '--steps=2', '--num_aug=3', '--tasks=2', **how,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, theirs = (
      json.loads(path.read_text())
      for path in (
        tmp_path / 'submission.json',
        tmp_path / run / 'predictions/submission.json',
      )
    )
    return found, theirs, done.stdout

  fallbacks = _fallbacks(tasks)
  found, theirs, said = ends('rehearsal')
  assert theirs.keys() == {'c', 'e'}
  assert [*found] == [*fallbacks]
  assert found == fallbacks | theirs
  assert found['c'] != fallbacks['c']
  assert 'A rehearsal: 2 of 7 tasks' in said
  installed = (tmp_path / 'env/installed').stat().st_mtime_ns
  found, theirs, said = ends('all', rerun=True)
  assert [*found] == [*fallbacks]
  assert found == theirs
  assert 'All: 7 of 7 tasks' in said
  assert 'predictions for 5 of 7 tests' in said
  # What was installed is used again.
  assert (tmp_path / 'env/installed').stat().st_mtime_ns == installed


@pytest.mark.slow
def test_a_failure_leaves_an_answer_to_each_task(made, tasks, tmp_path):
  def fails(*flags):
    done = _solve(broken, tmp_path, f'--challenges={tasks}', *flags)
    assert done.returncode == 2, done.stdout
    told = json.loads((tmp_path / 'submission.json').read_text())
    assert told == _fallbacks(tasks)
    return done.stderr

  broken = shutil.copytree(made, tmp_path / 'broken')
  (broken / 'wheels' / 'needed-1.0-py3-none-any.whl').unlink()
  errors = fails()
  assert 'No matching distribution found for needed' in errors
  assert errors.splitlines()[-1].endswith('failed, see above')
  assert 'the time was over before all was installed' in fails('--seconds=0')
  facts = json.loads((broken / 'bundle.json').read_text())
  (broken / 'bundle.json').write_text(json.dumps(facts | {'python': '3.2'}))
  assert 'error: the wheels are for Python 3.2, and this is 3.' in fails()


def test_without_tasks_one_line_tells(made, tmp_path):
  def error(*flags):
    done = _solve(made, tmp_path, *flags)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    return line

  path = tmp_path / 'x.json'
  assert f'{path}: cannot be read' in error(f'--challenges={path}')
  path.write_text('[]')
  assert 'must be an object' in error(f'--challenges={path}')
  assert 'name one with --challenges' in error()


@pytest.mark.slow
def test_the_notebook_runs_the_script(made, tasks, tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  read = nbformat.read(made / 'solve.ipynb', as_version=4)
  (given,) = (cell for cell in read.cells if cell.id == 'parameters')
  given.source += (
    f'\nTASKS, BUNDLE, CHALLENGES = 1, {str(made)!r}, {str(tasks)!r}'
    "\nFLAGS, OUT = '--steps=1 --num_aug=1', 'answers.json'"
  )
  nbclient.NotebookClient(
    read, timeout=120, resources={'metadata': {'path': str(tmp_path)}}
  ).execute()
  told, shown = (
    ''.join(out.text for out in cell.outputs) for cell in read.cells[-2:]
  )
  assert '7 tasks, 1 of them from this run' in told
  assert shown == 'answers.json: 7 tasks, 7 tests\n'
  found = json.loads((tmp_path / 'answers.json').read_text())
  assert found.keys() == _fallbacks(tasks).keys()
