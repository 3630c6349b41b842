"""The errors that a user can mend, and how one names a cell."""


class ConfigError(ValueError):
  """Something the user asked for cannot be done; the message names the fix.

  Command-line programs print the message as one line, without a traceback.
  """


class Gone(ConfigError):
  """A checkpoint was cleared away by the training that goes on."""


class Abandoned(ConfigError):
  """Another process of the run died; there is nobody to end together with."""


class DataError(ValueError):
  """Data that cannot be used; the message names the file, field and fix.

  Command-line programs print the message as one line, without a traceback.
  """


def first_line(error: Exception) -> str:
  """The beginning of an error's message, at most 200 characters."""
  unsaid = 'no answer in time' if isinstance(error, TimeoutError) else ''
  lines = str(error).strip().splitlines()
  return (lines or [unsaid or type(error).__name__])[0][:200]


def cell_name(cell: int, columns: int) -> str:
  """A cell's row and column, counted from 1: `r1c9`."""
  row, column = divmod(int(cell), columns)
  return f'r{row + 1}c{column + 1}'
