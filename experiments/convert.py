"""Converts checkpoints from and to the published code's form.

This makes a working directory that `experiments.evaluate` scores of a state
dict of HRM or TRM, `.pt` or `.safetensors`:

  hrm-jax convert --checkpoint=FILE --workdir=NEW --config=arc1[:trm]
      [--identifiers=FILE.json] [--all_config=FILE.yaml]

`--config` names the data, and gives the settings that neither the tensors nor
the run's all_config.yaml tell. That file and identifiers.json, the names of the
puzzle table's rows, are looked for beside FILE unless the flags name them.

This writes a state dict of one of our checkpoints, with both files beside it:

  hrm-jax convert --workdir=DIR [--step=N] --out=FILE.safetensors

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
from experiments.cli import command, launch, shared_flags
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.published import convert
from hrm_jax.settings import Settings
from hrm_jax.training import puzzle_table
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config

FLAGS = shared_flags.define('workdir', 'step', *shared_flags.JAX, config=None)
for _name, _sentence in {
  'checkpoint': 'State dict of the published code to read.',
  'identifiers': 'Names of the rows of its puzzle table, the identifiers.json '
  'beside --checkpoint if unset.',
  'all_config': 'Settings of the published run, the all_config.yaml beside '
  '--checkpoint if unset.',
  'out': 'State dict to write, which ends in .safetensors.',
}.items():
  shared_flags.path(_name, None, _sentence, FLAGS)
flags.DEFINE_enum(
  'dtype', 'float32', ('float32', 'bfloat16'), 'Type of the trained tensors in '
  '--out; the initial states keep theirs.', flag_values=FLAGS,
)  # fmt: skip

# Names that a report or an error lists at most.
_EXAMPLES = 5


def main(_) -> None:
  if (FLAGS.checkpoint is None) == (FLAGS.out is None):
    raise ConfigError(
      "name --checkpoint=FILE to read one of the published code's, or "
      '--out=FILE.safetensors to write one'
    )
  workdir, out = FLAGS.workdir, FLAGS.out
  if out:
    convert.write(workdir, out, FLAGS.step, FLAGS.dtype)
    command.say(
      f'Written: {out}, with identifiers.json and all_config.yaml beside'
    )
    return
  if FLAGS.config is None:
    raise ConfigError('--config is missing, e.g. --config=arc1')
  report = make_run(
    FLAGS.checkpoint, FLAGS.config, workdir, FLAGS.identifiers,
    FLAGS.all_config, FLAGS.step,
  )  # fmt: skip
  evaluate = command.typed('experiments.evaluate')
  command.say(report)
  command.say(
    f'Written: {workdir}; score it with {evaluate} --workdir={workdir}'
  )


def make_run(
  path: pathlib.Path,
  config: ml_collections.ConfigDict,
  workdir: pathlib.Path,
  names_path: pathlib.Path | None = None,
  all_config_path: pathlib.Path | None = None,
  step: int | None = None,
) -> str:
  """Makes a working directory, new or empty, of a published state dict.

  `config` names its data, and has the settings that are found nowhere else.
  Unless they are given, identifiers.json and all_config.yaml are looked for
  beside the state dict, and the step in a name like step_1234. Returns a report
  of the puzzle identifiers that have found their puzzles.

  Raises:
    ConfigError, DataError: something differs, is missing or is left over;
      nothing has been written then.
  """
  workdir = workdir_config.place(workdir)
  if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
    raise ConfigError(
      f'--workdir={workdir} exists and is not empty; name a new directory'
    )
  if step is not None and step < 0:
    raise ConfigError(f'--step={step} must not be negative')
  # Before the data, which may take long to load.
  if not path.is_file():
    raise ConfigError(f'{path}: no such file; name a .pt or .safetensors file')
  settings = Settings.from_config(config)
  # The tasks alone: the names tell which augmentations there are.
  puzzles = build.puzzle_set(settings.replace({'data.num_aug': 0}))
  found = convert.read(path, settings, puzzles, names_path, all_config_path)
  report = match(puzzles, found.identifier_names)

  leaking = build.check_leaks(found.settings, puzzles)
  workdir_config.claim(workdir, found.settings, puzzles, leaking)
  mesh = sharding.make_mesh(jax.devices()[:1])
  table = found.puzzle_table
  unused = puzzle_table.num_rows(mesh, len(table)) - len(table)
  saved = checkpoints.Checkpoints(workdir, found.settings)
  data = f'{checkpoints.UNKNOWN_DATA}, converted from {path.name}'
  with contextlib.closing(saved):
    saved.save_weights(
      found.step if step is None else step,
      found.variables,
      np.pad(table, ((0, unused), (0, 0))),
      checkpoints.Position(0, found.identifier_names, data),
    )
  return report


def match(puzzles: PuzzleSet, names: Sequence[str]) -> str:
  """Reports which rows of a checkpoint's puzzle table the data have puzzles of.

  Raises:
    ConfigError: no puzzle of the data has a row.
  """
  parse = encoding.parse_augmentation_name
  ours = {parse(name)[0] for name in puzzles.identifier_names()}
  theirs = [parse(name)[0] for name in names]
  unused, missing = sorted({*theirs} - ours), sorted(ours - {*theirs})
  # The blank row is of every set, and says nothing of these.
  named = ours - {BLANK_NAME}
  if len(names) > 1 and named and named.isdisjoint(theirs):
    raise ConfigError(
      'no row of its puzzle table is of a puzzle in the data '
      f'({_some(unused)}); name the --config of the data that it was trained on'
    )
  found, rows = sum(task in ours for task in theirs), len(names)
  text = (
    f'Puzzle table: {rows:,} rows, {found:,} of puzzles that are in the data'
  )
  if unused:
    text += (
      f'\n  {rows - found:,} rows of {len(unused):,} puzzles that the data '
      f'lack: {_some(unused)}'
    )
  if missing:
    text += (
      f'\n  {len(missing):,} puzzles of the data have no row, and cannot be '
      f'predicted: {_some(missing)}'
    )
  return text


def _some(names: Sequence[str]) -> str:
  dots = ' …' if len(names) > _EXAMPLES else ''
  return ', '.join(names[:_EXAMPLES]) + dots


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
