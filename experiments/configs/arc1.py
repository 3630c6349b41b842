"""ARC-AGI-1, as in the paper (section 3).

  python -m experiments.train --config=experiments/configs/arc1.py \
      --workdir=runs/arc1

Published result: 40.3 % of the public evaluation set in two attempts, with
1000 augmentations. Published cost: about 24 hours on 8 H100. The paper's set
adds ConceptARC, which no package carries. Where the environment variable
CONCEPT_ARC names its corpus/ directory or its Kaggle file, it is trained on
too: 960 tasks. Without it these are the 800 tasks of ARC-AGI-1 itself.

`arc1.py:demo` is for two CPU cores and takes minutes: the ARC-AGI-1 *training*
tasks whose grids all fit a 5 × 5 canvas (25 tasks, chosen by size alone), with
their 31 test pairs held out of training and scored. Its settings were tuned
on these tasks; the evaluation tasks were never looked at. What it printed
stands in the README.
"""

import os

import ml_collections

from experiments.configs import base

# Held-out answers of the paper's set-up that are trained on, turned or
# recoloured. Two are among other tasks' pairs, the others among the task's own
# demonstrations, where whoever solves it finds them too.
_KNOWN_LEAKS = (
  '40853293->070dd51e',
  'caa06a1f->50a16a69',
  '00576224->00576224',
  '3979b1a8->3979b1a8',
  '66e6c45b->66e6c45b',
  '94414823->94414823',
  '992798f6->992798f6',
  'ca8de6ea->ca8de6ea',
  'f3e62deb->f3e62deb',
)
# Of the demo's 31: four, all among their own demonstrations.
_KNOWN_LEAKS_OF_THE_DEMO = (
  '0d3d703e->0d3d703e',
  '27a28665->27a28665',
  '44f52bb0->44f52bb0',
)


def get_config(variant: str = 'paper') -> ml_collections.ConfigDict:
  """The experiment, or its variant 'demo'."""
  config = base.get_config()
  if variant == 'paper':
    config.data.train = 'arc1:training'
    if os.environ.get('CONCEPT_ARC'):
      config.data.train += ',concept'
    config.data.evaluate = 'arc1:evaluation'
    config.data.known_leaks = _KNOWN_LEAKS
    # 400,820 steps; ten evaluations, as published.
    config.evaluate_every = 40_000
    config.checkpoint_every = 2_000
    return config
  if variant == 'demo':
    return _demo(config)
  raise ValueError(f"variant '{variant}' is unknown; there are paper, demo")


def _demo(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  config.data.evaluate = 'arc1:training'
  config.data.known_leaks = _KNOWN_LEAKS_OF_THE_DEMO
  config.data.canvas = 5
  config.data.num_aug = 100

  config.batch_size = 128
  config.total_steps = 2000
  config.log_every = 100
  config.checkpoint_every = 1000

  config.model.hidden_size = 128
  config.model.num_heads = 4
  config.model.H_layers = config.model.L_layers = 2
  config.model.expansion = 2.0
  # Four prefix tokens and fast rows: an augmented task is told apart by its
  # embedding alone, and is seen a few dozen times only.
  config.model.puzzle_emb_ndim = 512
  config.model.dtype = 'float32'

  # Fewer segments of more puzzles, and no segment for the Q target: what the
  # minutes buy most with.
  config.act.halt_max_steps = 2
  config.act.halting = 'halt_only'
  config.loss = 'softmax'

  config.optimizer.learning_rate = 1e-3
  config.optimizer.puzzle_learning_rate = 0.1
  config.optimizer.warmup_steps = 100
  config.optimizer.min_ratio = 0.1

  config.evaluation.batch_size = 512
  return config
