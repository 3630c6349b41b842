"""The published settings, and what the experiments change in them.

What each setting means is said in `hrm_jax.settings`.
"""

import ml_collections

from hrm_jax.settings import Settings

# The systems that a config can be asked for: a kind of model, or TRM with its
# MLP.
SYSTEMS = ('hrm', 'direct', 'recurrent_transformer', 'trm', 'trm_mlp', 'urm')


def choose(
  variant: str, *presets: str
) -> tuple[ml_collections.ConfigDict, str, str]:
  """What a config file's variant asks for: 'PRESET', 'SYSTEM' or both.

  Returns the system's published settings for ARC, the preset, which is the
  first of `presets` where the variant names none, and the system.

  Raises:
    ValueError: a word is unknown, or two are of one kind.
  """
  words = [word for word in variant.split(',') if word]
  preset, system = (
    next((word for word in words if word in known), known[0])
    for known in (presets, SYSTEMS)
  )
  if set(words) - {preset, system} or len(words) > 2:
    raise ValueError(
      f"variant '{variant}' is unknown: at most one of {', '.join(presets)} "
      f'and one of {", ".join(SYSTEMS)}, with a comma between'
    )
  config = get_config('trm' if system == 'trm_mlp' else system)
  if system == 'trm_mlp':
    config.model.mlp_t = True
  return config, preset, system


def get_config(kind: str = 'hrm') -> ml_collections.ConfigDict:
  """A kind of model's published settings for ARC; the data are to be chosen."""
  return ml_collections.ConfigDict(Settings.published(kind).to_dict())


def for_1000_puzzles(config: ml_collections.ConfigDict) -> None:
  """Any system's published settings for Sudoku-Extreme 1k and Maze-Hard.

  Evaluations as published: ten in HRM's 26,041 steps and in TRM's 65,104, and
  25 in URM's 390,625 (of Sudokus; of mazes nothing is published).
  """
  config.epochs, config.evaluate_every = 20_000, 2_604
  if config.model.kind == 'trm':
    config.epochs, config.evaluate_every = 50_000, 6_510
  elif config.model.kind == 'urm':
    config.epochs, config.evaluate_every = 50_000, 15_625
    config.batch_size = 128
  config.optimizer.puzzle_learning_rate = 1e-4
  config.optimizer.weight_decay = 1.0
  config.optimizer.puzzle_weight_decay = 1.0


def shrink(
  config: ml_collections.ConfigDict, batch_size: int, total_steps: int,
  halt_max_steps: int,
) -> None:  # fmt: skip
  """Makes any system one for two CPU cores and minutes."""
  config.batch_size = batch_size
  config.total_steps = total_steps
  config.log_every = 100
  if config.act.halting != 'none':
    config.act.halt_max_steps = halt_max_steps
  config.optimizer.learning_rate = 1e-3
  config.optimizer.warmup_steps = 100
  config.optimizer.min_ratio = 0.1
  model = config.model
  model.hidden_size = 128
  model.num_heads = 4
  model.puzzle_emb_ndim = 128
  model.dtype = 'float32'
  if model.kind == 'hrm':
    model.H_layers = model.L_layers = 2
  elif model.kind == 'trm':
    model.puzzle_emb_len = 0
    model.H_cycles = model.L_cycles = 2
  elif model.kind == 'urm':
    model.layers = 2
    model.L_cycles = 3
  else:
    model.layers = 4
  if config.optimizer.ema_decay:
    # An average over a hundred steps of a run of hundreds.
    config.optimizer.ema_decay = 0.99
