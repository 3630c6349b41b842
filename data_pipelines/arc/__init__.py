"""ARC tasks: files, encoding, augmentation, batches, votes and scores."""
