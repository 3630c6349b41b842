"""The settings that every experiment has, at the published values."""

import ml_collections

# What the configs can be asked for: a kind of model, or TRM with its MLP.
SYSTEMS = ('hrm', 'direct', 'recurrent_transformer', 'trm', 'trm_mlp')


def choose(
  variant: str, *presets: str
) -> tuple[ml_collections.ConfigDict, str, str]:
  """What a config file's variant asks for: 'PRESET', 'SYSTEM' or both.

  Args:
    variant: what follows the colon, words separated by commas.
    presets: of this file, the default first.

  Returns:
    The system's published settings for ARC, the preset and the system.

  Raises:
    ValueError: a word is unknown, or two are of one kind.
  """
  preset, system = presets[0], SYSTEMS[0]
  words = [word for word in variant.split(',') if word]
  for word in words:
    if word in presets:
      preset = word
    elif word in SYSTEMS:
      system = word
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
  """A model's published settings for ARC; data to be chosen.

  Args:
    kind: of model, a key of `hrm_jax.models.KINDS`.
  """
  config = ml_collections.ConfigDict()
  config.seed = 0

  # Training runs `epochs` by the paper's rule, floor(epochs × groups × mean
  # examples per puzzle / batch size), or `total_steps` where that is not 0.
  config.batch_size = 768
  config.epochs = 100_000
  config.total_steps = 0
  # Ends this call early, to go on later; 0 for the end.
  config.stop_at_step = 0
  # Ends training when it solves this share of its puzzles exactly, in one line
  # of metrics; 0 for never.
  config.stop_at_accuracy = 0.0
  # In steps; 0 for never.
  config.log_every = 100
  config.evaluate_every = 0
  config.checkpoint_every = 1000
  # The newest so many checkpoints stay; besides, so many of the best by a
  # metric of the evaluation, and those of every so many steps.
  config.keep_checkpoints = 3
  config.keep_best = 0
  config.best_metric = 'exact'
  config.keep_every = 0

  # A loss or gradient that is not finite, or a loss that many times its mean (0
  # for any): stop, skip or rollback (see hrm_jax.training.divergence).
  divergence = config.divergence = ml_collections.ConfigDict()
  divergence.policy = 'stop'
  divergence.loss_spike = 0.0
  divergence.limit = 10

  # Parts that a batch is computed in, one after the other: less memory for the
  # same update.
  config.microbatches = 1

  # Devices along each axis; -1 is what the others leave.
  mesh = config.mesh = ml_collections.ConfigDict()
  mesh.data = -1
  mesh.fsdp = 1
  mesh.tensor = 1

  data = config.data = ml_collections.ConfigDict()
  # SPECs (see data_pipelines.puzzles). What `evaluate` names is held out and
  # scored; of ARC tasks, their demonstrations are trained on nevertheless.
  data.train = ''
  data.evaluate = ''
  # Of ARC: side of the canvas; tasks with larger grids are left out.
  data.canvas = 30
  # Augmentations of each puzzle besides itself, drawn from the seed.
  data.num_aug = 1000
  data.seed = 0
  # Held-out answers that are trained on: those that may be, by name as
  # `python -m experiments.leaks` prints them; or all of them.
  data.known_leaks = ()
  data.allow_leaks = False

  model = config.model = ml_collections.ConfigDict()
  # hrm, direct, recurrent_transformer or trm (see hrm_jax.models); each has
  # settings of its own, below.
  model.kind = kind
  model.hidden_size = 512
  model.num_heads = 8
  model.expansion = 4.0
  model.puzzle_emb_ndim = 512
  model.puzzle_emb_len = 16 if kind == 'trm' else 0
  # rope, learned or none.
  model.pos_encodings = 'rope'
  model.dtype = 'bfloat16'
  # How attention is computed: xla, xla_recompute (scores twice instead of
  # kept), cpu, pallas (TPU), cudnn (GPU, in bfloat16), or auto.
  model.attention = 'auto'
  # What one kernel computes where attention is pallas: attention, block or
  # level (see hrm_jax.models.attention.tpu_blocks).
  model.fusion = 'block'
  # Blocks, of each level or of the one stack.
  if kind == 'hrm':
    model.H_layers = 4
    model.L_layers = 4
  else:
    model.layers = 2 if kind == 'trm' else 8
  if kind in ('hrm', 'trm'):
    model.H_cycles, model.L_cycles = (3, 4) if kind == 'trm' else (2, 2)
    # The updates of a segment that carry a gradient: one_step, last_cycle,
    # last_K or full.
    model.gradient = 'last_cycle' if kind == 'trm' else 'one_step'
  if kind == 'trm':
    # Tokens are mixed by an MLP over them instead of by attention.
    model.mlp_t = False

  act = config.act = ml_collections.ConfigDict()
  act.halt_max_steps = 16
  act.halt_exploration_prob = 0.1
  # q_learning, halt_only (no segment for the target of q_continue) or none.
  act.halting = 'halt_only' if kind == 'trm' else 'q_learning'
  if kind == 'direct':
    act.halt_max_steps, act.halting = 1, 'none'

  config.loss = 'stablemax'

  optimizer = config.optimizer = ml_collections.ConfigDict()
  optimizer.learning_rate = 1e-4
  optimizer.weight_decay = 0.1
  optimizer.b1 = 0.9
  optimizer.b2 = 0.95
  optimizer.puzzle_learning_rate = 1e-2
  optimizer.puzzle_weight_decay = 0.1
  optimizer.warmup_steps = 2000
  optimizer.min_ratio = 1.0
  # Of the average of the weights that predicts; 0 for none.
  optimizer.ema_decay = 0.999 if kind == 'trm' else 0.0

  evaluation = config.evaluation = ml_collections.ConfigDict()
  evaluation.batch_size = 768
  # 'fixed' runs all segments; 'act' freezes a row at its own halt.
  evaluation.halting = 'fixed'
  # While training: of each test input, the identity first; 0 for all.
  evaluation.max_augmentations = 0
  # While training: spread evenly over the held-out ones; 0 for all.
  evaluation.max_puzzles = 0
  return config


def for_1000_puzzles(config: ml_collections.ConfigDict) -> None:
  """Any system's published settings for Sudoku-Extreme 1k and Maze-Hard.

  Ten evaluations, as published: in HRM's 26,041 steps, in TRM's 65,104.
  """
  is_trm = config.model.kind == 'trm'
  config.epochs = 50_000 if is_trm else 20_000
  config.evaluate_every = 6_510 if is_trm else 2_604
  config.optimizer.puzzle_learning_rate = 1e-4
  config.optimizer.weight_decay = 1.0
  config.optimizer.puzzle_weight_decay = 1.0


def shrink(
  config: ml_collections.ConfigDict,
  batch_size: int,
  total_steps: int,
  halt_max_steps: int,
) -> None:
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
    # An average over a hundred steps of a run of hundreds.
    config.optimizer.ema_decay = 0.99
  else:
    model.layers = 4
