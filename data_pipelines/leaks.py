"""Finds held-out answers among what is trained on.

  python -m data_pipelines.leaks --train=SPEC --evaluate=SPEC [--out=FILE.json]

As in training, the demonstrations of the `evaluate` tasks count as trained on.
Prints what leaks (input, output, or both) and ends with code 1 if an answer can
be reached. Training makes the same check at its start.
"""

import dataclasses
import time
from typing import Any

from data_pipelines import arc, command, data_flags, files, leak_check, puzzles
from data_pipelines.errors import DataError
from data_pipelines.leak_check import Leak


def find_leaks(train: str, evaluate: str, seed: int = 0) -> list[Leak]:
  """What of `evaluate` is held out and yet trained on, by SPECs.

  Unlike a training run, this takes ARC tasks that stand in both.

  Raises:
    DataError: as `puzzles.load_puzzles`.
  """
  for name, spec in (('train', train), ('evaluate', evaluate)):
    if not spec:
      raise DataError(f'--{name}=SPEC is missing, e.g. --{name}=arc2')
  if puzzles.kind(train) == puzzles.kind(evaluate) == puzzles.ARC:
    return leak_check.between_tasks(
      arc.load_tasks(train).tasks, arc.load_tasks(evaluate).tasks
    )
  return puzzles.load_puzzles(train, evaluate, 30, 0, seed).leaks()


def report(leaks: list[Leak]) -> str:
  """All leaks, the answers last, and how many there are of each kind."""
  lines = [str(leak) for leak in leaks if leak.what != 'both']
  lines += [str(leak) for leak in leaks if leak.what == 'both']
  lines.append('')
  for what, meaning in (
    ('input', 'the test input, with another output or an unknown one'),
    ('output', 'the answer, under another input'),
    ('both', 'the test pair: its answer can be reached'),
  ):
    found = [leak for leak in leaks if leak.what == what]
    tests = {(leak.evaluated, leak.place) for leak in found}
    tasks = {leak.evaluated for leak in found}
    lines.append(
      f'{what:6}  {len(tests):4} held-out of {len(tasks):4} puzzles   {meaning}'
    )
  return '\n'.join(lines)


def main(_) -> int:
  begin = time.monotonic()
  leaks = find_leaks(
    data_flags.TRAIN.value, data_flags.EVALUATE.value, data_flags.SEED.value
  )
  print(report(leaks))
  print(f'Checked in {time.monotonic() - begin:.1f} s')
  answers = any(leak.what == 'both' for leak in leaks)
  if data_flags.OUT.value:
    record: dict[str, Any] = {
      'train': data_flags.TRAIN.value,
      'evaluate': data_flags.EVALUATE.value,
      'answers_reachable': answers,
      'leaks': [dataclasses.asdict(leak) for leak in leaks],
    }
    try:
      files.write_json(data_flags.OUT.value, record)
    except OSError as error:
      raise DataError(
        f'--out={data_flags.OUT.value} cannot be written ({error.strerror})'
      ) from None
  return int(answers)


if __name__ == '__main__':
  command.run(main)
