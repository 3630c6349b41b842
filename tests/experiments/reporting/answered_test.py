"""Rows of what answers without a run: read back from what was written."""

import json

import pytest

from data_pipelines.errors import ConfigError
from experiments import compare, compress, llm
from experiments.language_models.asking import Plan
from experiments.reporting import answered
from hrm_jax.compressarc import solving
from tests.endpoint import serving
from tests.run_fixtures import random_task


@pytest.fixture
def asked(tmp_path):
  """What `hrm-jax llm` wrote of a task, unsolved, and of a Sudoku, solved."""
  path = tmp_path / 'task.json'
  path.write_text(json.dumps(random_task(1)))
  answers = {'Sudoku': '<answer>\n1234\n3412\n2143\n4321\n</answer>'}

  def reply(body):
    return answers['Sudoku'] if 'Sudoku' in str(body['messages']) else '?'

  with serving(reply) as endpoint:
    for name, spec in (('arc', str(path)), ('sudoku', '1234341221434...')):
      plan = Plan(
        model='tiny', base_url=endpoint.url, input_price=1.0, output_price=1.0
      )
      assert llm.run(spec, tmp_path / name, plan) is None
  return tmp_path


def test_a_language_model_is_a_row_with_its_rule_cost_and_date(asked):
  found = [answered.read(asked / name) for name in ('arc', 'sudoku')]
  arc, sudoku = found
  assert next(iter(arc.percent.items())) == ('pass@2, test outputs (Kaggle)', 0)
  assert next(iter(sudoku.percent.items())) == ('exact, one attempt', 100)
  assert sudoku.percent['exact, one of 2 attempts'] == 100
  assert len(arc.percent) == 6 and len(sudoku.percent) == 4
  text = answered.report(found)
  rows = [
    line.split('|')[1:-1] for line in text.splitlines() if line[0:1] == '|'
  ]
  cells = [[cell.strip() for cell in row] for row in rows[2:]]
  assert [row[1] for row in cells] == ['tiny', 'tiny']
  assert [row[3:6] for row in cells] == [
    ['pass@2, test outputs (Kaggle)', '0.0', '2'],
    ['exact, one attempt', '100.0', '2'],
  ]
  # 220 tokens of two attempts, a dollar a million.
  assert cells[0][6] == '$0.00022'
  dates = json.loads((asked / 'arc' / 'scores.json').read_text())['dates']
  assert cells[0][7].startswith(dates[0][:10])
  assert f'`{sudoku.command}`' in text and '--model=tiny' in sudoku.command


def test_compare_takes_runs_and_answers_in_any_order(
  asked, trained_run, monkeypatch, capsys
):
  monkeypatch.setattr(
    compare, 'FLAGS',
    type('Flags', (), {
      'runs': [str(asked / 'arc'), str(trained_run), str(asked / 'sudoku')],
      'metric': 'exact', 'out': asked / 'compared',
    }),
  )  # fmt: skip
  compare.main([])
  text = capsys.readouterr().out
  record = json.loads(text.splitlines()[-1])
  assert [one['system'] for one in record['answered']] == ['tiny', 'tiny']
  assert [one['runs'] for one in record['measured']] == [[str(trained_run)]]
  measured, quoted = text.split('## Published, quoted')
  assert '| (2) | tiny' in measured and '| [1] | direct' in measured
  assert 'tiny' not in quoted.split('Sources:')[0]


@pytest.mark.slow
def test_compressarc_is_a_row_too(tmp_path, monkeypatch):
  monkeypatch.setattr(solving, 'STEPS', 2)
  path = tmp_path / 'task.json'
  path.write_text(json.dumps(random_task(1)))
  compress.run(str(path), tmp_path / 'out', solving.Plan(num_steps=2))
  found = answered.read(tmp_path / 'out')
  assert found.system == 'CompressARC, 2 steps, seed 0'
  assert found.percent['pass@2, test outputs (Kaggle)'] in (0, 100)


@pytest.mark.parametrize(
  'contents, message',
  [
    ('', 'not JSON'),
    ('[]', 'is not what llm or compress writes'),
    ('{"model": "x"}', 'is not what llm or compress writes'),
    ('{"model": "x", "attempts": 2, "cost_per_puzzle": "much", "dates": [], '
     '"command": "", "unanswered": 0}', 'is not what llm or compress writes'),
    ('{"puzzles": "x", "num_steps": 5, "seed": 0}', 'has no score'),
  ],
)  # fmt: skip
def test_what_cannot_be_a_row_is_told(tmp_path, contents, message):
  (tmp_path / 'scores.json').write_text(contents)
  assert answered.is_one(tmp_path)
  with pytest.raises(ConfigError, match=message) as refused:
    answered.read(tmp_path)
  assert '\n' not in str(refused.value)


def test_a_run_is_no_row_of_these(trained_run, tmp_path):
  assert not answered.is_one(trained_run)
  assert not answered.is_one(tmp_path / 'nowhere')
