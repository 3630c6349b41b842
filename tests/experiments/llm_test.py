"""Language models on the command line, against a server on this machine."""

import collections
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from data_pipelines import as_text
from data_pipelines.arc.tasks import load_tasks
from data_pipelines.errors import ConfigError, DataError
from data_pipelines.questions.loading import load_questions
from experiments import llm
from experiments.language_models.asking import Plan
from hrm_jax.workdir import lock
from tests.endpoint import Status, completion, serving
from tests.run_fixtures import random_task

_ROOT = pathlib.Path(__file__).parents[2]
_KEY = 'sk-never-to-be-seen-1234567890'
_SUDOKU = 'sudoku:box=2x2:count=1:tests=4'


@pytest.fixture(autouse=True)
def key(monkeypatch):
  monkeypatch.setenv('OPENAI_API_KEY', _KEY)


def _write_tasks(folder, count, **options):
  folder.mkdir()
  for number in range(count):
    contents = json.dumps(random_task(number, **options))
    (folder / f't{number:02}.json').write_text(contents)
  return str(folder)


def _true_answers(spec):
  """What is to be answered to each prompt, by its text."""
  if 'sudoku' in spec or 'maze' in spec:
    puzzles = load_questions(spec, 'test', 0)
    return {
      prompt.text: as_text.lines_of(
        tokens.reshape(prompt.shape), prompt.characters
      )
      for prompt, tokens in zip(
        as_text.prompts(puzzles), puzzles.answers, strict=True
      )
    }
  tasks = load_tasks(spec)
  prompts = iter(as_text.prompts(tasks))
  return {
    next(prompts).text: as_text.lines_of(test.output)
    for task in tasks.tasks
    for test in task.tests
  }


def _form(text):
  return f'I see.\n<answer>\n{text}\n</answer>\n'


def _text(body):
  return body['messages'][0]['content']


def _plan(endpoint, **changes):
  return Plan(
    **{'model': 'tiny', 'base_url': endpoint.url, 'backoff': 0.01} | changes
  )


def _scores(out):
  return json.loads((out / 'scores.json').read_text())


def test_tasks_are_scored_as_every_systems_are(tmp_path, capsys):
  spec = _write_tasks(tmp_path / 'tasks', 4)
  truth = _true_answers(spec)
  texts, turn = [*truth], collections.Counter()

  def reply(body):
    text = _text(body)
    turn[text] += 1
    number, first = texts.index(text), turn[text] == 1
    if number == 0:
      return _form(truth[text])
    if number == 1:
      return _form('1 1') if first else _form(truth[text])
    if number == 2:
      return 'I do not know.' if first else _form(truth[text])
    refused = completion(None, usage=None)
    refused['choices'][0]['message']['refusal'] = 'I will not.'
    cut = completion('<answer>\n1 2')
    cut['choices'][0]['finish_reason'] = 'length'
    return refused if first else cut

  out = tmp_path / 'out'
  with serving(reply) as endpoint:
    assert llm.run(spec, out, _plan(endpoint, concurrency=1)) is None
  told = capsys.readouterr().out
  for line in (
    'No answer in t02, test 1, attempt 1: there is nothing between <answer>',
    'No answer in t03, test 1, attempt 1: refused, I will not.',
    'No answer in t03, test 1, attempt 2: cut off at --max_tokens=16384, there',
  ):  # fmt: skip
    assert line in told
  assert re.search('^   1 +25.00 % +1/4 ', told, re.M)
  assert re.search('^   2 +75.00 % +3/4 ', told, re.M)
  scores = _scores(out)
  assert scores['eval/pass@1/outputs'] == 0.25
  assert scores['eval/pass@2/whole_tasks'] == 0.75
  assert scores['model'] == 'tiny' and scores['answered_as'] == ['served']
  assert (scores['requests'], scores['unanswered']) == (8, 0)
  assert len(scores['without_answer']) == 3
  assert scores['cost'] is None and scores['cost_per_puzzle'] is None
  submission = json.loads((out / 'submission.json').read_text())
  last = random_task(3)
  right = [
    [[int(x) for x in line.split()] for line in text.split('\n')]
    for text in truth.values()
  ]
  assert [*submission.values()] == [
    [{'attempt_1': right[0], 'attempt_2': right[0]}],
    [{'attempt_1': [[1, 1]], 'attempt_2': right[1]}],
    [{'attempt_1': right[2], 'attempt_2': right[2]}],
    # The fallbacks: the input, and an output.
    [{'attempt_1': last['test'][0]['input'],
      'attempt_2': last['train'][0]['output']}],
  ]  # fmt: skip
  predictions = json.loads((out / 'predictions.json').read_text())
  assert [x['votes'] for x in predictions['t00'][0]] == [2]
  assert [x['votes'] for x in predictions['t01'][0]] == [1, 1]
  assert (out / 'predictions.png').exists()


