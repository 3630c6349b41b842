"""Which rows of a checkpoint's puzzle table an evaluation needs."""

import numpy as np

from hrm_jax.inference import evaluation


def test_needed_rows_and_where_they_stand_then():
  # The checkpoint has the second puzzle in row 7, the fourth in row 2.
  rows, places = evaluation.needed_rows([3, 1, 3], np.array([0, 7, -1, 2, 4]))
  np.testing.assert_array_equal(rows, [7, 2])
  np.testing.assert_array_equal(places, [-1, 0, -1, 1, -1])
