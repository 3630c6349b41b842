"""Makes pages of the docs site from the code and from files at the root."""

import ast
import dataclasses
import importlib
import inspect
import pathlib
import re

from experiments.__main__ import COMMANDS
from experiments.cli import command
from experiments.reporting import browser_page
from hrm_jax import settings

_ROOT = pathlib.Path(__file__).parents[1]
_PACKAGES = ('data_pipelines', 'hrm_jax', 'experiments')

# Files at the root that are pages of the site too.
ROOT_PAGES = {
  'RESULTS.md': 'explanation/results.md',
  'CONTRIBUTING.md': 'contributing.md',
  'CHANGELOG.md': 'changelog.md',
}


def on_files(files, config):
  """Adds the pages that are files elsewhere."""
  from mkdocs.structure.files import File

  for name, page in ROOT_PAGES.items():
    text = _relink((_ROOT / name).read_text(), page)
    files.append(File.generated(config, page, content=text))
  # The page on which models solve puzzles; the models stand in docs/solve.
  for name, path in browser_page.static_files().items():
    page = f'solve/{name}'
    if old := files.get_file_from_path(page):
      files.remove(old)
    files.append(File.generated(config, page, abs_src_path=str(path)))
  return files


def on_page_markdown(markdown, **_):
  """Fills in what pages take from the code."""
  for mark, made in (
    ('<!-- rooms -->', _rooms),
    ('<!-- commands -->', commands),
    ('<!-- settings -->', settings_tables),
  ):
    if mark in markdown:
      markdown = markdown.replace(mark, made())
  return markdown


def _relink(text: str, page: str) -> str:
  """Rewrites links of a file at the root so that they hold on its page."""
  up = '../' * page.count('/')

  def link(found: re.Match) -> str:
    target, _, anchor = found[1].partition('#')
    if target.startswith('docs/'):
      target = up + target.removeprefix('docs/')
    elif target in ROOT_PAGES:
      target = up + ROOT_PAGES[target]
    elif target == 'README.md':
      target = f'{up}index.md'
    return f']({target}{"#" * bool(anchor)}{anchor})'

  return re.sub(r'\]\(((?!https?:)[^)]+)\)', link, text)


def _rooms() -> str:
  """The tree of modules with the first sentence of each docstring."""
  lines = []
  for package in _PACKAGES:
    lines.append(f'### `{package}`\n')
    rooms = sorted(
      {path.parent for path in (_ROOT / package).rglob('*.py')},
      key=lambda room: (room != _ROOT / package, room),
    )
    for room in rooms:
      rows = [
        f'| `{path.stem}` | {summary} |'
        for path in sorted(room.glob('*.py'))
        if path.stem != '__init__' and (summary := _summary(path))
      ]
      if rows:
        name = room.relative_to(_ROOT)
        lines += [f'| `{name}/` | {_summary(room / "__init__.py")} |']
        lines += ['| --- | --- |', *rows, '']
  return '\n'.join(lines)


def _summary(path: pathlib.Path) -> str:
  """The first paragraph of a module's docstring, on one line."""
  text = ast.get_docstring(ast.parse(path.read_text())) if path.exists() else ''
  return ' '.join((text or '').split('\n\n')[0].split()).replace('|', r'\|')


def commands() -> str:
  """Each command with what --help says of it."""
  parts = []
  for name in COMMANDS:
    module = importlib.import_module(f'experiments.{name}')
    parts.append(f'## {name}\n\n{_with_code(module.__doc__)}\n')
    rows = [
      f'| `{_flag_name(flag)}` | {_cell(_default(flag))} '
      f'| {_cell(command.sentences(flag))} |'
      for flag in map(module.FLAGS.__getitem__, module.FLAGS)
    ]
    parts += ['| flag | default | meaning |', '| --- | --- | --- |', *rows, '']
  return '\n'.join(parts)


def _flag_name(flag) -> str:
  return f'--[no]{flag.name}' if flag.boolean else f'--{flag.name}'


def _default(flag) -> str:
  if flag.default in (None, '', []):
    return ''
  return f'`{flag.default_as_str.strip(chr(39))}`'


def _with_code(docstring: str) -> str:
  """A docstring as Markdown: its indented blocks are code."""
  blocks = inspect.cleandoc(docstring).split('\n\n')
  return '\n\n'.join(
    f'```text\n{inspect.cleandoc(block)}\n```' if block[0] == ' ' else block
    for block in blocks
  )


def settings_tables() -> str:
  """A table for each group of settings, with the defaults."""
  parts = []
  for group in _groups():
    own = inspect.get_annotations(group)
    meanings = attributes(inspect.getdoc(group))
    parts.append(f'## `{group.__name__}`\n')
    parts.append(f'{inspect.getdoc(group).split("Attributes")[0].strip()}\n')
    rows = [
      f'| `{group.prefix}{field.name}` | {_cell(_value(field.default))} '
      f'| {_cell(meanings.get(field.name, _inherited(group, field.name)))} |'
      for field in dataclasses.fields(group)
      if field.name in own
    ]
    if rows:
      parts += ['| key | default | meaning |', '| --- | --- | --- |']
    parts += [*rows, '']
  return '\n'.join(parts)


def _groups() -> list[type]:
  """All groups of settings, a base before those that are made from it."""
  top = [settings.Settings]
  top += [type(field.default) for field in dataclasses.fields(top[0])]
  groups = [group for group in top if dataclasses.is_dataclass(group)]
  at = groups.index(settings.HRMSettings)
  models = {
    base: None
    for model in settings.MODELS.values()
    for base in reversed(model.__mro__)
    if issubclass(base, settings.ModelSettings)
  }
  return [*groups[:at], *models, *groups[at + 1 :]]


def _inherited(group: type, name: str) -> str:
  """The meaning of a setting whose default alone a group changes."""
  for base in group.__mro__[1:]:
    if name in (found := attributes(inspect.getdoc(base) or '')):
      return found[name]
  return ''


def _value(default) -> str:
  if dataclasses.is_dataclass(default):
    return f'[`{type(default).__name__}`](#{type(default).__name__.lower()})'
  return f'`{default!r}`'


def attributes(docstring: str) -> dict[str, str]:
  """The attributes that a docstring describes, by name."""
  _, _, text = docstring.partition('\nAttributes')
  found = re.findall(r'^  (\w+): (.*(?:\n {4}.*)*)', text, re.MULTILINE)
  return {name: ' '.join(meaning.split()) for name, meaning in found}


def _cell(text: str) -> str:
  return text.replace('|', r'\|').replace('\n', ' ')
