"""The error that wrong settings, checkpoints or working directories raise."""


class ConfigError(ValueError):
  """Something the user asked for cannot be done; the message names the fix.

  Command-line programs print the message as one line, without a traceback.
  """
