"""Answers a contest's ARC tasks on a machine without a network.

This is solve.py of a bundle that `hrm-jax bundle` has made; it needs nothing
but the Python that the bundle was made for. It installs the bundle's wheels
into an environment of its own, runs `hrm-jax adapt` there, and copies the
answers to --out as they come. That file has an answer to each test of each task
from the first second on: at first the test input itself.

Outside of the contest's rerun, where KAGGLE_IS_COMPETITION_RERUN is not set,
this is a rehearsal on a few tasks. Flags of `hrm-jax adapt` may follow those
below, such as --num_aug=30.
"""

import argparse
import contextlib
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any, NoReturn

_BUNDLE = pathlib.Path(__file__).resolve().parent
_CHALLENGES = '/kaggle/input/**/arc-agi_test[-_]challenges.json'
RERUN = 'KAGGLE_IS_COMPETITION_RERUN'
# How often answers are copied, and what is kept for the last copy, in seconds.
_EVERY, _LAST = 10.0, 5.0

Tasks = dict[str, Any]


def main() -> int:
  begun = time.monotonic()
  facts = json.loads((_BUNDLE / 'bundle.json').read_text())
  given, further = _parser().parse_known_args()
  challenges = given.challenges or _found()
  tasks = _read(challenges)
  out = given.out.absolute()
  answers = Answers(tasks, out)
  rehearsal = RERUN not in os.environ and given.tasks > 0
  asked, seconds = tasks, given.seconds
  if rehearsal:
    asked = _some(tasks, given.tasks, facts['canvas'])
    seconds = min(seconds, given.rehearsal_seconds)
  print(
    f'{"A rehearsal" if rehearsal else "All"}: {len(asked)} of {len(tasks)} '
    f'tasks, {seconds:.0f} s; {facts["source"]}, step {facts["step"]}',
    flush=True,
  )
  end = begun + seconds - _LAST
  python = install(given.environment.absolute(), facts, end)
  print(f'Installed after {time.monotonic() - begun:.0f} s', flush=True)
  with contextlib.ExitStack() as stack:
    run = given.run and given.run.absolute()
    if run is None:
      run = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    asked_file = _write_asked(run, asked, challenges)
    code = _adapt(python, run, asked_file, answers, end, further)
  print(
    f'{out}: {len(tasks)} tasks, {len(answers.copied)} of them from this run, '
    f'after {time.monotonic() - begun:.0f} s'
    + (f'; hrm-jax adapt failed with exit code {code}' if code else '')
  )
  return code


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    '--challenges', type=pathlib.Path, metavar='FILE',
    help="tasks in the contest's form (by default arc-agi_test_challenges.json "
    'where it is in /kaggle/input)',
  )  # fmt: skip
  parser.add_argument(
    '--out', type=pathlib.Path, metavar='FILE', default='submission.json',
    help='answers to write (default: %(default)s)',
  )  # fmt: skip
  parser.add_argument(
    '--seconds', type=float, default=39600.0, metavar='S',
    help='time for everything, this start included (default: %(default).0f)',
  )  # fmt: skip
  parser.add_argument(
    '--tasks', type=int, default=3, metavar='N',
    help='number of tasks of a rehearsal; 0 for all of them, and in all of the '
    'time (default: %(default)s)',
  )  # fmt: skip
  parser.add_argument(
    '--rehearsal_seconds', type=float, default=600.0, metavar='S',
    help='time for a rehearsal (default: %(default).0f)',
  )  # fmt: skip
  parser.add_argument(
    '--environment', type=pathlib.Path, metavar='DIR',
    default=pathlib.Path.home() / '.cache' / 'hrm_jax' / 'contest',
    help='directory to install into, which is used again the next time '
    '(default: %(default)s)',
  )  # fmt: skip
  parser.add_argument(
    '--run', type=pathlib.Path, metavar='DIR',
    help='directory of the run, with which the same command goes on when '
    'started again (by default one that is removed at the end)',
  )  # fmt: skip
  return parser


class Answers:
  """The file of answers, which has all tasks at every moment.

  Attributes:
    copied: names of the tasks whose answers are those of the model's run.
  """

  def __init__(self, tasks: Tasks, path: pathlib.Path):
    self._path = path
    self._answers = {name: _fallback(task) for name, task in tasks.items()}
    self.copied = set[str]()
    self._seen: int | None = None
    self._write()

  def copy(self, source: pathlib.Path) -> None:
    """Takes over the answers of a file that has come or has changed."""
    with contextlib.suppress(FileNotFoundError):
      changed = source.stat().st_mtime_ns
      if changed != self._seen:
        found = json.loads(source.read_text())
        self._answers |= found
        self.copied |= found.keys()
        self._write()
        self._seen = changed

  def _write(self) -> None:
    part = self._path.with_name(f'{self._path.name}.part')
    try:
      part.write_text(json.dumps(self._answers))
      part.replace(self._path)
    except OSError as error:
      _fail(f'{self._path}: cannot be written ({error.strerror})')


