"""The floors of the house: imports point down, and go in no circle.

experiments → hrm_jax → data_pipelines; inside of hrm_jax the models, the
training and the devices know neither puzzles nor files nor what is above them.
"""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_FLOORS = ('data_pipelines', 'hrm_jax', 'experiments')
# What models, training and parallel may import of data_pipelines: the modules
# that know nothing of puzzles.
_PLAIN = {'errors', 'files', 'progress', 'batches'}
_LOW = ('models', 'training', 'parallel')
_HIGH = (
  'inference', 'workdir', 'published', 'build', 'training_run', 'solver',
  'warm_start',
)  # fmt: skip


def _name(path):
  parts = path.relative_to(_ROOT).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


_PATHS = {
  _name(path): path
  for floor in _FLOORS
  for path in _ROOT.glob(f'{floor}/**/*.py')
}


def _is_of_types(node):
  """Whether a statement is `if TYPE_CHECKING:`, whose body never runs."""
  return isinstance(node, ast.If) and ast.unparse(node.test).endswith(
    'TYPE_CHECKING'
  )


def _imports(node, inside=False):
  """Modules that the code imports, and whether that is inside of a function.

  Of `from package import name` it is the module of that name, if there is one.
  """
  for child in ast.iter_child_nodes(node):
    if _is_of_types(child):
      continue
    if isinstance(child, ast.Import):
      yield from ((alias.name, inside) for alias in child.names)
    elif isinstance(child, ast.ImportFrom):
      assert not child.level, 'imports are absolute'
      for alias in child.names:
        name = f'{child.module}.{alias.name}'
        yield name if name in _PATHS else child.module, inside
    is_function = isinstance(child, ast.FunctionDef | ast.Lambda)
    yield from _imports(child, inside or is_function)


_GRAPH = {
  name: sorted(set(_imports(ast.parse(path.read_text()))))
  for name, path in _PATHS.items()
}


def _all(floor):
  return (
    (name, imported)
    for name, imports in _GRAPH.items()
    if name.split('.')[0] == floor
    for imported, _ in imports
  )


def test_the_graph_is_read():
  assert ('hrm_jax.training.step', False) in _GRAPH['hrm_jax.training.loop']
  assert len(_GRAPH) > 90
  # What a function imports is seen too.
  assert any(inside for imports in _GRAPH.values() for _, inside in imports)


@pytest.mark.parametrize('number, floor', list(enumerate(_FLOORS)))
def test_no_arrow_points_up(number, floor):
  above = _FLOORS[number + 1 :]
  for name, imported in _all(floor):
    assert imported.split('.')[0] not in above, f'{name} imports {imported}'
    # Nobody imports a test.
    assert imported.split('.')[0] != 'tests', name


def test_no_circle():
  # What a function imports comes later, and may point anywhere.
  sorter = graphlib.TopologicalSorter(
    {
      name: [m for m, inside in imports if m in _GRAPH and not inside]
      for name, imports in _GRAPH.items()
    }
  )
  list(sorter.static_order())


@pytest.mark.parametrize('room', _LOW)
def test_models_and_training_know_no_puzzles_and_nothing_above(room):
  for name, imported in _all('hrm_jax'):
    if name.split('.')[1:2] != [room]:
      continue
    floor, *parts = imported.split('.')
    if floor == 'data_pipelines':
      assert parts[0] in _PLAIN, f'{name} imports {imported}'
    if floor == 'hrm_jax':
      assert parts and parts[0] not in _HIGH, f'{name} imports {imported}'


def test_data_pipelines_import_no_jax():
  heavy = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'hrm_jax'}
  for name, imported in _all('data_pipelines'):
    assert imported.split('.')[0] not in heavy, f'{name} imports {imported}'
  # TensorFlow, which these use, imports JAX where it finds it.
  modules = [
    name
    for name in _PATHS
    if name.startswith('data_pipelines.')
    and name != 'data_pipelines.arc.pipeline'
    and not name.endswith('.tfds')
  ]
  assert len(modules) > 25
  code = (
    f'import sys, {", ".join(modules)}; '
    f'print(*sys.modules.keys() & {heavy | {"tensorflow"}!r})'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], check=True, capture_output=True, text=True
  )
  assert not done.stdout.strip()
