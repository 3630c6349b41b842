"""The page on which models solve puzzles, driven in a real browser."""

import dataclasses
import json
import sys
import types
import urllib.request

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

import hrm_jax.solver
from data_pipelines import files
from data_pipelines.errors import ConfigError
from data_pipelines.questions.maze import Maze
from data_pipelines.questions.sudoku import Sudoku
from experiments import export
from experiments.configs import maze
from experiments.reporting import browser_page
from tests import browsers, builders

pytestmark = pytest.mark.slow

_SHIPPED = 'sudoku-6x6'
_AMBIGUOUS = '123456456123' + '.' * 24


@pytest.fixture(scope='module')
def folder(tiny_arc_config, tmp_path_factory):
  """A page with the shipped Sudoku model, a maze's and one of ARC tasks.

  The last two are as initialised: what they answer is theirs, right or wrong.
  """
  root = tmp_path_factory.mktemp('page')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('HRM_JAX_CACHE', str(root / 'cache'))
    config = maze.get_config('demo,recurrent_transformer')
    config.data.train = 'maze:size=6x6:path=4:count=20:tests=10'
    config.data.evaluate = config.data.train
    config.model.hidden_size = config.model.puzzle_emb_ndim = 16
    config.model.num_heads = 2
    config.model.layers = 1
    config.model.expansion = 1.0
    config.act.halt_max_steps = 3
    _train(config, root / 'tiny-maze')
    (root / 'tasks').mkdir()
    for name in ('one', 'two'):
      files.write_json(root / 'tasks' / f'{name}.json', _task(len(name)))
    _train(tiny_arc_config(root / 'tasks'), root / 'tiny-arc')
    for workdir in (_SHIPPED, root / 'tiny-maze', root / 'tiny-arc'):
      export.run(workdir, root / 'site', 'web', weights='float16')
    yield root / 'site'


def _train(config, workdir):
  config.total_steps = config.checkpoint_every = 1
  config.evaluate_every = 0
  config.batch_size = 8
  builders.train(config, workdir)


def _task(seed):
  rng = np.random.default_rng(seed)
  return {
    part: [
      {side: rng.integers(0, 10, (2, 3)).tolist() for side in sides}
      for _ in range(2)
    ]
    for part, sides in (
      ('train', ('input', 'output')), ('test', ('input', 'output')),
    )
  }  # fmt: skip


@pytest.fixture(scope='module')
def address(folder):
  """The page on a server that knows nothing of it."""
  return f'http://localhost:{browser_page.serve(folder)}/index.html'


class _Page(browsers.Page):
  """The page with one of its models, ready to solve."""

  def __init__(self, browser, address, model=_SHIPPED):
    browser.get('about:blank')
    super().__init__(browser, f'{address}#{model}')
    self.wait(lambda: self.one('#status').text == 'Ready.')

  def cells(self):
    """What the board shows, as tokens."""
    text = self.one('#board').get_attribute('data-shown').replace('/', '')
    return [int(character, 36) for character in text]

  def problem(self):
    return self.one('#problem').text

  def paste(self, text):
    if not self.one('#paste').get_attribute('open'):
      self.one('#paste summary').click()
    self.one('#text').clear()
    self.one('#text').send_keys(text)
    self.one('#use').click()

  def solved(self):
    """Waits for the last segment."""
    self.wait(lambda: self.one('#solve').text == 'Solve' and self.rows())
    return self.rows()

  def rows(self):
    return self.all('#table tbody tr')

  def at(self, row, column):
    """Where a cell is, from the middle of the board."""
    board, side = self.one('#board'), float(self.script(_SIDE))
    size = board.size
    return (
      int((column + 0.5) * side - size['width'] / 2),
      int((row + 0.5) * side - size['height'] / 2),
    )

  def click(self, row, column):
    self.drag((row, column))

  def drag(self, *cells):
    """Draws from cell to cell with the mouse."""
    board = self.one('#board')
    actions = ActionChains(self._browser, duration=20)
    actions.move_to_element_with_offset(board, *self.at(*cells[0]))
    actions.click_and_hold()
    for cell in cells[1:]:
      actions.move_to_element_with_offset(board, *self.at(*cell))
    actions.release().perform()


