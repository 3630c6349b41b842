"""Which held-out questions with one answer can be solved from the trained ones.

Questions are compared up to the symmetries of their domain. They are read in
chunks, and of each only a hash is kept.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from data_pipelines.leaks import Leak
from data_pipelines.questions.domain import Asked, Domain

# Number of cells that are read at a time.
_CELLS = 2**21


def between(trained: Asked, held_out: Asked) -> list[Leak]:
  """Compares Sudokus, mazes or puzzles of an unknown domain.

  The kind `both` is a question that is trained on: it has but one answer. For
  9 x 9 Sudokus it is also the same answer from some of the question's clues or
  more, and `output` an answer that is trained on with other clues or turned,
  as among millions of Sudokus some are by chance. Puzzles of an unknown domain
  are compared cell for cell.

  Returns:
    One leak at most for each held-out question.
  """
  if not (trained.count and held_out.count):
    return []
  questions, answers = zip(_hashes(trained), _hashes(held_out), strict=True)
  found = {}
  if domain := held_out.domain:
    for row, rows in _matches(*answers).items():
      same = _reaching(domain, trained, rows, held_out, row)
      found[row] = (rows[0], 'output') if same is None else (same, 'both')
  for row, rows in _matches(*questions).items():
    found[row] = rows[0], 'both'
  return [
    Leak(held_out.name(row), 'question', trained.name(other), 'question', kind)
    for row, (other, kind) in sorted(found.items())
  ]


def _hashes(asked: Asked) -> tuple[np.ndarray, np.ndarray]:
  """Signatures of questions, and of answers where these are rare; uint64."""
  domain = asked.domain
  questions, answers = [], [np.zeros(0, np.uint64)]
  for rows in _chunks(np.arange(asked.count), asked.seq_len):
    chunk, chunk_answers = asked.read(rows)
    questions.append(domain.signatures(chunk) if domain else _equality(chunk))
    if domain:
      answers.append(domain.answer_signatures(chunk_answers))
  return np.concatenate(questions), np.concatenate(answers)


def _reaching(
  domain: Domain, trained: Asked, rows: list[int], held_out: Asked, row: int
) -> int | None:
  """The first of some trained rows that has the held-out row's answer in place
  and its clues, some of these or more; None where none has."""
  is_blank = domain.is_blank
  question, answer = held_out.read(np.array([row]))
  for part in _chunks(np.array(rows), trained.seq_len):
    questions, answers = trained.read(part)
    nested = (questions == question) | is_blank(questions) | is_blank(question)
    reaching = nested.all(axis=1) & (answers == answer).all(axis=1)
    if reaching.any():
      return int(part[reaching.argmax()])
  return None


def _chunks(rows: np.ndarray, seq_len: int) -> Iterator[np.ndarray]:
  """The rows, few enough at a time."""
  size = max(1, _CELLS // seq_len)
  for begin in range(0, len(rows), size):
    yield rows[begin : begin + size]


def _matches(trained: np.ndarray, held_out: np.ndarray) -> dict[int, list[int]]:
  """The trained rows with the hash of each held-out row that has some."""
  rows: dict[int, list[int]] = {}
  for row in np.flatnonzero(np.isin(trained, held_out)).tolist():
    rows.setdefault(int(trained[row]), []).append(row)
  return {
    row: rows[int(held_out[row])]
    for row in np.flatnonzero(np.isin(held_out, trained)).tolist()
  }


def _equality(tokens: np.ndarray) -> np.ndarray:
  """A hash of each row, the same where all cells are, uint64."""
  digests = (
    hashlib.blake2b(row.data, digest_size=8).digest()
    for row in np.ascontiguousarray(tokens, np.int32)
  )
  return np.frombuffer(b''.join(digests), np.uint64)
