"""Converts between our checkpoints and the published code's state dicts.

From a state dict of HRM or TRM (`.pt`, read without executing what is pickled
in it, or `.safetensors`) to a working directory that `experiments.evaluate`
scores:

  python -m experiments.convert --checkpoint=FILE --workdir=NEW \
      --config=experiments/configs/arc1.py[:trm] [--identifiers=FILE.json] \
      [--all_config=FILE.yaml]

`--config` names the data, and what neither the tensors nor the run's
all_config.yaml tell. That file and identifiers.json, the names of the puzzle
table's rows, are looked for beside FILE where no flag names them.

From one of our checkpoints to a state dict, with both of those beside it:

  python -m experiments.convert --workdir=DIR [--step=N] --out=FILE.pt
"""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags, logging

from data_pipelines import files
from data_pipelines.arc import encoding
from data_pipelines.errors import ConfigError
from data_pipelines.published import identifiers
from data_pipelines.puzzle_set import BLANK_NAME, PuzzleSet
from experiments.cli import data_flags, launch
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.published import all_config, state_dicts
from hrm_jax.published import names as published
from hrm_jax.training import puzzle_table
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'State dict of the published code.'
)
_IDENTIFIERS = flags.DEFINE_string(
  'identifiers', None, 'identifiers.json of the data it was trained on.'
)
_ALL_CONFIG = flags.DEFINE_string(
  'all_config', None, 'all_config.yaml of the run.'
)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  'float32',
  ('float32', 'bfloat16'),
  'Of the trained tensors in --out; the initial states keep theirs.',
)

# What a report or an error lists at most.
_EXAMPLES = 5
# Settings that leave no trace in a state dict.
_UNTRACED = (
  'num_heads',
  'H_cycles',
  'L_cycles',
  'puzzle_emb_len',
  'pos_encodings',
)


def main(_) -> None:
  if (_CHECKPOINT.value is None) == (data_flags.OUT.value is None):
    raise ConfigError(
      "name --checkpoint=FILE to read one of the published code's, or "
      '--out=FILE.pt to write one'
    )
  workdir = launch.workdir()
  if _CHECKPOINT.value is None:
    out = pathlib.Path(data_flags.OUT.value)
    write_published(workdir, out, launch.STEP.value, _DTYPE.value)
    print(f'Written: {out}, with identifiers.json and all_config.yaml beside')
    return
  report = read_published(
    pathlib.Path(_CHECKPOINT.value),
    launch.config(),
    workdir,
    _path(_IDENTIFIERS.value),
    _path(_ALL_CONFIG.value),
    launch.STEP.value,
  )
  print(report)
  print(f'Written: {workdir}; score it with experiments.evaluate')


def read_published(
  path: pathlib.Path,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  names_path: pathlib.Path | None = None,
  all_config_path: pathlib.Path | None = None,
  step: int | None = None,
) -> str:
  """Makes a working directory of a published state dict.

  Args:
    path: of the state dict.
    config: its data and the settings that are found nowhere else; changed to
      those of the checkpoint.
    workdir: must not exist yet, or be empty.
    names_path: identifiers.json; None to look for it beside `path`.
    all_config_path: the run's settings; None to look for them there.
    step: of the run; None to take it from a name like step_1234.

  Returns:
    Which puzzle identifiers have found their puzzles.

  Raises:
    ConfigError, DataError: something differs, is missing or left over; nothing
      has been written then.
  """
  if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise ConfigError(
      f'--workdir={workdir} exists and is not empty; name a new directory'
    )
  if step is not None and step < 0:
    raise ConfigError(f'--step={step} must not be negative')
  arrays = state_dicts.read(path)
  try:
    arrays = published.without_prefix(arrays)
  except ValueError as error:
    raise ConfigError(f'{path}: {error}') from None
  build.check(config)
  # The tasks alone: augmentations are those of the names.
  puzzles = build.puzzle_set(_unaugmented(config))
  _configure(
    config,
    puzzles,
    path,
    arrays,
    _beside(all_config_path, path, 'all_config.yaml'),
  )
  names = _names(
    _beside(names_path, path, 'identifiers.json'),
    path,
    arrays.get(published.PUZZLE_TABLE),
  )
  setup = build.train_setup(config, puzzles, len(names))
  like = jax.eval_shape(setup.init)
  try:
    variables = published.from_published(arrays, like.trained)
  except ValueError as error:
    raise ConfigError(
      f'{path}: does not fit {type(setup.model).__name__} as set: {error}; use '
      'the file as the published code saved it, with the --config of its data'
    ) from None
  table = variables.pop('puzzle_table', np.zeros(like.puzzle_table.shape))
  mesh = sharding.make_mesh(jax.devices()[:1])
  unused = puzzle_table.num_rows(mesh, len(names)) - len(table)
  table = np.pad(table, ((0, unused), (0, 0)))
  report = _match(puzzles, names)
  # How long it was trained is told by its step alone.
  config.total_steps = 0
  if step is None:
    number = re.fullmatch(r'step_(\d+)', path.stem)
    step = int(number[1]) if number else 0

  leaking = build.check_leaks(config, puzzles)
  build.claim_workdir(workdir, config, puzzles, leaking)
  saved = checkpoints.Checkpoints(
    workdir, checkpoints.Keep(config.keep_checkpoints)
  )
  with contextlib.closing(saved):
    saved.save_weights(
      step,
      variables,
      table,
      checkpoints.Position(
        0, names, f'{checkpoints.UNKNOWN_DATA}, converted from {path.name}'
      ),
    )
  return report