def install(
  environment: pathlib.Path, facts: dict[str, Any], end: float
) -> pathlib.Path:
  """Installs the wheels, if that is not done yet; returns the Python there."""
  python = environment / 'bin' / 'python'
  done, mark = environment / 'installed', json.dumps(facts)
  if done.exists() and done.read_text() == mark:
    return python
  wheels = _BUNDLE / 'wheels'
  (pip,) = wheels.glob('pip-*.whl')
  _call(
    end, _python(facts['python']), '-m', 'venv', '--clear', '--without-pip',
    environment,
  )  # fmt: skip
  _call(
    end, python, pip / 'pip', 'install', '--quiet', '--no-index',
    '--no-cache-dir', '--no-compile', '--disable-pip-version-check',
    '--root-user-action=ignore', f'--find-links={wheels}', facts['requirement'],
  )  # fmt: skip
  done.write_text(mark)
  return python


def _adapt(
  python: pathlib.Path, run: pathlib.Path, asked: pathlib.Path,
  answers: Answers, end: float, further: list[str],
) -> int:  # fmt: skip
  """Runs `hrm-jax adapt` and copies its answers; returns its exit code."""
  left = end - time.monotonic()
  process = subprocess.Popen(
    [
      python, '-m', 'experiments.adapt', f'--workdir={_BUNDLE / "checkpoint"}',
      f'--task={asked}', f'--out={run}', f'--seconds={left:.1f}', *further,
    ],
    cwd=run, env=_variables(),
  )  # fmt: skip
  try:
    while process.poll() is None and time.monotonic() < end + _LAST / 2:
      with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_EVERY)
      answers.copy(run / 'predictions' / 'submission.json')
  finally:
    # Nothing happens to one that has ended.
    process.kill()
    process.wait()
  answers.copy(run / 'predictions' / 'submission.json')
  return process.returncode


def _call(end: float, *command: str | os.PathLike) -> None:
  """Runs what has to succeed before the time is over."""
  try:
    done = subprocess.run(
      command, env=_variables(), timeout=max(0.0, end - time.monotonic()),
      check=False,
    )  # fmt: skip
  except subprocess.TimeoutExpired:
    _fail('the time was over before all was installed; raise --seconds')
  if done.returncode:
    _fail(f'{os.fspath(command[0])}: failed, see above')


def _variables() -> dict[str, str]:
  """The environment variables without those of another Python or pip."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(('PIP_', 'PYTHON', 'VIRTUAL_ENV'))
  }
  return kept | {'PIP_CONFIG_FILE': os.devnull, 'PYTHONNOUSERSITE': '1'}


def _python(version: str) -> str:
  """A Python of this version."""
  if version == '.'.join(map(str, sys.version_info[:2])):
    return sys.executable
  if found := shutil.which(f'python{version}'):
    return found
  _fail(
    f'the wheels are for Python {version}, and this is '
    f'{sys.version.split()[0]}; make the bundle anew with --python_version, or '
    f'install python{version}'
  )


def _found() -> pathlib.Path:
  """The contest's file where Kaggle puts it."""
  found = sorted(glob.glob(_CHALLENGES, recursive=True))
  if len(found) != 1:
    _fail(f'{len(found)} files are {_CHALLENGES}; name one with --challenges')
  return pathlib.Path(found[0])


def _read(path: pathlib.Path) -> Tasks:
  """The tasks of a contest's file by name; nothing in them is looked at."""
  try:
    tasks = json.loads(path.read_text())
  except (OSError, ValueError) as error:
    _fail(f'{path}: cannot be read ({error})')
  if not isinstance(tasks, dict) or not tasks:
    _fail(f'{path}: must be an object with at least one task')
  return tasks


def _some(tasks: Tasks, count: int, canvas: int) -> Tasks:
  """So many tasks that fit the model's canvas, spread evenly over the file."""
  names = [name for name, task in tasks.items() if _fits(task, canvas)]
  names = names or [*tasks]
  count = min(count, len(names))
  return {
    name: tasks[name]
    for name in (names[i * len(names) // count] for i in range(count))
  }


def _fits(task: Any, canvas: int) -> bool:
  try:
    return all(
      max(len(grid), *map(len, grid)) <= canvas
      for kind in ('train', 'test')
      for pair in task[kind]
      for grid in pair.values()
    )
  except (AttributeError, LookupError, TypeError, ValueError):
    return False


def _fallback(task: Any) -> list[dict[str, Any]]:
  """The test inputs as answers to themselves; a cell where there is none."""
  tests = task.get('test') if isinstance(task, dict) else None
  if not isinstance(tests, list) or not tests:
    tests = [{}]
  grids = [test.get('input') if isinstance(test, dict) else 0 for test in tests]
  return [
    {'attempt_1': grid or [[0]], 'attempt_2': grid or [[0]]} for grid in grids
  ]


def _write_asked(
  run: pathlib.Path, asked: Tasks, source: pathlib.Path
) -> pathlib.Path:
  """Writes tasks as `adapt` takes them, and their solutions where these are.

  Then `adapt` tells which answers are right.
  """
  run.mkdir(parents=True, exist_ok=True)
  path = run / 'asked_challenges.json'
  path.write_text(json.dumps(asked))
  beside = source.with_name(source.name.replace('challenges', 'solutions'))
  if beside != source and beside.is_file():
    known = _read(beside)
    if asked.keys() <= known.keys():
      some = {name: known[name] for name in asked}
      (run / 'asked_solutions.json').write_text(json.dumps(some))
  return path


def _fail(message: str) -> NoReturn:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(2)


if __name__ == '__main__':
  sys.exit(main())
