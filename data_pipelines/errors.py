"""The error that bad data raises."""


class DataError(ValueError):
  """Data that cannot be used; the message names the file, field and fix.

  Command-line programs print the message as one line, without a traceback.
  """
