"""ARC-AGI-2, as in the paper (section 3): 1,120 tasks.

  python -m experiments.train --config=experiments/configs/arc2.py \
      --workdir=runs/arc2

Published result: 5.0 % of the public evaluation set in two attempts, with 1000
augmentations. Published cost: about 24 hours on 8 H100.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
  """The experiment."""
  config = base.get_config()
  config.data.train = 'arc2:training'
  config.data.evaluate = 'arc2:evaluation'
  config.evaluate_every = 50_000
  config.checkpoint_every = 2_000
  return config
