"""Libraries imported without their start-up notes, TensorFlow above all."""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def muted() -> Iterator[None]:
  """Nothing reaches standard error, C++ libraries' notes included.

  Errors are raised as usual.
  """
  try:
    saved = os.dup(2)
  except OSError:
    # Standard error is closed: nothing to keep quiet.
    yield
    return
  sink = os.open(os.devnull, os.O_WRONLY)
  os.dup2(sink, 2)
  try:
    yield
  finally:
    os.dup2(saved, 2)
    os.close(saved)
    os.close(sink)


def tensorflow() -> ModuleType:
  """Imports TensorFlow; where it only feeds, JAX takes the accelerators.

  Late, since it takes seconds and half a gigabyte, and not all sets need it.
  Quietly, since its C++ start-up notes (oneDNN, no GPU found) come before
  TensorFlow looks at its own log level. Without Keras, which nothing here uses
  and which is a third of the import: in this process `tf.keras` is the old
  package, that is most often not there.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  os.environ.setdefault('TF_USE_LEGACY_KERAS', '1')
  with muted():
    import tensorflow as tf

    tf.config.set_visible_devices([], 'GPU')
  return tf
