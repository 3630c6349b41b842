"""The commands; each starts JAX here."""

from experiments import quiet_jax

quiet_jax.start()
