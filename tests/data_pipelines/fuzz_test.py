"""Damaged data of every kind: it loads right, or one line says what is wrong.

4,100 cases, the same in every run: 1,400 of ARC task files (single, in
directories, Kaggle's), 1,200 of CSV files and 1,500 of published directories.
Each damages what is sound and compares what was loaded with a slow and simple
reading of the same bytes.
"""

import contextlib
import csv
import io
import itertools
import json
import math
import pathlib
import re
import shutil
import signal
import struct
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.arc import encoding
from data_pipelines.arc import tasks as arc
from data_pipelines.arc.tasks import Pair
from data_pipelines.batches import IGNORE_LABEL
from data_pipelines.errors import DataError
from data_pipelines.published.reader import PublishedSet
from data_pipelines.puzzles import judge_of, leaks_of
from data_pipelines.questions import loading as questions
from data_pipelines.questions import maze, sudoku
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.pipeline import QuestionSet
from data_pipelines.questions.sudoku import Sudoku
from tests.random_cases import cases

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def no_hang():
  """Ends what waits for ever; hypothesis measures only what has ended."""

  def stop(*_):
    raise AssertionError('hangs')

  before = signal.signal(signal.SIGALRM, stop)
  signal.alarm(20)
  try:
    yield
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def attempt(load, *files):
  """What `load` returns; None where it refuses in one line that names one of
  `files`."""
  try:
    with no_hang():
      return load()
  except DataError as error:
    message = str(error)
    assert len(message.splitlines()) == 1, message
    assert message.isprintable(), repr(message)
    message.encode()
    assert any(
      name in message or repr(name)[1:-1] in message for name in files
    ), message
    return None


@st.composite
def damaged(draw, data):
  """Bytes cut, removed, repeated, inserted or changed, in one to three
  places."""
  for _ in range(draw(st.integers(1, 3))):
    begin = draw(st.integers(0, len(data)))
    end = min(len(data), begin + draw(st.integers(1, 9)))
    other = draw(
      st.binary(min_size=1, max_size=4)
      | st.sampled_from(
        [b'\0', b'\xff\xfe', b'"', b'\n', b'[', b'\xed\xa0\x80']
      )
    )
    kind = draw(st.sampled_from(['cut', 'remove', 'repeat', 'insert', 'flip']))
    data = {
      'cut': data[:begin],
      'remove': data[:begin] + data[end:],
      'repeat': data[:end] + data[begin:],
      'insert': data[:begin] + other + data[begin:],
      'flip': data[:begin] + other + data[begin + len(other) :],
    }[kind]
  return data


# JSON, as something that can be written wrong.


class Raw(str):
  """A piece of JSON text."""


class Object(list):
  """[key, value] of an object, maybe with equal keys."""


def parsed(value):
  """Plain JSON values as Objects and lists."""
  if isinstance(value, dict):
    return Object([key, parsed(item)] for key, item in value.items())
  return [parsed(x) for x in value] if isinstance(value, list) else value


def dumped(value):
  if isinstance(value, Raw):
    return value
  if isinstance(value, Object):
    items = (f'{json.dumps(key)}: {dumped(item)}' for key, item in value)
    return f'{{{", ".join(items)}}}'
  if isinstance(value, list):
    return f'[{", ".join(map(dumped, value))}]'
  return json.dumps(value)


WEIRD = [
  'null', 'true', 'false', '0', '1', '9', '10', '12', '256', '-1', '-0', '1.0',
  '1e0', '0.5', '1e400', 'NaN', '-Infinity', '01', '""', '"0"', '"a"', '[]',
  '{}', '[[]]', '[[1]]', '[1]', '[[[1]]]', '[{}]', '[null]', '[["0"]]',
  '[[true]]', '[[1],[1,2]]', '[[1,2],[3,4]]', '[[0.0]]', '[[-1]]', '[[10]]',
  '{"input":[[1]]}', '{"input":[[1]],"output":[[2]]}', '{"train":[],"test":[]}',
  '2147483648', '4294967297', '9223372036854775808', '1' + 30 * '0',
  '7' * 5000, '[' * 4000 + ']' * 4000, '[' * 3000, r'"\ud800"', r'"a\nb"',
  r'"\u0000"', '"all"', '["all"]', '["train"]', '/**/1', "'a'", '',
  str([[1] * 31]), str([[1]] * 31), str([[3] * 30] * 30), str([[1] * 29] * 31),
]  # fmt: skip
KEYS = ['train', 'test', 'input', 'output', 'a', 'b', 'Train', '', 'a\nb',
        '\0', '\ud800', 'é']  # fmt: skip


