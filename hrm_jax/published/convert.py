"""Reads checkpoints of the published code, and writes ours in their form.

A published checkpoint is a state dict of HRM, TRM or URM, `.pt` or
`.safetensors`, and two files beside it: all_config.yaml, the settings of the
run, and identifiers.json, the names of its puzzle table's rows. `write` writes
`.safetensors`; these lines make a `.pt` of it that the published code loads:

  import safetensors.torch, torch
  state = safetensors.torch.load_file('x.safetensors')
  torch.save(state, 'x.pt')
"""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from data_pipelines import files
from data_pipelines.arc import encoding
from data_pipelines.batches import BLANK_NAME
from data_pipelines.errors import ConfigError
from data_pipelines.published import identifiers
from data_pipelines.puzzle_set import PuzzleSet
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.published import all_config, names, state_dicts
from hrm_jax.settings import MODELS, Settings
from hrm_jax.training.state import abstract_weights, init_variables
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config

# Settings of a model that leave no trace in a state dict.
_UNTRACED = (
  'num_heads', 'H_cycles', 'L_cycles', 'puzzle_emb_len', 'pos_encodings',
)  # fmt: skip
# Cells of a puzzle by the number of tokens, as published: ARC, Sudoku, mazes.
_PUBLISHED_CELLS = {12: encoding.CANVAS**2, 11: 81, 6: 900}


@dataclasses.dataclass(frozen=True)
class Published:
  """A published checkpoint under our names, of puzzles of one size."""

  # What no file tells is as it was given.
  settings: Settings
  vocab_size: int
  seq_len: int
  # Weights as the model takes them, `params` and `constants`.
  variables: dict[str, Any]
  # Float32 [rows, puzzle_emb_ndim], and the name of each row, in HRM's form.
  puzzle_table: np.ndarray
  identifier_names: list[str]
  # Optimizer steps done; 0 where the file is no step_1234.
  step: int


def read(
  path: pathlib.Path,
  settings: Settings | None = None,
  puzzles: PuzzleSet | None = None,
  identifiers_path: pathlib.Path | None = None,
  all_config_path: pathlib.Path | None = None,
) -> Published:
  """Reads a published state dict and the files beside it.

  Args:
    path: the state dict; its content decides the format.
    settings: settings for all that neither the tensors nor all_config.yaml
      tell; None for those published for the kind of model.
    puzzles: the puzzles that it must fit; None to take the number of cells from
      all_config.yaml, or from the published set with as many tokens.
    identifiers_path: identifiers.json; None to look for it beside `path`.
    all_config_path: all_config.yaml; None to look for it beside `path`.

  Raises:
    ConfigError, DataError: a file is missing, damaged or of another run, or
      the checkpoint does not fit the settings or the puzzles.
  """
  arrays = state_dicts.read(path)
  found = _beside(all_config_path, path, 'all_config.yaml')
  told = all_config.read(found) if found else {}
  try:
    arrays = names.without_prefix(arrays)
    vocab_size = len(names.token_embedding(arrays))
    seq_len = _cells(path, vocab_size, told.pop('seq_len', None), puzzles)
    settings = _settings(path, arrays, seq_len, settings, found, told)
  except ConfigError:
    raise
  except ValueError as error:
    raise ConfigError(f'{path}: {error}') from None
  table = arrays.get(names.PUZZLE_TABLE)
  rows = None if table is None else len(table)
  names_path = _beside(identifiers_path, path, 'identifiers.json')
  if names_path is not None:
    # Of use without a table too: of ARC tasks the names say which
    # augmentations are predicted.
    row_names = identifiers.read(
      names_path, rows, f'the puzzle table of {path} has'
    )
  elif rows in (None, 1):
    row_names = [BLANK_NAME]
  else:
    raise ConfigError(
      f'{path}: its puzzle table has {rows} rows without names; name the '
      "data's file by --identifiers=identifiers.json"
    )
  if puzzles:
    vocab_size = puzzles.vocab_size
  model = build.model(settings.model, vocab_size, seq_len)
  like = jax.eval_shape(lambda: init_variables(model, 0))
  shape = (len(row_names), settings.model.puzzle_emb_ndim)
  if shape[1]:
    like['puzzle_table'] = jax.ShapeDtypeStruct(shape, jnp.float32)
  try:
    variables = names.from_published(arrays, like)
  except ValueError as error:
    raise ConfigError(
      f'{path}: does not fit {type(model).__name__} as set: {error}; use '
      'the file as the published code saved it, with the --config of its data'
    ) from None
  if table is None:
    table = np.zeros(shape, np.float32)
  number = re.fullmatch(r'step_(\d+)', path.stem)
  return Published(
    settings=settings,
    vocab_size=vocab_size,
    seq_len=seq_len,
    variables=variables,
    puzzle_table=variables.pop('puzzle_table', table),
    identifier_names=row_names,
    step=int(number[1]) if number else 0,
  )


