"""Predicts puzzles of your own with a trained model.

  hrm-jax predict --workdir=DIR --task=SPEC [--trace]
      [--adapt=all|rows|none] [--steps=N] [--seconds=S] [--num_aug=N]
      [--rollouts=N --noise=S] [--symmetries=N] [--choose=RULE]

SPEC is a task's JSON file, a directory of them, Kaggle's challenges, a Sudoku's
81 (16, 36) characters, a text file of a Sudoku or maze, or whatever else
`data_pipelines.puzzles` takes. A task of ARC that the checkpoint was never
trained on gets new rows of the puzzle table and a copy of the network, which
are fitted to its demonstrations; the checkpoint stays as it is.

Writes into --out (DIR/predictions/step_N/NAME if unset) what
`experiments.evaluate` writes, and with --trace a strip and an animation of the
answer as it forms, for each test input.
"""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from absl import flags

import hrm_jax.solver
from data_pipelines import files
from data_pipelines.drawing import pictures, terminal
from data_pipelines.files import shown
from experiments.cli import command, launch, shared_flags
from experiments.reporting import evaluation_files
from hrm_jax.settings import Width
from hrm_jax.solver import Answer, Evaluation, Fitting, tokens_of

# Puzzles that are traced at most, and test inputs that are shown as text.
_MAX_TRACED, MAX_SHOWN = 10, 10
_COLOURS = '0123456789'

FLAGS = shared_flags.define(
  'workdir',
  'task',
  'step',
  'color',
  *shared_flags.JAX,
  **(dataclasses.asdict(Width()) | dataclasses.asdict(Fitting())),
)
shared_flags.require(FLAGS, 'task', 'my_task.json')
shared_flags.path(
  'out', None, 'Directory to write, WORKDIR/predictions/step_N/NAME if unset.',
  FLAGS,
)  # fmt: skip
flags.DEFINE_bool(
  'trace', False, 'Draws how the answers form.', flag_values=FLAGS
)
flags.DEFINE_integer(
  'trace_segments', None, "Number of segments of a trace, the run's "
  'act.halt_max_steps if unset.', lower_bound=1, flag_values=FLAGS,
)  # fmt: skip


def main(_) -> None:
  colour = command.coloured(FLAGS.color)
  fitting = Fitting(**shared_flags.values(FLAGS, shared_flags.FITTING))
  width = Width(**shared_flags.values(FLAGS, shared_flags.WIDTH))
  run(
    FLAGS.workdir, FLAGS.task, fitting, FLAGS.step, FLAGS.out, FLAGS.trace,
    FLAGS.trace_segments, colour, width,
  )  # fmt: skip


def run(
  workdir: pathlib.Path,
  spec: str,
  fitting: Fitting | None = None,
  step: int | None = None,
  out: str | os.PathLike | None = None,
  trace: bool = False,
  segments: int | None = None,
  colour: bool = False,
  width: Width | None = None,
) -> Evaluation:
  """Predicts and writes; the arguments are the command's flags.

  Raises:
    ConfigError, DataError: there is no such checkpoint, or the puzzles cannot
      be predicted with it.
  """
  solver = hrm_jax.solver.load(workdir, step)
  given = solver.read([spec])
  title = spec
  if os.path.exists(spec):
    title = pathlib.Path(os.path.abspath(spec)).stem
  name = evaluation_files.name_of(title)
  directory = files.place(
    out or workdir / 'predictions' / f'step_{solver.step}' / name
  )
  with command.writing(directory / 'submission.json'):
    if given.tasks:
      # Whole from now on, whatever ends the work.
      evaluation_files.promise(given.tasks, directory)
  asked = solver.ask(given, fitting or Fitting())
  found = solver.evaluate(asked, width=width or Width())
  names = evaluation_files.write(found, directory)
  show(tell(found, colour))
  if left_out := [shown(task.name) for task in given.left_out]:
    print(
      f'Left out, with fallbacks in submission.json: {len(left_out)} of '
      f'{len(given.order)} tasks, larger than the canvas of {solver.canvas} × '
      f'{solver.canvas}: {", ".join(left_out[:MAX_SHOWN])}'
      f'{" …" * (len(left_out) > MAX_SHOWN)}\n'
    )
  if trace:
    traces = solver.trace(asked, segments=segments, max_puzzles=_MAX_TRACED)
    tests = [(one, test) for one in traces for test in range(len(one.inputs))]
    titles = evaluation_files.distinct_names(
      one.title(test) for one, test in tests
    )
    for (one, test), title in zip(tests, titles, strict=True):
      for suffix in ('png', 'gif'):
        names.append(f'trace_{title}.{suffix}')
        one.save(directory / names[-1], test)
  command.say(f'Written to {directory}: {", ".join(names)}')
  return found


def show(texts: Iterable[str]) -> None:
  """Prints what was predicted, the first of these texts."""
  print()
  for number, text in enumerate(texts):
    if number == MAX_SHOWN:
      print('... more stand in the files')
      break
    print(text + '\n')


def tell(found: Evaluation, colour: bool) -> Iterator[str]:
  """Describes what was predicted, a text for each test input."""
  left_out = {task.name for task in found.asked.left_out}
  for answer in found.answers:
    if answer.name in left_out:
      continue
    for test in range(len(answer.inputs)):
      if found.domain is None:
        yield tell_task(answer, test, colour)
      else:
        yield _tell_question(answer, found.domain, colour)


def tell_task(answer: Answer, test: int, colour: bool) -> str:
  """Describes what was predicted for a test input of a task."""
  tests = len(answer.inputs)
  name = shown(answer.name)
  lines = [f'{name}, test {test + 1} of {tests}, with {answer.way}']
  panels = [('input', answer.inputs[test])]
  truth = answer.truths[test]
  if truth is not None:
    panels.append(('true answer', truth))
  for number, candidate in enumerate(answer.attempts[test][:2], 1):
    panels.append((f'attempt {number}', candidate.grid))
    text = (
      f'attempt {number}: {candidate.votes} of {answer.cast[test]} votes, '
      f'confidence {candidate.confidence:.2f}'
    )
    if truth is not None:
      right = np.array_equal(candidate.grid, truth)
      text += f', {"right" if right else "wrong"}'
    lines.append(text)
  if not answer.attempts[test]:
    lines.append('no augmentation gave a grid')
  lines.append(
    terminal.side_by_side(panels, pictures.ARC_GRID, _COLOURS, colour)
  )
  return '\n'.join(lines)


def _tell_question(answer: Answer, domain: Any, colour: bool) -> str:
  (grid,), (truth,) = answer.grids, answer.truths
  if np.array_equal(grid, truth):
    mark = 'right'
  else:
    mark = 'valid, another solution' if answer.valid[0] else 'wrong'
  panels = {
    'question': answer.inputs[0], 'prediction': grid, 'true answer': truth,
  }  # fmt: skip
  text = terminal.side_by_side(
    [(caption, tokens_of(domain, one)) for caption, one in panels.items()],
    pictures.style_of(domain, domain.vocab_size),
    domain.characters,
    colour,
  )
  return (
    f'{shown(answer.name)}, with {answer.way}\n'
    f'{mark}, {np.mean(grid == truth):.0%} of the cells, confidence '
    f'{answer.confidence[0]:.2f}\n{text}'
  )


if __name__ == '__main__':
  command.run(main, FLAGS, launch.start)
