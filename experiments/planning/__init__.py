"""What a training step costs, told by the compiler."""
