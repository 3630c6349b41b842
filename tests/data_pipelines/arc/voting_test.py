"""Votes, scores and submissions, worked by hand."""

import json
import math

import numpy as np

from data_pipelines.arc import encoding, voting
from data_pipelines.arc.tasks import Pair, Task
from data_pipelines.arc.voting import Candidate, Score, Tally

A, B, C, D = ([[1]], [[2]], [[3, 4]], [[0, 0], [5, 6]])


def grid(rows):
  return np.array(rows, np.uint8)


def vote(grids, confidences, first=None):
  """Votes on predictions given as grids, by way of tokens; None is 0 x 0."""
  tokens = [
    np.zeros(9, np.uint8) if rows is None else encoding.encode(grid(rows), 3)
    for rows in grids
  ]
  decoded = encoding.decode(
    np.array(tokens, np.uint8).reshape(-1, 9),
    np.zeros(len(grids), np.uint8),
    np.tile(np.arange(10), (len(grids), 1)),
  )
  candidates = voting.vote(*decoded, np.array(confidences), first)
  assert all(c.grid.dtype == np.uint8 for c in candidates)
  return [(c.grid.tolist(), c.votes, c.confidence) for c in candidates]


def candidates_of(*grids):
  return [Candidate(grid(rows), 1, 0.5) for rows in grids]


def task(name, *outputs):
  tests = tuple(
    Pair(grid([[9]]), None if rows is None else grid(rows)) for rows in outputs
  )
  return Task(name, (), tests)


def test_more_votes_win_over_confidence():
  assert vote([A, D, D, C], [0.875, 0.25, 0.5, 0.75]) == [
    (D, 2, 0.375),
    (A, 1, 0.875),
    (C, 1, 0.75),
  ]


def test_equal_votes_go_by_mean_confidence():
  # The mean, not the sum or the best one: 0.5 each way but for D.
  assert vote([A, A, D, D], [0.875, 0.125, 0.5, 0.75]) == [
    (D, 2, 0.625),
    (A, 2, 0.5),
  ]


def test_full_ties_do_not_depend_on_the_order():
  grids = [D, B, A, B, C, A, C, D]
  ranked = vote(grids, [0.5] * 8)
  assert [c[0] for c in ranked] == [D, A, B, C]
  assert vote(grids[::-1], [0.5] * 8) == ranked


def test_rounding_of_the_mean_does_not_depend_on_the_order():
  assert (0.3 + 0.2) + 0.1 < (0.1 + 0.2) + 0.3
  ranked = vote([A] * 3 + [B] * 3, [0.3, 0.2, 0.1, 0.1, 0.2, 0.3])
  assert [c[0] for c in ranked] == [A, B]
  assert ranked[0][2] == ranked[1][2]


def test_grids_of_different_sizes_are_different():
  ranked = vote([[[0]], [[0, 0]], [[0], [0]], [[0, 0]]], [0.5] * 4)
  assert ranked[0] == ([[0, 0]], 2, 0.5)
  assert [c[1] for c in ranked] == [2, 1, 1]


def test_empty_predictions_are_no_candidates():
  assert vote([None, None, A], [0.9, 0.9, 0.25]) == [(A, 1, 0.25)]
  assert vote([None, None], [0.5, 0.5]) == []
  assert vote([], []) == []


def test_first():
  ranked = vote([A, B, B, C, C, C], [0.5] * 6)
  assert [c[0] for c in ranked] == [C, B, A]
  assert vote([A, B, B, C, C, C], [0.5] * 6, first=2) == ranked[:2]
  assert vote([A, B, B, C, C, C], [0.5] * 6, first=9) == ranked


def test_candidates_do_not_keep_the_predictions_alive():
  grids = np.zeros((1, 3, 3), np.uint8)
  (candidate,) = voting.vote(
    grids, np.array([2]), np.array([2]), np.array([0.5])
  )
  assert candidate.grid.base is None


def test_three_rules():
  tasks = [
    task('one', A),
    task('two', A, B),
    task('three', A, B, C),
    task('part', A, None),
    task('unknown', None),
  ]
  candidates = {
    ('one', 0): candidates_of(A),
    ('two', 0): candidates_of(A),
    ('two', 1): candidates_of(C, B),
    ('three', 0): candidates_of(B, C, A),
    # ('three', 1) was not predicted.
    ('three', 2): [],
    ('part', 0): candidates_of(D),
    ('part', 1): candidates_of(A),
    ('unknown', 0): candidates_of(A),
  }
  # Outputs scored: 1 + 2 + 3 + 1 + 0; tasks scored: all but the last.
  assert voting.score(candidates, tasks, (1, 2, 3)) == {
    1: Score(Tally(2, 7), Tally(1.5, 4), Tally(1, 4)),
    2: Score(Tally(3, 7), Tally(2, 4), Tally(2, 4)),
    3: Score(Tally(4, 7), Tally(2 + 1 / 3, 4), Tally(2, 4)),
  }


