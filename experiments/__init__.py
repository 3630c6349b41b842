"""The commands. A command that imports JAX finds it quiet."""

import sys

from experiments.cli import interrupts, quiet_jax

if sys.argv[0] == '-m':  # As Python says while it imports for `python -m`.
  interrupts.end_at_once()
quiet_jax.prepare()