def write(
  workdir: pathlib.Path,
  out: pathlib.Path,
  step: int | None = None,
  dtype: str = 'float32',
) -> None:
  """Writes a run's checkpoint as a state dict for the published code.

  Args:
    workdir: directory of the run.
    out: FILE.safetensors, a new file; identifiers.json and all_config.yaml are
      written beside it.
    step: step of the checkpoint; None for the newest.
    dtype: type of the trained tensors, 'float32' or 'bfloat16'; the initial
      states keep theirs, and filters of bfloat16.

  Raises:
    ConfigError, DataError: there is no such checkpoint, its model has no
      published form, or one of the files exists or cannot be written.
  """
  settings, _ = workdir_config.read(workdir)
  kind = settings.model.kind
  if kind not in all_config.ARCH_NAMES:
    raise ConfigError(
      f'{workdir}: its model.kind={kind} has no published form; only '
      f'{", ".join(all_config.ARCH_NAMES)} have'
    )
  mlp = settings.model.mlp
  if mlp != MODELS[kind].mlp:
    raise ConfigError(
      f'{workdir}: its model.mlp={mlp} has no published form with '
      f'model.kind={kind}'
    )
  names_path = out.with_name('identifiers.json')
  settings_path = out.with_name('all_config.yaml')
  for path in (out, names_path, settings_path):
    if os.path.lexists(path):
      raise ConfigError(f'{path} exists already; name an --out elsewhere')
  with contextlib.closing(checkpoints.Checkpoints(workdir)) as saved:
    step = saved.find(step)
    row_names = saved.position(step).identifier_names
    puzzles = build.puzzle_set(settings.replace({'data.num_aug': 0}))
    model = build.model(settings.model, puzzles.vocab_size, puzzles.seq_len)
    length = settings.model.puzzle_emb_len
    tokens = dataclasses.replace(settings.model, puzzle_emb_len=0).prefix_len
    if kind != 'trm' and settings.model.prefix_len != tokens:
      raise ConfigError(
        f'{workdir}: its model.puzzle_emb_len={length} has no published form: '
        f'{kind.upper()} has as many tokens as its embedding fills, {tokens}'
      )
    mesh = sharding.make_mesh(jax.devices()[:1])
    like = abstract_weights(model, len(row_names), mesh)
    variables, table = saved.restore_weights(step, like)
  constants = names.to_published({'constants': variables.pop('constants')})
  if settings.model.puzzle_emb_ndim:
    variables['puzzle_table'] = table[: len(row_names)]
  variables = jax.tree.map(
    lambda x: x if x.dtype == jnp.bfloat16 else x.astype(dtype), variables
  )
  arrays = names.to_published(variables) | constants
  with _all_or_nothing(out, names_path, settings_path):
    state_dicts.write(out, {names.PREFIX + n: arrays[n] for n in arrays})
    # URM's data are TRM's.
    form = 'hrm' if kind == 'hrm' else 'trm'
    identifiers.write(names_path, row_names, form)
    files.write_text(settings_path, all_config.text(settings, model.seq_len))


