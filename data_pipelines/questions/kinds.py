"""The kinds of puzzles with one answer: a new one is a line here."""

import math

from data_pipelines.questions import maze, sudoku
from data_pipelines.questions.domain import Domain, Kind

KINDS: dict[str, Kind] = {'sudoku': sudoku.KIND, 'maze': maze.KIND}


def with_tokens(vocab_size: int, seq_len: int) -> list[Domain]:
  """The domains of puzzles of so many tokens on a square of so many cells.

  Args:
    vocab_size: number of tokens, the padding included.
    seq_len: number of cells; where it is no square, there is no domain.
  """
  side = math.isqrt(seq_len)
  if side**2 != seq_len:
    return []
  found = (kind.with_tokens(vocab_size, side) for kind in KINDS.values())
  return [domain for domain in found if domain is not None]
