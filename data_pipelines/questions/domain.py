"""What a kind of puzzle with one answer is: the interface of a domain.

A new domain is a module with a frozen dataclass of this interface and a `Kind`,
and a line in `kinds`; readers, batches, scores, leaks and pictures follow.

Shape letters: N puzzles, B puzzles of a batch, S cells of a puzzle.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from data_pipelines.drawing.styles import Style
from data_pipelines.questions.generator import Generated

# Subsets of a source.
ROLES = ('train', 'test')


class Domain(Protocol):
  """Puzzles of one kind and size, as rows of uint8 tokens; token 0 is padding.

  Its text, `str(domain)`, is the plural noun of log lines and messages.

  Attributes:
    name: name of the kind.
    vocab_size: number of tokens, the padding included.
    seq_len: S, number of cells of a puzzle.
    style: how its tokens are drawn.
    characters: the character of each token in a file; `?` for the padding.
    max_variants: number of variants that `augment` knows; None for no end.
    has_rare_answers: whether two puzzles seldom have one answer by chance.
  """

  name: str
  max_variants: int | None

  @property
  def vocab_size(self) -> int: ...

  @property
  def seq_len(self) -> int: ...

  @property
  def style(self) -> Style: ...

  @property
  def characters(self) -> str: ...

  @property
  def has_rare_answers(self) -> bool: ...

  def parse(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Turns ASCII characters, uint8 [N, S], into tokens, uint8 [N, S].

    A character that is not known becomes 0, which `check` reports.
    """

  def check(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> list[tuple[int, str]]:
    """The index of each puzzle at fault, and the first thing wrong with it."""

  def solve(self, question: np.ndarray) -> np.ndarray | None:
    """An answer to a question, tokens [S]; None where there is none."""

  def augment(
    self,
    questions: np.ndarray,
    answers: np.ndarray,
    variant: np.ndarray,
    key: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Replaces each puzzle by one that is essentially the same.

    Args:
      questions: tokens, uint8 [B, S].
      answers: tokens, uint8 [B, S].
      variant: int [B]; puzzles of variant 0 stay as they are.
      key: uint64 [B], the source of randomness of each puzzle's variant.
    """

  def valid(self, questions: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether each prediction, any tokens [B, S], solves its question; bool."""

  def signatures(self, questions: np.ndarray) -> np.ndarray:
    """Hashes of questions, uint64 [N], that `augment` does not change."""

  def answer_signatures(self, answers: np.ndarray) -> np.ndarray:
    """Hashes of answers, uint64 [N], that `augment` does not change.

    Only called where `has_rare_answers`.
    """

  def is_blank(self, questions: np.ndarray) -> np.ndarray:
    """Which cells of questions are left open, bool [N, S]."""


class Kind(NamedTuple):
  """How puzzles of one kind are recognised and made, whatever their size.

  Attributes:
    size: name of the setting of a generator's SPEC that holds the size.
    default_size: the size where none is given, as `3x3`.
    domain: makes the domain of a size.
    defaults: gives the other settings of a domain's generator, by name.
    generate: makes puzzles from a domain, their number and the settings.
    tell: gives the domain of a question in a file; None for other kinds.
    read_text: gives the domain of a puzzle that a text shows and its characters
      as a file has them; None for other kinds. It also takes where the text
      comes from, for errors.
    with_tokens: gives the domain of puzzles of so many tokens on a square of so
      many cells a side; None where there is none.
    is_spec: tells whether a SPEC is a puzzle itself, be it right or wrong.
  """

  size: str
  default_size: str
  domain: Callable[[int, int], Any]
  defaults: Callable[[Any], dict[str, int]]
  generate: Callable[[Any, int, dict[str, int]], Generated]
  tell: Callable[[str], Domain | None]
  read_text: Callable[[str, str], tuple[Any, str] | None]
  with_tokens: Callable[[int, int], Any]
  is_spec: Callable[[str], bool] = lambda _: False


class Asked(NamedTuple):
  """Puzzles that stand somewhere, to be scored or compared.

  Attributes:
    domain: what kind of puzzles they are; None where that is not known.
    vocab_size: number of tokens.
    seq_len: S, number of cells of a puzzle.
    count: N, number of puzzles.
    read: reads questions and answers, tokens uint8 [B, S], at indices [B].
    name: gives the name of the puzzle at an index.
  """

  domain: Domain | None
  vocab_size: int
  seq_len: int
  count: int
  read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  name: Callable[[int], str]

  def take(self, index: np.ndarray) -> 'Asked':
    """The puzzles at some indices."""
    return self._replace(
      count=len(index),
      read=lambda rows: self.read(index[rows]),
      name=lambda row: self.name(index[row]),
    )
