"""Which of several predictions of a puzzle is taken for its answer.

Shape letters: P puzzles, N predictions of each, S cells.
"""

import numpy as np

# See `hrm_jax.settings.Width`.
RULES = ('q', 'vote', 'frequent', 'valid')


def alike(tokens_PNS: np.ndarray) -> np.ndarray:
  """A number of each answer, the same for equal answers; int [P, N]."""
  P, N, S = tokens_PNS.shape
  # As one opaque item each, answers are compared whole, byte by byte.
  items = np.ascontiguousarray(tokens_PNS, np.uint8).view(f'V{S}')
  return np.unique(items.ravel(), return_inverse=True)[1].reshape(P, N)


def choose(
  rule: str,
  answer_PN: np.ndarray,
  confidence_PN: np.ndarray,
  valid_PN: np.ndarray,
) -> np.ndarray:
  """The prediction of each puzzle that a rule takes, int [P].

  Where two are as good the more confident one is taken, then the first.

  Args:
    rule: one of RULES.
    answer_PN: what `alike` gives.
    confidence_PN: the sigmoid of each prediction's q_halt.
    valid_PN: whether a prediction solves its puzzle.
  """
  # Of each puzzle apart.
  answer_PN = answer_PN + np.arange(len(answer_PN))[:, None] * (
    answer_PN.max(initial=0) + 1
  )
  _, member, counts = np.unique(
    answer_PN.ravel(), return_inverse=True, return_counts=True
  )
  member_PN = member.reshape(answer_PN.shape)
  count = counts[member_PN]
  weight = np.bincount(member, confidence_PN.ravel())[member_PN]
  first, second = {
    'q': (confidence_PN, confidence_PN),
    'vote': (weight, confidence_PN),
    'frequent': (count, weight),
    'valid': (valid_PN, confidence_PN),
  }[rule]
  return np.lexsort((-second, -first.astype(np.float64)))[:, 0]
