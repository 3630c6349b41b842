"""Flags that several commands have; tests import these commands together."""

from absl import flags

TRAIN = flags.DEFINE_string('train', '', 'SPEC of what is trained on.')
EVALUATE = flags.DEFINE_string('evaluate', '', 'SPEC of what is held out.')
CANVAS = flags.DEFINE_integer('canvas', 30, 'As config.data.canvas.')
NUM_AUG = flags.DEFINE_integer(
  'num_aug', None, "As config.data.num_aug; the command's own if unset."
)
SEED = flags.DEFINE_integer('seed', 0, 'As config.data.seed.', lower_bound=0)
OUT = flags.DEFINE_string('out', None, 'The file or directory to write.')
