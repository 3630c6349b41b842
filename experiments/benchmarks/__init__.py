"""What `hrm-jax benchmark` measures."""
