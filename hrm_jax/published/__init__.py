"""The published PyTorch code's tensors, files and settings."""
