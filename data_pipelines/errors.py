"""The error that bad data raises, and how it names a cell."""


class DataError(ValueError):
  """Data that cannot be used; the message names the file, field and fix.

  Command-line programs print the message as one line, without a traceback.
  """


def cell_name(cell: int, columns: int) -> str:
  """A cell's row and column, counted from 1: `r1c9`."""
  row, column = divmod(int(cell), columns)
  return f'r{row + 1}c{column + 1}'
