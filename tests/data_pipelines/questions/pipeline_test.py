"""Sudokus and mazes as training batches and evaluation rows."""

import itertools

import numpy as np
import pytest

from data_pipelines import puzzles
from data_pipelines.errors import DataError
from data_pipelines.published import writer
from data_pipelines.questions import loading as questions
from data_pipelines.questions import pipeline as question_set
from data_pipelines.questions.pipeline import QuestionSet

SUDOKU = 'sudoku:box=2x2:clues=10:count=20:tests=6'
MAZE = 'maze:size=4x5:path=3:count=12:tests=5'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('HRM_JAX_CACHE', str(tmp_path / 'cache'))


def load(spec, num_aug=3, seed=0):
  return puzzles.load_puzzles(spec, spec, 30, num_aug, seed)


def take(batches, count):
  return list(itertools.islice(batches, count))


def reached(data):
  """The leaks that reach an answer."""
  return [leak for leak in puzzles.leaks_of(data) if leak.reaches_answer]


def rows_of(batches):
  return [
    (tuple(question), tuple(label))
    for batch in batches
    for question, label in zip(batch['inputs'], batch['labels'], strict=True)
  ]


@pytest.mark.parametrize('spec', [SUDOKU, MAZE])
def test_types_and_shapes(spec):
  data = load(spec)
  assert isinstance(data, QuestionSet)
  for batch in (
    *take(data.train_batches(8, 0), 2),
    *data.evaluation_batches(data.evaluation_rows(), 8),
  ):
    assert batch['inputs'].shape == batch['labels'].shape == (8, data.seq_len)
    assert {array.dtype.name for array in batch.values()} == {'int32'}
    assert not batch['puzzle_identifiers'].any()
    assert batch['inputs'].min() >= 1
    assert batch['labels'].max() < data.vocab_size
  assert data.identifier_names() == ['<blank>']


@pytest.mark.parametrize('spec', [SUDOKU, MAZE])
def test_every_training_row_is_a_variant_of_its_puzzle(spec):
  data = load(spec)
  seen = set(rows_of(take(data.train_batches(10, 0), 300)))
  # Each of the variants was met, the puzzle itself too, and no other.
  whole = rows_of(data.all_train_batches(10, seed=1))[: 4 * len(data.variants)]
  assert seen == set(whole)
  assert len(whole) == len(data.members)
  originals = zip(data.train.questions, data.train.answers, strict=True)
  assert whole[::4] == [(tuple(q), tuple(a)) for q, a in originals]
  signatures = data.domain.signatures(np.array([q for q, _ in whole], np.uint8))
  np.testing.assert_array_equal(
    signatures, np.repeat(data.domain.signatures(data.train.questions), 4)
  )
  assert data.domain.valid(*np.array(list(zip(*whole, strict=True)))).all()


def test_seeds_draw_other_variants():
  drawn = [
    set(rows_of(load(SUDOKU, 5, seed).all_train_batches(120, 0)))
    for seed in (0, 0, 1)
  ]
  assert drawn[0] == drawn[1] != drawn[2]
  # The puzzles themselves are the same.
  assert len(drawn[0] & drawn[2]) >= 20


def test_variants_of_different_puzzles_are_drawn_apart():
  """Equal keys would turn all puzzles alike."""
  group, variant = np.divmod(np.arange(400), 20)
  keys = question_set._keys(0, group, variant)
  assert len(np.unique(keys)) == 400


@pytest.mark.parametrize('spec', [SUDOKU, MAZE])
def test_a_batch_depends_on_seed_and_position_alone(spec):
  data = load(spec)
  batches = take(data.train_batches(8, seed=3), 9)
  (part,) = take(load(spec).train_batches(8, 3, 8, slice(2, 5)), 1)
  for name, array in part.items():
    np.testing.assert_array_equal(array, batches[8][name][2:5])
  (other,) = take(data.train_batches(8, seed=4), 1)
  assert not np.array_equal(other['inputs'], batches[0]['inputs'])


@pytest.mark.parametrize('spec', [SUDOKU, MAZE])
def test_evaluation_shows_the_test_puzzles_in_order(spec):
  data = load(spec)
  expected = questions.load_questions(spec, 'test', 0)
  chosen = data.evaluation_rows()
  found = rows_of(data.evaluation_batches(chosen, 4))[: len(chosen)]
  assert found == [
    (tuple(q), tuple(a))
    for q, a in zip(expected.questions, expected.answers, strict=True)
  ]
  assert data.evaluation_rows(max_puzzles=3).example.tolist() == [
    i * len(chosen) // 3 for i in range(3)
  ]
  assert not reached(data)


def test_a_test_puzzle_among_the_training_ones_leaks(tmp_path):
  data = load(SUDOKU)
  files = []
  for name, source, augmented in (
    ('train.csv', data.train, False),
    ('test.csv', data.evaluate, False),
    ('turned.csv', data.evaluate, True),
  ):
    tokens = source.questions, source.answers
    if augmented:
      ones = np.ones(len(tokens[0]), int)
      tokens = data.domain.augment(*tokens, ones, ones.astype(np.uint64))
    characters = np.frombuffer(data.domain.characters.encode(), np.uint8)
    lines = [
      b','.join(characters[x].tobytes() for x in row).decode()
      for row in zip(*tokens, strict=True)
    ]
    files.append(tmp_path / name)
    files[-1].write_text('\n'.join(['question,answer', *lines]))
  train, test, turned = map(str, files)
  assert not reached(puzzles.load_puzzles(train, test, 30, 0, 0))
  leaks = reached(puzzles.load_puzzles(turned, test, 30, 0, 0))
  assert [leak.entry for leak in leaks] == [
    f'turned.csv:{row}->test.csv:{row}' for row in range(2, 8)
  ]
  assert {leak.kind for leak in leaks} == {'both'}


