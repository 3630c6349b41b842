"""Predicts puzzles of your own with a trained model.

  python -m experiments.predict --workdir=DIR --task=SPEC [--trace] \
      [--adapt=rows|all|none] [--steps=N] [--seconds=S] [--num_aug=N]

SPEC is a task's JSON file, a directory of them, Kaggle's challenges, a Sudoku's
81 (16, 36) characters, a text file of a Sudoku or maze, or whatever else
`data_pipelines.puzzles` takes. A task of ARC that the checkpoint was never
trained on gets new rows of the puzzle table, fitted to its demonstrations; the
checkpoint stays as it is.

Writes into --out (DIR/predictions/step_N/NAME if unset) what
`experiments.evaluate` writes, and with --trace a strip and an animation of the
answer as it forms, for each test input.
"""

import os
import pathlib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from absl import flags

from data_pipelines import scoring as judging
from data_pipelines.arc import voting
from data_pipelines.drawing import pictures as picture
from data_pipelines.drawing import terminal
from data_pipelines.errors import ConfigError
from data_pipelines.questions import pipeline as question_set
from experiments.cli import data_flags, launch, own_puzzles
from experiments.cli.own_puzzles import Checkpoint, Fitting, Predicted

# Test inputs that are traced at most, and puzzles that are shown as text.
_MAX_TRACED, _MAX_SHOWN = 10, 10
_COLOURS = '0123456789'

_TRACE = flags.DEFINE_bool('trace', False, 'Draw how the answers form.')
_SEGMENTS = flags.DEFINE_integer(
  'trace_segments', None, "Of a trace; the run's act.halt_max_steps if unset.",
  lower_bound=1,
)  # fmt: skip
_COLOR = flags.DEFINE_bool(
  'color', None, 'Coloured text; unset: where it goes to a terminal.'
)


def main(_) -> None:
  run(
    launch.workdir(),
    own_puzzles.task(),
    own_puzzles.fitting(),
    launch.STEP.value,
    data_flags.OUT.value,
    _TRACE.value,
    _SEGMENTS.value,
    sys.stdout.isatty() if _COLOR.value is None else _COLOR.value,
  )


def run(
  workdir: pathlib.Path,
  spec: str,
  fitting: Fitting = own_puzzles.DEFAULT,
  step: int | None = None,
  out: str | os.PathLike | None = None,
  trace: bool = False,
  segments: int | None = None,
  colour: bool = False,
) -> list[Predicted]:
  """Predicts and writes; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such checkpoint, or the puzzles cannot
      be predicted with it.
  """
  checkpoint = own_puzzles.load(workdir, step)
  asked = own_puzzles.read(checkpoint, spec)
  directory = pathlib.Path(
    out or workdir / 'predictions' / f'step_{checkpoint.step}' / _name(spec)
  )
  try:
    directory.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ConfigError(
      f'--out={directory}: cannot be written ({error.strerror})'
    ) from None
  parts = own_puzzles.predict(checkpoint, asked, fitting)
  facts = {
    'step': checkpoint.step,
    'trained_on': checkpoint.position.data_version,
    'data_version': parts[0].puzzles.version,
    'halting': checkpoint.config.evaluation.halting,
  }
  if checkpoint.domain is None:
    _write_tasks(parts, directory, facts)
  else:
    parts[0].judge.write(directory, {**facts, 'way': parts[0].way})
  print()
  for number, puzzle in enumerate(tell(parts, colour)):
    if number == _MAX_SHOWN:
      print('... more stand in the files')
      break
    print(puzzle + '\n')
  names = sorted(path.name for path in directory.iterdir())
  if trace:
    count = segments or checkpoint.setup.act.halt_max_steps
    names += _draw_traces(checkpoint, parts, count, directory)
  print(f'Written to {directory}: {", ".join(dict.fromkeys(names))}')
  return parts


def _name(spec: str) -> str:
  """A directory's name for the puzzles of a SPEC."""
  if os.path.exists(spec):
    return _safe(pathlib.Path(os.path.abspath(spec)).stem)
  return _safe(spec)


def _safe(name: str) -> str:
  return re.sub(r'[^\w.-]', '_', name)[:100]