def places(value):
  """Where each value inside of one is kept: a list and an index."""
  for i, item in enumerate(value):
    if isinstance(value, Object):
      yield item, 1
      item = item[1]
    else:
      yield value, i
    if isinstance(item, list):
      yield from places(item)


@st.composite
def misshapen(draw, value):
  """The text of a JSON value with one or two of its parts changed."""
  value = [parsed(value)]
  for _ in range(draw(st.integers(1, 2))):
    where = list(places(value))
    container, at = where[draw(st.integers(0, len(where) - 1))]
    item = container[at]
    kind = draw(st.sampled_from(['weird', 'weird', 'items', 'items', 'key']))
    if kind == 'weird' or not isinstance(item, list):
      digits = list('0123456789')
      small = type(item) is int and draw(st.booleans())
      choices = digits if small else WEIRD
      container[at] = Raw(draw(st.sampled_from(choices)))
    elif kind == 'key' and isinstance(item, Object):
      added = [draw(st.sampled_from(KEYS)), Raw(draw(st.sampled_from(WEIRD)))]
      if item and draw(st.booleans()):
        index = draw(st.integers(0, len(item) - 1))
        item[index] = [added[0], item[index][1]]
      else:
        item.insert(draw(st.integers(0, len(item))), added)
    elif item:
      index = draw(st.integers(0, len(item) - 1))
      moved = item[index] if draw(st.booleans()) else item.pop(index)
      if draw(st.booleans()):
        item.insert(draw(st.integers(0, len(item))), moved)
  return dumped(value[0]).encode()


class NotJsonError(Exception):
  pass


def read_json(data):
  """Slowly and strictly: no key twice, no NaN."""

  def unique(pairs):
    if len(dict(pairs)) < len(pairs):
      raise NotJsonError
    return dict(pairs)

  def no_constant(_):
    raise NotJsonError

  try:
    return json.loads(
      data.decode('utf-8-sig'),
      object_pairs_hook=unique,
      parse_constant=no_constant,
    )
  except (ValueError, RecursionError) as error:
    raise NotJsonError from error


# ARC tasks.

PAIRS = [
  {'input': [[0, 1, 2], [3, 4, 5]], 'output': [[6, 7], [8, 9]]},
  {'input': [[1]], 'output': [[2, 2]]},
  {'input': [[5], [0]], 'output': [[3]]},
]
TASKS = {
  'a': {'train': PAIRS[:2], 'test': PAIRS[2:]},
  'b': {'train': PAIRS[2:], 'test': [{'input': [[1, 0]]}, PAIRS[0]]},
}


def is_grid(rows):
  return (
    isinstance(rows, list)
    and len(rows) >= 1
    and all(isinstance(row, list) for row in rows)
    and len(rows[0]) >= 1
    and all(len(row) == len(rows[0]) for row in rows)
    and all(type(c) is int and 0 <= c <= 9 for row in rows for c in row)
  )


def task_of(name, value):
  """(name, demonstrations, tests), of [input, output] each; None where it is
  no task."""
  if (
    not name
    or '\0' in name
    or any('\ud800' <= letter <= '\udfff' for letter in name)
  ):
    return None
  if isinstance(value, dict) and not {'train', 'test'} & value.keys():
    value = value.get('examples')
  if isinstance(value, list):
    value = {'train': value[:-1], 'test': value[-1:]}
  if not isinstance(value, dict):
    return None
  found = [name]
  for kind in ('train', 'test'):
    pairs = value.get(kind)
    if not isinstance(pairs, list) or not pairs:
      return None
    found.append([])
    for pair in pairs:
      if not isinstance(pair, dict) or not is_grid(pair.get('input')):
        return None
      output = pair.get('output')
      if not is_grid(output) and (kind == 'train' or output is not None):
        return None
      found[-1].append([pair['input'], output])
  return tuple(found)


def kaggle_tasks_of(challenges, solutions):
  """All tasks; None where any of them, or a solution, cannot be used."""
  try:
    tasks = read_json(challenges)
    answers = None if solutions is None else read_json(solutions)
  except NotJsonError:
    return None
  if not isinstance(tasks, dict) or not tasks:
    return None
  tasks = [task_of(name, value) for name, value in tasks.items()]
  if None in tasks or (answers is None and solutions is not None):
    return None
  if solutions is None:
    return tasks
  if not isinstance(answers, dict):
    return None
  for name, _, tests in tasks:
    grids = answers.get(name)
    if not isinstance(grids, list) or len(grids) != len(tests):
      return None
    if not all(map(is_grid, grids)):
      return None
    for test, grid in zip(tests, grids, strict=True):
      test[1] = grid
  return tasks


