"""Checkpoints and settings in the published PyTorch code's form."""
