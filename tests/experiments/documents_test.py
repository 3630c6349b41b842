"""The documents' commands: real files, known flags, valid shell."""

import importlib
import pathlib
import re
import subprocess

import pytest

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
  r'python -m ((?:experiments|data_pipelines)\.\w+)((?:\\\n|[^\n;`])*)'
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
  for module, _ in _COMMAND.findall(text):
    assert (_ROOT / f'{module.replace(".", "/")}.py').exists(), module


def test_flags_are_known(text):
  for module, rest in _COMMAND.findall(text):
    known = importlib.import_module(module).FLAGS
    for flag in re.findall(r'--([a-z_]+)\b', rest.split(' #')[0]):
      assert flag in known, f'{module} --{flag}'