def file_task_of(path):
  try:
    return task_of(path.stem, read_json(path.read_bytes()))
  except NotJsonError:
    return None


def has_part_of_task(path):
  """Whether a file is a task, be it sound or not, or damaged."""
  try:
    value = read_json(path.read_bytes())
  except NotJsonError:
    return True
  if isinstance(value, list):
    return any(isinstance(entry, dict) for entry in value)
  parts = {'train', 'test', 'examples'}
  return isinstance(value, dict) and not parts.isdisjoint(value)


def as_lists(task):
  for grid in (grid for p in task.pairs for grid in (p.input, p.output)):
    assert grid is None or grid.dtype == np.uint8
  return (
    task.name,
    *(
      [
        [p.input.tolist(), None if p.output is None else p.output.tolist()]
        for p in pairs
      ]
      for pairs in (task.demonstrations, task.tests)
    ),
  )


def check_tasks(spec, expected, *files):
  """Loads if and only if tasks are expected, and just these."""
  loaded = attempt(lambda: arc.load_tasks(str(spec)), *files)
  if expected is None:
    assert loaded is None
  else:
    assert loaded is not None
    assert [as_lists(task) for task in loaded.tasks] == expected


def changed(value):
  text = json.dumps(value).encode()
  return st.one_of(misshapen(value), misshapen(value), damaged(text))


def maybe_changed(value):
  sound = st.just(json.dumps(value).encode())
  return st.booleans().flatmap(lambda yes: changed(value) if yes else sound)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('fuzz')


@cases(600, 10)
@hypothesis.given(data=changed(TASKS['a']) | changed(TASKS['b']))
def test_task_file(folder, data):
  path = folder / 'task.json'
  path.write_bytes(data)
  task = file_task_of(path)
  check_tasks(path, None if task is None else [task], str(path))


FOLDERS = {
  'flat': ('', ''),
  'subsets': ('training', 'evaluation'),
  'a subset': ('training', 'training'),
  'below': ('One', 'Two'),
}
NAMES = ['c', 'a', 'b', '.json', 'x,y', 'é', 'a\nb', '\udcff', 'Minimal1', 'c ']


@cases(300, 10)
@hypothesis.given(st.data())
def test_directory(folder, draw):
  root = folder / 'tasks'
  shutil.rmtree(root, ignore_errors=True)
  folders = FOLDERS[draw.draw(st.sampled_from(sorted(FOLDERS)))]
  name = draw.draw(st.sampled_from(NAMES))
  damage = draw.draw(maybe_changed(TASKS['b']))
  contents = [
    (folders[0], 'a', json.dumps(TASKS['a']).encode()),
    (folders[1], name, damage),
  ]
  paths = []
  for below, stem, data in contents:
    path = root / below / f'{stem}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    paths.append(path)
  # Of one folder by name, of several one after the other.
  paths = sorted(set(paths), key=lambda p: (folders.index(p.parts[-2]), p.name)
                 if folders[0] else (0, p.name))  # fmt: skip
  paths = [path for path in paths if 'Minimal' not in path.stem]
  # Other files are left out, unless there is nothing else.
  paths = list(filter(has_part_of_task, paths)) or paths
  tasks = [file_task_of(path) for path in paths]
  names = [path.stem for path in paths]
  expected = None if None in tasks or len(set(names)) < len(names) else tasks
  check_tasks(root, expected, *map(str, paths))


SOLUTIONS = {
  'a': [PAIRS[2]['output']],
  'b': [[[4]], PAIRS[0]['output']],
}


def kaggle_files(name):
  """Challenges and maybe solutions of two tasks, the second of that name."""
  return st.tuples(
    maybe_changed({'a': TASKS['a'], name: TASKS['b']}),
    st.none() | maybe_changed({'a': SOLUTIONS['a'], name: SOLUTIONS['b']}),
  )


@cases(500, 10)
@hypothesis.given(st.sampled_from(['b'] * 12 + KEYS).flatmap(kaggle_files))
def test_kaggle_files(folder, files):
  challenges, solutions = files
  path = folder / 'x_challenges.json'
  other = folder / 'x_solutions.json'
  path.write_bytes(challenges)
  other.unlink(missing_ok=True)
  if solutions is not None:
    other.write_bytes(solutions)
  expected = kaggle_tasks_of(challenges, solutions)
  check_tasks(path, expected, str(path), str(other))


