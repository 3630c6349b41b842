"""Which of several predictions is taken, by each rule."""

import numpy as np
import pytest

from data_pipelines.questions import choosing

# Two puzzles, of whose five predictions some are equal: A A B B B, and five
# that differ.
TOKENS = np.array(
  [[[1, 2], [1, 2], [3, 4], [3, 4], [3, 4]],
   [[1, 2], [3, 4], [5, 6], [7, 8], [9, 0]]], np.uint8,
)  # fmt: skip
CONFIDENCE = np.array([[0.9, 0.8, 0.5, 0.5, 0.5], [0.1, 0.9, 0.2, 0.9, 0.3]])
VALID = np.array([[0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize(
  'rule, expected',
  [
    ('q', [0, 1]),
    # 1.7 for A, 1.5 for B.
    ('vote', [0, 1]),
    ('frequent', [2, 1]),
    # The valid one; where there is none, the surest.
    ('valid', [3, 1]),
  ],
)
def test_rules(rule, expected):
  answer = choosing.alike(TOKENS)
  found = choosing.choose(rule, answer, CONFIDENCE, VALID)
  np.testing.assert_array_equal(found, expected)


def test_votes_are_of_each_puzzle_apart():
  # The second puzzle's answers would be the majority in the first.
  tokens = np.array([[[1], [2], [2]], [[1], [1], [1]]], np.uint8)
  answer = choosing.alike(tokens)
  confidence = np.full((2, 3), 0.5)
  found = choosing.choose('frequent', answer, confidence, confidence > 1)
  np.testing.assert_array_equal(found, [1, 0])


@pytest.mark.parametrize('rule', choosing.RULES)
def test_one_prediction_is_the_answer(rule):
  answer = choosing.alike(TOKENS[:, :1])
  found = choosing.choose(rule, answer, CONFIDENCE[:, :1], VALID[:, :1])
  np.testing.assert_array_equal(found, [0, 0])
