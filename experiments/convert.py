"""Converts between our checkpoints and state dicts of the published code.

This makes a working directory that `experiments.evaluate` scores of a state
dict of HRM or TRM, `.pt` or `.safetensors`:

  python -m experiments.convert --checkpoint=FILE --workdir=NEW \
      --config=experiments/configs/arc1.py[:trm] [--identifiers=FILE.json] \
      [--all_config=FILE.yaml]

`--config` names the data, and gives the settings that neither the tensors nor
the run's all_config.yaml tell. That file and identifiers.json, the names of the
puzzle table's rows, are looked for beside FILE unless the flags name them.

This writes a state dict of one of our checkpoints, with both files beside it:

  python -m experiments.convert --workdir=DIR [--step=N] --out=FILE.safetensors

`hrm_jax.published.convert` is the library, and tells how to get a `.pt`.
"""

import contextlib
import pathlib
from collections.abc import Sequence

import jax
import ml_collections
import numpy as np
from absl import flags

from data_pipelines.arc import encoding
from data_pipelines.batches import BLANK_NAME
from data_pipelines.errors import ConfigError
from data_pipelines.puzzle_set import PuzzleSet
from experiments.cli import data_flags, launch
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.published import convert
from hrm_jax.training import puzzle_table
from hrm_jax.workdir import checkpoints

_CHECKPOINT = flags.DEFINE_string(
  'checkpoint', None, 'State dict of the published code to read.'
)
_IDENTIFIERS = flags.DEFINE_string(
  'identifiers', None, 'identifiers.json of the data it was trained on.'
)
_ALL_CONFIG = flags.DEFINE_string(
  'all_config', None, 'all_config.yaml of its run.'
)
_DTYPE = flags.DEFINE_enum(
  'dtype',
  'float32',
  ('float32', 'bfloat16'),
  'Type of the trained tensors in --out; the initial states keep theirs.',
)

# Names that a report or an error lists at most.
_EXAMPLES = 5


def main(_) -> None:
  if (_CHECKPOINT.value is None) == (data_flags.OUT.value is None):
    raise ConfigError(
      "name --checkpoint=FILE to read one of the published code's, or "
      '--out=FILE.safetensors to write one'
    )
  workdir = launch.workdir()
  if _CHECKPOINT.value is None:
    out = pathlib.Path(data_flags.OUT.value)
    convert.write(workdir, out, launch.STEP.value, _DTYPE.value)
    print(f'Written: {out}, with identifiers.json and all_config.yaml beside')
    return
  report = make_run(
    pathlib.Path(_CHECKPOINT.value),
    launch.config(),
    workdir,
    *(value and pathlib.Path(value) for value in _files()),
    launch.STEP.value,
  )
  print(report)
  print(f'Written: {workdir}; score it with experiments.evaluate')


def _files() -> tuple[str | None, str | None]:
  return _IDENTIFIERS.value, _ALL_CONFIG.value


def make_run(
  path: pathlib.Path,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  names_path: pathlib.Path | None = None,
  all_config_path: pathlib.Path | None = None,
  step: int | None = None,
) -> str:
  """Makes a working directory of a published state dict.

  Args:
    path: the state dict.
    config: its data, and the settings that are found nowhere else.
    workdir: a directory that does not exist yet or is empty.
    names_path: identifiers.json; None to look for it beside `path`.
    all_config_path: the run's settings; None to look for them there.
    step: number of steps of the run; None to take it from a name like
      step_1234.

  Returns:
    A report of the puzzle identifiers that have found their puzzles.

  Raises:
    ConfigError, DataError: something differs, is missing or is left over;
      nothing has been written then.
  """
  if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise ConfigError(
      f'--workdir={workdir} exists and is not empty; name a new directory'
    )
  if step is not None and step < 0:
    raise ConfigError(f'--step={step} must not be negative')
  # Before the data, which may take long to load.
  if not path.is_file():
    raise ConfigError(f'{path}: no such file; name a .pt or .safetensors file')
  build.check(config)
  # The tasks alone: the names tell which augmentations there are.
  puzzles = build.puzzle_set(convert.unaugmented(config))
  found = convert.read(path, config, puzzles, names_path, all_config_path)
  report = match(puzzles, found.identifier_names)

  leaking = build.check_leaks(found.settings, puzzles)
  build.claim_workdir(workdir, found.settings, puzzles, leaking)
  mesh = sharding.make_mesh(jax.devices()[:1])
  table = found.puzzle_table
  unused = puzzle_table.num_rows(mesh, len(table)) - len(table)
  saved = checkpoints.Checkpoints(
    workdir, checkpoints.Keep(found.settings.keep_checkpoints)
  )
  with contextlib.closing(saved):
    saved.save_weights(
      found.step if step is None else step,
      found.variables,
      np.pad(table, ((0, unused), (0, 0))),
      checkpoints.Position(
        0,
        found.identifier_names,
        f'{checkpoints.UNKNOWN_DATA}, converted from {path.name}',
      ),
    )
  return report


def match(puzzles: PuzzleSet, names: Sequence[str]) -> str:
  """Reports which rows of a checkpoint's puzzle table the data have puzzles of.

  The blank row is of every set. It says nothing of one whose puzzles have rows
  of their own.

  Raises:
    ConfigError: no puzzle of the data has a row.
  """
  ours = {
    encoding.parse_augmentation_name(name)[0]
    for name in puzzles.identifier_names()
  }
  theirs = [encoding.parse_augmentation_name(name)[0] for name in names]
  unused = sorted({task for task in theirs if task not in ours})
  missing = sorted(ours - set(theirs))
  named = ours - {BLANK_NAME}
  if len(names) > 1 and named and named.isdisjoint(theirs):
    raise ConfigError(
      'no row of its puzzle table is of a puzzle in the data '
      f'({_some(unused)}); name the --config of the data that it was trained on'
    )
  found = sum(task in ours for task in theirs)
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
