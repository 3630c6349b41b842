"""Reading puzzles: what comes out, and what every bad input says."""

import csv
import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.progress import Progress
from data_pipelines.questions import csv_files, maze, sudoku
from data_pipelines.questions import loading as questions
from data_pipelines.questions.loading import load_questions
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku

ROOT = pathlib.Path(__file__).parents[3]
HEADER = 'source,question,answer,rating\n'
ANSWER = '1234341221434321'
QUESTION = '.234341221434321'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  folder = tmp_path / 'cache'
  monkeypatch.setenv('HRM_JAX_CACHE', str(folder))
  return folder


def _text(domain, tokens):
  letters = '?.123456789' if domain.name == 'sudoku' else '?# SGo'
  return ''.join(letters[token] for token in tokens)


def _write(path, domain, puzzles, repeat=1):
  path.parent.mkdir(parents=True, exist_ok=True)
  with open(path, 'w', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['source', 'question', 'answer', 'rating'])
    for _ in range(repeat):
      for question, answer in zip(
        puzzles.questions, puzzles.answers, strict=True
      ):
        writer.writerow(
          ['a, "b"', _text(domain, question), _text(domain, answer), 3]
        )
  return path


@pytest.fixture(scope='module')
def sudokus():
  return sudoku.generate(Sudoku(3, 3), 50, 0, 30)


@pytest.fixture(scope='module')
def mazes():
  return maze.generate(Maze(30, 30), 20, 0, 110)


def _error(spec, role='train'):
  with pytest.raises(DataError) as info:
    load_questions(str(spec), role, 0)
  message = str(info.value)
  assert '\n' not in message
  return message


# CSV files.


@pytest.mark.parametrize('mark', ',;\t')
@pytest.mark.parametrize(
  'header', ['question,answer', 'Rating,ANSWER, Question']
)
def test_separators_and_cases_of_headers(tmp_path, mark, header):
  cells = {'question': QUESTION, 'answer': ANSWER, 'rating': '1'}
  row = ','.join(cells[name.strip().lower()] for name in header.split(','))
  path = tmp_path / 'a.csv'
  path.write_text(f'{header}\n{row}\n'.replace(',', mark))
  loaded = load_questions(str(path), 'train', 0)
  assert _texts(loaded) == [QUESTION, ANSWER]


def test_mazes_whose_blanks_were_stripped_are_told_so(tmp_path):
  question, answer = ' S# G#  #', ' S# Go ##'
  for first in (question, question.strip()):
    path = tmp_path / 'a.csv'
    rows = [
      f'{q},{a}' for q, a in ((first, answer), (question.strip(), answer))
    ]
    path.write_text('\n'.join(['question,answer', *rows]))
    assert 'keep the blanks at its ends (were they stripped?)' in _error(path)


# Lists of Sudokus.


def test_a_list_of_sudokus_a_line(tmp_path, sudokus):
  lines = [_text(Sudoku(3, 3), question) for question in sudokus.questions]
  path = tmp_path / 'list.TXT'
  texts = ['# A list.', '#', *lines[:9], '', '  # more', *lines[9:]]
  texts[4] += ' 3 # a comment'
  path.write_text('\r\n'.join(texts))
  loaded = load_questions(str(path), 'test', 0)
  np.testing.assert_array_equal(loaded.questions, sudokus.questions)
  np.testing.assert_array_equal(loaded.answers, sudokus.answers)
  assert loaded.rows.tolist() == [*range(3, 12), *range(14, 55)]
  # A list of one is the puzzle itself.
  path.write_text(f'# One.\n{lines[0]}\n')
  alone = load_questions(str(path), 'test', 0)
  assert alone.version == load_questions(lines[0], 'test', 0).version