@contextlib.contextmanager
def _all_or_nothing(*paths: pathlib.Path) -> Iterator[None]:
  """Makes the directory of new files, and removes all again on an error."""
  directory = paths[0].parent
  made = [d for d in (directory, *directory.parents) if not d.exists()]
  fix = 'name a file in a directory of yours with enough room'
  try:
    with files.writing(f'{paths[0]}:', fix):
      directory.mkdir(parents=True, exist_ok=True)
      yield
  except BaseException:
    with contextlib.suppress(OSError):
      for path in paths:
        path.unlink(missing_ok=True)
      for directory in made:
        directory.rmdir()
    raise


def _beside(
  given: pathlib.Path | None, path: pathlib.Path, name: str
) -> pathlib.Path | None:
  """Returns `given`, or the file `name` beside `path` where that exists."""
  found = path.parent / name
  if given is not None or not found.exists():
    return given
  logging.info('Taking %s', found)
  return found


def _cells(
  path: pathlib.Path,
  vocab_size: int,
  told: int | None,
  puzzles: PuzzleSet | None,
) -> int:
  """The number of cells, where all_config.yaml `told` one or none."""
  if puzzles is None:
    if told is None and vocab_size not in _PUBLISHED_CELLS:
      raise ConfigError(
        f'{path}: nothing tells how many cells its puzzles have; write under '
        'arch in its all_config.yaml seq_len: CELLS'
      )
    return told or _PUBLISHED_CELLS[vocab_size]
  cells, canvas = puzzles.seq_len, encoding.CANVAS
  if told is None and puzzles.evaluation_tasks and cells != canvas**2:
    side = round(cells**0.5)
    raise ConfigError(
      f'{path}: nothing tells that it is of a canvas of {side} × {side}, and '
      f'the published ones are of {canvas} × {canvas}; set '
      f'--config.data.canvas={canvas}, or write under arch in its '
      f'all_config.yaml seq_len: {cells}'
    )
  if told not in (None, cells):
    raise ConfigError(
      f'{path}: is of puzzles of {told} cells by its all_config.yaml, --config '
      f'of {cells}; name the --config of its data'
    )
  return cells


def _settings(
  path: pathlib.Path,
  arrays: dict[str, np.ndarray],
  seq_len: int,
  given: Settings | None,
  all_config_path: pathlib.Path | None,
  written: dict[str, Any],
) -> Settings:
  """The settings of the run: by its tensors, what was written, those given."""
  told = written.pop('model', {})
  usual = (given or Settings()).model
  expansion = told.get('expansion', usual.expansion)
  inferred = names.infer_model_fields(arrays, seq_len, expansion)
  kind = inferred['kind']
  if given is None:
    given = Settings.published(kind)
  elif kind != given.model.kind:
    raise ConfigError(
      f'{path}: holds a model of kind {kind}, --config one of kind '
      f'{given.model.kind}; name a config of that kind, e.g. '
      f'experiments/configs/arc1.py:{kind}'
    )
  size, width = inferred['puzzle_emb_ndim'], inferred['hidden_size']
  if (tokens := inferred.get('puzzle_emb_len')) is not None:
    # The tokens that the cells leave must be those that the settings say, or
    # the cells are others.
    setting = told.get('puzzle_emb_len', given.model.puzzle_emb_len)
    if tokens != (setting or -(-size // width)):
      raise ConfigError(
        f'{path}: made for {tokens + seq_len} tokens, where the data have '
        f'{seq_len} cells and model.puzzle_emb_len={setting}; name a --config '
        'with the cells or prefix tokens that it has'
      )
    inferred['puzzle_emb_len'] = setting
  differing = [
    f'{key} ({told[key]!r} there, {value!r} by the tensors)'
    for key, value in inferred.items()
    if key in told and told[key] != value
  ]
  if differing:
    raise ConfigError(
      f'{all_config_path}: is not of the run that {path} comes from: '
      f'{", ".join(differing)}; name the file of its run by --all_config=FILE'
    )
  assumed = [k for k in _UNTRACED if k not in told and k not in inferred]
  if assumed:
    logging.info(
      'Settings of the model that no file tells, taken as given: %s',
      ', '.join(f'{key}={getattr(given.model, key)!r}' for key in assumed),
    )
  known = told | inferred
  model = {f'model.{key}': known[key] for key in known.keys() - {'kind'}}
  # How long it was trained is told by its step alone.
  return given.replace({**model, **written, 'total_steps': 0})
