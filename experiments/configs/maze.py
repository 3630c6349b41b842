"""Maze-Hard: the shortest path through mazes of 30 × 30 (section 3).

  python -m experiments.train --config=experiments/configs/maze.py \
      --workdir=runs/maze

Published result: 74.5 % of the test mazes exact, from 1000 mazes without
augmentation.

The files come from the Hugging Face hub (`pip install '.[hub]'`), or from a
directory that holds its train.csv and test.csv:
--config.data.train=maze_30x30_hard_1k@DIR --config.data.evaluate=(the same).

`maze.py:demo` needs no files and takes minutes on two CPU cores: generated
mazes of 7 × 7 cells. What it printed stands in the README.
"""

import ml_collections

from experiments.configs import base


def get_config(variant: str = '30x30_hard_1k') -> ml_collections.ConfigDict:
  """The experiment, or its variant 'demo'."""
  config = base.get_config()
  if variant == 'demo':
    return _demo(config)
  if variant != '30x30_hard_1k':
    raise ValueError(
      f"variant '{variant}' is unknown; there are 30x30_hard_1k, demo"
    )
  config.data.train = config.data.evaluate = f'maze_{variant}'
  config.data.num_aug = 0
  # 26,041 steps; ten evaluations, as published.
  config.epochs = 20_000
  config.evaluate_every = 2_604
  config.checkpoint_every = 2_000
  config.optimizer.puzzle_learning_rate = 1e-4
  config.optimizer.weight_decay = 1.0
  config.optimizer.puzzle_weight_decay = 1.0
  return config


def _demo(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  config.data.train = 'maze:size=7x7:path=8:count=1000:tests=100'
  config.data.evaluate = config.data.train
  config.data.num_aug = 7

  config.batch_size = 64
  config.total_steps = 1000
  config.log_every = 100
  config.checkpoint_every = 1000

  config.model.hidden_size = 128
  config.model.num_heads = 4
  config.model.H_layers = config.model.L_layers = 2
  config.model.puzzle_emb_ndim = 128
  config.model.dtype = 'float32'
  config.act.halt_max_steps = 4
  config.act.halting = 'halt_only'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.min_ratio = 0.1
  return config
