"""Times functions, and runs modules in processes of their own."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping


def seconds(function: Callable[[], object]) -> float:
  """Calls a function once; returns the seconds that it took."""
  begin = time.perf_counter()
  function()
  return time.perf_counter() - begin


def in_turns(
  functions: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
  """Returns the median time of each function in seconds.

  They are called in turns, so that other work on the machine slows all of them
  alike. The first round is not measured, since it compiles.
  """
  times = {name: [] for name in functions}
  for _ in range(repeats + 1):
    for name, function in functions.items():
      times[name].append(seconds(function))
  return {name: statistics.median(spent[1:]) for name, spent in times.items()}


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