def write_published(
  workdir: pathlib.Path,
  out: pathlib.Path,
  step: int | None = None,
  dtype: str = 'float32',
) -> None:
  """Writes a checkpoint as a state dict that the published code reads.

  Args:
    workdir: of the run.
    out: FILE.pt or FILE.safetensors; identifiers.json and all_config.yaml are
      written beside it.
    step: of the checkpoint; None for the newest.
    dtype: of the trained tensors, 'float32' or 'bfloat16'.

  Raises:
    ConfigError, DataError: there is no such checkpoint, its model has no
      published form, or a file exists already.
  """
  config, _ = build.read_run(workdir)
  kind = config.model.kind
  if kind not in all_config.ARCH_NAMES:
    raise ConfigError(
      f'{workdir}: its model.kind={kind} has no published form; only '
      f'{" and ".join(all_config.ARCH_NAMES)} have'
    )
  beside = {
    name: out.parent / name for name in ('identifiers.json', 'all_config.yaml')
  }
  for path in (out, *beside.values()):
    if os.path.lexists(path):
      raise ConfigError(f'{path} exists already; name an --out elsewhere')
  saved = checkpoints.Checkpoints(workdir)
  with contextlib.closing(saved):
    step = saved.find(step)
    position = saved.position(step)
    puzzles = build.puzzle_set(_unaugmented(config))
    setup = build.train_setup(config, puzzles, len(position.identifier_names))
    model = setup.model
    tokens = model.clone(puzzle_emb_len=0).prefix_len
    if kind == 'hrm' and model.prefix_len != tokens:
      raise ConfigError(
        f'{workdir}: its model.puzzle_emb_len={model.puzzle_emb_len} has no '
        'published form: HRM has as many tokens as its embedding fills, '
        f'{tokens}'
      )
    mesh = sharding.make_mesh(jax.devices()[:1])
    variables, table = saved.restore_weights(
      step, train_step.abstract_to_predict(setup, mesh)
    )
  constants = published.to_published({'constants': variables.pop('constants')})
  if config.model.puzzle_emb_ndim:
    variables['puzzle_table'] = table[: len(position.identifier_names)]
  arrays = {
    name: array.astype(jnp.dtype(dtype), copy=False)
    for name, array in published.to_published(variables).items()
  } | constants
  with _all_or_nothing(out, *beside.values()):
    state_dicts.write(
      out, {published.PREFIX + name: array for name, array in arrays.items()}
    )
    identifiers.write(
      beside['identifiers.json'], position.identifier_names, kind
    )
    files.write_text(
      beside['all_config.yaml'], all_config.text(config, model.seq_len)
    )


@contextlib.contextmanager
def _all_or_nothing(*paths: pathlib.Path) -> Iterator[None]:
  """Makes the directory of files that do not exist; takes all back on errors.

  Raises:
    ConfigError: they cannot be written.
  """
  directory = paths[0].parent
  made = [d for d in (directory, *directory.parents) if not d.exists()]
  try:
    directory.mkdir(parents=True, exist_ok=True)
    yield
  except BaseException as error:
    with contextlib.suppress(OSError):
      for path in paths:
        path.unlink(missing_ok=True)
      for directory in made:
        directory.rmdir()
    if isinstance(error, OSError):
      raise ConfigError(
        f'{paths[0]}: cannot be written ({error.strerror}); name a file in a '
        'directory of yours with enough room'
      ) from None
    raise


def _path(text: str | None) -> pathlib.Path | None:
  return None if text is None else pathlib.Path(text)


def _beside(
  given: pathlib.Path | None, path: pathlib.Path, name: str
) -> pathlib.Path | None:
  """The file that was given, or `name` beside `path` where it exists."""
  if given is not None:
    return given
  found = path.parent / name
  if not found.exists():
    return None
  logging.info('Taking %s', found)
  return found


def _unaugmented(
  config: ml_collections.ConfigDict,
) -> ml_collections.ConfigDict:
  config = ml_collections.ConfigDict(config.to_dict())
  config.data.num_aug = 0
  return config


