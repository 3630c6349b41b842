"""The commands; each starts JAX here."""

from experiments.cli import quiet_jax

quiet_jax.start()
