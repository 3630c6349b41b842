"""Held-out answers that training shows: what one is, and the rule of a run.

`arc.leaks` and `questions.leaks` find them, `puzzles.leaks_of` in any set.

A leak is recorded as an object of its fields. Earlier versions recorded the
text `TRAINED->HELD_OUT`, which is still read; names that hold `->` themselves
make it ambiguous, and then it is split at the first one. The entries of
`data.known_leaks` are such texts, or, for names that hold `->`, JSON objects
`{"trained": ..., "held_out": ...}`.
"""

import dataclasses
import json
import reprlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.files import shown

_ARROW = '->'
# Place of a leak that was recorded as a text.
_THEN = 'then'


@dataclasses.dataclass(frozen=True, order=True)
class Leak:
  """A held-out pair that training shows, whole or in part.

  Its kind is what is the same: `both`, `input` or `output`; `question` for an
  input whose output is not known here.
  """

  held_out: str
  held_out_place: str  # where its pair stands, e.g. `test[0]`
  trained: str
  trained_place: str  # where its first pair that is the same stands
  kind: str

  @property
  def reaches_answer(self) -> bool:
    """Whether training shows the answer to the held-out question."""
    return self.kind in ('both', 'question')

  @property
  def entry(self) -> str:
    """The entry of `data.known_leaks` that names this leak."""
    names = self._names
    if any(_ARROW in n or n.startswith('{') for n in names.values()):
      return json.dumps(names)
    return _ARROW.join(names.values())

  @property
  def _names(self) -> dict[str, str]:
    return {'trained': self.trained, 'held_out': self.held_out}

  def is_named(self, entry: str) -> bool:
    """Whether an entry of `data.known_leaks` names this leak.

    A text names each leak that reads like it, an object exactly one.
    """
    if entry == _ARROW.join(self._names.values()):
      return True
    try:
      return json.loads(entry) == self._names
    except ValueError:
      return False

  def __str__(self) -> str:
    return (
      f'{self.kind:8}  {shown(self.trained)} {self.trained_place} -> '
      f'{shown(self.held_out)} {self.held_out_place}'
    )


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What leaks between two sets, and whether a run may train on them."""

  leaks: Sequence[Leak]
  known: Sequence[str]  # entries of `data.known_leaks`: those that may be
  allowed: bool  # whether all may be

  @property
  def answers(self) -> list[Leak]:
    """The first leak of each held-out answer that can be reached."""
    first: dict[tuple[str, str], Leak] = {}
    for leak in self.leaks:
      if leak.reaches_answer:
        first.setdefault((leak.held_out, leak.held_out_place), leak)
    return list(first.values())

  @property
  def refused(self) -> list[Leak]:
    """The leaks that keep the run from starting."""
    return [
      leak
      for leak in self.leaks
      if leak.reaches_answer
      and not self.allowed
      and not any(map(leak.is_named, self.known))
    ]

  def note(self) -> str:
    """A line to stand beside every score; empty where nothing leaks."""
    return f'\nTrained on {_listed(self.answers)}' if self.answers else ''

  def metrics(self) -> dict[str, float]:
    """Numbers for the log."""
    return {'eval/leaking_answers': float(len(self.answers))}

  def record(self) -> dict[str, Any]:
    """The form of config.json and scores.json, which `recorded` reads."""
    return {
      'answers': len(self.answers),
      'leaks': [dataclasses.asdict(leak) for leak in self.answers],
      'allow_leaks': self.allowed,
    }

  def beside(self, record: Mapping[str, Any] | None) -> 'Verdict':
    """Together with what `record` wrote when the run was trained."""
    if record is None:
      return self
    now = {leak.entry for leak in self.answers}
    before = [leak for leak in recorded(record) if leak.entry not in now]
    return dataclasses.replace(
      self,
      leaks=[*self.leaks, *before],
      allowed=self.allowed or record['allow_leaks'],
    )

  def without(self, names: Collection[str]) -> 'Verdict':
    """The same but for the held-out puzzles of these names."""
    kept = [leak for leak in self.leaks if leak.held_out not in names]
    return dataclasses.replace(self, leaks=kept)

  def refusal(self) -> str:
    """One line for the user whose run is refused."""
    return (
      f'Training would show {_listed(self.refused)}; leave these puzzles out '
      'of data.train or data.evaluate, name them in data.known_leaks, or say '
      '--config.data.allow_leaks=True: every score will say so'
    )


def recorded(record: Mapping[str, Any]) -> list[Leak]:
  """The leaks of a `Verdict.record`, of this version or an earlier one.

  Raises:
    DataError: it is no such record.
  """
  leaks = []
  try:
    for fields in record.get('leaks', ()):
      leaks.append(Leak(**fields))
    for text in record.get('names', ()):
      trained, _, held_out = text.partition(_ARROW)
      leaks.append(Leak(held_out, _THEN, trained, _THEN, 'both'))
    texts = {type(x) for leak in leaks for x in dataclasses.astuple(leak)}
    if texts <= {str} and type(record['allow_leaks']) is bool:
      return leaks
  except (AttributeError, KeyError, TypeError):
    pass
  raise DataError(
    f'leaks={reprlib.repr(record)} is no record of leaks; restore the file as '
    'it was written'
  )


def _listed(leaks: Sequence[Leak]) -> str:
  names = list(dict.fromkeys(shown(leak.entry) for leak in leaks))
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  answers = len({(leak.held_out, leak.held_out_place) for leak in leaks})
  return (
    f'{answers} held-out answer{"s" * (answers != 1)}: {", ".join(names[:5])}'
    f'{more}'
  )