def _configure(
  config: ml_collections.ConfigDict,
  puzzles: PuzzleSet,
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  all_config_path: pathlib.Path | None,
) -> None:
  """Gives `config` the settings of the run that the arrays come from."""
  written = all_config.read(all_config_path) if all_config_path else {}
  told = written.pop('model', {})
  expansion = told.get('expansion', config.model.get('expansion'))
  try:
    inferred = published.infer_model_fields(arrays, puzzles.seq_len, expansion)
  except ValueError as error:
    raise ConfigError(f'{path}: {error}') from None
  kind = inferred.pop('kind')
  if kind != config.model.kind:
    raise ConfigError(
      f'{path}: holds a model of kind {kind}, --config one of kind '
      f'{config.model.kind}; name a config of that kind, e.g. '
      f'experiments/configs/arc1.py:{kind}'
    )
  told_kind = told.pop('kind', kind)
  if told_kind != kind:
    raise ConfigError(
      f'{all_config_path}: is of a model of kind {told_kind}, {path} of kind '
      f'{kind}; name the file of its run by --all_config=FILE'
    )
  _check_cells(config, puzzles, path, written.pop('seq_len', None))
  size, width = inferred['puzzle_emb_ndim'], inferred['hidden_size']
  if (tokens := inferred.get('puzzle_emb_len')) is not None:
    # What the cells leave of the tokens: it must be what the settings say, or
    # the cells are others.
    setting = told.get('puzzle_emb_len', config.model.puzzle_emb_len)
    if tokens != (setting or -(-size // width)):
      raise ConfigError(
        f'{path}: made for {tokens + puzzles.seq_len} tokens, where the data '
        f'have {puzzles.seq_len} cells and model.puzzle_emb_len={setting}; '
        'name a --config with the cells or prefix tokens that it has'
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
      'Taken from --config, since the tensors do not tell: %s',
      ', '.join(f'{key}={config.model[key]!r}' for key in assumed),
    )
  config.model.update(told)
  config.model.update(inferred)
  for key, value in written.items():
    config.update_from_flattened_dict({key: value})


def _check_cells(
  config: ml_collections.ConfigDict,
  puzzles: PuzzleSet,
  path: pathlib.Path,
  told: int | None,
) -> None:
  """That the checkpoint is of puzzles of this size, which it may not tell."""
  canvas, published_canvas = config.data.canvas, encoding.CANVAS
  if told is None and puzzles.evaluation_tasks and canvas != published_canvas:
    raise ConfigError(
      f'{path}: nothing tells that it is of a canvas of {canvas} × {canvas}, '
      f'and the published ones are of {published_canvas} × {published_canvas}; '
      f'set --config.data.canvas={published_canvas}, or write under arch in '
      f'its all_config.yaml seq_len: {puzzles.seq_len}'
    )
  if told not in (None, puzzles.seq_len):
    raise ConfigError(
      f'{path}: is of puzzles of {told} cells by its all_config.yaml, --config '
      f'of {puzzles.seq_len}; name the --config of its data'
    )


def _names(
  names_path: pathlib.Path | None,
  path: pathlib.Path,
  table: np.ndarray | None,
) -> list[str]:
  """The name of each row of the puzzle table.

  Without a table the names are of use nevertheless: of ARC tasks they say
  which augmentations are predicted.
  """
  rows = None if table is None else len(table)
  if names_path is not None:
    return identifiers.read(names_path, rows, f'the puzzle table of {path} has')
  if rows in (None, 1):
    return [BLANK_NAME]
  raise ConfigError(
    f'{path}: its puzzle table has {rows} rows without names; name the '
    "data's file by --identifiers=identifiers.json"
  )


def _match(puzzles: PuzzleSet, names: Sequence[str]) -> str:
  """Which rows of a checkpoint's puzzle table the data have a puzzle for."""
  ours = puzzles.identifier_names()
  tasks = {encoding.parse_augmentation_name(name)[0] for name in ours}
  theirs = [encoding.parse_augmentation_name(name)[0] for name in names]
  unused = sorted({task for task in theirs if task not in tasks})
  missing = sorted(tasks - set(theirs))
  found = sum(task in tasks for task in theirs)
  if len(names) > 1 and not found:
    raise ConfigError(
      f'no row of its puzzle table is of a puzzle in the data ({unused[1]}, '
      '...); name the --config of the data that it was trained on'
    )
  lines = [
    f'Puzzle table: {len(names):,} rows, {found:,} of puzzles that are in the '
    'data'
  ]
  if unused:
    lines.append(
      f'  {len(names) - found:,} rows of {len(unused):,} puzzles that the data '
      f'lack: {_some(unused)}'
    )
  if missing:
    lines.append(
      f'  {len(missing):,} puzzles of the data have no row, and cannot be '
      f'predicted: {_some(missing)}'
    )
  return '\n'.join(lines)


def _some(names: Sequence[str]) -> str:
  dots = ' …' if len(names) > _EXAMPLES else ''
  return ', '.join(names[:_EXAMPLES]) + dots


if __name__ == '__main__':
  launch.run(main)
