"""Sudoku: checks against known puzzles and an independent brute force."""

import itertools
import os

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.progress import Progress
from data_pipelines.questions import sudoku
from data_pipelines.questions.sudoku import Sudoku

SMALL, MIDDLE, LARGE = SIZES = (Sudoku(2, 2), Sudoku(2, 3), Sudoku(3, 3))

# 17 clues, the fewest that any 9 x 9 Sudoku can have.
FEWEST = (
  '000000010400000000020000000000050407008000300001090000300400200050100000000'
  '806000'
)

# A full grid: each row is the first one, shifted.
SHIFTED = [
  [(3 * (r % 3) + r // 3 + c) % 9 + 1 for c in range(9)] for r in range(9)
]


def _tokens(domain, question, answer):
  return [
    domain.parse(np.frombuffer(x.encode(), np.uint8)[None])
    for x in (question, answer)
  ]


def _text(rows):
  return ''.join(str(digit) for row in rows for digit in row)


def _check(question, answer, domain=LARGE):
  return [x for _, x in domain.check(*_tokens(domain, question, answer))]


def _units(domain):
  """The cells of each row, column and box, as plainly as can be."""
  n, rows, columns = domain.side, domain.box_rows, domain.box_columns
  units = [[r * n + c for c in range(n)] for r in range(n)]
  units += [[r * n + c for r in range(n)] for c in range(n)]
  for top, left in itertools.product(range(0, n, rows), range(0, n, columns)):
    units.append(
      [
        (top + r) * n + left + c
        for r, c in itertools.product(range(rows), range(columns))
      ]
    )
  return units


def _brute_force(domain, question):
  """All solutions, by trying every digit in every cell in turn."""
  units = _units(domain)
  peers = [
    {p for unit in units if cell in unit for p in unit} - {cell}
    for cell in range(domain.seq_len)
  ]
  grid = [int(x) if x > 1 else 1 for x in question]
  solutions = []

  def fill(cell):
    if cell == domain.seq_len:
      solutions.append(list(grid))
    elif question[cell] > 1:
      if all(grid[p] != grid[cell] for p in peers[cell]):
        fill(cell + 1)
    else:
      for token in range(2, domain.vocab_size):
        if all(grid[p] != token for p in peers[cell]):
          grid[cell] = token
          fill(cell + 1)
      grid[cell] = 1

  fill(0)
  return solutions


@pytest.fixture(scope='module')
def small_answers():
  return np.array(_brute_force(SMALL, np.ones(16, np.uint8)), np.uint8)


@pytest.fixture(scope='module')
def generated():
  clues = {SMALL: 6, MIDDLE: 11, LARGE: 26}
  return {d: sudoku.generate(d, 100, 1, clues[d]) for d in SIZES}


def test_sizes():
  assert [(d.side, d.seq_len, d.vocab_size) for d in SIZES] == [
    (4, 16, 6),
    (6, 36, 8),
    (9, 81, 11),
  ]
  with pytest.raises(DataError, match='boxes of 3x2 are not known'):
    Sudoku(3, 2)


def test_parse():
  questions, answers = _tokens(SMALL, '.01234x5' * 2, '1234.0x5' * 2)
  assert questions.dtype == answers.dtype == np.uint8
  assert questions[0, :8].tolist() == [1, 1, 2, 3, 4, 5, 0, 0]
  assert answers[0, :8].tolist() == [2, 3, 4, 5, 1, 1, 0, 0]


# Checks.


def test_check_accepts_known_puzzles():
  answer = (
    '534678912672195348198342567859761423426853791713924856961537284287419635'
    '345286179'
  )
  question = (
    '53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5'
    '....8..79'
  )
  assert _check(question, answer) == []


def test_check_proves_the_fewest_clues_unique():
  # Without an answer in hand: the solver finds one and no second.
  answer = _solve_from_outside(FEWEST)
  assert answer.startswith('693784512')
  assert _check(FEWEST, answer) == []
  for at in [i for i, x in enumerate(FEWEST) if x != '0']:
    without = FEWEST[:at] + '0' + FEWEST[at + 1 :]
    assert _check(without, answer) == ['question: has more than one solution']


def _solve_from_outside(text):
  """The one solution, by exact cover through plain sets."""
  rows = {}
  for cell, digit in itertools.product(range(81), range(1, 10)):
    if text[cell] in ('0', str(digit)):
      r, c = divmod(cell, 9)
      rows[cell, digit] = [
        ('cell', cell),
        ('row', r, digit),
        ('column', c, digit),
        ('box', r // 3, c // 3, digit),
      ]
  columns = {}
  for name, covered in rows.items():
    for column in covered:
      columns.setdefault(column, set()).add(name)

  def solve():
    if not columns:
      return []
    column = min(columns, key=lambda x: len(columns[x]))
    for name in sorted(columns[column]):
      removed = {}
      for covered in rows[name]:
        for other in columns[covered]:
          for x in rows[other]:
            if x != covered and x in columns:
              columns[x].discard(other)
        removed[covered] = columns.pop(covered)
      rest = solve()
      if rest is not None:
        return [name, *rest]
      for covered in reversed(rows[name]):
        columns[covered] = removed[covered]
        for other in columns[covered]:
          for x in rows[other]:
            if x != covered and x in columns:
              columns[x].add(other)
    return None

  return ''.join(str(digit) for _, digit in sorted(solve()))


def test_check_finds_a_second_solution():
  # The corners of a rectangle over two boxes, two digits crosswise: whoever
  # removes all four can put them back in two ways.
  answer = _solve_from_outside(FEWEST)
  assert _check(answer, answer) == []
  rows = np.array([*answer]).reshape(9, 9)
  found = [
    (r1, r2, c1, c2)
    for r1, r2 in itertools.combinations(range(9), 2)
    for c1, c2 in itertools.combinations(range(9), 2)
    if rows[r1, c1] == rows[r2, c2]
    and rows[r1, c2] == rows[r2, c1]
    and (r1 // 3 == r2 // 3) != (c1 // 3 == c2 // 3)
  ]
  assert found
  r1, r2, c1, c2 = found[0]
  rows[[r1, r1, r2, r2], [c1, c2, c1, c2]] = '.'
  assert _check(''.join(rows.ravel()), answer) == [
    'question: has more than one solution'
  ]


def _with(text, at, digit):
  return text[:at] + digit + text[at + 1 :]


@pytest.mark.parametrize(
  ('question', 'answer', 'reason'),
  [
    (
      _with(_text(SHIFTED), 11, 'x'),
      _text(SHIFTED),
      "question: r2c3 is not '.' or a digit from 1 to 9",
    ),
    (
      _text(SHIFTED),
      _with(_text(SHIFTED), 80, '.'),
      'answer: r9c9 is not a digit from 1 to 9',
    ),
    (
      '.' * 81,
      _with(_text(SHIFTED), 0, '2'),
      'answer: digit 2 is twice in row 1',
    ),
    (
      '.' * 81,
      _text([[*range(1, 10)]] * 9),
      'answer: digit 1 is twice in column 1',
    ),
    (
      '.' * 81,
      _text([[(r + c) % 9 + 1 for c in range(9)] for r in range(9)]),
      'answer: digit 2 is twice in box 1',
    ),
    (
      _with('.' * 81, 79, '1'),
      _text(SHIFTED),
      f'answer: r9c8 is {SHIFTED[8][7]} where the question has 1',
    ),
    ('.' * 81, _text(SHIFTED), 'question: has more than one solution'),
  ],
)
def test_check_says_what_is_wrong(question, answer, reason):
  assert _check(question, answer) == [reason]


def test_check_names_every_puzzle_at_fault():
  grid = _text(SHIFTED)
  questions, answers = _tokens(LARGE, grid, grid)
  questions, answers = (
    np.repeat(x, 3000, axis=0) for x in (questions, answers)
  )
  questions[[5, 1500]] = 1
  answers[2999, 0] = 77
  assert [i for i, _ in LARGE.check(questions, answers)] == [5, 1500, 2999]


def test_solver_against_brute_force(small_answers):
  assert len(small_answers) == 288
  rng = np.random.default_rng(0)
  answers = small_answers[rng.integers(0, 288, 400)]
  clues = rng.random((400, 16)) < rng.uniform(0.2, 0.6, (400, 1))
  questions = np.where(clues, answers, 1).astype(np.uint8)
  unique = np.array([len(_brute_force(SMALL, q)) == 1 for q in questions])
  assert 50 < unique.sum() < 350
  found = np.ones(400, bool)
  found[[i for i, _ in SMALL.check(questions, answers)]] = False
  np.testing.assert_array_equal(found, unique)


def test_check_6x6_against_brute_force(generated):
  questions, answers, _ = generated[MIDDLE]
  for question, answer in zip(questions[:20], answers[:20], strict=True):
    assert _brute_force(MIDDLE, question) == [answer.tolist()]


# Symmetries.


@pytest.mark.parametrize('domain', SIZES, ids=str)
def test_augment_keeps_all_that_matters(domain, generated):
  questions, answers, _ = generated[domain]
  count = len(questions)
  key = np.arange(count, dtype=np.uint64)
  variant = np.arange(count) % 3
  new = domain.augment(questions, answers, variant, key)
  assert new[0].dtype == new[1].dtype == np.uint8
  assert domain.check(*new) == []
  assert domain.valid(*new).all()
  same = (new[0] == questions).all(axis=1)
  np.testing.assert_array_equal(same, variant == 0)
  np.testing.assert_array_equal(
    domain.signatures(new[0]), domain.signatures(questions)
  )
  for before, after in zip((questions, answers), new, strict=True):
    np.testing.assert_array_equal(domain.undo(after, variant, key), before)
  # A function of the key alone, whatever is beside the puzzle.
  alone = domain.augment(questions[7:8], answers[7:8], [5], key[7:8])
  np.testing.assert_array_equal(alone[0][0], new[0][7])


@pytest.mark.parametrize(
  ('domain', 'transpositions'), [(SMALL, 2), (MIDDLE, 1), (LARGE, 2)], ids=str
)
def test_augment_is_any_symmetry_and_no_other(domain, transpositions):
  """Follows two cells and all digits through many augmentations."""
  n, count = domain.side, 20_000
  # Cells (0, 0) and (0, 1) hold a pair that shows where they went.
  question = np.ones((count, n * n), np.uint8)
  question[:, 0] = 2
  question[:, 1] = 3
  digits = np.tile(np.arange(2, n + 2, dtype=np.uint8), n)
  digits = np.tile(digits, (count, 1))
  new, moved = domain.augment(
    question, digits, np.ones(count), np.arange(count, dtype=np.uint64)
  )
  clues = np.argwhere(new > 1)[:, 1].reshape(count, 2)
  places = {tuple(sorted(x)) for x in clues.tolist()}
  expected = set()
  for line in range(n):
    strips = range(0, n, domain.box_columns)
    for start in strips:
      block = range(start, start + domain.box_columns)
      for a, b in itertools.combinations(block, 2):
        expected.add((line * n + a, line * n + b))
        if transpositions == 2:
          expected.add((a * n + line, b * n + line))
  assert places == expected
  upright = np.diff(np.sort(clues))[:, 0] >= n
  share = 0.5 if transpositions == 2 else 0
  assert abs(upright.mean() - share) < 0.02
  # Each digit becomes each digit equally often: columns hold one digit each.
  moved = moved.reshape(count, n, n)
  ranked = np.where(upright[:, None], moved[:, :, 0], moved[:, 0, :])
  assert (np.sort(ranked, axis=1) == np.arange(2, n + 2)).all()
  frequency = np.stack([(ranked == t).mean(axis=0) for t in range(2, n + 2)])
  np.testing.assert_allclose(frequency, 1 / n, atol=0.02)


# Valid solutions.


@hypothesis.given(st.integers(0, 99), st.integers(0, 80), st.integers(0, 255))
def test_one_wrong_cell_is_not_valid(generated, row, cell, token):
  puzzles = generated[LARGE]
  question, answer = puzzles.questions[row], puzzles.answers[row]
  prediction = answer.copy()
  prediction[cell] = token
  assert LARGE.valid(question[None], prediction[None]) == [
    token == answer[cell]
  ]


def test_valid_by_units_and_clues():
  blank = np.ones((1, 16), np.uint8)
  good = [1, 2, 3, 4, 3, 4, 1, 2, 2, 1, 4, 3, 4, 3, 2, 1]
  only_rows = [1, 2, 3, 4] * 4
  only_columns = np.reshape(only_rows, (4, 4)).T.ravel()
  no_boxes = [1, 2, 3, 4, 2, 1, 4, 3, 3, 4, 1, 2, 4, 3, 2, 1]
  no_boxes = np.reshape(no_boxes, (4, 4))[[0, 2, 1, 3]].ravel()
  latin = [1, 2, 3, 4, 2, 3, 4, 1, 3, 4, 1, 2, 4, 1, 2, 3]

  def valid(digits, question=blank):
    return SMALL.valid(question, np.reshape(digits, (1, 16)) + 1)[0]

  assert valid(good) and valid(no_boxes)
  assert not valid(only_rows) and not valid(only_columns) and not valid(latin)
  clue = blank.copy()
  clue[0, 5] = 4 + 1
  assert valid(good, clue)
  clue[0, 5] = 3 + 1
  assert not valid(good, clue)


# Signatures.


def test_signatures_count_the_classes_of_small_puzzles(small_answers):
  """There are 2 grids of 4 x 4 and 13 puzzles of 4 clues, the fewest."""
  assert len(set(SMALL.signatures(small_answers))) <= 2
  masks = np.zeros((1820, 16), bool)
  for i, cells in enumerate(itertools.combinations(range(16), 4)):
    masks[i, list(cells)] = True
  questions = np.where(masks, small_answers[:, None], 1).astype(np.uint8)
  questions = questions.reshape(-1, 16)
  answers = np.repeat(small_answers, len(masks), axis=0)
  wrong = [i for i, _ in SMALL.check(questions, answers)]
  unique = np.delete(questions, wrong, axis=0)
  assert len(set(SMALL.signatures(unique).tolist())) == 13


def test_signatures_do_not_mix_rows_and_columns_of_6x6(generated):
  questions = generated[MIDDLE].questions
  turned = questions.reshape(-1, 6, 6).swapaxes(1, 2).reshape(-1, 36)
  both = MIDDLE.signatures(np.concatenate([questions, turned]))
  assert len(set(both.tolist())) == 2 * len(questions)


def test_signatures_of_few_rounds_are_equal_too(generated):
  questions, answers, _ = generated[LARGE]
  key = np.arange(len(questions), dtype=np.uint64)
  new, _ = LARGE.augment(questions, answers, np.ones(len(key)), key)
  for rounds in range(3):
    np.testing.assert_array_equal(
      LARGE.signatures(questions, rounds), LARGE.signatures(new, rounds)
    )


def test_signatures_tell_a_moved_clue(generated):
  questions, answers, _ = generated[LARGE]
  changed = questions.copy()
  first = (questions == 1).argmax(axis=1)
  rows = np.arange(len(questions))
  changed[rows, first] = answers[rows, first]
  both = LARGE.signatures(np.concatenate([questions, changed]))
  assert len(set(both.tolist())) == 2 * len(questions)


# The generator.


@pytest.mark.parametrize(
  ('domain', 'clues'), [(SMALL, 6), (MIDDLE, 11), (LARGE, 26)], ids=str
)
def test_generated_puzzles(domain, clues, generated):
  questions, answers, ratings = generated[domain]
  assert questions.shape == answers.shape == (100, domain.seq_len)
  assert domain.check(questions, answers) == []
  assert domain.valid(questions, answers).all()
  assert ((questions > 1).sum(axis=1) <= clues).all()
  assert len(set(domain.signatures(questions).tolist())) == 100
  assert (ratings >= 0).all()


def test_generated_are_a_function_of_the_seed(generated, monkeypatch):
  again = sudoku.generate(LARGE, 60, 1, 26)
  monkeypatch.setattr(os, 'cpu_count', lambda: 1)
  alone = sudoku.generate(LARGE, 60, 1, 26)
  for ours, single, earlier in zip(again, alone, generated[LARGE], strict=True):
    np.testing.assert_array_equal(ours, single)
    np.testing.assert_array_equal(ours, earlier[:60])
  other = sudoku.generate(LARGE, 60, 2, 26)
  assert not (other.questions == again.questions).all(axis=1).any()


def test_rating_counts_guesses():
  hard = sudoku.generate(LARGE, 5, 0, 26, min_rating=3)
  assert (hard.ratings >= 3).all()


def test_generator_gives_up():
  with pytest.raises(DataError) as info:
    sudoku.generate(SMALL, 14, 0, 4)
  assert str(info.value) == (
    'Sudoku 2x2, at most 4 clues, rating 0 or more: found 13 essentially '
    'different of the 14 wanted, and no more in 20000 tries; allow more clues, '
    'a lower rating or fewer puzzles'
  )
  with pytest.raises(DataError, match='ask for 1 or more'):
    sudoku.generate(SMALL, 0, 0, 4)


def test_generator_shows_the_time_left(monkeypatch, caplog):
  monkeypatch.setattr(Progress.__init__, '__defaults__', (-1,))
  sudoku.generate(LARGE, 300, 0, 30)
  assert 'generated: 256 of 300, 0:00:00 left' in caplog.text
