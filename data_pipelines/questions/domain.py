"""What a kind of puzzle with one answer is: the interface of a domain.

A new domain is a frozen dataclass of this interface, and a line in `kinds`;
readers, batches, scores, leaks and pictures follow.

Shape letters: N puzzles, B puzzles of a batch, S cells of a puzzle.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np

from data_pipelines.drawing.styles import Style
from data_pipelines.errors import DataError
from data_pipelines.questions.generator import Generated

# Subsets of a source.
ROLES = ('train', 'test')


class Domain(abc.ABC):
  """Puzzles of one kind and size, as rows of uint8 tokens; token 0 is padding.

  It is made from two numbers, its size. Its text, `str(domain)`, is the plural
  noun of log lines and messages.
  """

  name: str  # of the kind
  size: str = 'size'  # setting of a generator's SPEC that holds the size
  default_size: str  # as `3x3`
  # Kinds that its generator makes, of a SPEC's `kind=`; the first by default.
  kinds: tuple[str, ...] = ()
  has_one_answer: bool = True  # whether all that is valid equals the label

  @property
  def vocab_size(self) -> int:
    """Number of tokens, the padding included."""
    return len(self.characters)

  @property
  @abc.abstractmethod
  def seq_len(self) -> int:
    """S, number of cells of a puzzle."""

  @property
  @abc.abstractmethod
  def style(self) -> Style:
    """How its tokens are drawn."""

  @property
  @abc.abstractmethod
  def characters(self) -> str:
    """The character of each token in a file; `?` for the padding."""

  @property
  def instructions(self) -> str:
    """What a reader of the puzzle as text is to do, where `.` is a blank."""
    return f'This is one of the {self}. Solve it.'

  @property
  def max_variants(self) -> int | None:
    """Number of variants that `augment` knows; None for no end."""
    return None

  @property
  def values(self) -> np.ndarray:
    """What an answer shows for each token: digits or characters."""
    return np.array([*self.characters])

  def parse(self, cells: np.ndarray) -> np.ndarray:
    """Turns ASCII characters, uint8 [N, S], into tokens, uint8 [N, S].

    A character that is not known becomes 0, which `check` reports.
    """
    table = np.zeros(256, np.uint8)
    characters = self.characters[1:].encode()
    table[np.frombuffer(characters, np.uint8)] = np.arange(len(characters)) + 1
    return table[cells]

  @abc.abstractmethod
  def check(
    self, questions: np.ndarray, answers: np.ndarray
  ) -> list[tuple[int, str]]:
    """The index of each puzzle at fault, and the first thing wrong with it."""

  @abc.abstractmethod
  def solve(self, question: np.ndarray) -> np.ndarray | None:
    """An answer to a question, tokens [S]; None where there is none."""

  @abc.abstractmethod
  def augment(
    self,
    questions: np.ndarray,
    answers: np.ndarray,
    variant: np.ndarray,
    key: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray]:
    """Replaces each puzzle by one that is essentially the same.

    Puzzles of `variant` 0, int [B], stay as they are; `key`, uint64 [B], is the
    source of randomness of each puzzle's variant.
    """

  def undo(
    self, answers: np.ndarray, variant: np.ndarray, key: np.ndarray
  ) -> np.ndarray:
    """Turns answers to images that `augment` made into answers to the puzzles.

    Raises:
      DataError: this domain does not tell how.
    """
    raise DataError(f'{self} have no symmetries that can be undone')

  @abc.abstractmethod
  def valid(self, questions: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Whether each prediction, any tokens [B, S], solves its question; bool."""

  @abc.abstractmethod
  def signatures(self, questions: np.ndarray) -> np.ndarray:
    """Hashes of questions, uint64 [N], that `augment` does not change.

    In all likelihood no others are equal.
    """

  def answer_signatures(self, answers: np.ndarray) -> np.ndarray:
    """The same of answers; empty where many puzzles share one by chance."""
    return np.zeros(0, np.uint64)

  def is_blank(self, questions: np.ndarray) -> np.ndarray:
    """Which cells are left open, bool; only asked where answers have hashes."""
    raise NotImplementedError

  @abc.abstractmethod
  def defaults(self) -> dict[str, int]:
    """The settings of the generator beside the size, by name."""

  @abc.abstractmethod
  def generate(self, count: int, settings: dict[str, int]) -> Generated:
    """Makes so many puzzles that are essentially different.

    Of a kind that is not the default, `settings` has the index as `kind`.
    """

  @classmethod
  @abc.abstractmethod
  def tell(cls, question: str) -> Self | None:
    """The domain of a question in a file; None for other kinds."""

  @classmethod
  @abc.abstractmethod
  def read_text(cls, text: str, origin: str) -> tuple[Self, str] | None:
    """The domain of a puzzle that a text shows and its characters as a file
    has them; None for other kinds. `origin` is for errors."""

  @classmethod
  def with_tokens(cls, vocab_size: int, side: int) -> Self | None:
    """The domain of so many tokens on a square of so many cells a side."""
    del vocab_size, side
    return None

  @classmethod
  def is_spec(cls, source: str) -> bool:
    """Whether a SPEC is a puzzle itself, be it right or wrong."""
    del source
    return False


class Questions(NamedTuple):
  """Checked puzzles in the order of their source.

  A row is the line of the file that the puzzle ends in, the header being line
  1; of a generator the number of the puzzle, from 1.
  """

  version: str  # which data exactly they are
  domain: Domain
  questions: np.ndarray  # tokens, uint8 [N, S]
  answers: np.ndarray  # tokens, uint8 [N, S]
  origin: str  # the file, or the generator, for messages
  rows: np.ndarray  # int64 [N]

  def take(self, index: np.ndarray | slice) -> 'Questions':
    """The puzzles at some indices."""
    names = ('questions', 'answers', 'rows')
    return self._replace(**{name: getattr(self, name)[index] for name in names})


@dataclasses.dataclass(frozen=True, eq=False)
class Asked:
  """So many puzzles that stand somewhere, to be scored or compared.

  The domain is None where it is not known. `read` gives the questions and
  answers, tokens uint8 [B, S], at indices [B], and `name` the name at an index.
  """

  domain: Domain | None
  vocab_size: int
  seq_len: int
  count: int
  read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
  name: Callable[[int], str]

  def take(self, index: np.ndarray) -> 'Asked':
    """The puzzles at some indices."""
    return dataclasses.replace(
      self,
      count=len(index),
      read=lambda rows: self.read(index[rows]),
      name=lambda row: self.name(index[row]),
    )
