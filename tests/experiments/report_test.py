"""The report of a run, in a real browser where there is one."""

import contextlib
import json
import re
import shutil

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from data_pipelines import files
from data_pipelines import leaks as leak_check
from data_pipelines.errors import ConfigError
from experiments import evaluate, report
from hrm_jax import build
from hrm_jax.parallel import sharding
from hrm_jax.training import step as train_step
from hrm_jax.workdir import checkpoints
from hrm_jax.workdir import config as workdir_config
from tests import browsers, builders

# What a user's data may be called; a file's name has no slash.
HOSTILE = '<b onclick=alert(1)>&"\'@DATA@'
HOSTILE_RUN = '<script>alert(1)<b>'
TASKS = {'Center3': 1, HOSTILE: 2, 'plain': 3}


def _task(seed):
  rng = np.random.default_rng(seed)
  return {
    'train': [
      {
        'input': rng.integers(0, 10, (2, 3)).tolist(),
        'output': rng.integers(0, 10, (2, 3)).tolist(),
      }
    ],
    'test': [
      {
        'input': rng.integers(0, 10, (3, 3)).tolist(),
        'output': rng.integers(0, 10, (2, 2)).tolist(),
      }
    ],
  }


@pytest.fixture(scope='module')
def arc_run(tiny_arc_config, tmp_path_factory):
  """A checkpoint of three tasks, as initialised, evaluated for real."""
  root = tmp_path_factory.mktemp('report')
  (root / 'tasks').mkdir()
  for name, seed in TASKS.items():
    (root / 'tasks' / f'{name}.json').write_text(json.dumps(_task(seed)))
  config = tiny_arc_config(root / 'tasks')
  config.data.num_aug = 2
  settings = builders.settings(config)
  puzzles = build.puzzle_set(settings)
  state = train_step.sharded_init(
    build.train_setup(settings, puzzles), sharding.make_mesh()
  )
  workdir = root / HOSTILE_RUN
  leaks = [leak_check.Leak('plain', 'test[0]', 'plain', 'train[0]', 'both')]
  workdir_config.claim(
    workdir, settings, puzzles, leak_check.Verdict(leaks, (), True)
  )
  saved = checkpoints.Checkpoints(workdir, settings)
  with contextlib.closing(saved):
    saved.save_weights(
      7,
      state.weights.variables,
      np.asarray(state.puzzle_table),
      checkpoints.Position(0, puzzles.identifier_names(), puzzles.version),
    )
  evaluate.run(workdir)
  _solve(workdir / 'evaluation' / 'step_7' / 'predictions.json')
  # Rules that agree could be mistaken for each other.
  path = workdir / 'evaluation' / 'step_7' / 'scores.json'
  rates = {'outputs': 0.25, 'tasks': 0.5, 'whole_tasks': 0.75}
  scores = json.loads(path.read_bytes())
  scores |= {f'eval/pass@2/{rule}': rate for rule, rate in rates.items()}
  files.write_json(path, scores)
  return workdir


def _solve(path):
  """Makes one task solved, one nearly, one failed."""
  found = json.loads(path.read_bytes())
  right = {
    name: _task(seed)['test'][0]['output'] for name, seed in TASKS.items()
  }
  near = [*right[HOSTILE]]
  wrong = [[9, 9, 9]]
  for name, grids in (
    ('Center3', [wrong, right['Center3']]),
    (HOSTILE, [wrong, wrong[:1] * 2, near]),
    ('plain', [wrong]),
  ):
    found[name] = [
      [{'grid': grid, 'votes': 1, 'confidence': 0.5} for grid in grids]
    ]
  files.write_json(path, found)


@pytest.fixture(scope='module')
def page(arc_run):
  return report.run(arc_run)


@pytest.fixture(scope='module')
def sudoku_page(trained_run, tmp_path_factory):
  out = tmp_path_factory.mktemp('sudoku') / 'sudoku.html'
  return report.run(trained_run, out=out, max_tasks=4)


def _contents(path):
  """The data that a report holds."""
  (text,) = re.findall(r'id="contents">(.*?)</script>', path.read_text(), re.S)
  return json.loads(text)


def test_tasks_are_sorted_by_how_well_they_are_solved(page, arc_run):
  assert page == arc_run / 'report' / 'step_7.html'
  found = _contents(page)
  entries = {entry['name']: entry for entry in found['entries']}
  assert {name: entry['status'] for name, entry in entries.items()} == {
    'Center3': 'solved', HOSTILE: 'nearly', 'plain': 'failed'
  }  # fmt: skip
  assert found['counts'] == {'solved': 1, 'nearly': 1, 'failed': 1}
  assert entries['Center3']['concept'] == 'Center'
  assert entries['plain']['concept'] is None
  assert [name for name, entry in entries.items() if entry['leaks']] == [
    'plain'
  ]
  task = _task(1)
  entry = entries['Center3']
  test = entry['tests'][0]
  as_text = lambda grid: '/'.join(''.join(map(str, row)) for row in grid)  # noqa: E731
  assert entry['demonstrations'] == [
    [as_text(task['train'][0][side]) for side in ('input', 'output')]
  ]
  assert test['input'] == as_text(task['test'][0]['input'])
  assert test['truth'] == as_text(task['test'][0]['output'])
  # The task and two augmentations of it.
  assert test['votes'] == 3
  # Two segments of one update each.
  assert len(test['trace']['order']) == 2 and test['trace']['levels'] == 'H'
  assert len(test['trace']['told']) == 2


