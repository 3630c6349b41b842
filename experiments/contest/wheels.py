"""Wheels for a machine that has no network; pip fetches them here."""

import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from absl import logging

from data_pipelines.errors import ConfigError

PLATFORM = 'manylinux_2_28_x86_64'
# What is needed and has no wheel on PyPI; one of pure Python is built of each.
_SOURCES = ('promise',)
# What pip says of each, from the network, its cache or a folder.
_COMES = r'(?:Downloading|Using cached|Processing) (?:\S*/)?([^/\s]+\.whl)\b'
_ROOT = pathlib.Path(__file__).parents[2]


def python_here() -> str:
  """The version of Python that runs this, such as 3.11."""
  return '.'.join(map(str, sys.version_info[:2]))


def tags(platform: str) -> list[str]:
  """The platforms whose wheels run on a Linux of this platform, best first.

  Raises:
    ConfigError: it is none.
  """
  found = re.fullmatch(r'manylinux_2_(\d+)_(x86_64|aarch64)', platform)
  if not found:
    raise ConfigError(
      f'--platform={platform} must be manylinux_2_N_x86_64 or '
      'manylinux_2_N_aarch64, where 2.N is the version of glibc there '
      f'(`ldd --version`), e.g. {PLATFORM}'
    )
  glibc, machine = int(found[1]), found[2]
  names = [f'manylinux_2_{minor}' for minor in range(glibc, 4, -1)]
  # As they were called before.
  old = {17: 'manylinux2014', 12: 'manylinux2010', 5: 'manylinux1'}
  names += [name for minor, name in old.items() if minor <= glibc]
  return [f'{name}_{machine}' for name in names]


def check_python(version: str) -> None:
  """Raises a ConfigError where a version is none that this project runs on."""
  found = re.fullmatch(r'3\.(\d+)', version)
  if not found or int(found[1]) < 11:
    raise ConfigError(
      f'--python_version={version} must be that of the other machine, 3.11 or '
      f'later, e.g. {python_here()}'
    )


def build(folder: pathlib.Path) -> pathlib.Path:
  """Builds the wheel of this project from the sources that run.

  Raises:
    ConfigError: there are none, or they cannot be built.
  """
  if not (_ROOT / 'setup.py').is_file():
    raise ConfigError(
      'the sources of this project are not here, it was installed from a '
      'wheel; name that with --wheel=FILE'
    )
  # From a copy, so that no build/ of another day gets into it.
  with tempfile.TemporaryDirectory() as copy:
    for name in ('setup.py', 'README.md', 'LICENSE'):
      shutil.copy(_ROOT / name, copy)
    for name in ('hrm_jax', 'data_pipelines', 'experiments'):
      shutil.copytree(
        _ROOT / name,
        pathlib.Path(copy, name),
        ignore=shutil.ignore_patterns('__pycache__'),
      )
    _pip('wheel', '--no-deps', f'--wheel-dir={folder}', copy)
  (wheel,) = folder.glob('hrm_jax-*.whl')
  return wheel


def fetch(
  project: pathlib.Path, extra: str, python: str, platforms: list[str]
) -> None:
  """Puts all that a wheel needs into the folder in which it is; pip too.

  Where the other machine has the same Python, it gets the versions that are
  installed here.

  Raises:
    ConfigError: pip cannot find it all.
  """
  folder = project.parent
  with tempfile.NamedTemporaryFile('w', suffix='.txt') as pins:
    if python == python_here():
      pins.writelines(_installed())
      pins.flush()
    common = f'--find-links={folder}', f'--constraint={pins.name}'
    _pip('wheel', *common, '--no-deps', f'--wheel-dir={folder}', *_SOURCES)
    for name in _SOURCES:
      if not any(folder.glob(f'{name}-*-none-any.whl')):
        raise ConfigError(f'{name} is not of pure Python any more')
    _pip(
      'download', *common, f'--dest={folder}', '--only-binary=:all:',
      '--implementation=cp', f'--python-version={python}',
      *(f'--platform={tag}' for tag in platforms),
      'pip', f'{project}[{extra}]' if extra else str(project),
    )  # fmt: skip


def _installed() -> list[str]:
  """The versions that are installed here, as constraints for pip."""
  found = {
    one.name: one.version
    for one in importlib.metadata.distributions()
    if one.name != 'hrm-jax'
  }
  # pip itself is not run here but there.
  return [f'{name}=={found[name]}\n' for name in sorted(found) if name != 'pip']


def _pip(*arguments: str | pathlib.Path) -> None:
  """Runs pip and logs what it gets; a ConfigError with its reason if it fails.

  pip tells its reasons as text alone.
  """
  lines = []
  with subprocess.Popen(
    [sys.executable, '-m', 'pip', *arguments, '--disable-pip-version-check',
     '--progress-bar=off'],
    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    errors='replace',
  ) as process:  # fmt: skip
    assert process.stdout
    for line in process.stdout:
      lines.append(line.strip())
      if found := re.match(_COMES, lines[-1]):
        logging.info('%s', found[1])
  if process.returncode:
    raise ConfigError(f'pip {arguments[0]}: {_reason(lines)}')


def _reason(lines: list[str]) -> str:
  """Why pip has failed, in a line."""
  text = '\n'.join(lines)
  if conflict := re.search(r'conflict is caused by:\n(.*?)\n\n', text, re.S):
    why = re.sub(
      r'The user requested (\(constraint\) )?', '', conflict[1]
    ).replace('\n', ', installed here is ')
  else:
    errors = re.findall(r'^ERROR: (.*)', text, re.M) or lines[-1:]
    why = (errors or ['it ended without a word'])[-1]
  fix = 'name another --platform or --python_version'
  if 'connection broken by' in text:
    fix = 'no package index could be reached: mend the network'
  return f'{why}; {fix}'
