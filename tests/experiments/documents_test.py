"""What documents show exists: commands, flags, configs, settings, links."""

import dataclasses
import importlib
import importlib.util
import pathlib
import re
import subprocess

import pytest
from markdown.extensions import toc

import hrm_jax
from experiments.__main__ import COMMANDS
from experiments.cli import shared_flags
from experiments.reporting import browser_page
from hrm_jax import settings

_ROOT = pathlib.Path(__file__).parents[2]
_DOCUMENTS = sorted([*_ROOT.glob('*.md'), *(_ROOT / 'docs').rglob('*.md')])
_BLOCK = re.compile(r'^```(\w*)[^\n]*\n(.*?)^```', re.S | re.M)
# A command of ours, and the rest of its line, continued ones included.
_COMMAND = re.compile(
  r'(?:hrm-jax |python -m experiments\.)([a-z_]+)((?:\\\n|[^\n;`])*)'
)
# What is said of names of earlier versions.
_OLD_NAMES = ('CHANGELOG.md',)
_SETTINGS = {
  key
  for kind in settings.MODELS
  for key in settings.flat(settings.Settings.published(kind).to_dict())
}
_of_documents = pytest.mark.parametrize(
  'path',
  [pytest.param(path, id=str(path.relative_to(_ROOT))) for path in _DOCUMENTS],
)


def _hooks():
  path = _ROOT / 'docs' / 'hooks.py'
  spec = importlib.util.spec_from_file_location('hooks', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@_of_documents
def test_scripts_are_valid(path):
  for language, script in _BLOCK.findall(path.read_text()):
    if language == 'bash':
      done = subprocess.run(
        ['bash', '-n'],
        input=script,
        capture_output=True,
        text=True,
        check=False,
      )
      assert done.returncode == 0, f'{done.stderr}\n{script}'
    elif language == 'python':
      compile(script, str(path), 'exec')


@_of_documents
def test_commands_have_the_flags_that_are_shown(path):
  if path.name in _OLD_NAMES:
    return
  for name, rest in _COMMAND.findall(path.read_text()):
    assert name in COMMANDS, name
    known = importlib.import_module(f'experiments.{name}').FLAGS
    for flag in re.findall(r'--([a-z_]+)\b', rest.split(' #')[0]):
      found = flag in known or flag.removeprefix('no') in known
      assert found or flag == 'help', f'hrm-jax {name} --{flag}'


@_of_documents
def test_configs_and_settings_exist(path):
  text = path.read_text()
  names = shared_flags.configs()
  for config in re.findall(r'--config=([\w/.]+)', text):
    assert config in names or config.isupper() or (_ROOT / config).exists()
  # A page may add settings of its own.
  added = re.findall(r'^  (\w+): \w+ = ', text, re.M)
  for key in re.findall(r'--config\.([\w.]*\w)', text):
    name = key.split('.')[-1]
    assert key in _SETTINGS or name in added or key == 'KEY', key


@_of_documents
def test_make_has_the_targets_that_are_shown(path):
  targets = re.findall(r'^(\w[\w-]*):', (_ROOT / 'Makefile').read_text(), re.M)
  shown = re.findall(r'(?:^|`)make ([a-z][\w-]*)', path.read_text(), re.M)
  assert set(shown) <= set(targets)


@_of_documents
def test_links_lead_somewhere(path):
  # Code is no link, and what is made when the site is built is not there yet.
  text = re.sub(
    r'```.*?^```|`[^`\n]*`', '', path.read_text(), flags=re.S | re.M
  )
  made = {
    _ROOT / 'docs' / page: _ROOT / name
    for name, page in _hooks().ROOT_PAGES.items()
  } | {
    _ROOT / 'docs' / 'solve' / name: path
    for name, path in browser_page.static_files().items()
  }
  for link in re.findall(r'\]\(\s*(?!\w+:)([^)\s]+)\)', text):
    target, _, anchor = link.partition('#')
    there = (path.parent / target).resolve() if target else path
    there = made.get(there, there)
    assert there.exists(), link
    if anchor:
      assert anchor in _anchors(there.read_text()), link


def _anchors(text: str) -> set[str]:
  headings = re.findall(r'^#+ (.*)$', text, re.M)
  return {toc.slugify(heading.replace('`', ''), '-') for heading in headings}


def test_the_front_page_is_short_and_has_no_placeholder():
  text = (_ROOT / 'README.md').read_text()
  assert len(text.splitlines()) <= 180
  assert not re.search(r'OWNER|YOU/YOURS|<!--|TODO', text)
  ci = (_ROOT / '.ci' / 'run').read_text()
  for command in ('make test', 'make test-all'):
    assert command in text
  assert re.search(r'^make test(-all)?$', ci, re.M)


def test_each_public_name_is_in_the_reference():
  page = (_ROOT / 'docs' / 'reference' / 'python.md').read_text()
  shown = {
    name.split('.')[-1] for name in re.findall(r'^::: (\S+)', page, re.M)
  }
  assert set(hrm_jax.__all__) <= shown


def test_each_flag_and_each_setting_has_a_meaning_in_the_reference():
  hooks = _hooks()
  for page in (hooks.commands(), hooks.settings_tables()):
    assert '|  |\n' not in page
  tables = hooks.settings_tables()
  for field in dataclasses.fields(settings.Settings):
    assert f'| `{field.name}` |' in tables
  for key in _SETTINGS - {'model.kind'}:
    assert f'| `{key}` |' in tables, key
