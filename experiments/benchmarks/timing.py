"""Times functions, and runs modules in processes of their own."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any


def seconds(function: Callable[[], object]) -> float:
  """Calls a function once; returns the seconds that it took."""
  begin = time.perf_counter()
  function()
  return time.perf_counter() - begin


def in_turns(
  function: Callable[[Any], object], kinds: Iterable[Any], repeats: int
) -> dict[Any, float]:
  """Returns the median seconds of the function for each kind of work.

  They take turns, so that other work on the machine slows all of them alike.
  The first round is not measured, since it compiles.
  """
  times = {kind: [] for kind in kinds}
  for _ in range(repeats + 1):
    for kind, spent in times.items():
      spent.append(seconds(lambda kind=kind: function(kind)))
  return {kind: statistics.median(spent[1:]) for kind, spent in times.items()}


def run_module(name: str, *arguments: str, **variables: str) -> str:
  """Runs a module in a new interpreter; returns the last line it printed.

  The environment differs in `variables` from this process's.
  """
  done = subprocess.run(
    [sys.executable, '-m', name, *arguments],
    stdout=subprocess.PIPE,
    env=os.environ | variables,
    text=True,
    check=True,
  )
  return done.stdout.strip().splitlines()[-1]
