"""Where puzzles come from: tasks, augmentation, encoding, batches, votes."""
