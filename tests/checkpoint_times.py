"""Times of a checkpoint on a disk and in a bucket, of a server on this machine.

  python -m tests.checkpoint_times [--puzzles=10000] [--times=3]

The state is that of HRM at the paper's size for ARC.
"""

import contextlib
import pathlib
import tempfile
import time

# Before JAX, which it keeps quiet.
from experiments.cli import command, shared_flags

# isort: split
import jax
from absl import flags

from data_pipelines import files
from data_pipelines.puzzles import Shapes
from experiments.configs import arc1
from hrm_jax import build
from hrm_jax.settings import Settings
from hrm_jax.training import step as train_step
from hrm_jax.training.state import Position
from hrm_jax.workdir.checkpoints import Checkpoints, find_damage
from tests import buckets

FLAGS = shared_flags.define()
_PUZZLES = flags.DEFINE_integer(
  'puzzles', 10_000, 'Rows of the puzzle table.', flag_values=FLAGS
)
_TIMES = flags.DEFINE_integer(
  'times', 3, 'Number of checkpoints.', flag_values=FLAGS
)


def main(_) -> None:
  settings = Settings.from_config(arc1.get_config())
  settings = settings.replace({'batch_size': 8, 'keep_checkpoints': 1})
  shapes = Shapes(12, 900, _PUZZLES.value, 1e6)
  setup = build.train_setup(settings, shapes)
  state = train_step.sharded_init(setup, build.mesh(settings))
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  print(f'{size / 2**20:,.0f} MiB')
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    with buckets.serving(root / 'server'):
      for place in (root / 'run', files.place(f'gs://{buckets.BUCKET}/run')):
        _measure(place, settings, state)


def _measure(place: pathlib.Path, settings: Settings, state) -> None:
  with contextlib.closing(Checkpoints(place, settings)) as saved:
    for step in range(1, _TIMES.value + 1):
      state = state.replace(step=state.step + 1)
      begin = time.monotonic()
      saved.save(state, Position(0, ['<blank>'], 'none', 8))
      away = time.monotonic()
      saved.wait()
      end = time.monotonic()
      assert find_damage(saved.directory / str(step)) is None
      checked = time.monotonic()
      print(
        f'{place}: the loop waits {away - begin:.2f} s, it is saved after '
        f'{end - begin:.2f} s; its sums are checked in {checked - end:.2f} s'
      )


if __name__ == '__main__':
  command.run(main, FLAGS)
