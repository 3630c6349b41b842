"""What `hrm-jax report` and `hrm-jax compare` show."""
