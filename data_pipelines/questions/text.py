"""Puzzles that a text shows, as a person writes them."""

import hashlib
import pathlib
import reprlib

import numpy as np

from data_pipelines import files
from data_pipelines.errors import DataError
from data_pipelines.files import shown
from data_pipelines.questions.kinds import KINDS
from data_pipelines.questions.records import Questions


def read(path: pathlib.Path) -> str:
  try:
    return files.read(path).decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise DataError(
      f'{shown(path)}: not UTF-8 text (byte {e.start}); save it as UTF-8'
    ) from e


def load(text: str, origin: str) -> Questions:
  """The one puzzle that a text shows, with the answer found here."""
  # A maze is told by its letters, a Sudoku by nothing but its length.
  for kind in reversed(KINDS.values()):
    found = kind.read_text(text, origin)
    if found is not None:
      domain, cells = found
      break
  else:
    cells = ''.join(text.split())
    raise DataError(
      f'{origin}: {reprlib.repr(cells)} has {len(cells)} characters; a Sudoku '
      "has 16, 36 or 81 digits and '.', a maze lines of '# SG'"
    )
  if not cells.isascii():
    at, letter = next((i, x) for i, x in enumerate(cells) if not x.isascii())
    raise DataError(f'{origin}: character {at + 1} is {letter!a}, unknown here')
  asked = np.frombuffer(cells.encode(), np.uint8)[None]
  questions, _ = domain.parse(asked, asked)
  faults = [
    reason
    for _, reason in domain.check(questions, questions)
    if reason.startswith('question')
  ]
  answer = None if faults else domain.solve(questions[0])
  if answer is not None:
    faults = [reason for _, reason in domain.check(questions, answer[None])]
  elif not faults:
    faults = ['question: has no solution']
  if faults:
    raise DataError(f'{origin}: {faults[0]}; correct it')
  digest = hashlib.sha256(questions.tobytes()).hexdigest()[:12]
  return Questions(
    f'text {digest}', domain, questions, answer[None], origin, np.array([1])
  )
