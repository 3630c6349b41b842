"""The documents' commands: real files, known flags, valid shell."""

import importlib
import pathlib
import re
import subprocess

import pytest

from experiments.cli import config_flag

_ROOT = pathlib.Path(__file__).parents[2]
_DOCUMENTS = sorted(
  path
  for path in [*_ROOT.glob('*.md'), *(_ROOT / 'docs').rglob('*.md')]
  # It has the names of earlier versions.
  if path.name != 'CHANGELOG.md'
)
_BLOCK = re.compile(r'^```(\w*)\n(.*?)^```', re.S | re.M)
# A command of ours, and the rest of its line, continued ones included.
_COMMAND = re.compile(
  r'(?:python -m experiments\.|\bhrm-jax )([a-z][\w.]*)((?:\\\n|[^\n;`])*)'
)

pytestmark = pytest.mark.parametrize(
  'text',
  [pytest.param(path.read_text(), id=path.name) for path in _DOCUMENTS],
)


def test_scripts_are_valid(text):
  for language, script in _BLOCK.findall(text):
    if language == 'bash':
      done = subprocess.run(
        ['bash', '-n'],
        input=script,
        capture_output=True,
        text=True,
        check=False,
      )
      assert done.returncode == 0, f'{done.stderr}\n{script}'


def test_configs_and_commands_exist(text):
  for config in re.findall(r'--config=([\w/]+\.py)', text):
    assert (_ROOT / config).exists(), config
  for config in re.findall(r'--config=(\w+)(?![\w/.])', text):
    assert config in {*config_flag.names(), 'NAME'}, config
  for name, _ in _COMMAND.findall(text):
    path = _ROOT / 'experiments' / f'{name.replace(".", "/")}.py'
    assert path.exists(), name


def test_flags_are_known(text):
  for name, rest in _COMMAND.findall(text):
    known = {'help', *importlib.import_module(f'experiments.{name}').FLAGS}
    for flag in re.findall(r'--(?:no)?([a-z_]+)\b', rest.split(' #')[0]):
      assert flag in known, f'{name} --{flag}'