# Sudokus and mazes in CSV files.

LETTERS = {'sudoku': '?.123456789', 'maze': '?# SGo'}


def puzzles_of(domain):
  """Three puzzles as text, (question, answer) each."""
  if isinstance(domain, Sudoku):
    made = sudoku.generate(domain, 3, 0, domain.seq_len * 3 // 4)
  else:
    made = maze.generate(domain, 3, 0, domain.seq_len // 4)
  letters = LETTERS[domain.name]
  return [
    tuple(''.join(letters[t] for t in row) for row in puzzle)
    for puzzle in zip(made.questions, made.answers, strict=True)
  ]


DOMAINS = (Sudoku(2, 2), Sudoku(2, 3), Sudoku(3, 3), Maze(3, 3), Maze(5, 5))


@pytest.fixture(scope='module')
def rows_of_domain():
  return {domain: puzzles_of(domain) for domain in DOMAINS}


def solutions_of(question, box, most=2):
  """Solutions of a Sudoku, a list of cells where 0 is blank; at most two."""
  side = box[0] * box[1]

  def options(cell):
    row, column = divmod(cell, side)
    taken = set()
    for other in range(side**2):
      r, c = divmod(other, side)
      same_box = (r // box[0], c // box[1]) == (row // box[0], column // box[1])
      if r == row or c == column or same_box:
        taken.add(question[other])
    return [digit for digit in range(1, side + 1) if digit not in taken]

  blanks = [cell for cell, digit in enumerate(question) if not digit]
  if not blanks:
    return [question]
  cell, choice = min(
    ((cell, options(cell)) for cell in blanks), key=lambda x: len(x[1])
  )
  found = []
  for digit in choice:
    solved = [*question[:cell], digit, *question[cell + 1 :]]
    found += solutions_of(solved, box, most - len(found))
    if len(found) >= most:
      break
  return found


def sudoku_is_sound(question, answer, box):
  side = box[0] * box[1]
  digits = '0' + '123456789'[:side]
  if set(question.replace('.', '0')) - set(digits):
    return False
  if set(answer) - set(digits[1:]):
    return False
  cells = [int(digit) for digit in question.replace('.', '0')]
  given = [int(digit) for digit in answer]
  if any(c and c != g for c, g in zip(cells, given, strict=True)):
    return False
  units = {}
  for cell, digit in enumerate(given):
    r, c = divmod(cell, side)
    for unit in ('r', r), ('c', c), ('b', r // box[0], c // box[1]):
      units.setdefault(unit, []).append(digit)
  if any(len(set(unit)) < side for unit in units.values()):
    return False
  return solutions_of(cells, box) == [given]


def maze_is_sound(question, answer, side):
  if set(question) - set('# SG') or set(answer) - set('# SGo'):
    return False
  if question.count('S') != 1 or question.count('G') != 1:
    return False
  if any(
    a != q and (q, a) != (' ', 'o')
    for q, a in zip(question, answer, strict=True)
  ):
    return False
  line = {divmod(i, side) for i, letter in enumerate(answer) if letter in 'SGo'}
  start, goal = (divmod(question.index(letter), side) for letter in 'SG')
  beside = {
    (r, c): line & {(r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)}
    for r, c in line
  }
  if any(len(beside[x]) != 1 + (x not in (start, goal)) for x in line):
    return False
  reached, new = set(), {start}
  while new:
    reached |= new
    new = set().union(*(beside[x] for x in new)) - reached
  return reached == line


BOXES = {16: (2, 2), 36: (2, 3), 81: (3, 3)}


def is_sound(question, answer, length):
  """Whether a row, of a file whose first question is that long, is fit."""
  if not len(question) == len(answer) == length:
    return False
  side = math.isqrt(length)
  return (
    length in BOXES and sudoku_is_sound(question, answer, BOXES[length])
  ) or (side**2 == length > 1 and maze_is_sound(question, answer, side))


def rows_in(data):
  """(line, question, answer, sound) of each row; None where there is no
  table."""
  try:
    text = data.decode('utf-8-sig', 'surrogateescape')
    first = io.StringIO(text, newline='').readline()
    mark = ([mark for mark in ',;\t' if mark in first] or [','])[0]
    reader = csv.reader(
      io.StringIO(text, newline=''), strict=True, delimiter=mark
    )
    records = [(reader.line_num, fields) for fields in reader if fields]
  except csv.Error:
    return None
  if len(records) < 2:
    return None
  header = [field.strip() for field in records[0][1]]
  if any('\ud800' <= letter <= '\udfff' for name in header for letter in name):
    return None
  if not {'question', 'answer'} <= set(header):
    header = [name.lower() for name in header]
  if not header.count('question') == header.count('answer') == 1:
    return None
  found = []
  for line, fields in records[1:]:
    if len(fields) != len(header):
      found.append((line, '', '', False))
      continue
    row = dict(zip(header, fields, strict=True))
    question, answer = row['question'], row['answer']
    sound = is_sound(question, answer, len(question))
    found.append((line, question, answer, sound))
  if len({(len(q), 'S' in q) for _, q, _, sound in found if sound}) > 1:
    return None
  return found


@st.composite
def tables(draw, puzzles):
  """The bytes of a CSV file with some of its rows changed."""
  header = ['source', 'question', 'answer', 'rating']
  table = [header, *(['x', q, a, '3'] for q, a in puzzles)]
  for _ in range(draw(st.integers(1, 2))):
    row = draw(st.sampled_from(table))
    at = draw(st.integers(0, max(0, len(row) - 1)))
    kind = draw(
      st.sampled_from(['cell', 'cell', 'cell', 'swap', 'field', 'row', 'head'])
    )
    if kind == 'cell' and len(row) > 2:
      at = draw(st.sampled_from([1, 1, 2, 2, 0]))
      cell = draw(st.integers(0, len(row[at])))
      letter = draw(st.sampled_from('.0123456789# SGo\0"\'\n\r,xé٣🧩 '))
      keep = draw(st.integers(0, 1))
      row[at] = row[at][:cell] + letter * draw(st.integers(0, 2)) + (
        row[at][cell + keep :]
      )  # fmt: skip
    elif kind == 'swap' and len(row) > 2:
      other = draw(st.sampled_from(table))
      if len(other) > 2:
        row[2], other[2] = other[2], row[2]
    elif kind == 'field' and row:
      if draw(st.booleans()):
        del row[at]
      else:
        row.insert(at, row[at])
    elif kind == 'row' and len(table) > 1:
      at = draw(st.integers(1, len(table) - 1))
      if draw(st.booleans()):
        del table[at]
      else:
        table.insert(at, draw(st.sampled_from([[], list(table[-1]), ['']])))
    elif kind == 'head' and table[0]:
      at = draw(st.integers(0, len(table[0]) - 1))
      table[0][at] = draw(
        st.sampled_from([' answer', 'question', 'Question', '', '\ufeffanswer'])
      )
  out = io.StringIO(newline='')
  ends = draw(st.sampled_from(['\n', '\r\n', '\r']))
  quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
  csv.writer(out, lineterminator=ends, quoting=quoting).writerows(table)
  encoding_ = draw(
    st.sampled_from([*['utf-8'] * 6, 'utf-8-sig', 'utf-16', 'latin-1'])
  )
  data = out.getvalue().encode(encoding_, 'replace')
  return draw(damaged(data)) if draw(st.integers(0, 2)) == 0 else data


@cases(1200, 10)
@hypothesis.given(st.data())
def test_rows(folder, rows_of_domain, draw):
  domain = draw.draw(st.sampled_from(DOMAINS))
  data = draw.draw(tables(rows_of_domain[domain]))
  path = folder / 'puzzles.csv'
  path.write_bytes(data)
  rows = rows_in(data)
  expected = rows is not None and all(sound for *_, sound in rows)
  wanted = [str(path)]
  if rows is not None and [sound for *_, sound in rows].count(False) == 1:
    # The only row at fault.
    wanted = [f'{path}: row {line}: ' for line, *_, sound in rows if not sound]
  loaded = attempt(
    lambda: questions.load_questions(str(path), 'train', 0), *wanted
  )
  assert (loaded is not None) == expected
  if loaded is None:
    return
  letters = LETTERS[loaded.domain.name]
  assert [
    (line, *(''.join(letters[token] for token in row) for row in puzzle))
    for line, *puzzle in zip(
      loaded.rows, loaded.questions, loaded.answers, strict=True
    )
  ] == [(line, q.replace('0', '.'), a) for line, q, a, _ in rows]
  puzzles = QuestionSet(loaded, loaded, 1, 0)
  (batch,) = puzzles.all_train_batches(2 * len(rows), 0)
  np.testing.assert_array_equal(batch['inputs'][::2], loaded.questions)
  np.testing.assert_array_equal(batch['labels'][::2], loaded.answers)
  chosen = puzzles.evaluation_rows()
  (batch,) = puzzles.evaluation_batches(chosen, len(rows))
  np.testing.assert_array_equal(batch['labels'], loaded.answers)
  assert len(leaks_of(puzzles)) == len(rows)


# Published directories.

ARRAYS = ('inputs', 'labels', 'puzzle_identifiers', 'puzzle_indices',
          'group_indices')  # fmt: skip
SIDE = 5


def write_published(directory, groups, names, vocab_size, splits):
  """Writes a directory; a group is a list of (identifier, examples)."""
  for split, groups_ in zip(splits, groups, strict=True):
    (directory / split).mkdir(parents=True)
    puzzles = [puzzle for group in groups_ for puzzle in group]
    examples = [example for _, inside in puzzles for example in inside]
    arrays = (
      np.array([question for question, _ in examples], np.uint8),
      np.array([answer for _, answer in examples], np.uint8),
      np.array([identifier for identifier, _ in puzzles], np.int32),
      np.cumsum([0, *(len(e) for _, e in puzzles)], dtype=np.int32),
      np.cumsum([0, *map(len, groups_)], dtype=np.int32),
    )
    for name, array in zip(ARRAYS, arrays, strict=True):
      np.save(directory / split / f'all__{name}.npy', array)
    metadata = {
      'pad_id': 0,
      'ignore_label_id': 0,
      'blank_identifier_id': 0,
      'vocab_size': vocab_size,
      'seq_len': arrays[0].shape[1],
      'num_puzzle_identifiers': len(names),
      'total_groups': len(groups_),
      'mean_puzzle_examples': len(examples) / len(puzzles),
      'sets': ['all'],
    }
    (directory / split / 'dataset.json').write_text(json.dumps(metadata))
  (directory / 'identifiers.json').write_text(json.dumps(names))


def arc_groups():
  """Names, and the groups of both halves: each task as it is and turned."""
  colours = np.array([0, 2, 1, *range(3, 10)], np.uint8)
  names, halves = ['<blank>'], ([], [])
  for name, task in (('a', TASKS['a']), ('b', TASKS['b'])):
    variants = []
    for transform, permuted in ((0, np.arange(10)), (3, colours)):
      names.append(encoding.augmentation_name(name, transform, permuted))
      variants.append([])
      for kind in ('train', 'test'):
        pairs = [
          Pair(*(np.array(pair.get(key, [[1]])) for key in ('input', 'output')))
          for pair in task[kind]
        ]
        examples = [
          [
            encoding.encode(encoding.augment(g, transform, permuted), SIDE)
            for g in (pair.input, pair.output)
          ]
          for pair in pairs
        ]
        variants[-1].append((len(names) - 1, examples))
    for half, kind in zip(halves, (0, 1), strict=True):
      half.append([variant[kind] for variant in variants])
  return names, halves


def question_groups(domain, rows):
  letters = LETTERS[domain.name]
  tokens = [
    [[letters.index(letter) for letter in text] for text in row] for row in rows
  ]
  train = [[(0, [tokens[0]]), (0, [tokens[2]])], [(0, [tokens[1]])]]
  return ['<blank>'], (train, [[(0, [tokens[2]])], [(0, [tokens[1]])]])


class Directory(NamedTuple):
  """A sound directory and the bytes of its files."""

  root: pathlib.Path
  files: list

  def __repr__(self):
    return self.root.name

  def files_named(self):
    return [str(path) for path, _ in self.files] + ['train/dataset.json and']


@pytest.fixture(scope='module')
def directories(folder, rows_of_domain):
  """Of ARC tasks, Sudokus and mazes."""
  made = []
  for kind, domain in (('arc', None), ('4x4', DOMAINS[0]), ('5x5', DOMAINS[4])):
    if domain is None:
      names, halves = arc_groups()
    else:
      names, halves = question_groups(domain, rows_of_domain[domain])
    root = folder / kind
    size = encoding.VOCAB_SIZE if domain is None else domain.vocab_size
    write_published(root, halves, names, size, ('train', 'test'))
    files = sorted(path for path in root.rglob('*') if path.is_file())
    made.append(Directory(root, [(path, path.read_bytes()) for path in files]))
  return made


NUMBERS = [-1, 0, 1, 2, 3, 4, 5, 6, 11, 12, 255, 256, 2**31, 2**32, 2**32 + 1,
           -(2**32) + 2, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
DTYPES = ['u1', 'i1', 'u2', '>i4', '<i8', '<u8', '>u8', 'f4', 'f8', '?', 'c16',
          'S2', 'U1', 'M8[s]', 'u1,u1']  # fmt: skip


@st.composite
def other_array(draw, array):
  """An array that was sound, as the bytes of a file."""
  kind = draw(
    st.sampled_from(['value', 'value', 'value', 'dtype', 'shape', 'order'])
  )
  if kind == 'value':
    for _ in range(draw(st.integers(1, 2))):
      value = draw(st.sampled_from(NUMBERS))
      if not 0 <= value < 256 or draw(st.booleans()):
        wide = 'u8' if value >= 2**63 else draw(st.sampled_from(['i8', '>i8']))
        array = array.astype(wide)
      array.flat[draw(st.integers(0, array.size - 1))] = value
  elif kind == 'dtype':
    array = array.astype(draw(st.sampled_from(DTYPES)))
  elif kind == 'shape':
    array = draw(
      st.sampled_from(
        [
          array[:-1], array[1:], array[:1], array[:0], array[None], array[0],
          array.T, array.ravel(), array[..., None], array[..., :-1],
          np.concatenate([array, array[-1:]]), np.concatenate([array, array]),
        ]
      )
    )  # fmt: skip
  else:
    order = draw(st.permutations(range(len(array))))
    array = np.asarray(array[order], order=draw(st.sampled_from('CF')))
  out = io.BytesIO()
  np.save(out, array)
  return out.getvalue()


HEADERS = [
  "{'descr': '|O', 'fortran_order': False, 'shape': (2, 25), }",
  "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }",
  "{'descr': '<i4', 'fortran_order': True, 'shape': (-1, 25), }",
  "{'descr': '<i4', 'fortran_order': False, 'shape': (-3,), }",
  "{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 9)}",
  "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 25), }",
  "{'descr': '|u1', 'fortran_order': False, 'shape': (1L, 25), }",
  "{'descr': '<i4', 'fortran_order': False, 'shape': ('a',), }",
  "{'descr': '<i4', 'fortran_order': 0, 'shape': (4,), }",
  "{'descr': '<i4', 'fortran_order': False, 'shape': (True,), }",
  "{'descr': [('f', '<i4')], 'fortran_order': False, 'shape': (4,), }",
  "{'descr': '<i4', 'fortran_order': False}",
  '[' * 500,
  '-' * 3000,
  '',
  'x\0y',
  "{'descr': '" + 11000 * 'x' + "'}",
]


@st.composite
def other_npy(draw, data):
  kind = draw(st.integers(0, 9))
  if kind <= 4:
    return draw(other_array(np.load(io.BytesIO(data))))
  if kind <= 6:
    header = draw(st.sampled_from(HEADERS)).encode() + b'\n'
    version = draw(st.integers(1, 4))
    length = struct.pack('<H' if version == 1 else '<I', len(header))
    start = b'\x93NUMPY' + bytes([version, 0])
    return start + length + header + data[128:]
  if kind == 7:
    out = io.BytesIO()
    np.savez(out, np.load(io.BytesIO(data)))
    return out.getvalue()
  if kind == 8:
    begin = draw(st.integers(128, len(data)))
    return data[:begin] + bytes([draw(st.integers(0, 255))]) + data[begin + 1 :]
  return draw(damaged(data))


@st.composite
def other_names(draw, data):
  names = json.loads(data)
  name = draw(
    st.sampled_from(
      ['', 'a', 'a\nb', '\ud800', '\0', 'b_t9_0123456789', 'a_t3_0113456789',
       'b|||t3|||0213456789', 'a_t1_0213456789', 'b_t3_0213456789', 'a' * 300]
    )
  )  # fmt: skip
  for _ in range(draw(st.integers(1, 3))):
    names[draw(st.integers(0, len(names) - 1))] = name
  return json.dumps(names).encode()


def other_file(path, data):
  if path.suffix == '.npy':
    return other_npy(data)
  if path.stem == 'identifiers':
    return other_names(data) | changed(json.loads(data))
  return changed(json.loads(data))


def joined(batches):
  batches = list(batches)
  return {
    name: np.concatenate([batch[name] for batch in batches]).tolist()
    for name in batches[0]
  }


def examples_in(split):
  """Inputs, labels and identifier of each example, read by numpy and json."""
  inputs, labels, identifiers, bounds, groups = (
    np.load(split / f'all__{name}.npy').tolist() for name in ARRAYS
  )
  metadata = read_json((split / 'dataset.json').read_bytes())
  assert {metadata.get('pad_id'), metadata.get('blank_identifier_id')} <= {
    None,
    0,
  }
  ignored = metadata.get('ignore_label_id')
  labels = [
    [IGNORE_LABEL if token == ignored else token for token in row]
    for row in labels
  ]
  sizes = [end - begin for begin, end in itertools.pairwise(bounds)]
  of_example = [
    identifier
    for identifier, size in zip(identifiers, sizes, strict=True)
    for _ in range(size)
  ]
  variants = [end - begin for begin, end in itertools.pairwise(groups)]
  return inputs, labels, of_example, sizes, variants


def use(root):
  """All that training and evaluation do with a directory."""
  puzzles = PublishedSet(root, True, True)
  leaks = leaks_of(puzzles)  # First, as training does it.
  whole = joined(puzzles.all_train_batches(3, 0))
  shown = joined(itertools.islice(puzzles.train_batches(3, 0), 3))
  chosen = puzzles.evaluation_rows()
  asked = joined(puzzles.evaluation_batches(chosen, len(chosen)))
  judge_of(puzzles, chosen)
  puzzles.samples(2, 0)
  return puzzles, whole, shown, chosen, asked, leaks


def hrm_form(name):
  """A name as read: of TRM's form for an augmented task, the other form."""
  match = re.fullmatch(r'(.+)\|\|\|(t[0-7])\|\|\|(\d{10})', name, re.DOTALL)
  if match is None or sorted(match[3]) != list('0123456789'):
    return name
  if (match[2], match[3]) == ('t0', '0123456789'):
    return match[1]
  return '_'.join(match.groups())


def check_published(root, used):
  """What was used is what the files hold, all of it."""
  puzzles, whole, shown, chosen, asked, leaks = used
  path = root / 'identifiers.json'
  # The published builders of Sudokus and mazes write none.
  names = read_json(path.read_bytes()) if path.exists() else ['<blank>']
  assert puzzles.identifier_names() == [hrm_form(name) for name in names]
  assert puzzles.num_identifiers == len(names)
  inputs, labels, identifiers, sizes, variants = examples_in(root / 'train')
  count = len(inputs)
  assert puzzles.members.tolist() == sizes
  assert puzzles.variants.tolist() == variants
  assert (sum(sizes), sum(variants)) == (count, len(sizes))
  assert whole['inputs'][:count] == inputs
  assert whole['labels'][:count] == labels
  assert whole['puzzle_identifiers'][:count] == identifiers
  examples = list(zip(inputs, labels, identifiers, strict=True))
  for example in zip(*shown.values(), strict=True):
    assert example in examples

  trained = inputs
  inputs, labels, identifiers, *_ = examples_in(root / 'test')
  assert sorted(chosen.example) == list(range(len(inputs)))
  assert asked['inputs'] == [inputs[i] for i in chosen.example]
  assert asked['labels'] == [labels[i] for i in chosen.example]
  of_rows = [identifiers[i] for i in chosen.example]
  assert of_rows == asked['puzzle_identifiers'] == chosen.identifier.tolist()
  if len(names) == 1 and not any(0 in row for row in inputs):
    # Of a group, the first puzzle stands for its images.
    first = np.cumsum([0, *sizes])[np.cumsum([0, *variants])[:-1]]
    known = [trained[i] for i in first]
    held_out = {row for row in range(len(inputs)) if inputs[row] in known}
    found = {int(leak.held_out.rpartition(':')[2]) for leak in leaks}
    assert held_out <= found


def test_undamaged_directories(directories):
  for directory in directories:
    root = directory.root
    used = attempt(lambda root=root: use(root), *directory.files_named())
    assert used is not None
    check_published(root, used)


@cases(1500, 10)
@hypothesis.given(st.data())
def test_published_directory(directories, draw):
  directory = draw.draw(st.sampled_from(directories))
  path, data = draw.draw(st.sampled_from(directory.files))
  kind = draw.draw(st.integers(0, 11))
  try:
    if kind == 0:
      path.unlink()
      if draw.draw(st.booleans()):
        path.mkdir()
    else:
      path.write_bytes(b'' if kind == 1 else draw.draw(other_file(path, data)))
    used = attempt(lambda: use(directory.root), *directory.files_named())
    if used is not None:
      check_published(directory.root, used)
  finally:
    if path.is_dir():
      path.rmdir()
    path.write_bytes(data)
