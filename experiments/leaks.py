"""Finds held-out answers among what is trained on.

  hrm-jax leaks [--train=SPEC] --evaluate=SPEC [--out=FILE]

As in training, the demonstrations of the `evaluate` tasks count as trained on.
Prints what leaks (input, output, or both) and ends with code 1 if an answer can
be reached. Training makes the same check at its start.
"""

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable

from data_pipelines import files, puzzles
from data_pipelines.arc import leaks as arc_leaks
from data_pipelines.arc import tasks as arc
from data_pipelines.arc.tasks import NamedPair
from data_pipelines.errors import DataError
from data_pipelines.leaks import Leak
from data_pipelines.published.reader import PublishedSet
from experiments.cli import command, shared_flags

_Trained = Callable[[list[NamedPair]], Iterable[NamedPair]]


def find_leaks(
  train: str, evaluate: str, canvas: int = 30, seed: int = 0
) -> list[Leak]:
  """What of `evaluate` is held out and yet trained on, by SPECs.

  Unlike a training run, this takes ARC tasks that stand in both, and compares
  tasks with published directories of tasks. Where `train` is empty nothing but
  ARC's demonstrations is trained on.
  """
  if not evaluate:
    raise DataError('--evaluate=SPEC is missing, e.g. --evaluate=arc2')
  sides = [_arc_pairs(train, True, canvas), _arc_pairs(evaluate, False, canvas)]
  if None not in sides:
    (trained, _), (demonstrations, held_out) = sides
    return arc_leaks.between_pairs(
      itertools.chain(trained(held_out), demonstrations(held_out)), held_out
    )
  if not train:
    raise DataError('--train=SPEC is missing, e.g. --train=sudoku_extreme_1k')
  return puzzles.leaks_of(
    puzzles.load_puzzles(train, evaluate, canvas, 0, seed)
  )


def _arc_pairs(
  spec: str, is_train: bool, canvas: int
) -> tuple[_Trained, list[NamedPair]] | None:
  """The ARC pairs that a SPEC adds to what is trained on, which may depend on
  those they will be compared with, and the pairs that it holds out; None where
  it names no ARC tasks."""
  if not spec:
    return lambda _: [], []
  if (kind := puzzles.kind(spec)) == puzzles.ARC:
    tasks = [t for t in arc.load_tasks(spec).tasks if t.fits(canvas)]
    trained = arc_leaks.trained_pairs(tasks, whole=is_train)
    held_out = [] if is_train else arc_leaks.held_out_pairs(tasks)
    return lambda _: trained, held_out
  if kind == puzzles.PUBLISHED:
    data = PublishedSet(files.local(spec.strip()), is_train, not is_train)
    if data.is_arc:
      if is_train:
        return data.trained_pairs, []
      return lambda _: [], data.held_out_pairs()
  return None


def report(leaks: list[Leak]) -> str:
  """All leaks, the answers last, and how many there are of each kind."""
  ordered = sorted(leaks, key=lambda leak: leak.reaches_answer)
  lines = [*map(str, ordered), '']
  for kind, meaning in {
    'input': 'the test input, with another output',
    'output': 'the answer, under another input',
    'question': 'the test input; its answer, not known here, may be reached',
    'both': 'the test pair: its answer can be reached',
  }.items():
    found = [leak for leak in leaks if leak.kind == kind]
    tests = {(leak.held_out, leak.held_out_place) for leak in found}
    tasks = {leak.held_out for leak in found}
    lines.append(
      f'{kind:8}  {len(tests):4} held-out of {len(tasks):4} puzzles   {meaning}'
    )
  entries = {leak.entry for leak in leaks if leak.reaches_answer}
  if entries:
    lines.append(f'data.known_leaks = {tuple(sorted(entries))}')
  return '\n'.join(lines)


_ARGUMENTS = ('train', 'evaluate', 'canvas', 'seed')
FLAGS = shared_flags.define(*_ARGUMENTS)
shared_flags.path('out', None, 'JSON file to write the leaks to.', FLAGS)


def main(_) -> int:
  begin = time.monotonic()
  leaks = find_leaks(**shared_flags.values(FLAGS, _ARGUMENTS))
  command.say(report(leaks))
  print(f'Checked in {time.monotonic() - begin:.1f} s')
  answers = any(leak.reaches_answer for leak in leaks)
  if FLAGS.out:
    record = {
      'train': FLAGS.train,
      'evaluate': FLAGS.evaluate,
      'answers_reachable': answers,
      'leaks': [dataclasses.asdict(leak) for leak in leaks],
    }
    with command.writing(FLAGS.out):
      files.write_json(FLAGS.out, record)
  return int(answers)


if __name__ == '__main__':
  command.run(main, FLAGS)
