"""Recipes that race: the shortest time to a fixed score.

  hrm-jax speedrun --recipe=speedrun:fastest

The race: 90 % of 500 held-out Sudokus of 6 × 6 cells exactly right, with 1000
others and their augmentations to train on, all with at most 16 clues (see
`comparison`). What counts is the wall-clock time of the whole training, from
the start of its process to the end. docs/speedrun.md is the leaderboard.

  recipe   what
  hrm      HRM, its cycles, gradient, halting and optimizer as published
  trm      TRM with attention, likewise, its layers two as published
  urm      URM, likewise
  fastest  TRM with an MLP over the cells and one high-level cycle, at most two
           segments, a schedule of 320 steps; then one evaluation, in which
           eight symmetric images of every Sudoku vote

The other systems (see `base.SYSTEMS`) race too. All are small: width 128.
"""

import ml_collections

from experiments.configs import comparison


def get_config(recipe: str = 'fastest') -> ml_collections.ConfigDict:
  """The experiment of a recipe, or of a system."""
  if recipe == 'fastest':
    config = get_config('trm_mlp')
    config.total_steps = config.evaluate_every = 320
    config.optimizer.warmup_steps = 30
    config.optimizer.learning_rate = 2e-3
    config.model.H_cycles = 1
    config.act.halt_max_steps = 2
    config.evaluation.symmetries = 8
    return config
  config = comparison.get_config(recipe)
  if config.model.kind == 'trm':
    config.model.layers = 2
  config.total_steps = 2000
  config.stop_at_score = 0.9
  config.checkpoint_every = 0
  return config
