"""HRM-JAX: the Hierarchical Reasoning Model (arXiv 2506.21734) in JAX."""

__version__ = '0.1.0'
