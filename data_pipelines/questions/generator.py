"""What the generators of puzzles share: compiling, threads, the search."""

import concurrent.futures
import inspect
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numba
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.hashing import GOLDEN, mix
from data_pipelines.progress import Progress

if TYPE_CHECKING:
  from data_pipelines.questions.domain import Domain

# Number of candidates that a generator makes at once, and in a row without
# finding anything before it gives up.
_BATCH = 256
_PATIENCE = 20_000


class Generated(NamedTuple):
  """Puzzles of a generator: tokens, uint8 [N, S], and int64 [N] ratings."""

  questions: np.ndarray
  answers: np.ndarray
  ratings: np.ndarray


def compiled(function: Callable) -> Callable:
  """numba's compiler, with its files kept for the next start where possible."""
  # A generator that was kept could not be compiled into another function.
  keep = not inspect.isgeneratorfunction(function)
  try:
    return numba.njit(nogil=True, cache=keep)(function)
  except RuntimeError:  # No folder where numba could keep them is writable.
    return numba.njit(nogil=True)(function)


def in_threads(work: Callable[[slice], Any], count: int, chunk: int) -> None:
  """Calls `work` for slices of so many rows, `chunk` each, on all cores."""
  parts = [slice(i, min(count, i + chunk)) for i in range(0, count, chunk)]
  if len(parts) == 1:
    work(parts[0])
    return
  with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    for _ in pool.map(work, parts):
      pass


def find_faults(
  check: Callable[..., None],
  questions: np.ndarray,
  answers: np.ndarray,
  layout: Any,
  reason: Callable[..., str],
) -> list[tuple[int, str]]:
  """The index of each puzzle at fault, and what is wrong with it.

  `check` is a compiled function of questions, answers, the `layout` of the
  domain and two arrays to fill in: a code for each puzzle, 0 where it is fine,
  and two numbers that say where the fault is. `reason` words a fault, from a
  question, its answer, code and two numbers.
  """
  count = len(questions)
  code, where = np.zeros(count, np.uint8), np.zeros((count, 2), np.int64)
  in_threads(
    lambda x: check(questions[x], answers[x], layout, code[x], where[x]),
    count,
    1024,
  )
  return [
    (int(i), reason(questions[i], answers[i], code[i], *map(int, where[i])))
    for i in np.flatnonzero(code)
  ]


mix_one = compiled(mix)


@compiled
def below(state, bound):
  """A random number from 0 to bound - 1; `state`, uint64 [1], is of
  splitmix64."""
  state[0] += GOLDEN
  return np.int64((mix_one(state[0]) >> np.uint64(33)) % np.uint64(bound))


def gather(
  make: Callable[..., Any],
  good: Callable[[Generated], np.ndarray],
  domain: 'Domain',
  count: int,
  seed: int,
  what: str,
  relax: str,
) -> Generated:
  """Collects essentially different puzzles from a series of candidates.

  Args:
    make: fills in questions, answers and ratings, 0 before, from a uint64 key
      for each.
    good: which of some candidates meet the demands, bool [N].
    domain: what kind of puzzles they are.
    count: number of puzzles wanted.
    seed: seed of the series; its first puzzles do not depend on `count`.
    what: names the puzzles in log lines and errors.
    relax: says in the error which demand to lower.

  Raises:
    DataError: nothing new came of many candidates in a row.
  """
  if count < 1:
    raise DataError(f'{what}: {count} puzzles are wanted; ask for 1 or more')
  first_key = mix(np.array([seed % 2**64], np.uint64) + GOLDEN)
  parts = []
  seen: set[int] = set()
  tried = last_success = 0
  progress = Progress(f'{what}: generated', count)
  while len(seen) < count:
    keys = mix(first_key + np.arange(tried, tried + _BATCH, dtype=np.uint64))
    puzzles = _made(make, keys, domain.seq_len)
    found = np.flatnonzero(good(puzzles))
    kept = []
    for i, signature in zip(
      found, domain.signatures(puzzles.questions[found]).tolist(), strict=True
    ):
      if signature not in seen and len(seen) < count:
        seen.add(signature)
        kept.append(i)
        last_success = tried + int(i)
    parts.append(Generated(*(x[kept] for x in puzzles)))
    tried += _BATCH
    if len(seen) < count and tried - last_success > _PATIENCE:
      raise DataError(
        f'{what}: found {len(seen)} essentially different of the {count} '
        f'wanted, and no more in {_PATIENCE} tries; {relax}'
      )
    progress.add(len(kept))
  return Generated(*(np.concatenate(x) for x in zip(*parts, strict=True)))


def _made(make: Callable[..., Any], keys: np.ndarray, size: int) -> Generated:
  count = len(keys)
  questions, answers = np.zeros((2, count, size), np.uint8)
  puzzles = Generated(questions, answers, np.zeros(count, np.int64))
  in_threads(lambda x: make(keys[x], *(a[x] for a in puzzles)), count, 16)
  return puzzles