_SIDE = "return document.getElementById('board').dataset.cell"


@pytest.fixture
def page(browser, address):
  return _Page(browser, address)


def _text(solver, cells):
  """A puzzle's tokens as `solve` takes it."""
  characters = np.array([*solver.domain.characters])[cells]
  rows = characters.reshape(int(len(cells) ** 0.5), -1)
  end = '\n' if isinstance(solver.domain, Maze) else ''
  return end.join(''.join(row) for row in rows)


def _answers(workdir, cells):
  """What JAX answers to a puzzle after each segment, [K, S]."""
  solver = hrm_jax.solver.load(workdir)
  (thought,) = solver.trace(_text(solver, cells)).thoughts
  return thought.tokens[:, -1]


def test_it_answers_as_jax_does_and_asks_nobody_else(page, folder, address):
  here = address.removesuffix('/index.html')
  for number in (0, 3):
    Select(page.one('#example')).select_by_value(str(number))
    question = page.cells()
    page.one('#solve').click()
    page.solved()
    wanted = _answers(_SHIPPED, question)
    assert len(page.rows()) == len(wanted)
    np.testing.assert_array_equal(page.cells(), wanted[-1])
    # Back to the puzzle, and forth again.
    for answer in wanted[-2::-1]:
      page.one('#back').click()
      np.testing.assert_array_equal(page.cells(), answer)
    page.one('#back').click()
    assert page.cells() == question
    assert not page.one('#back').is_enabled()
    page.one('#forth').click()
    np.testing.assert_array_equal(page.cells(), wanted[0])
  assert page.errors() == []
  assert all(url.startswith((here, 'data:')) for url in page.requests())


def test_a_judgement_is_that_of_the_rules(page):
  solver, seen = hrm_jax.solver.load(_SHIPPED), set()
  for number in (0, 1, 3):
    Select(page.one('#example')).select_by_value(str(number))
    answer = solver.solve(_text(solver, page.cells()))
    page.one('#solve').click()
    page.solved()
    assert ('solved' in page.one('#status').text) == answer.valid[0]
    wrong = np.sum(answer.grids[0] != answer.truths[0])
    assert page.rows()[-1].text.split()[-2] == str(wrong)
    seen.add(answer.valid[0])
  assert seen == {True, False}


def test_the_first_example_is_solved_and_the_others_are_as_they_come(folder):
  told = json.loads((folder / 'models' / _SHIPPED / 'page.json').read_text())
  solver = hrm_jax.solver.load(_SHIPPED)
  asked = solver.held_out(1, 100).queries[0]
  rows = asked.originals(60)
  found = solver.evaluate(dataclasses.replace(asked, rows=rows))
  held_out = [
    '/'.join(''.join(map(str, row)) for row in (answer.inputs[0] + 1).tolist())
    for answer in found.answers
  ]
  shown = [example['input'] for example in told['examples']]
  right = [answer.valid[0] for answer in found.answers]
  first = right.index(True)
  # Another one comes first among those that are held out.
  assert first > 0
  assert shown == [held_out.pop(first), *held_out]
  assert told['solved'] == [sum(right), 60]
  names = json.loads((folder / 'models.json').read_text())
  assert names == [_SHIPPED, 'tiny-arc', 'tiny-maze']


def test_typing(page):
  page.one('#clear').click()
  assert page.focused() == page.one('#board')
  page.press('3', Keys.ARROW_RIGHT, '6', Keys.ARROW_DOWN, '1')
  assert page.cells()[:8] == [4, 7, 1, 1, 1, 1, 1, 2]
  page.press('7')
  assert page.problem() == '7 is no digit of this Sudoku: it has 1 to 6'
  page.press(Keys.BACKSPACE)
  assert page.cells()[7] == 1
  page.press('6')
  assert page.problem() == 'No solution: digit 6 is twice in column 2.'
  # With a finger: a cell, then its digit.
  page.click(5, 5)
  page.all('#brushes button')[3].click()
  assert page.cells()[35] == 4


