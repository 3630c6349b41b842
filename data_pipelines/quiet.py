"""TensorFlow, imported late and without its start-up notes."""

import os
from types import ModuleType


def tensorflow() -> ModuleType:
  """Imports TensorFlow; where it only feeds, JAX takes the accelerators.

  Late, since it takes seconds and half a gigabyte, and not all sets need it.
  Quietly, since its C++ start-up notes (oneDNN, no GPU found) tell nobody
  anything to act on, and are written before TensorFlow looks at its own log
  level: standard error is closed to them for that moment. An error of the
  import is raised as usual.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  try:
    saved = os.dup(2)
  except OSError:
    # Standard error is closed: nothing to keep quiet.
    import tensorflow as tf

    return tf
  sink = os.open(os.devnull, os.O_WRONLY)
  os.dup2(sink, 2)
  try:
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(sink)
  return tf