@pytest.mark.parametrize(
  'spec', [SUDOKU, 'maze:size=4x4:path=3:count=9:tests=4']
)
def test_the_published_format_and_back(tmp_path, spec):
  data = load(spec)
  writer.export(data, tmp_path / 'out', 'hrm', seed=0)
  read = load(str(tmp_path / 'out'))
  assert read.domain == data.domain
  assert read.num_identifiers == 1
  assert read.examples_per_pass == data.examples_per_pass
  ours, theirs = (
    rows_of(s.all_train_batches(16, 0))[: len(data.members)]
    for s in (data, read)
  )
  assert ours == theirs
  ours, theirs = (
    rows_of(s.evaluation_batches(s.evaluation_rows(), 4)) for s in (data, read)
  )
  assert ours == theirs
  assert read.members.tolist() == data.members.tolist()
  assert read.variants.tolist() == data.variants.tolist()
  assert not reached(read)


def test_an_answer_from_other_clues_leaks():
  """One clue more is the same puzzle; turned, it is the same answer."""
  spec = 'sudoku:box=3x3:clues=30:count=20:tests=6'
  data = load(spec)
  assert not puzzles.leaks_of(data)
  held_out = data.evaluate
  questions_ = held_out.questions.copy()
  for row, question in enumerate(questions_):
    cell = np.flatnonzero(question == 1)[row]
    question[cell] = held_out.answers[row, cell]
  more = held_out._replace(questions=questions_)
  assert [
    leak.kind for leak in puzzles.leaks_of(QuestionSet(more, held_out, 0, 0))
  ] == (['both'] * 6)
  ones = np.ones(6, int)
  turned = data.domain.augment(
    more.questions, more.answers, ones, ones.astype(np.uint64)
  )
  turned = more._replace(questions=turned[0], answers=turned[1])
  assert [
    leak.kind for leak in puzzles.leaks_of(QuestionSet(turned, held_out, 0, 0))
  ] == (['output'] * 6)


@pytest.mark.parametrize(
  ('train', 'evaluate', 'num_aug', 'message'),
  [
    (SUDOKU, MAZE, 0, 'name puzzles of one kind'),
    (SUDOKU, 'arc1', 0, "data.train='sudoku:box=2x2"),
    (f'{SUDOKU},arc1', '', 0, 'mixes ARC tasks and questions'),
    (f'{SUDOKU},{MAZE}', '', 0, 'names several sources of questions; name one'),
    (MAZE, '', 4, 'data.num_aug=4: mazes of 4 × 5 have 3 augmentations'),
    (MAZE, '', -1, 'data.num_aug=-1 must not be negative'),
  ],
)
def test_what_cannot_be_used(train, evaluate, num_aug, message):
  with pytest.raises(DataError) as info:
    puzzles.load_puzzles(train, evaluate, 30, num_aug, 0)
  assert message in str(info.value)
  assert '\n' not in str(info.value)


def test_nothing_to_train_on():
  data = puzzles.load_puzzles('', SUDOKU, 30, 0, 0)
  assert len(data.evaluation_rows()) == 6
  with pytest.raises(DataError, match=r'data\.train is empty'):
    data.train_batches(4, 0)
  assert list(data.all_train_batches(4, 0)) == []


def test_a_published_directory_of_unknown_puzzles(tmp_path):
  """Mazes that are no square look like others that are."""
  data = load('maze:size=4x9:path=3:count=9:tests=4')
  writer.export(data, tmp_path / 'out', 'hrm', seed=0)
  read = load(str(tmp_path / 'out'))
  assert read.domain is None
  chosen = read.evaluation_rows()
  assert len(chosen) == 4
  assert not reached(read)
  again = load(str(tmp_path / 'out'))
  again._test = again._train
  assert len(reached(again)) == len(again.members) == 36


def test_a_full_set_with_its_variants_takes_no_memory():
  """Four thousand million variants, none of which is looked at."""
  few = questions.load_questions(SUDOKU, 'train', 0)
  many = np.broadcast_to(few.questions[:1], (4_000_000, 16))
  rows = np.arange(4_000_000)
  data = QuestionSet(
    few._replace(questions=many, answers=many, rows=rows), None, 1000, 0
  )
  assert data.examples_per_pass == 4_000_000
  (batch,) = take(data.train_batches(8, 0), 1)
  assert batch['inputs'].shape == (8, 16)


@pytest.mark.parametrize('spec', [SUDOKU, MAZE])
def test_images_come_after_their_puzzle_and_are_turned_back(spec):
  data = load(spec)
  count = len(data.evaluate.rows)
  rows = data.images(data.evaluation_rows(), 3)
  (batch,) = data.evaluation_batches(rows, 3 * count)
  np.testing.assert_array_equal(rows.group, np.repeat(np.arange(count), 3))
  for name, whole in (
    ('inputs', data.evaluate.questions), ('labels', data.evaluate.answers),
  ):  # fmt: skip
    shown = batch[name].astype(np.uint8)
    np.testing.assert_array_equal(shown[::3], whole)
    images = shown.reshape(count, 3, -1)
    assert (images[:, 1:] != whole[:, None]).any(axis=-1).all()
    np.testing.assert_array_equal(
      data.undo(shown, rows), np.repeat(whole, 3, axis=0)
    )
