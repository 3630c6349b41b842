"""Where puzzles come from: tasks, augmentation, encoding, batches, votes."""

import os


def _import_tensorflow_quietly() -> None:
  """Imports TensorFlow without its C++ start-up notes (oneDNN, no GPU found).

  They tell nobody anything to act on, and are written before TensorFlow looks
  at its own log level, so standard error is closed to them for that moment.
  An error of the import is raised as usual.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    saved = os.dup(2)
  except OSError:
    # Standard error is closed: nothing to keep quiet.
    import tensorflow as tf

    return
  sink = os.open(os.devnull, os.O_WRONLY)
  os.dup2(sink, 2)
  try:
    import tensorflow as tf

    # TensorFlow only feeds here: JAX alone takes the accelerators.
    tf.config.set_visible_devices([], 'GPU')
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(sink)


_import_tensorflow_quietly()