@pytest.mark.parametrize(
  ('text', 'told'),
  [
    (_AMBIGUOUS, 'more than one solution'),
    ('1' * 36, 'digit 1 is twice in row 1'),
    ('12345....' + '6' + '.' * 26, 'has no solution'),
    ('9' + '.' * 35, "'9' in row 1, column 1 is none of '.' and the digits"),
    ('123', 'has 36 characters, these are 3'),
  ],
)
def test_what_is_pasted_is_checked(page, text, told):
  page.paste(text)
  assert told in page.problem()
  assert page.errors() == []


def test_random_puzzles_have_one_solution(page):
  domain, seen = Sudoku(2, 3), set()
  for _ in range(3):
    page.one('#random').click()
    cells = np.array(page.cells(), np.uint8)[None]
    answer = domain.solve(cells[0])
    assert domain.check(cells, answer[None]) == []
    assert page.problem() == ''
    assert (cells > 1).sum() <= 20
    seen.add(cells.tobytes())
  assert len(seen) == 3


def test_keyboard_alone(page):
  page.tab_to('#board')
  outline = 'return getComputedStyle(document.activeElement).outlineStyle'
  assert page.script(outline) == 'solid'
  count = len(_answers(_SHIPPED, page.cells()))
  page.press(Keys.ENTER)
  assert len(page.solved()) == count
  page.tab_to('#slider')
  page.press(Keys.ARROW_LEFT)
  assert f'Segment {count - 1} of {count}' in page.one('#status').text


def test_rollouts_side_by_side(page):
  wanted = _answers(_SHIPPED, page.cells())[-1]
  Select(page.one('#rollouts')).select_by_visible_text('4')
  page.one('#solve').click()
  page.solved()
  assert len(page.all('#others figure')) == 3
  # The first is the model as it is.
  np.testing.assert_array_equal(page.cells(), wanted)
  assert page.errors() == []


def test_a_maze_is_drawn_with_the_mouse(browser, address, folder):
  page = _Page(browser, address, 'tiny-maze')
  page.one('#clear').click()
  assert page.problem() == 'This maze has no start S; it must have one.'
  assert not page.one('#solve').is_enabled()
  chips = page.all('#brushes .chip')
  chips[2].click()
  page.click(0, 0)
  chips[3].click()
  page.click(0, 5)
  page.click(5, 5)
  assert page.cells().count(4) == 1
  assert page.problem() == ''
  chips[0].click()
  page.drag((0, 1), (1, 1), (2, 1), (3, 1), (4, 1))
  cells = page.cells()
  assert [cells[6 * row + 1] for row in range(6)] == [1, 1, 1, 1, 1, 2]
  page.drag((5, 1))
  assert page.problem() == 'No way leads from S to G in this maze.'
  page.one('#random').click()
  made = np.array(page.cells(), np.uint8)
  domain = Maze(6, 6)
  assert domain.check(made[None], domain.solve(made)[None]) == []
  Select(page.one('#example')).select_by_value('2')
  wanted = _answers(folder.parent / 'tiny-maze', page.cells())
  page.one('#solve').click()
  page.solved()
  np.testing.assert_array_equal(page.cells(), wanted[-1])
  assert page.errors() == []


def test_a_maze_is_drawn_with_a_finger(browser, address):
  page = _Page(browser, address, 'tiny-maze')
  page.one('#clear').click()
  page.all('#brushes .chip')[0].click()
  board, touch = page.one('#board'), PointerInput('touch', 'finger')
  actions = ActionBuilder(browser, mouse=touch)
  actions.pointer_action.move_to(board, *page.at(2, 0)).pointer_down()
  for column in (1, 2, 3):
    actions.pointer_action.move_to(board, *page.at(2, column))
  actions.pointer_action.pointer_up()
  actions.perform()
  assert page.cells()[12:18] == [1, 1, 1, 1, 2, 2]
  assert sum(cell == 1 for cell in page.cells()) == 4


