"""The systems beside each other, at one size, on one small task.

  hrm-jax train --config=comparison:hrm --config.seed=0 --workdir=DIR

`make comparison` trains five systems with three seeds each and draws the
learning curves; what came out, and what it does and does not say, stands in
RESULTS.md. The task is Sudokus of 6 × 6 cells with at most 16 clues, which no
system of this size solves all of after these steps. All systems have four
blocks of width 128 (HRM two in each level), the same training puzzles, batch
size and number of steps, and the halting and the gradient that were published
for them. TRM has two cycles of each kind, URM six passes of which three learn,
and both an average over a hundred steps, to fit the short run.
"""

import ml_collections

from experiments.configs import base


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """The experiment of a system, see `base.choose`."""
  config, *_ = base.choose(variant, '6x6')
  base.shrink(config, batch_size=64, total_steps=1000, halt_max_steps=4)
  if config.model.kind in ('trm', 'urm'):
    config.model.layers = 4
  config.data.train = 'sudoku:box=2x3:clues=16:count=1000:tests=500'
  config.data.evaluate = config.data.train
  config.data.num_aug = 1000
  config.evaluation.batch_size = 250

  config.evaluate_every = 100
  config.checkpoint_every = 500

  config.optimizer.puzzle_learning_rate = 1e-3
  return config
