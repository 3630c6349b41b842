"""The errors that a user can mend, and how one names a cell."""


class ConfigError(ValueError):
  """Something the user asked for cannot be done; the message names the fix.

  Command-line programs print the message as one line, without a traceback.
  """


class DataError(ValueError):
  """Data that cannot be used; the message names the file, field and fix.

  Command-line programs print the message as one line, without a traceback.
  """


def cell_name(cell: int, columns: int) -> str:
  """A cell's row and column, counted from 1: `r1c9`."""
  row, column = divmod(int(cell), columns)
  return f'r{row + 1}c{column + 1}'