def _write_tasks(
  parts: Sequence[Predicted], directory: pathlib.Path, facts: dict[str, Any]
) -> None:
  tasks, candidates, ways = [], {}, {}
  for part in parts:
    tasks += part.puzzles.evaluation_tasks
    candidates |= part.judge.candidates
    ways |= {task.name: part.way for task in part.puzzles.evaluation_tasks}
  scores = voting.score(candidates, tasks)
  if scores[1].outputs.scored:
    facts = facts | judging.score_metrics(scores)
  judging.write_votes(directory, tasks, candidates, {**facts, 'ways': ways})


def tell(parts: Sequence[Predicted], colour: bool) -> Iterator[str]:
  """What was predicted, a text for each test input.

  Args:
    parts: of `own_puzzles.predict`.
    colour: whether grids are coloured, see `terminal.side_by_side`.
  """
  for part in parts:
    if part.puzzles.domain is None:
      yield from _tell_tasks(part, colour)
    else:
      yield from _tell_questions(part, colour)


def _tell_tasks(part: Predicted, colour: bool) -> Iterator[str]:
  rows = part.puzzles.evaluation_rows()
  for group, task in enumerate(part.puzzles.evaluation_tasks):
    for index, test in enumerate(task.tests):
      votes = np.count_nonzero((rows.group == group) & (rows.test == index))
      found = part.judge.candidates[task.name, index]
      lines = [
        f'{task.name}, test {index + 1} of {len(task.tests)}, with {part.way}'
      ]
      panels = [('input', test.input)]
      if test.output is not None:
        panels.append(('true answer', test.output))
      for number, candidate in enumerate(found[:2], 1):
        panels.append((f'attempt {number}', candidate.grid))
        text = (
          f'attempt {number}: {candidate.votes} of {votes} votes, confidence '
          f'{candidate.confidence:.2f}'
        )
        if test.output is not None:
          right = voting.is_solved([candidate], test.output, 1)
          text += f', {"right" if right else "wrong"}'
        lines.append(text)
      if not found:
        lines.append('no augmentation gave a grid')
      lines.append(
        terminal.side_by_side(panels, picture.ARC_GRID, _COLOURS, colour)
      )
      yield '\n'.join(lines)


def _tell_questions(part: Predicted, colour: bool) -> Iterator[str]:
  asked, found = part.puzzles.evaluate, part.judge.found
  domain = asked.domain
  style = picture.style_of(domain, domain.vocab_size)
  for row, tokens in enumerate(found['tokens']):
    if found['exact'][row]:
      mark = 'right'
    else:
      mark = 'valid, another solution' if found['valid'][row] else 'wrong'
    panels = (
      ('question', asked.questions[row]),
      ('prediction', tokens),
      ('true answer', asked.answers[row]),
    )
    text = terminal.side_by_side(
      [(name, picture.canvas_of(grid, style)) for name, grid in panels],
      style,
      domain.characters,
      colour,
    )
    yield (
      f'{question_set.name_of(asked, row)}, with {part.way}\n'
      f'{mark}, {found["accuracy"][row]:.0%} of the cells, confidence '
      f'{found["confidence"][row]:.2f}\n{text}'
    )


def _draw_traces(
  checkpoint: Checkpoint,
  parts: Sequence[Predicted],
  segments: int,
  directory: pathlib.Path,
) -> list[str]:
  """Writes a strip and an animation for each test input; their names."""
  written = []
  for part in parts:
    of = part.puzzles
    traced = own_puzzles.trace(checkpoint, part, segments, _MAX_TRACED)
    style = picture.style_of(of.domain, of.vocab_size)
    for row, (group, test) in enumerate(
      zip(traced.rows.group, traced.rows.test, strict=True)
    ):
      if of.domain is None:
        title = of.evaluation_tasks[group].name
        if len(of.evaluation_tasks[group].tests) > 1:
          title += f' test {test + 1}'
      else:
        title = question_set.name_of(of.evaluate, group)
      thought = traced.thought(row)
      strip, animation = (
        f'trace_{_safe(title)}.{suffix}' for suffix in ('png', 'gif')
      )
      picture.draw_thought(style, title, thought, directory / strip)
      picture.animate_thought(
        style, title, traced.inputs[row], thought, directory / animation
      )
      written += [strip, animation]
  return written


if __name__ == '__main__':
  launch.run(main)
