"""A journal of what was sent to an endpoint and of what came back.

A file of JSON lines to which lines are added, each on the disk before work goes
on: what the work is, then for each request one before it is sent and one when
it has ended. A request without the second was in flight when its process ended:
it may have been charged, and counts as many tokens as it can have had.
"""

import datetime
import json
import os
import pathlib
from typing import Any, NamedTuple

from data_pipelines import files
from data_pipelines.errors import ConfigError, DataError


class Unit(NamedTuple):
  """One attempt, counted from 1, at one test input: it is answered once."""

  puzzle: str
  test: int
  attempt: int


class Tokens(NamedTuple):
  """Numbers of tokens that were read and written."""

  input: int
  output: int


class Journal:
  """The requests of some work.

  Attributes:
    replies: the line of each unit that was answered.
    tokens: tokens of each request; the most it may have until it has ended.
  """

  def __init__(self, directory: pathlib.Path, work: dict[str, Any], key: str):
    """Opens the journal of a directory, or begins one; the key is never in it.

    Raises:
      ConfigError, DataError: it is of other work, damaged or not to be written.
    """
    self._path, self._key = directory / 'replies.jsonl', key
    self.replies: dict[Unit, dict[str, Any]] = {}
    self.tokens: list[Tokens] = []
    with files.writing(self._path, 'name another directory'):
      if not self._path.exists() or not self._is_read(work):
        files.write_text(self._path, json.dumps({'work': work}) + '\n')

  def total(self) -> Tokens:
    """Tokens of all requests that ever were, those in flight included."""
    return Tokens(*map(sum, zip((0, 0), *self.tokens, strict=True)))

  def sent(self, unit: Unit, at_most: Tokens) -> int:
    """Keeps that a request is about to be sent, and gives it a number."""
    number = len(self.tokens)
    self._write(sent=number, **unit._asdict(), tokens=at_most)
    return number

  def failed(self, number: int, why: str, is_free: bool) -> None:
    """Keeps that a request had no reply; a free one was surely not charged."""
    tokens = Tokens(0, 0) if is_free else self.tokens[number]
    self._write(failed=number, why=why, tokens=tokens)

  def reply(
    self, number: int, unit: Unit, tokens: Tokens | None, **facts: Any
  ) -> None:
    """Keeps a reply; without a count of tokens it has the most it may."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
    tokens = tokens or self.tokens[number]
    self._write(
      reply=number, **unit._asdict(), tokens=tokens, date=date, **facts
    )

  def _write(self, **line: Any) -> None:
    text = hide(json.dumps(line), self._key)
    data = text.encode() + b'\n'
    with (
      files.writing(self._path, 'free some space and start again'),
      self._path.open('ab', buffering=0) as file,
    ):
      if file.write(data) != len(data):
        raise OSError('the disk is full')
      os.fsync(file.fileno())
    self._take(json.loads(text))

  def _take(self, line: dict[str, Any]) -> None:
    tokens = Tokens(*line['tokens'])
    if 'sent' in line:
      self.tokens.append(tokens)
    elif 'failed' in line:
      self.tokens[line['failed']] = tokens
    else:
      self.tokens[line['reply']] = tokens
      self.replies[Unit(*(line[name] for name in Unit._fields))] = line

  def _is_read(self, work: dict[str, Any]) -> bool:
    """Reads the file; False where it is of other work that came to nothing."""
    data = files.read(self._path)
    first, *lines, rest = data.split(b'\n') if b'\n' in data else [b'', b'']
    number = 1
    try:
      kept = dict(json.loads(first)['work'])
      for line in lines:
        number += 1
        self._take(json.loads(line))
    except (ValueError, LookupError, TypeError):
      raise DataError(
        f'{files.shown(self._path)}: line {number} is no line of this file; '
        'restore it, or remove the file and all is asked anew'
      ) from None
    others = [name for name in work if kept.get(name) != work[name]]
    if others and not self.replies and not sum(self.total()):
      self.tokens.clear()
      return False
    for name in others:
      raise ConfigError(
        f'{files.shown(self._path)}: is of other work, whose {name} is '
        f'{str(kept.get(name))[:90]}; name another --out'
      )
    # The process ended while it wrote: that line had not been kept.
    os.truncate(self._path, len(data) - len(rest))
    return True


def hide(text: str, key: str) -> str:
  """A text without the key. What is so short is a word, and no secret."""
  return text.replace(key, '***') if len(key) >= 8 else text
