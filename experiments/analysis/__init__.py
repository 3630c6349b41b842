"""What `hrm-jax analyze` measures and draws."""
