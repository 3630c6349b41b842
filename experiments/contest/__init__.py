"""What takes a checkpoint to a contest's machine, which has no network."""
