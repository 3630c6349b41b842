"""Maze-Hard: the shortest path through mazes of 30 × 30.

  hrm-jax train --config=maze --workdir=runs/maze

Published, of the test mazes exact, from 1000 mazes (TRM: turned and mirrored):

  variant  result  cost
  (hrm)    74.5 %  about 1 hour on 8 GPUs
  direct   0 %     not published
  trm      85.3 %  less than 24 hours on 4 L40S
  trm_mlp  0 %     not published

(arXiv 2506.21734; 2510.04871 for TRM.) The files come from the Hugging Face hub
(`pip install '.[hub]'`), or from a directory that holds its train.csv and
test.csv: --config.data.train=maze_30x30_hard_1k@DIR, and evaluate likewise.

`maze:demo` needs no files and takes minutes on two CPU cores: generated mazes
of 5 × 5 cells. The README has what it printed.
"""

import ml_collections

from experiments.configs import base


def get_config(variant: str = '') -> ml_collections.ConfigDict:
  """The experiment; presets are 'paper' and 'demo', see `base.choose`."""
  config, preset, system = base.choose(variant, 'paper', 'demo')
  if preset == 'demo':
    base.shrink(config, batch_size=64, total_steps=2000, halt_max_steps=4)
    config.data.train = 'maze:size=5x5:path=4:count=1000:tests=100'
    config.data.evaluate = config.data.train
    config.data.num_aug = 7
    config.checkpoint_every = 1000
    return config
  config.data.train = config.data.evaluate = 'maze_30x30_hard_1k'
  # TRM's builder has all eight turns and mirrorings of each maze.
  config.data.num_aug = 7 if system.startswith('trm') else 0
  base.for_1000_puzzles(config)
  config.checkpoint_every = 2_000
  return config