def test_a_solved_grid_equals_in_every_cell_and_in_size():
  answer = grid([[1, 2], [3, 4]])
  for wrong in ([[1, 2], [3, 5]], [[1, 2]], [[1, 2, 3, 4]], [[1]]):
    assert not voting.is_solved(candidates_of(wrong), answer, 2)
  candidates = candidates_of(A, [[1, 2], [3, 4]])
  assert voting.is_solved(candidates, answer, 2)
  assert not voting.is_solved(candidates, answer, 1)


def test_nothing_to_score():
  scores = voting.score({}, [task('unknown', None)])
  assert list(scores) == [1, 2, 5, 10, 100, 1000]
  assert scores[2] == Score(Tally(0, 0), Tally(0, 0), Tally(0, 0))
  assert math.isnan(scores[2].outputs.rate)
  assert 'nothing to score' in voting.format_scores(scores)


def test_format_scores():
  scores = {
    1: Score(Tally(2, 7), Tally(1.5, 4), Tally(1, 4)),
    1000: Score(Tally(7, 7), Tally(4, 4), Tally(4, 4)),
  }
  lines = voting.format_scores(scores).splitlines()
  assert len(lines) == 4
  assert lines[2].split() == (
    ['1', '28.57', '%', '2/7', '37.50', '%', '1.5/4', '25.00', '%', '1/4']
  )
  assert lines[3].split()[:3] == ['1000', '100.00', '%']
  # Columns line up: percent signs and slashes stand under one another.
  for mark in '%/':
    columns = [
      [i for i, character in enumerate(line) if character == mark]
      for line in lines[2:]
    ]
    assert columns[0] == columns[1]


def test_copy_baseline():
  copies = Task('copies', (), (Pair(grid(A), grid(A)), Pair(grid(A), grid(B))))
  scores = voting.copy_baseline([copies, task('other', C)], (1, 2))
  assert scores[1] == Score(Tally(1, 3), Tally(0.5, 2), Tally(0, 2))
  assert scores[2] == scores[1]


def test_submission():
  tasks = [task('z', A, B, C), task('a', None)]
  candidates = {
    ('z', 0): candidates_of(D, A, B),
    ('z', 1): candidates_of(C),
    ('z', 2): [],
    ('elsewhere', 0): candidates_of(A),
  }
  answers = voting.submission(candidates, tasks)
  assert answers == {
    'z': [
      {'attempt_1': D, 'attempt_2': A},
      {'attempt_1': C, 'attempt_2': C},
      {'attempt_1': [[9]], 'attempt_2': [[9]]},
    ],
    'a': [{'attempt_1': [[9]], 'attempt_2': [[9]]}],
  }
  assert list(answers) == ['z', 'a']
  assert json.loads(json.dumps(answers)) == answers


def test_a_fallback_is_the_input_and_what_comes_most_often():
  shown = [Pair(grid(A), grid(rows)) for rows in (C, D, B, D)]
  some = Task('a', tuple(shown), (Pair(grid(B), None),))
  (test,) = some.tests
  assert [x.tolist() for x in voting.fallback(some, test)] == [B, D]
  some = Task('a', tuple(shown[:3]), some.tests)
  assert [x.tolist() for x in voting.fallback(some, test)] == [B, C]


def test_votes_in_two_parts_count_as_one():
  rng = np.random.default_rng(0)
  for _ in range(50):
    grids = [[A, B, C, D, None][i] for i in rng.integers(0, 5, 12)]
    # Sixteenths, of which no sum is rounded.
    sure = (rng.integers(1, 16, 12) / 16).tolist()
    part = rng.integers(0, 13)
    found = voting.merged(
      *(
        [Candidate(grid(rows), votes, q) for rows, votes, q in vote(*half)]
        for half in ((grids[:part], sure[:part]), (grids[part:], sure[part:]))
      )
    )
    whole = vote(grids, sure)
    assert [(x.grid.tolist(), x.votes) for x in found] == [x[:2] for x in whole]
    np.testing.assert_allclose(
      [x.confidence for x in found], [x[2] for x in whole], rtol=1e-12
    )