def test_scores_are_those_of_the_evaluation(page, arc_run):
  scores = _contents(page)['scores']
  directory = arc_run / 'evaluation' / 'step_7'
  written = json.loads((directory / 'scores.json').read_bytes())
  assert scores['where'] == 'evaluation/step_7' and scores['whole']
  assert scores['rows'] == written['rows'] == 9
  assert scores['scored'] == [3, 3, 3]
  for k, rates in scores['passes']:
    for rule, rate in zip(
      ('outputs', 'tasks', 'whole_tasks'), rates, strict=True
    ):
      assert rate == written[f'eval/pass@{k}/{rule}']


def test_nothing_in_a_report_ends_its_elements(page):
  text = page.read_text()
  assert text.count('<script') == 2 and text.count('</script>') == 2
  assert HOSTILE_RUN not in text and HOSTILE not in text
  assert not re.search(r'(src|href)="?(https?:)?//', text)


def test_answers_of_a_sudoku(sudoku_page, trained_run):
  found = _contents(sudoku_page)
  directory = next((trained_run / 'evaluation').glob('step_*'))
  lines = (directory / 'predictions.csv').read_text().splitlines()[1:]
  assert len(found['entries']) == 4
  assert sum(found['counts'].values()) == len(lines) == 10
  cells = [line.split(',') for line in lines]
  by_name = {line[0]: line for line in cells}
  for entry in found['entries']:
    _, question, answer, prediction, exact, valid, *_ = by_name[entry['name']]
    (test,) = entry['tests']
    # As tokens: a blank is 1, digit d is d + 1.
    for text, ours in (
      (question, test['input']),
      (answer, test['truth']),
      (prediction, test['attempts'][0]['grid']),
    ):
      tokens = ''.join('1' if c == '.' else str(int(c) + 1) for c in text)
      assert ours.replace('/', '') == tokens.replace('?', '0')
    assert (entry['status'] == 'solved') == ('1' in (exact, valid))
  # The last thing that the trace shows is the prediction.
  trace = test['trace']
  last = trace['frames'][trace['order'][-1]]
  assert last == test['attempts'][0]['grid']
  names = {s['name'] for chart in found['charts'] for s in chart['series']}
  assert {'loss', 'exact', 'accuracy'} <= names
  shares = found['scores']
  assert shares['exact'] == sum(line[4] == '1' for line in cells) / 10
  # Half of the cells of these puzzles are given.
  assert 0.2 < shares['copied_cells'] < 0.8


def test_without_an_evaluation_a_report_says_how_to_make_one(
  arc_run, tmp_path, caplog
):
  workdir = tmp_path / 'run'
  shutil.copytree(
    arc_run, workdir, ignore=shutil.ignore_patterns('evaluation', 'report')
  )
  path = report.run(workdir)
  found = _contents(path)
  assert found['scores'] is None
  assert found['counts'] == {'unscored': 3}
  assert f'experiments.evaluate --workdir={workdir} --step=7' in caplog.text


@pytest.mark.parametrize(
  'name, text, message',
  [
    ('predictions.json', '{"plain": [[{"grid": 3}]]}', 'predictions.json'),
    ('predictions.json', '{"other": []}', 'other tasks'),
    ('scores.json', '{"step": 7}', 'scores.json'),
    ('predictions.json', '{"pl', 'not JSON'),
  ],
)
def test_damage_is_told_in_a_line(arc_run, tmp_path, name, text, message):
  workdir = tmp_path / 'run'
  shutil.copytree(arc_run, workdir)
  (workdir / 'evaluation' / 'step_7' / name).write_text(text)
  with pytest.raises(ValueError, match=message) as raised:
    report.run(workdir)
  assert '\n' not in str(raised.value)


def test_no_run(tmp_path):
  with pytest.raises(ConfigError, match=r'no config\.json'):
    report.run(tmp_path)
  with pytest.raises(ConfigError, match=r'must end in \.html'):
    report.run(tmp_path, out='report.txt')


@pytest.fixture
def opened(browser, page):
  yield _Page(browser, page)


class _Page(browsers.Page):
  """A report in the browser, as one who uses it sees it."""

  def __init__(self, browser, path):
    super().__init__(browser, path.as_uri())

  def shown(self):
    """Names of the puzzles in the gallery."""
    return [
      entry.find_element(By.TAG_NAME, 'b').text
      for entry in self.all('.entry')
      if entry.is_displayed()
    ]


