"""Finds held-out answers among what is trained on.

  hrm-jax leaks [--train=SPEC] --evaluate=SPEC [--out=FILE]

As in training, the demonstrations of the `evaluate` tasks count as trained on.
Prints what leaks (input, output, or both) and ends with code 1 if an answer can
be reached. Training makes the same check at its start.
"""

import dataclasses
import pathlib
import time
from typing import Any

from data_pipelines import files, puzzles
from data_pipelines import leaks as leak_check
from data_pipelines.arc import tasks as arc
from data_pipelines.errors import DataError
from data_pipelines.leaks import Leak, NamedPair
from data_pipelines.published.reader import PublishedSet
from experiments.cli import command, shared_flags


def find_leaks(
  train: str, evaluate: str, canvas: int = 30, seed: int = 0
) -> list[Leak]:
  """What of `evaluate` is held out and yet trained on, by SPECs.

  Unlike a training run, this takes ARC tasks that stand in both, and compares
  tasks with published directories of tasks.

  Args:
    train: what is trained on; '' for nothing but ARC's demonstrations.
    evaluate: what is held out.
    canvas: side of ARC's canvas in cells; larger tasks are left out.
    seed: seed of random subsets.

  Raises:
    DataError: as `puzzles.load_puzzles`.
  """
  if not evaluate:
    raise DataError('--evaluate=SPEC is missing, e.g. --evaluate=arc2')
  sides = [_arc_pairs(train, True, canvas), _arc_pairs(evaluate, False, canvas)]
  if None not in sides:
    (trained, _), (demonstrations, held_out) = sides
    return leak_check.between_pairs([*trained, *demonstrations], held_out)
  if not train:
    raise DataError('--train=SPEC is missing, e.g. --train=sudoku_extreme_1k')
  return puzzles.load_puzzles(train, evaluate, canvas, 0, seed).leaks()


def _arc_pairs(
  spec: str, is_train: bool, canvas: int
) -> tuple[list[NamedPair], list[NamedPair]] | None:
  """What a SPEC adds to what is trained on, and what it holds out; None where
  it is not of ARC."""
  if not spec:
    return [], []
  kind = puzzles.kind(spec)
  if kind == puzzles.ARC:
    tasks = [t for t in arc.load_tasks(spec).tasks if t.fits(canvas)]
    held_out = [] if is_train else leak_check.held_out_pairs(tasks)
    return leak_check.trained_pairs(tasks, whole=is_train), held_out
  if kind == puzzles.PUBLISHED:
    data = PublishedSet(pathlib.Path(spec), is_train, not is_train)
    if data.is_arc:
      trained = data.trained_pairs() if is_train else []
      return trained, leak_check.held_out_pairs(data.evaluation_tasks)
  return None


def report(leaks: list[Leak]) -> str:
  """All leaks, the answers last, and how many there are of each kind."""
  lines = [str(leak) for leak in leaks if not leak.reaches_answer]
  lines += [str(leak) for leak in leaks if leak.reaches_answer]
  lines.append('')
  for what, meaning in (
    ('input', 'the test input, with another output'),
    ('output', 'the answer, under another input'),
    ('question', 'the test input; its answer, not known here, may be reached'),
    ('both', 'the test pair: its answer can be reached'),
  ):
    found = [leak for leak in leaks if leak.what == what]
    tests = {(leak.evaluated, leak.place) for leak in found}
    tasks = {leak.evaluated for leak in found}
    lines.append(
      f'{what:8}  {len(tests):4} held-out of {len(tasks):4} puzzles   {meaning}'
    )
  return '\n'.join(lines)


_ARGUMENTS = ('train', 'evaluate', 'canvas', 'seed')
FLAGS = shared_flags.define(*_ARGUMENTS)
shared_flags.path('out', None, 'JSON file to write the leaks to.', FLAGS)


def main(_) -> int:
  begin = time.monotonic()
  leaks = find_leaks(**shared_flags.values(FLAGS, _ARGUMENTS))
  print(report(leaks))
  print(f'Checked in {time.monotonic() - begin:.1f} s')
  answers = any(leak.reaches_answer for leak in leaks)
  if FLAGS.out:
    record: dict[str, Any] = {
      'train': FLAGS.train,
      'evaluate': FLAGS.evaluate,
      'answers_reachable': answers,
      'leaks': [dataclasses.asdict(leak) for leak in leaks],
    }
    try:
      files.write_json(FLAGS.out, record)
    except OSError as error:
      raise DataError(
        f'--out={FLAGS.out} cannot be written ({error.strerror})'
      ) from None
  return int(answers)


if __name__ == '__main__':
  command.run(main, FLAGS)
