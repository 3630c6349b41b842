"""The kinds of puzzles with one answer: a new one is a line here."""

import math

from data_pipelines.questions.domain import Domain
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku

KINDS: dict[str, type[Domain]] = {'sudoku': Sudoku, 'maze': Maze}


def with_tokens(vocab_size: int, seq_len: int) -> list[Domain]:
  """The domains of so many tokens, the padding included, on so many cells.

  There is none where the cells make no square.
  """
  side = math.isqrt(seq_len)
  found = [kind.with_tokens(vocab_size, side) for kind in KINDS.values()]
  return [domain for domain in found if domain and side**2 == seq_len]