def test_it_opens_and_asks_for_nothing(browser, page, sudoku_page):
  for path in (page, sudoku_page):
    opened = _Page(browser, path)
    assert opened.all('.entry')
    assert opened.one('h1').text == path.parent.parent.name or path == (
      sudoku_page
    )
    assert opened.errors() == [] and opened.requests() == []


def test_names_are_texts(opened):
  assert opened.one('h1').text == HOSTILE_RUN
  assert HOSTILE in opened.shown()
  assert opened.all('main b[onclick]') == []


def test_a_policy_forbids_what_a_page_might_ask_for(opened):
  opened.script("new Image().src = 'http://127.0.0.1:9/x.png'")
  WebDriverWait(opened._browser, 5).until(lambda _: opened.errors())
  opened.script(
    "const made = document.createElement('script');"
    "made.textContent = 'window.a = 1'; document.body.append(made)"
  )
  assert opened.script('return window.a') is None


def test_it_filters(opened):
  assert len(opened.shown()) == 3
  opened.one('.chip:has(input[value=solved])').click()
  assert opened.shown() == ['Center3']
  assert opened.one('#count').text == '1 of 3 shown'
  opened.one('.chip:has(input[value=""])').click()
  opened.one('input[type=search]').send_keys('PLAIN')
  assert opened.shown() == ['plain']
  opened.one('input[type=search]').clear()
  Select(opened.one('select[name=concept]')).select_by_visible_text('Center')
  assert opened.shown() == ['Center3']
  Select(opened.one('select[name=concept]')).select_by_value('')
  Select(opened.one('select[name=leaks]')).select_by_value('yes')
  assert opened.shown() == ['plain']


def test_it_slides(opened, page):
  entry = opened.all('.entry')[0]
  name = entry.find_element(By.TAG_NAME, 'b').text
  entry.click()
  (found,) = [e for e in _contents(page)['entries'] if e['name'] == name]
  trace = found['tests'][0]['trace']
  slider, said = opened.one('input[type=range]'), opened.one('output')
  for segment in (1, 2):
    assert f'segment {segment} of 2, update 1 of 1' in said.text
    assert trace['told'][segment - 1].split()[1] in said.text
    assert trace['right'][trace['order'][segment - 1]] in said.text
    slider.send_keys(Keys.ARROW_RIGHT)
  # It is drawn: a wide range of colours is not one colour.
  drawn = opened.script(
    "const c = document.querySelector('.trace canvas');"
    "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
    'return new Set(new Uint32Array(d.buffer)).size'
  )
  assert drawn > 1
  assert opened.errors() == []


def test_it_is_used_by_keyboard(opened):
  opened.tab_to('input[value=""]')
  opened.press(Keys.ARROW_RIGHT)
  assert opened.shown() == ['Center3']
  opened.press(Keys.ARROW_LEFT)
  opened.tab_to('.entry')
  first = opened.focused()
  # Whoever cannot see the mouse sees where they are.
  outline = 'return getComputedStyle(document.activeElement).outlineStyle'
  assert opened.script(outline) == 'solid'
  opened.press(Keys.ENTER)
  names = opened.shown()
  assert opened.one('#dialog-title').text == names[0]
  opened.press(Keys.ARROW_RIGHT)
  assert opened.one('#dialog-title').text == names[1]
  opened.tab_to('input[type=range]')
  opened.press(Keys.ARROW_RIGHT)
  assert 'segment 2 of 2' in opened.one('output').text
  assert opened.one('#dialog-title').text == names[1]
  opened.press(Keys.ESCAPE)
  assert not opened.one('#dialog').is_displayed()
  assert opened.focused() == opened.all('.entry')[1] != first


def test_every_control_has_a_name(opened):
  controls = 'button, input, select, canvas, svg[role=img]'
  for control in opened.all(controls):
    if control.is_displayed():
      assert control.accessible_name, control.get_attribute('outerHTML')
  opened.all('.entry')[0].click()
  for control in opened.one('#dialog').find_elements(By.CSS_SELECTOR, controls):
    if control.is_displayed():
      assert control.accessible_name, control.get_attribute('outerHTML')


@pytest.mark.parametrize('which', ['page', 'sudoku_page'])
def test_a_phone_shows_all_of_it(browser, request, which):
  browser.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': 390, 'height': 844, 'deviceScaleFactor': 2, 'mobile': True},
  )
  try:
    opened = _Page(browser, request.getfixturevalue(which))
    assert opened.script('return innerWidth') == 390
    assert opened.script('return document.documentElement.scrollWidth') == 390
    opened.all('.entry')[0].click()
    assert opened.script('return dialog.scrollWidth <= innerWidth')
    for button in opened.all('.bar button'):
      place = button.rect
      assert place['x'] >= 0 and place['x'] + place['width'] <= 390
  finally:
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
