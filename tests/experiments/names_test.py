"""Names of tasks, files and directories: none climbs, collides or breaks."""

import contextlib
import json
import os
import pathlib
import re
import tempfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines import puzzles
from data_pipelines.arc.tasks import load_tasks
from data_pipelines.drawing import pictures
from data_pipelines.drawing.pictures import Thought
from data_pipelines.errors import ConfigError, DataError
from experiments import leaks, predict, report, show
from experiments.cli import command
from experiments.reporting import evaluation_files
from hrm_jax.solver import Fitting, Trace
from tests.random_cases import cases, few_or_all
from tests.run_fixtures import random_task

_ODD = './.\\\n\r\t\0\x1b[31m\x9b]0;\a=+-@:?*%#aAbéß漢🎉|,→\u202e\ud800"\'<&_ '
NAMES = st.one_of(
  st.text(max_size=12),
  st.text(_ODD, max_size=12),
  st.text('aA_.?*é', max_size=3),
  st.builds(
    lambda letter, count: letter * count,
    st.sampled_from('aé漢🎉./\x1b'),
    st.sampled_from([90, 101, 130, 255, 256, 20_000]),
  ),
  st.sampled_from(
    ['..', '.', '', '...json', '../../x', '/etc/x', 'a->b', 'a|||t1', 'CON',
     '-x', '~', 'é', 'e\u0301', '</script>', '\x1b[2J', 'x_2', '=1+1']
  ),
)  # fmt: skip


def in_either_tier(few, strategy):
  """Draws so many cases in the normal tier, and all of them in the other."""

  def decorate(test):
    @few_or_all(few)
    def run(count):
      cases(count, 20)(hypothesis.given(strategy)(test))()

    return run

  return decorate


@contextlib.contextmanager
def _inside():
  """A directory beside which nothing may appear."""
  with tempfile.TemporaryDirectory() as folder:
    inside = pathlib.Path(folder, 'inside')
    inside.mkdir()
    yield inside
    assert os.listdir(folder) == ['inside']


@in_either_tier(200, st.lists(NAMES, max_size=8))
def test_each_title_has_a_file_of_its_own(titles):
  names = evaluation_files.distinct_names(titles)
  distinct = list(dict.fromkeys(titles))
  own = [evaluation_files.name_of(title) for title in distinct]
  for some in (names, own):
    with _inside() as inside:
      for name in some:
        (inside / name).open('x').close()
        (inside / f'trace_{name}.json.1234567.part').open('x').close()
      assert len(os.listdir(inside)) == 2 * len(some)


@in_either_tier(50, st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_tasks_of_any_name_are_written_and_drawn(names):
  with _inside() as inside:
    _try_tasks(names, inside)


def _try_tasks(names, inside):
  source = inside / 'x_challenges.json'
  source.write_text(
    json.dumps({n: random_task(i) for i, n in enumerate(names)})
  )
  try:
    tasks = load_tasks(str(source)).tasks
  except DataError as error:
    assert '\n' not in str(error)
    return
  out = inside / 'out'
  out.mkdir()
  evaluation_files.promise(tasks, out)
  first = (out / 'submission.json').read_bytes()
  evaluation_files.write_votes(out, tasks, {}, {}, tasks)
  assert (out / 'submission.json').read_bytes() == first
  assert [*json.loads(first)] == names
  _draw(tasks, out)
  tokens = np.ones((1, 1, 16), np.int32)
  thought = Thought('H', tokens, {}, np.array([True]), None)
  titles = evaluation_files.distinct_names(names)
  for name, title in zip(names, titles, strict=True):
    style = pictures.style_of(None, 12)
    trace = Trace(name, style, (tokens[0, 0],), (thought,))
    trace.save(out / f'trace_{title}.png')
  told = leaks.report(leaks.find_leaks(str(source), str(source)))
  assert len(re.findall('^both', told, re.M)) == len(names) + 1
  _is_plain(command.plain(told))
  page = report.render({'name': names[0], 'entries': names})
  assert page.count('<script') == page.count('</script>') == 2
  (out / 'page.html').write_text(page)
  assert len(os.listdir(out)) == 6 + len(names)


def _draw(tasks, directory):
  """As `show` does, without making a data pipeline."""
  names = [task.name for task in tasks]
  cells = np.ones((len(names), 16), np.int32)
  batch = {'inputs': cells, 'labels': cells}
  style, path = pictures.style_of(None, 12), directory / 'examples.png'
  pictures.draw_examples(style, names, batch, batch, names[0], path)


def _is_plain(text):
  assert text.replace('\n', '').isprintable()


@in_either_tier(200, st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_files_of_any_name_are_read(names):
  with _inside() as inside:
    for number, name in enumerate(names):
      path = inside / f'{name}.json'
      with contextlib.suppress(OSError, ValueError):
        if os.path.normpath(path.parent) == str(inside):
          path.write_text(json.dumps(random_task(number)))
    try:
      tasks = load_tasks(str(inside)).tasks
    except DataError as error:
      assert '\n' not in str(error)
      return
    _draw(tasks, inside)


def test_names_reach_the_terminal_escaped(random_arc_run, tmp_path, capsys):
  name = 'a\x1b[2J\n\x9b1mb'
  path = tmp_path / f'{name}_challenges.json'
  path.write_text(json.dumps({name: random_task(5), 'a': random_task(1, 9)}))
  fitting = Fitting('none', num_aug=1)
  predict.run(random_arc_run, str(path), fitting, out=tmp_path / name)
  _is_plain(capsys.readouterr().out)
  with pytest.raises(SystemExit):
    command.fail(f'{path}: \ud800')
  told = capsys.readouterr().err
  assert told.count('\n') == 1
  _is_plain(told)


@pytest.mark.parametrize(
  'count', [5, pytest.param(100, marks=pytest.mark.slow)]
)
def test_tasks_of_any_name_are_predicted(random_arc_run, count, capsys):
  @cases(count, 20)
  @hypothesis.given(st.lists(NAMES, min_size=1, max_size=3, unique=True))
  def check(names):
    with _inside() as inside:
      source = inside / 'x_challenges.json'
      source.write_text(
        json.dumps({n: random_task(i + 5) for i, n in enumerate(names)})
      )
      fitting = Fitting('none', num_aug=1)
      out = inside / 'out'
      try:
        predict.run(random_arc_run, str(source), fitting, out=out, trace=True)
      except (ConfigError, DataError) as error:
        assert '\n' not in str(error)
        return
      _is_plain(capsys.readouterr().out)
      data = puzzles.load_puzzles(str(source), '', 4, 0, 0)
      show.show(data, inside / 'examples.png', 8, 0)
      assert len(os.listdir(out)) == 4 + 2 * len(names)

  check()
