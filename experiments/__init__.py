"""The commands. A command that imports JAX finds it quiet."""

from experiments.cli import quiet_jax

quiet_jax.prepare()
