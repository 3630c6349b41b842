"""The program of the training step, at the published settings, stays the same.

A digest of its StableHLO text is kept in tests/golden/programs.json, so that a
refactoring that changes what is computed is seen. Tables of constants (cosines
of the rotary angles) count by their shape alone: their last bits differ from
one processor to another. Width, depth, cycles and halting are the published
ones; the batch has 8 rows and the puzzles 25 cells, so that a test takes
seconds.

After a change that is meant to change the program, write the digests anew, and
say in the commit why they differ:

  JAX_PLATFORMS=cpu python -m tests.hrm_jax.training.program_test [DIR]

DIR gets the texts. Do that before the change too, with another DIR, to see the
difference: diff -u BEFORE/arc1.mlir AFTER/arc1.mlir
"""

import hashlib
import json
import pathlib
import re
import sys

import jax
import pytest

from data_pipelines.puzzles import Shapes
from experiments.configs import arc1, arc2, sudoku
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.settings import Settings
from hrm_jax.training import step as train_step

_DIGESTS = pathlib.Path(__file__).parents[2] / 'golden' / 'programs.json'
_CONFIGS = {
  'arc1': (arc1.get_config, '', 12),
  'sudoku': (sudoku.get_config, '', 11),
  'trm': (arc1.get_config, 'trm', 12),
  'trm_mlp': (sudoku.get_config, 'trm_mlp', 11),
  'urm': (arc1.get_config, 'urm', 12),
  'urm_muon': (arc2.get_config, 'urm', 12),
}


def _text(name):
  """The step's StableHLO, without locations in the source and constants."""
  get_config, variant, vocab_size = _CONFIGS[name]
  settings = Settings.from_config(get_config(variant))
  settings = settings.replace({'batch_size': 8, 'total_steps': 1000})
  shapes = Shapes(vocab_size, 25, num_identifiers=1000, examples_per_pass=1.0)
  setup = build.train_setup(settings, shapes)
  mesh = sharding.make_mesh(jax.devices()[:1])
  text = train_step.trace(setup, mesh).lower().as_text()
  return re.sub(r'dense<"0x[0-9A-F]+">', 'dense<…>', text)


@pytest.mark.parametrize('name', _CONFIGS)
def test_the_step_is_the_program_that_it_was(name):
  kept = json.loads(_DIGESTS.read_text())
  if kept['jax'] != jax.__version__:
    pytest.skip(
      f'the digests are of jax {kept["jax"]}, this is {jax.__version__}: '
      'another version writes another text'
    )
  digest = hashlib.sha256(_text(name).encode()).hexdigest()
  assert digest == kept['programs'][name], (
    f'the training step of {name} has become another program: see the head of '
    f'{__file__} for how to look at the difference, and how to accept it'
  )


def main(directory=None):
  """Writes the digests, and the texts into a directory."""
  programs = {}
  for name in _CONFIGS:
    text = _text(name)
    programs[name] = hashlib.sha256(text.encode()).hexdigest()
    if directory:
      pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
      (pathlib.Path(directory) / f'{name}.mlir').write_text(text)
  kept = {'jax': jax.__version__, 'programs': programs}
  _DIGESTS.write_text(json.dumps(kept, indent=2) + '\n')


if __name__ == '__main__':
  main(*sys.argv[1:])
