"""Ctrl-C before a command has begun."""

import os
import signal

# The exit code of a process that Ctrl-C has ended.
EXIT_CODE = 130


def end_at_once() -> None:
  """Lets Ctrl-C end the process at once, in one line, until `command.run`.

  Libraries that are being imported may swallow a KeyboardInterrupt, or abort.
  """
  errors = os.dup(2)  # Which is muted while JAX is loaded.

  def end(*_):
    os.write(errors, b'interrupted\n')
    os._exit(EXIT_CODE)

  if callable(signal.getsignal(signal.SIGINT)):
    signal.signal(signal.SIGINT, end)