def test_models_are_chosen_and_all_controls_have_names(page):
  Select(page.one('#model')).select_by_visible_text('tiny-maze')
  page.wait(lambda: page.one('#status').text == 'Ready.')
  assert 'mazes of 6 × 6' in page.one('#what').text
  page.one('#solve').click()
  assert len(page.solved()) == 3
  assert page.one('#truth').is_displayed()
  for control in page.all('button, input, select, textarea, canvas'):
    if control.is_displayed():
      assert control.accessible_name.strip(), control.get_attribute('outerHTML')
  assert page.errors() == []


def test_arc_tasks_have_demonstrations_and_rows(browser, address, folder):
  page = _Page(browser, address, 'tiny-arc')
  names = [option.text for option in Select(page.one('#example')).options]
  assert names[0].startswith('one')
  assert len(page.all('#demonstrations figure')) == 4
  for number in (0, 3):
    Select(page.one('#example')).select_by_value(str(number))
    page.one('#solve').click()
    page.solved()
    shown = page.one('#board').get_attribute('data-shown')
    solver = hrm_jax.solver.load(folder.parent / 'tiny-arc')
    query = solver.held_out(1, 60).queries[0]
    traces = [x for one in solver.trace(query) for x in one.thoughts]
    assert shown.replace('/', '') == ''.join(
      np.base_repr(token, 36).lower() for token in traces[number].tokens[-1, -1]
    )
  page.paste('[[1, 2], [3]]')
  assert 'equally long lists of colours' in page.problem()
  page.paste('[[1, 2], [3, 4]]')
  assert page.problem() == ''
  assert page.cells()[:3] == [3, 4, 1]
  assert page.errors() == []


def test_a_narrow_phone_in_the_dark(browser, address):
  media = {'name': 'prefers-color-scheme', 'value': 'dark'}
  browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [media]})
  size = {'width': 360, 'height': 740, 'deviceScaleFactor': 2, 'mobile': True}
  browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', size)
  try:
    for model in (_SHIPPED, 'tiny-maze', 'tiny-arc'):
      page = _Page(browser, address, model)
      page.one('#solve').click()
      page.solved()
      width = page.script('return document.documentElement.scrollWidth')
      assert width <= 360
      colour = page.script('return getComputedStyle(document.body).color')
      assert colour == 'rgb(230, 237, 243)'
  finally:
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})


def test_a_notebook_gets_it_from_a_server(folder, monkeypatch):
  shown = []
  monkeypatch.setattr('IPython.display.display', shown.append)
  browser_page.embed(folder, height=700)
  (frame,) = shown
  with urllib.request.urlopen(frame.src) as answer:
    assert answer.read() == (folder / 'index.html').read_bytes()
  # Browsers take modules of this type alone.
  with urllib.request.urlopen(
    frame.src.replace('index.html', 'page.mjs')
  ) as it:
    assert it.headers['Content-Type'].endswith('/javascript')
  assert frame.height == 700


def test_on_colab_its_own_way_is_used(folder, monkeypatch):
  called = []
  names = ('google', 'google.colab', 'google.colab.output')
  modules = [types.ModuleType(name) for name in names]
  modules[-1].serve_kernel_port_as_iframe = lambda *args, **options: (
    called.append((args, options))
  )
  for name, module in zip(names, modules, strict=True):
    monkeypatch.setitem(sys.modules, name, module)
  browser_page.embed(folder)
  (((port,), options),) = called
  assert options == {'path': '/index.html', 'height': '900'}
  with urllib.request.urlopen(f'http://localhost:{port}/index.html') as answer:
    assert answer.status == 200


def test_a_page_for_a_kind_that_it_cannot_draw_is_refused(
  folder, tmp_path, monkeypatch
):
  monkeypatch.setattr(Maze, 'name', 'labyrinth')
  with pytest.raises(ConfigError, match='the page shows Sudokus, mazes and'):
    export.run(folder.parent / 'tiny-maze', tmp_path, 'web')
  assert browser_page.family(hrm_jax.solver.load(_SHIPPED)) == 'sudoku'