@pytest.mark.parametrize(
  'spec', [_SUDOKU, 'maze:size=6x6:path=5:count=1:tests=4']
)
def test_questions_are_scored_by_one_attempt_and_by_two(spec, tmp_path, capsys):
  truth = _true_answers(spec)
  texts, turn = [*truth], collections.Counter()

  def reply(body):
    text = _text(body)
    turn[text] += 1
    if texts.index(text) >= turn[text]:
      return 'nothing'
    return _form(truth[text])

  out = tmp_path / 'out'
  with serving(reply) as endpoint:
    plan = _plan(endpoint, concurrency=1, input_price=3.0, output_price=15.0)
    assert llm.run(spec, out, plan) is None
  told = capsys.readouterr().out
  assert 'One attempt: exact 1/4, valid 1/4, 25.00 % of the cells' in told
  assert 'One of 2 attempts: exact 2/4, valid 2/4' in told
  scores = _scores(out)
  assert (scores['eval/exact'], scores['eval/valid']) == (0.25, 0.25)
  assert (scores['eval/exact@2'], scores['eval/valid@2']) == (0.5, 0.5)
  assert scores['tokens'] == [800, 80]
  assert scores['cost'] == pytest.approx((800 * 3 + 80 * 15) / 1e6)
  assert scores['cost_per_puzzle'] == pytest.approx(scores['cost'] / 4)
  assert '800 tokens read and 80 written, $0.0036' in told
  header, *rows = (out / 'predictions.csv').read_text().splitlines()
  assert header == 'puzzle,question,answer,prediction,exact,valid,accuracy'
  assert [row.split(',')[4] for row in rows] == ['1', '0', '0', '0']


def test_a_valid_answer_that_is_not_the_label_is_valid_alone(tmp_path):
  maze = tmp_path / 'maze.txt'
  maze.write_text('S..\n...\n..G\n')
  with serving(lambda _: _form('S..\no..\nooG')) as endpoint:
    llm.run(str(maze), tmp_path / 'a', _plan(endpoint))
  with serving(lambda _: _form('Soo\n..o\n..G')) as endpoint:
    llm.run(str(maze), tmp_path / 'b', _plan(endpoint))
  found = [_scores(tmp_path / name) for name in 'ab']
  assert [one['eval/valid'] for one in found] == [1.0, 1.0]
  assert sum(one['eval/exact'] for one in found) <= 1


def test_what_a_budget_leaves_out_counts_as_wrong_and_goes_on(tmp_path, capsys):
  spec = _write_tasks(tmp_path / 'tasks', 6)
  truth, out = _true_answers(spec), tmp_path / 'out'
  plan = {
    'input_price': 0.0, 'output_price': 1e6, 'max_tokens': 10, 'attempts': 1,
  }  # fmt: skip
  with serving(lambda body: _form(truth[_text(body)])) as endpoint:
    assert llm.run(spec, out, _plan(endpoint, budget=45, **plan)) == 75
    assert len(endpoint.requests) == 4
    scores = _scores(out)
    assert (scores['unanswered'], scores['cost']) == (2, 40)
    assert scores['eval/pass@1/outputs'] == pytest.approx(4 / 6)
    assert len(json.loads((out / 'submission.json').read_text())) == 6
    told = capsys.readouterr().out
    assert 'Ended by the budget' in told and '2 attempts have no reply' in told
    # Once more it stops at once; with more money it goes on.
    assert llm.run(spec, out, _plan(endpoint, budget=45, **plan)) == 75
    assert len(endpoint.requests) == 4
    assert llm.run(spec, out, _plan(endpoint, budget=60, **plan)) is None
    assert len(endpoint.requests) == 6
  assert _scores(out)['eval/pass@1/outputs'] == 1


