"""Numbers that look random and are functions of other numbers."""

import numpy as np

# 2⁶⁴ over the golden ratio: its multiples spread well.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
  """Scrambles uint64 numbers, one to one (the finaliser of splitmix64).

  Neighbouring numbers come out unrelated, and sums of what comes out tell
  multisets apart.
  """
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))
