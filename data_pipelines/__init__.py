"""Where puzzles come from: tasks, augmentation, encoding, batches, votes."""

import os

# TensorFlow's C++ start-up notes (oneDNN, CPU features, missing GPU) tell a
# user of this package nothing to act on. It reads this at its first import.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
