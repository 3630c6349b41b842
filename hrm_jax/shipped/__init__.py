"""Trained models that come with the package, each a folder of this one.

`hrm_jax.load('sudoku-6x6')` finds one by its name. A folder has config.json as
a run has it, weights.safetensors in float16, and card.md: what the model was
trained on, by which command, how well it does, and what it cannot do.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError

_FOLDER = pathlib.Path(__file__).parent
_WEIGHTS, _TABLE = 'weights.safetensors', 'puzzle_table'


class Packed(NamedTuple):
  """What a packed model's file holds.

  Attributes:
    step: number of training steps that it took.
    data_version: version of the data that it was trained on.
    names: name of each row of its puzzle table.
    table: puzzle embeddings, float32 [rows, E].
    variables: variables of the model by their paths, float16.
  """

  step: int
  data_version: str
  names: list[str]
  table: np.ndarray
  variables: dict[str, np.ndarray]

  def like(self, variables: Any) -> Any:
    """The variables in the structure and types of these."""
    return jax.tree.map_with_path(
      lambda path, leaf: self.variables[_name(path)].astype(leaf.dtype),
      variables,
    )


def names() -> list[str]:
  """Names of the models that come with the package."""
  return sorted(path.parent.name for path in _FOLDER.glob(f'*/{_WEIGHTS}'))


def find(path: pathlib.Path) -> pathlib.Path | None:
  """The folder of a packed model, given that or a name; None for none."""
  if (path / _WEIGHTS).is_file():
    return path
  known = str(path) in names() and not path.exists()
  return _FOLDER / path if known else None


def read(folder: pathlib.Path) -> Packed:
  """Reads the weights of a packed model.

  Raises:
    DataError: the file is damaged.
  """
  path = folder / _WEIGHTS
  try:
    with safe_open(path, 'np') as file:
      facts = file.metadata()
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    table = arrays.pop(_TABLE).astype(np.float32)
    step, version = int(facts['step']), facts['data_version']
    return Packed(step, version, json.loads(facts['names']), table, arrays)
  except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
    raise DataError(f'{path}: damaged ({error}); get it anew') from None


def write(
  folder: pathlib.Path,
  config: dict[str, Any],
  step: int,
  data_version: str,
  rows: Sequence[str],
  table: np.ndarray,
  variables: Any,
) -> None:
  """Packs a model into a folder; a card.md that is there stays.

  Raises:
    ConfigError: a weight is too large for float16.
  """
  arrays = {
    _name(path): np.asarray(leaf, np.float32)
    for path, leaf in jax.tree.leaves_with_path(variables)
  }
  arrays[_TABLE] = np.asarray(table)
  with np.errstate(over='ignore'):
    small = {name: array.astype(np.float16) for name, array in arrays.items()}
  for name, array in small.items():
    if not np.isfinite(array).all():
      raise ConfigError(f'{name}: has weights beyond float16')
  facts = {
    'step': str(step), 'data_version': data_version, 'names': json.dumps(rows),
  }  # fmt: skip
  folder.mkdir(parents=True, exist_ok=True)
  (folder / _WEIGHTS).write_bytes(safetensors.numpy.save(small, facts))
  text = json.dumps(config, indent=2, sort_keys=True) + '\n'
  files.write_text(folder / 'config.json', text)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
