"""The systems beside each other, at one size, on one small task.

  hrm-jax train --config=comparison:hrm --config.seed=0 --workdir=DIR

`make comparison` trains hrm, recurrent_transformer, direct and trm with three
seeds each (40 minutes on two CPU cores) and draws the learning curves; what
came out, and what it does and does not say, stands in RESULTS.md. All have four
blocks of width 128 (HRM two in each level), the same training puzzles, batch
size and number of steps, and the halting and the gradient that were published
for them. TRM has two cycles of each kind and an average over a hundred steps,
to fit the short run.
"""

import ml_collections

from experiments.configs import base


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """The experiment; for systems see `base.choose`."""
  config, _, _ = base.choose(variant, 'comparison')
  base.shrink(config, batch_size=64, total_steps=1000, halt_max_steps=4)
  if config.model.kind in ('trm', 'urm'):
    config.model.layers = 4
  config.data.train = 'sudoku:box=2x2:clues=6:count=200:tests=100'
  config.data.evaluate = config.data.train
  config.data.num_aug = 1000

  config.evaluate_every = 100
  config.checkpoint_every = 500

  config.optimizer.puzzle_learning_rate = 1e-3
  config.evaluation.batch_size = 100
  return config