def test_a_second_attempt_may_be_added_and_other_work_may_not(tmp_path):
  spec = _write_tasks(tmp_path / 'tasks', 2)
  out = tmp_path / 'out'
  with serving(lambda _: _form('1')) as endpoint:
    llm.run(spec, out, _plan(endpoint, attempts=1))
    llm.run(spec, out, _plan(endpoint, attempts=2))
    assert len(endpoint.requests) == 4
    for changes in ({'model': 'other'}, {'extra': {'seed': 1}}):
      with pytest.raises(ConfigError, match='is of other work, whose '):
        llm.run(spec, out, _plan(endpoint, **changes))
    with pytest.raises(ConfigError, match='is of other work, whose puzzles'):
      llm.run(_SUDOKU, out, _plan(endpoint))
    assert len(endpoint.requests) == 4


def test_one_process_at_a_time(tmp_path):
  spec = _write_tasks(tmp_path / 'tasks', 1)
  with serving(lambda _: 'x') as endpoint, lock.hold(tmp_path / 'out'):
    with pytest.raises(ConfigError, match='out is in use by process'):
      llm.run(spec, tmp_path / 'out', _plan(endpoint))
    assert not endpoint.requests


def test_tasks_without_known_answers_are_answered_and_not_scored(
  tmp_path, capsys
):
  spec = _write_tasks(tmp_path / 'tasks', 1, known=False)
  with serving(lambda _: _form('1 2')) as endpoint:
    llm.run(spec, tmp_path / 'out', _plan(endpoint))
  assert 'nothing to score' in capsys.readouterr().out
  submission = json.loads((tmp_path / 'out' / 'submission.json').read_text())
  assert submission['t00'][0]['attempt_1'] == [[1, 2]]
  assert not [x for x in _scores(tmp_path / 'out') if x.startswith('eval/')]


def test_a_task_that_cannot_be_asked_costs_nothing(tmp_path):
  path = tmp_path / 'big.json'
  path.write_text(json.dumps(random_task(1, width=31)))
  with serving(lambda _: 'x') as endpoint:
    with pytest.raises(DataError, match='leave the task out'):
      llm.run(str(path), tmp_path / 'out', _plan(endpoint))
    assert not endpoint.requests


def _start(*flags):
  return subprocess.Popen(
    [sys.executable, '-m', 'experiments', 'llm', '--model=tiny', *flags],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@pytest.mark.slow
def test_a_wrong_key_is_one_line_and_none_of_it_is_said(tmp_path):
  error = {'error': {'message': f'Incorrect API key provided: {_KEY}'}}
  with serving(lambda _: Status(401, error)) as endpoint:
    process = _start(
      f'--base_url={endpoint.url}', f'--task={_SUDOKU}',
      f'--out={tmp_path / "out"}', '--extra={"temperature": 1}',
    )  # fmt: skip
    out, errors = process.communicate(timeout=300)
  assert (process.returncode, out) == (2, '')
  (line,) = errors.splitlines()
  assert line.startswith(f'error: {endpoint.url} answers HTTP 401: Incorrect')
  assert 'OPENAI_API_KEY' in line
  assert _KEY not in errors
  _assert_hidden(tmp_path)


def _assert_hidden(folder):
  files = [path for path in folder.rglob('*') if path.is_file()]
  assert files
  for path in files:
    assert _KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
  'flag, message',
  [
    ('--extra=5', '--extra is no JSON object; give one such as'),
    ('--extra={', '--extra is no JSON object; give one such as'),
    ('--budget=1', '--budget needs --input_price and --output_price'),
    ('--base_url=http://me:pass@host/v1', '--base_url has a name, a password'),
  ],
)
def test_flags_that_cannot_be_used(flag, message, tmp_path, monkeypatch):
  monkeypatch.setattr(
    sys, 'argv', ['', '--model=m', f'--out={tmp_path / "x"}', '--task=x', flag]
  )
  llm.FLAGS.unparse_flags()
  llm.command.parse(llm.FLAGS, 'llm')
  try:
    with pytest.raises(ConfigError, match=message):
      llm.main([])
  finally:
    for name in ('extra', 'budget', 'base_url', 'model', 'out', 'task'):
      llm.FLAGS[name].unparse()
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
  ('number', 'code', 'told'),
  [
    (signal.SIGINT, 130, 'interrupted\n'),
    (signal.SIGTERM, 143, 'terminated\n'),
  ],
)
def test_a_signal_ends_it_in_one_line(number, code, told, tmp_path):
  spec, out = _write_tasks(tmp_path / 'tasks', 3), tmp_path / 'out'
  held = threading.Event()

  def reply(_):
    # The first three replies come at once.
    if len(endpoint.requests) > 3:
      held.wait(60)
    return _form('1')

  with serving(reply) as endpoint:
    flags = (f'--task={spec}', f'--out={out}', f'--base_url={endpoint.url}')
    process = _start(*flags)
    while len(endpoint.requests) < 6:
      assert process.poll() is None, process.communicate()
      time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate(timeout=60) == ('', told)
    assert process.returncode == code
    held.set()
    assert [*json.loads((out / 'submission.json').read_text())] == [
      't00', 't01', 't02',
    ]  # fmt: skip
    assert llm.run(spec, out, _plan(endpoint)) is None
  assert _scores(out)['unanswered'] == 0


