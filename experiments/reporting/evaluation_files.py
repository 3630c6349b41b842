"""The files of an evaluation: scores, predictions, a submission, a picture."""

import contextlib
import csv
import hashlib
import io
import pathlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from data_pipelines import files
from data_pipelines.arc import voting
from data_pipelines.arc.tasks import Task
from data_pipelines.drawing import pictures
from data_pipelines.errors import DataError
from data_pipelines.questions.domain import Domain
from data_pipelines.questions.scoring import AnswerResult
from hrm_jax.solver import Evaluation

# Longest name of a file without its prefix, digest and suffix, in bytes.
_LONGEST = 100
# Number of candidates of each test input in predictions.json.
_KEPT = 10
# What spreadsheets run a cell by, and what marks that they shall not.
_RUN = ('=', '+', '-', '@', '\t', '\r', "'")


def write(
  found: Evaluation,
  directory: pathlib.Path,
  given: Sequence[Task] | None = None,
) -> list[str]:
  """Writes the files, each whole or not at all, and returns their names.

  They are scores.json (the facts and the metrics) and predictions.png; for ARC
  tasks also submission.json (two attempts, Kaggle's form) and predictions.json
  (ranked candidates with votes), for other puzzles predictions.csv. Tasks that
  were `given` and are not predicted have fallback answers.
  """
  facts = found.facts | found.metrics
  if found.tasks:
    given = given or found.asked.tasks or found.tasks
    return write_votes(directory, found.tasks, found.candidates, facts, given)
  write_answers(directory, *found.results, facts)
  return ['predictions.csv', 'scores.json', 'predictions.png']


def promise(tasks: Sequence[Task], directory: pathlib.Path) -> bool:
  """Writes a submission of fallback answers, which predicted ones replace.

  An earlier one of the same tasks stays; returns whether there is one.
  """
  path, nothing = directory / 'submission.json', voting.submission({}, tasks)
  with contextlib.suppress(DataError, AttributeError):
    if files.parse_json(files.read(path), path).keys() == nothing.keys():
      return True
  files.write_json(path, nothing)
  return False


def name_of(title: str) -> str:
  """The name of the one file or directory of a title, which no other has.

  It is the title itself, or where that is odd or long what `distinct_names`
  makes of it with a digest.
  """
  (name,) = distinct_names([title])
  if name == title:
    return name
  digest = hashlib.sha256(title.encode(errors='surrogatepass')).hexdigest()
  return f'{name}_{digest[:8]}'


def distinct_names(titles: Iterable[str]) -> list[str]:
  """A name of a file for each title: none of a directory, none like another.

  Odd characters become `_`, names are cut, and one that is there already, be
  it in other letters' case, gets a number.
  """
  names, taken = [], set()
  for title in titles:
    name = re.sub(r'[^\w.-]', '_', title).lstrip('.') or 'puzzle'
    name = name.encode()[:_LONGEST].decode(errors='ignore')
    number, first = 1, name
    while (key := unicodedata.normalize('NFKC', name).casefold()) in taken:
      number += 1
      name = f'{first}_{number}'
    names.append(name)
    taken.add(key)
  return names


def write_votes(
  directory: pathlib.Path, tasks: Sequence[Task],
  candidates: voting.Candidates, facts: dict[str, Any], given: Sequence[Task],
) -> list[str]:  # fmt: skip
  """Writes the files of predictions of ARC tasks, and returns their names.

  Those `given` that were not predicted are there too, without candidates.
  """
  write_submission(directory, candidates, given)
  predictions = {
    task.name: [
      [
        {**one._asdict(), 'grid': one.grid.tolist()}
        for one in candidates.get((task.name, test), [])[:_KEPT]
      ]
      for test in range(len(task.tests))
    ]
    for task in given
  }
  files.write_json(directory / 'predictions.json', predictions)
  files.write_json(directory / 'scores.json', facts)
  pictures.draw_predictions(tasks, candidates, directory / 'predictions.png')
  return [
    'submission.json', 'predictions.json', 'scores.json', 'predictions.png',
  ]  # fmt: skip


def write_submission(
  directory: pathlib.Path, candidates: voting.Candidates, given: Sequence[Task]
) -> None:
  """Writes two attempts at each test of the tasks given, in Kaggle's form."""
  files.write_json(
    directory / 'submission.json', voting.submission(candidates, given)
  )


def write_answers(
  directory: pathlib.Path, result: AnswerResult, facts: dict[str, Any]
) -> None:
  """Writes the files of predictions of other puzzles, see `write`."""
  found = result.found
  kept = ('exact', 'valid', 'accuracy', 'confidence', 'steps')
  kept = [name for name in kept if name in found]
  texts = (
    _texts(result.domain, tokens)
    for tokens in (result.questions, result.labels, found['tokens'])
  )
  columns = [
    [f'{value:.6g}' for value in found[name].astype(float)] for name in kept
  ]
  out = io.StringIO()
  writer = csv.writer(out)
  writer.writerow(['puzzle', 'question', 'answer', 'prediction', *kept])
  texts = (map(_as_cell, column) for column in (result.names, *texts))
  writer.writerows(zip(*texts, *columns, strict=True))
  files.write_text(directory / 'predictions.csv', out.getvalue())
  files.write_json(directory / 'scores.json', facts)
  style = pictures.style_of(result.domain, result.vocab_size)
  pictures.draw_answers(
    style, result.names, result.questions, result.labels, found,
    directory / 'predictions.png',
  )  # fmt: skip


def _as_cell(text: str) -> str:
  """A text that spreadsheets take for a text; `text_of` takes it back."""
  return f"'{text}" if text.startswith(_RUN) else text


def text_of(cell: str) -> str:
  """The text of a cell of predictions.csv."""
  return cell[1:] if cell[:1] == "'" and cell[1:].startswith(_RUN) else cell


def _texts(domain: Domain | None, tokens: np.ndarray) -> list[str]:
  """A line for each row of tokens, in the characters of the domain."""
  if domain is None:
    return [' '.join(map(str, row)) for row in tokens]
  characters = np.frombuffer(domain.characters.encode(), np.uint8)
  return [row.tobytes().decode() for row in characters[tokens]]