def test_faults_of_a_list_are_named_and_counted(tmp_path, sudokus):
  lines = [_text(Sudoku(3, 3), question) for question in sudokus.questions]
  lines[3], lines[5], lines[6] = lines[3][:-1], '.' * 81, 'é' + lines[6][1:]
  lines[7] = lines[7].replace('.', 'x', 1)
  path = tmp_path / 'list.txt'
  path.write_text('\n'.join(lines))
  assert _error(path).startswith(
    f'{path}: 4 of 50 rows cannot be used: row 4: question has 80 characters '
    'and must have 81; row 6: question: has more than one solution; row 7: '
    "character 1 is '\\xe9', unknown here; ...; correct or remove them"
  )


@pytest.mark.parametrize('box', [(2, 2), (2, 3), (3, 3)])
def test_sudoku_file(tmp_path, box):
  domain = Sudoku(*box)
  puzzles = sudoku.generate(domain, 40, 3, domain.seq_len // 2)
  path = _write(tmp_path / 'some.csv', domain, puzzles)
  loaded = load_questions(str(path), 'train', 0)
  assert loaded.domain == domain and loaded.origin == str(path)
  np.testing.assert_array_equal(loaded.questions, puzzles.questions)
  np.testing.assert_array_equal(loaded.answers, puzzles.answers)
  assert loaded.questions.dtype == loaded.answers.dtype == np.uint8
  assert loaded.rows.dtype == np.int64
  assert loaded.rows.tolist() == list(range(2, 42))
  digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
  assert loaded.version == f'some.csv {digest}'


def test_maze_file(tmp_path, mazes):
  path = _write(tmp_path / 'M.CSV', Maze(30, 30), mazes)
  loaded = load_questions(str(path), 'test', 0)
  assert loaded.domain == Maze(30, 30)
  np.testing.assert_array_equal(loaded.questions, mazes.questions)
  np.testing.assert_array_equal(loaded.answers, mazes.answers)


def test_many_rows_in_chunks(tmp_path, monkeypatch, caplog, sudokus):
  monkeypatch.setattr(csv_files, '_CHUNK', 7)
  monkeypatch.setattr(csv_files, '_CHECK_CHUNK', 11)
  monkeypatch.setattr(Progress.__init__, '__defaults__', (-1,))
  path = _write(tmp_path / '100%d.csv', Sudoku(3, 3), sudokus, repeat=3)
  loaded = load_questions(str(path), 'train', 0)
  assert f'{path}: rows read: 150' in caplog.text
  assert f'{path}: puzzles checked: 143 of 150, ' in caplog.text
  np.testing.assert_array_equal(
    loaded.questions, np.tile(sudokus.questions, (3, 1))
  )


def test_forms_of_a_file(tmp_path):
  """Blank lines, a byte order mark, CRLF, quotes, other columns and order."""
  path = tmp_path / 'a.csv'
  path.write_bytes(
    b'\xef\xbb\xbfanswer,note, question\r\n\r\n'
    + f'"{ANSWER}",,{QUESTION}\r\n'.encode()
    # Of a column that is not used, no matter what it holds.
    + f'{ANSWER},'.encode()
    + b'\xff\0,'
    + QUESTION.replace('.', '0').encode()
  )
  loaded = load_questions(str(path), 'train', 0)
  assert loaded.rows.tolist() == [3, 4]
  assert loaded.questions[:, :2].tolist() == [[1, 3]] * 2


MAZE_Q, MAZE_A = 'S  ## G  ', 'Soo##oGoo'


@pytest.mark.parametrize(
  ('contents', 'message'),
  [
    ('', 'is empty; it must have a header and puzzles'),
    (HEADER, 'has a header but no rows; add puzzles'),
    (
      'question,response\n',
      "row 1: has no column 'answer' ('question,response'); the header must "
      'name question and answer',
    ),
    (
      'question,answer,answer\n',
      "row 1: has more than one column 'answer' ('question,answer,answer'); "
      'the header must name question and answer',
    ),
    (
      'question,answer\n'.encode('utf-16'),
      'row 1: not UTF-8 text; save it as UTF-8',
    ),
    (
      f'question,answer\n{QUESTION},{ANSWER},1\n',
      'row 2: has 3 fields and the header 2; correct or remove it',
    ),
    (
      f'question,answer\n{QUESTION}\n',
      'row 2: has 1 fields and the header 2; correct or remove it',
    ),
    (
      f'question,answer\n{QUESTION},{ANSWER[1:]}\n',
      'row 2: answer has 15 characters and must have 16; correct or remove it',
    ),
    (
      f'question,answer\n{QUESTION},{ANSWER}\n{QUESTION}1,{ANSWER}\n',
      'row 3: question has 17 characters and must have 16; correct or remove '
      'it',
    ),
    (
      'question,answer\n' + '1' * 80 + ',1\n',
      "row 2: question '111111111111...1111111111111' of 80 characters is "
      "neither a Sudoku (16, 36 or 81 digits and '.') nor a square maze of "
      "'# SG'; correct it",
    ),
    (
      f'question,answer\n{QUESTION},{ANSWER}\nx{QUESTION[1:]},{ANSWER}\n',
      "row 3: question: r1c1 is not '.' or a digit from 1 to 4; correct or "
      'remove it',
    ),
    (
      f'question,answer\n{QUESTION},\0{ANSWER[1:]}\n',
      'row 2: answer: r1c1 is not a digit from 1 to 4; correct or remove it',
    ),
    (
      f'question,answer\n{QUESTION},\xb2{ANSWER[1:]}\n',
      "row 2: answer: character 1 is '\\xb2', unknown here; correct or remove "
      'it',
    ),
    (
      f'question,answer\n{QUESTION},\xb2{ANSWER[1:]}\n'.encode('latin-1'),
      'row 2: answer: not UTF-8 text at character 1; correct or remove it',
    ),
    (
      f'question,answer\n{QUESTION},{ANSWER}\n"{QUESTION},{ANSWER}\n\n',
      'row 3: garbled or cut short (unexpected end of data); correct its '
      'quotes and separators',
    ),
    (
      f'question,answer\n"{QUESTION}"1,{ANSWER}\n',
      "row 2: garbled or cut short (',' expected after '\"'); correct its "
      'quotes and separators',
    ),
    (
      f'question,answer\n4{QUESTION[1:]},{ANSWER}\n',
      'row 2: answer: r1c1 is 1 where the question has 4; correct or remove it',
    ),
    (
      f'question,answer\n{QUESTION},2{ANSWER[1:]}\n',
      'row 2: answer: digit 2 is twice in row 1; correct or remove it',
    ),
    (
      f'question,answer\n{"." * 16},{ANSWER}\n',
      'row 2: question: has more than one solution; correct or remove it',
    ),
    (
      f'question,answer\n{MAZE_Q},{MAZE_A}\n{MAZE_Q},{MAZE_Q}\n',
      'row 3: answer: r1c1 has 0 neighbours on the path and must have 1, so '
      'that one line leads from S to G; correct or remove it',
    ),
    (
      'question,answer\n'
      + f'{QUESTION},{ANSWER}\n' * 5
      + f'{"." * 16},{ANSWER}\n' * 2
      + f'{QUESTION},1\n'
      + f'{"." * 16},{ANSWER}\n' * 2,
      '5 of 10 rows cannot be used: row 9: answer has 1 characters and must '
      'have 16; row 7: question: has more than one solution; row 8: question: '
      'has more than one solution; ...; correct or remove them',
    ),
  ],
)
def test_bad_file(tmp_path, contents, message):
  path = tmp_path / 'bad.csv'
  if isinstance(contents, str):
    contents = contents.encode()
  path.write_bytes(contents)
  assert _error(path) == f'{path}: {message}'


def test_bad_specs_of_files(tmp_path):
  path = tmp_path / 'none.csv'
  assert _error(path) == f'{path}: no such file; give a .csv file'
  assert _error(f'{path}:test') == (
    f'{path}: a file has no subset; give the path without :test'
  )
  assert 'not a set of questions; give a .csv file or one of' in _error('arc1')
  os.mkdir(path)
  assert _error(path) == f'{path}: cannot be read (Is a directory)'
  with pytest.raises(ValueError, match='role'):
    load_questions('sudoku', 'training', 0)


@hypothesis.given(st.data())
@hypothesis.settings(
  deadline=None,
  max_examples=300,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_damaged_file_loads_right_or_says_why(tmp_path, data):
  """A file with any bytes put in place of some of its own."""
  good = (HEADER + f'x,{QUESTION},{ANSWER},1\n' * 3).encode()
  start = data.draw(st.integers(0, len(good)))
  end = data.draw(st.integers(start, min(len(good), start + 20)))
  path = tmp_path / 'fuzz.csv'
  path.write_bytes(
    good[:start] + data.draw(st.binary(max_size=20)) + good[end:]
  )
  try:
    loaded = load_questions(str(path), 'train', 0)
  except DataError as e:
    message = str(e)
    assert message.startswith(str(path)) and '\n' not in message
  else:
    assert loaded.domain.check(loaded.questions, loaded.answers) == []
    assert _text(Sudoku(2, 2), loaded.answers[0]) == ANSWER


# Published sets.


def test_published_directory(tmp_path, sudokus):
  _write(tmp_path / 'train.csv', Sudoku(3, 3), sudokus, repeat=30)
  _write(tmp_path / 'test.csv', Sudoku(3, 3), sudokus)
  full = load_questions(f'sudoku_extreme_full@{tmp_path}', 'train', 0)
  assert len(full.rows) == 1500
  test = load_questions(f'sudoku_extreme_1k@{tmp_path}:test', 'train', 0)
  assert len(test.rows) == 50 and test.origin == str(tmp_path / 'test.csv')
  train = load_questions(f'sudoku_extreme_1k@{tmp_path}', 'train', 7)
  assert len(train.rows) == 1000 and (np.diff(train.rows) > 0).all()
  assert train.version == (
    f'{full.version.replace("full", "1k")} 1000 rows of seed 7'
  )
  np.testing.assert_array_equal(train.questions, full.questions[train.rows - 2])
  again = load_questions(f'sudoku_extreme_1k@{tmp_path}:train', 'test', 7)
  np.testing.assert_array_equal(again.rows, train.rows)
  other = load_questions(f'sudoku_extreme_1k@{tmp_path}', 'train', 8)
  assert other.rows.tolist() != train.rows.tolist()


def test_published_directory_that_does_not_serve(tmp_path, sudokus):
  path = _write(tmp_path / 'train.csv', Sudoku(3, 3), sudokus)
  assert _error(f'sudoku_extreme_1k@{tmp_path}') == (
    f'{path}: has 50 rows and sudoku_extreme_1k takes 1000; use a larger file, '
    'or its own path to train on all of it'
  )
  assert _error(f'sudoku_extreme_1k@{tmp_path}:test') == (
    f'{tmp_path}/test.csv: no such file; the directory of sudoku_extreme_1k@ '
    'must hold train.csv and test.csv'
  )
  assert 'question has 81 characters and must have 900' in _error(
    f'maze_30x30_hard_1k@{tmp_path}'
  )
  assert 'use NAME[@DIR][:train|:test]' in _error('sudoku_extreme_1k:training')


def test_without_huggingface_hub(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  assert _error('sudoku_extreme_full') == (
    "sudoku_extreme_full: needs huggingface_hub; pip install 'hrm-jax[hub]', "
    'or give sudoku_extreme_full@DIR, the directory of train.csv and test.csv'
  )


def test_later_sets_of_the_hub_are_apart_from_ours(tmp_path, sudokus, mazes):
  _write(tmp_path / 'train.csv', Sudoku(3, 3), sudokus)
  _write(tmp_path / 'test_hard.csv', Sudoku(3, 3), sudokus)
  name = 'sapientinc/sudoku-extreme-1k'
  for role, file in (('train', 'train.csv'), ('test', 'test_hard.csv')):
    loaded = load_questions(f'{name}@{tmp_path}', role, 0)
    assert loaded.version.startswith(f'{name} {file} ')
    assert len(loaded.rows) == 50
    assert loaded.origin == str(tmp_path / file)
  assert questions.known_size(name) == (Sudoku(3, 3), 1000)
  assert 'has 50 rows and sudoku_extreme_1k takes 1000' in _error(
    f'sudoku_extreme_1k@{tmp_path}'
  )
  assert questions.domain_of('sapientinc/maze-20x20-hard-1k') == Maze(20, 20)
  assert 'must hold train.csv and test.csv' in _error(
    f'sapientinc/maze-20x20-hard-1k@{tmp_path}', 'test'
  )


class _Hub(http.server.BaseHTTPRequestHandler):
  """As much of the hub as one download takes."""

  def do_HEAD(self):
    self._answer(send=False)

  def do_GET(self):
    self._answer(send=True)

  def _answer(self, send):
    name = '/datasets/sapientinc/maze-30x30-hard-1k/resolve/main/'
    known = self.path.replace('0' * 40, 'main') == f'{name}test.csv'
    body = self.server.contents if known else b''
    self.send_response(200 if known else 404)
    self.send_header('ETag', '"1234"')
    self.send_header('X-Repo-Commit', '0' * 40)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if send:
      self.wfile.write(body)

  def log_message(self, *args):
    pass


def _in_process(tmp_path, endpoint, role):
  """Loads from a hub in a process of its own: its address is read once."""
  code = (
    'import json, sys; from data_pipelines import errors\n'
    'from data_pipelines.questions import loading as questions\n'
    'try:\n'
    '  x = questions.load_questions("maze_30x30_hard_1k", sys.argv[1], 0)\n'
    '  print(json.dumps([x.version, len(x.rows)]))\n'
    'except errors.DataError as e: print(json.dumps(str(e)))\n'
  )
  environment = {
    **{k: v for k, v in os.environ.items() if 'proxy' not in k.lower()},
    'HF_ENDPOINT': endpoint,
    'HF_HOME': str(tmp_path / 'hub'),
    'HF_HUB_DISABLE_TELEMETRY': '1',
  }
  environment.pop('HF_HUB_OFFLINE', None)
  output = subprocess.run(
    [sys.executable, '-c', code, role],
    cwd=ROOT,
    env=environment,
    check=True,
    stdout=subprocess.PIPE,
    timeout=60,
  ).stdout
  return json.loads(output)


@pytest.mark.slow
def test_hub(tmp_path, mazes):
  pytest.importorskip('huggingface_hub')
  path = _write(tmp_path / 'test.csv', Maze(30, 30), mazes)
  server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Hub)
  server.contents = path.read_bytes()
  thread = threading.Thread(target=server.serve_forever)
  thread.start()
  address = f'http://127.0.0.1:{server.server_port}'
  try:
    version, count = _in_process(tmp_path, address, 'test')
    missing = _in_process(tmp_path, address, 'train')
  finally:
    server.shutdown()
    thread.join()
    server.server_close()
  digest = hashlib.sha256(server.contents).hexdigest()[:12]
  assert version == f'maze_30x30_hard_1k test.csv {digest}' and count == 20
  for message in (missing, _in_process(tmp_path, address, 'train')):
    assert '\n' not in message
    assert message.startswith(
      'maze_30x30_hard_1k: train.csv of sapientinc/maze-30x30-hard-1k could '
      'not be had from the Hugging Face hub; look at the network, or give '
      'maze_30x30_hard_1k@DIR, the directory of train.csv and test.csv ('
    )
  # What was downloaded once is there without a network.
  assert _in_process(tmp_path, address, 'test') == [version, count]


# Generators.


def test_generated_train_and_test_share_nothing():
  spec = 'sudoku:box=2x3:clues=14:count=30:tests=20:seed=5'
  train = load_questions(spec, 'train', 0)
  test = load_questions(spec, 'test', 1)
  assert train.domain == test.domain == Sudoku(2, 3)
  assert train.rows.tolist() == list(range(1, 31))
  assert test.rows.tolist() == list(range(31, 51))
  both = np.concatenate([train.questions, test.questions])
  signatures = train.domain.signatures(both)
  assert len(set(signatures.tolist())) == 50
  settings = 'sudoku:box=2x3:clues=14:rating=0:count=30:tests=20:seed=5'
  assert train.version.startswith(f'generated {settings}:train ')
  assert test.version == train.version.replace(':train', ':test')
  assert train.origin == f'generated {settings}'
  named = load_questions(f'{spec}:test', 'train', 0)
  np.testing.assert_array_equal(named.questions, test.questions)


def test_kinds_of_mazes():
  spec = 'maze:size=9x9:path=12:count=3:tests=2'
  plain = load_questions(spec, 'train', 0)
  named = load_questions(f'{spec}:kind=corridors', 'train', 0)
  assert named.version == plain.version and 'kind' not in plain.version
  other = load_questions(f'{spec}:kind=open:test', 'train', 0)
  settings = 'maze:size=9x9:path=12:count=3:tests=2:seed=0:kind=open'
  assert other.version.startswith(f'generated {settings}:test ')
  assert not (other.questions[:2] == plain.questions[:2]).all()
  assert "kind is 'x'; use corridors or open" in _error('maze:kind=x')
  assert "'kind' is there twice" in _error('maze:kind=open:kind=open')
  assert "'kind' is not known" in _error('sudoku:kind=open')
  assert '[:kind=corridors|open][:train|:test]' in _error('maze:colour=1')


def test_defaults():
  version = load_questions('maze:count=3:tests=2', 'train', 0).version
  assert 'maze:size=30x30:path=110:count=3:tests=2:seed=0:train' in version
  version = load_questions('sudoku:tests=5:count=4', 'test', 0).version
  assert 'box=3x3:clues=27:rating=0:count=4:tests=5:seed=0:test' in version
  for spec in ('sudoku:box=2x2', 'sudoku:box=2x3', 'maze:size=9x14'):
    loaded = load_questions(spec, 'test', 0)
    assert len(loaded.rows) == 100


@pytest.mark.parametrize(
  ('spec', 'message'),
  [
    (
      'sudoku:clue=3',
      "'clue' is not known; use sudoku[:box=3x3][:clues=27][:rating=0]"
      '[:count=1000][:tests=100][:seed=0][:train|:test]',
    ),
    ('sudoku:seed=1:seed=2', "'seed' is there twice; use sudoku[:box"),
    ('sudoku:training', "'training' is not known; use sudoku[:box"),
    ('sudoku:clues=-1', "clues is '-1' and must be a whole number"),
    ('sudoku:clues', "clues is '' and must be a whole number"),
    ('sudoku:box=3', "box is '3' and must be two numbers, as 3x3"),
    ('maze:size=3x', "size is '3x' and must be two numbers, as 30x30"),
    ('sudoku:box=3x2', 'Sudoku boxes of 3x2 are not known; use one of 2x2,'),
    ('maze:size=999x1', 'a maze of 999x1 cannot be'),
    ('sudoku@x', 'sudoku is generated and takes no directory'),
    ('maze:count=0', 'has no train puzzles; set count= to 1 or more'),
    ('maze:size=1x2', 'found 1 essentially different of the 1100 wanted'),
  ],
)
def test_bad_settings(spec, message):
  assert message in _error(spec)


def test_cache_is_used_and_mended(cache, monkeypatch, caplog):
  spec = 'sudoku:box=2x2:count=5:tests=5'
  first = load_questions(spec, 'train', 0)
  (path,) = cache.iterdir()
  assert path.suffix == '.npz'
  written = path.read_bytes()

  with monkeypatch.context() as patch:
    patch.setattr(sudoku, 'generate', None)
    np.testing.assert_array_equal(
      load_questions(spec, 'train', 0).questions, first.questions
    )
  with np.load(path) as file:
    arrays = dict(file)
  arrays['answers'][0, :2] = 2
  for damage in (b'', written[:-100], written[:200] + b'x' + written[201:]):
    path.write_bytes(damage)
    caplog.clear()
    again = load_questions(spec, 'train', 0)
    np.testing.assert_array_equal(again.questions, first.questions)
    assert again.version == first.version
    assert 'the puzzles are made anew' in caplog.text
    assert path.read_bytes() != damage
  for wrong in (arrays, {'questions': np.zeros(3)}):
    np.savez(path, **wrong)
    caplog.clear()
    load_questions(spec, 'train', 0)
    assert 'the puzzles are made anew' in caplog.text
  assert list(cache.iterdir()) == [path]


def test_cache_that_cannot_be_written(tmp_path, monkeypatch, caplog):
  file = tmp_path / 'file'
  file.touch()
  monkeypatch.setenv('HRM_JAX_CACHE', str(file))
  assert len(load_questions('maze:size=6x6:count=3', 'train', 0).rows) == 3
  assert 'will be made again next time' in caplog.text


def test_cache_folders(tmp_path, monkeypatch):
  monkeypatch.delenv('HRM_JAX_CACHE')
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
  load_questions('maze:size=6x6:count=3', 'train', 0)
  assert len(list((tmp_path / 'xdg/hrm_jax').iterdir())) == 1
  monkeypatch.delenv('XDG_CACHE_HOME')
  load_questions('maze:size=6x6:count=3', 'train', 0)
  assert len(list((tmp_path / '.cache/hrm_jax').iterdir())) == 1


def test_is_question_spec():
  for spec in (
    'sudoku',
    'sudoku:box=2x2',
    'maze:test',
    'sudoku_extreme_1k@DIR:test',
    'maze_30x30_hard_1k',
    'DIR/a.csv',
    'a.CSV:train',
  ):
    assert questions.is_question_spec(spec), spec
  for spec in ('arc1', 'DIR', './maze', 'sudokus', 'a_challenges.json', ''):
    assert not questions.is_question_spec(spec), spec


def test_no_tensorflow_and_no_jax():
  code = (
    'import sys; from data_pipelines.questions import loading as questions\n'
    'print({"jax", "tensorflow", "hrm_jax", "huggingface_hub"}'
    ' & {*sys.modules})'
  )
  output = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, check=True, stdout=subprocess.PIPE
  ).stdout
  assert output == b'set()\n'


PUZZLE = (
  '53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5'
  '....8..79'
)
SOLUTION = (
  '534678912672195348198342567859761423426853791713924856961537284287419635'
  '345286179'
)
MAZE = '#####\n#S..#\n#.#.#\n#..G#\n#####\n'


def _texts(loaded):
  return [
    ''.join(loaded.domain.characters[token] for token in tokens)
    for tokens in (loaded.questions[0], loaded.answers[0])
  ]


def test_a_sudoku_as_text_is_solved(tmp_path):
  loaded = questions.load_questions(PUZZLE, 'test', 0)
  assert loaded.domain == Sudoku(3, 3)
  assert _texts(loaded) == [PUZZLE, SOLUTION]
  # In lines, with zeros for blanks.
  path = tmp_path / 'mine.txt'
  lines = [PUZZLE[i : i + 9].replace('.', '0') for i in range(0, 81, 9)]
  path.write_text('\n'.join(lines) + '\n')
  again = questions.load_questions(str(path), 'test', 0)
  assert _texts(again) == [PUZZLE, SOLUTION]
  assert again.version == loaded.version


@pytest.mark.parametrize('box', [(2, 2), (2, 3), (3, 3)])
def test_solutions_are_those_of_the_generator(box):
  domain = Sudoku(*box)
  made = sudoku.generate(domain, 20, 0, domain.seq_len // 2, 0)
  for question, answer in zip(made.questions, made.answers, strict=True):
    np.testing.assert_array_equal(domain.solve(question), answer)
  # A digit twice in a row.
  question[:2], question[2:] = 2, 1
  assert domain.solve(question) is None


def test_a_maze_as_text_is_solved(tmp_path):
  path = tmp_path / 'maze.txt'
  path.write_text(MAZE)
  loaded = questions.load_questions(str(path), 'test', 0)
  assert loaded.domain == Maze(5, 5)
  assert _texts(loaded)[0] == MAZE.replace('\n', '').replace('.', ' ')
  # Two ways of three steps: either may be the answer.
  assert _texts(loaded)[1].count('o') == 3
  assert loaded.domain.valid(loaded.questions, loaded.answers).all()
  made = maze.generate(Maze(7, 9), 20, 0, 5)
  found = np.stack([Maze(7, 9).solve(question) for question in made.questions])
  assert Maze(7, 9).valid(made.questions, found).all()


@pytest.mark.parametrize(
  'text, message',
  [
    (PUZZLE[:-1], 'has 80 characters; a Sudoku has 16, 36 or 81'),
    ('x' + PUZZLE[1:], "r1c1 is not '.' or a digit from 1 to 9"),
    ('5' + PUZZLE[1:8] + '5' + PUZZLE[9:], 'question: has no solution'),
    ('.' * 81, 'question: has more than one solution'),
  ],
)
def test_a_sudoku_as_text_that_cannot_be_used(text, message):
  with pytest.raises(DataError, match=re.escape(message)):
    questions.load_questions(text, 'test', 0)


@pytest.mark.parametrize(
  'text, message',
  [
    (MAZE.replace('G', '.'), 'has 0 G; it must have one'),
    (MAZE.replace('#..G#', '#..G'), 'line 4 has 4 cells and line 1 5'),
    (MAZE.replace('#.#.#\n#..G#', '#####\n#..G#'), 'has no solution'),
    (MAZE.replace('..#', 'o.#', 1), "'o', a path, which only the answer may"),
    (MAZE.replace('..#', 'é.#', 1), r"'\xe9', unknown here"),
    ('hello', "'hello' has 5 characters"),
  ],
)
def test_a_text_file_that_cannot_be_used(tmp_path, text, message):
  path = tmp_path / 'puzzle.txt'
  path.write_text(text)
  with pytest.raises(DataError, match=re.escape(message)) as refused:
    questions.load_questions(str(path), 'test', 0)
  assert str(path) in str(refused.value)


@pytest.mark.parametrize(
  'spec, domain',
  [
    ('sudoku_extreme_1k', Sudoku(3, 3)),
    ('maze_30x30_hard_1k@nowhere', Maze(30, 30)),
    ('sudoku:box=2x3:count=5', Sudoku(2, 3)),
    ('maze:size=7x9', Maze(7, 9)),
    (PUZZLE, Sudoku(3, 3)),
  ],
)
def test_the_domain_is_told_without_the_puzzles(spec, domain):
  assert questions.domain_of(spec) == domain


def test_a_spec_is_a_sudoku_only_where_it_looks_like_one(tmp_path, monkeypatch):
  assert questions.is_question_spec(PUZZLE)
  for spec in ('0a1b2c3d4e5f6071', '2024-05-01/tasks', 'arc1,arc2', 'abc.json'):
    assert not questions.is_question_spec(spec)
  monkeypatch.chdir(tmp_path)
  (tmp_path / '20240501123000').mkdir()
  assert not questions.is_question_spec('20240501123000')
