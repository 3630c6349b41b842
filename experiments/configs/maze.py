"""Maze-Hard: the shortest path through mazes of 30 × 30 (section 3).

  python -m experiments.train --config=experiments/configs/maze.py \
      --workdir=runs/maze

Published result: 74.5 % of the test mazes exact, from 1000 mazes without
augmentation.

The files come from the Hugging Face hub (`pip install '.[hub]'`), or from a
directory that holds its train.csv and test.csv:
--config.data.train=maze_30x30_hard_1k@DIR --config.data.evaluate=(the same).
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  """The experiment."""
  config = base.get_config()
  config.data.train = config.data.evaluate = 'maze_30x30_hard_1k'
  config.data.num_aug = 0
  # 26,041 steps; ten evaluations, as published.
  config.epochs = 20_000
  config.evaluate_every = 2_604
  config.checkpoint_every = 2_000
  config.optimizer.puzzle_learning_rate = 1e-4
  config.optimizer.weight_decay = 1.0
  config.optimizer.puzzle_weight_decay = 1.0
  return config
