"""Public docstrings are sentences: what a thing is comes first.

ruff's pydocstyle rules (see ruff.toml) check their form.
"""

import ast
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[2]
_PACKAGES = ('data_pipelines', 'hrm_jax', 'experiments')
# A sentence that begins so says of what it speaks before what it is.
_ELLIPSIS = re.compile(r'(Of|As|Besides?|That|What (is|was|are|were))\b')
# An argument or attribute, as Google's style has it: 'name: meaning'.
_ENTRY = re.compile(r'^  (?:  )?\*{0,2}(\w+): (of|for what)\b', re.M)


def _docstrings(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(
      node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ):
      name = getattr(node, 'name', '')
      text = ast.get_docstring(node)
      if text and not re.match(r'_(?!_)', name):
        yield f'{path.relative_to(_ROOT)}:{name}', text


@pytest.mark.parametrize('package', _PACKAGES)
def test_public_docstrings_say_what_a_thing_is(package):
  found = [
    f'{where}: {text.splitlines()[0]}'
    for path in sorted((_ROOT / package).rglob('*.py'))
    for where, text in _docstrings(path)
    if _ELLIPSIS.match(text)
  ]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize('package', _PACKAGES)
def test_arguments_and_attributes_begin_with_a_noun(package):
  found = [
    f'{where}: {entry.group().strip()}'
    for path in sorted((_ROOT / package).rglob('*.py'))
    for where, text in _docstrings(path)
    for entry in _ENTRY.finditer(text)
  ]
  assert not found, '\n'.join(found)
