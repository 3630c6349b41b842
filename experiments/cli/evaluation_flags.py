"""Flags of the commands that predict; tests import these commands together."""

from absl import flags

SEGMENTS = flags.DEFINE_integer(
  'segments', None, "Of each puzzle, instead of the run's act.halt_max_steps.",
  lower_bound=1,
)  # fmt: skip
MAX_AUGMENTATIONS = flags.DEFINE_integer(
  'max_augmentations', 0, 'Of each test input, the identity first; 0: all.',
  lower_bound=0,
)  # fmt: skip
MAX_PUZZLES = flags.DEFINE_integer(
  'max_puzzles', 0, 'Spread evenly over the held-out ones; 0: all.',
  lower_bound=0,
)  # fmt: skip
BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, "Overrides the run's.", lower_bound=1
)