@pytest.mark.slow
def test_killed_five_times_it_asks_nothing_twice_that_was_answered(tmp_path):
  spec = _write_tasks(tmp_path / 'tasks', 20)
  truth, out = _true_answers(spec), tmp_path / 'out'
  kills, concurrency, budget = 5, 3, 100.0
  answered = collections.Counter()
  # Any one attempt is right, so that all are solved.
  told, stored = '', []

  def reply(body):
    time.sleep(0.05)
    answered[_text(body)] += 1
    return _form(truth[_text(body)])

  def lines():
    data = (out / 'replies.jsonl').read_text()
    return [json.loads(x) for x in data.split('\n')[:-1]]

  with serving(reply) as endpoint:
    flags = (
      f'--task={spec}', f'--out={out}', f'--base_url={endpoint.url}',
      f'--concurrency={concurrency}', '--max_tokens=100', '--input_price=0',
      '--output_price=10000', f'--budget={budget}',
    )  # fmt: skip
    for kill in range(kills):
      process = _start(*flags)
      while len(endpoint.requests) < 6 * (kill + 1) + kill:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
      process.send_signal(signal.SIGKILL)
      told += ''.join(process.communicate())
      assert process.returncode == -signal.SIGKILL
      stored.append(len(lines()))
    process = _start(*flags)
    told += ''.join(process.communicate(timeout=300))
    assert process.returncode == 0, told
  found = lines()
  unit = lambda line: (line['puzzle'], line['attempt'])  # noqa: E731
  sent = [unit(line) for line in found if 'sent' in line]
  replies = [unit(line) for line in found if 'reply' in line]
  # Each attempt has one reply, and no request after it.
  assert len(replies) == len(set(replies)) == 40
  done = set()
  for line in found:
    if 'sent' in line:
      assert unit(line) not in done
    elif 'reply' in line:
      done.add(unit(line))
  # What was sent again was in flight at a kill, and nothing was sent that is
  # not in the file.
  again = len(sent) - 40
  assert 0 < again <= kills * concurrency
  assert len(endpoint.requests) <= len(sent)
  assert len(set(stored)) == kills
  for text, count in answered.items():
    lost = sum(puzzle in _names(spec, text) for puzzle, _ in sent) - 2
    assert 2 <= count <= 2 + lost
  # What was lost counts at its most, and all of it is within the budget.
  scores = _scores(out)
  assert scores['tokens'][1] == 40 * 10 + again * 100
  assert scores['cost'] <= budget
  assert (scores['unanswered'], scores['eval/pass@1/outputs']) == (0, 1)
  submission = json.loads((out / 'submission.json').read_text())
  for task in load_tasks(spec).tasks:
    (attempts,) = submission[task.name]
    np.testing.assert_array_equal(attempts['attempt_1'], task.tests[0].output)
  assert _KEY not in told
  _assert_hidden(tmp_path)


def _names(spec, text):
  prompts = as_text.prompts(load_tasks(spec))
  return {prompt.puzzle for prompt in prompts if prompt.text == text}
