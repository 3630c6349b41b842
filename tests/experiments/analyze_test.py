"""Analyses of a tiny HRM on ARC tasks, against `evaluate` above all."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

from data_pipelines.arc.tasks import Pair, Task
from data_pipelines.errors import ConfigError
from data_pipelines.questions.choosing import RULES
from data_pipelines.questions.scoring import BEST
from experiments import analyze, evaluate
from experiments.analysis import analyses, figures
from experiments.configs import arc1, sudoku
from hrm_jax import solver
from hrm_jax.inference import evaluation
from tests import builders

pytestmark = pytest.mark.slow

# More than the run's own; and beyond them.
_SEGMENTS = 4
_NEVER_IN_DIRECT = {
  'residuals', 'segments', 'halting', 'calibration', 'agreement',
}  # fmt: skip


def _write_tasks(directory):
  """Four small tasks: copy the input, or paint two cells in one colour."""
  directory.mkdir()
  rng = np.random.default_rng(0)
  for number in range(4):
    pairs = []
    for _ in range(5):
      grid = rng.integers(0, 10, (2, 2)).tolist()
      answer = grid if number % 2 else [[number, number]]
      pairs.append({'input': grid, 'output': answer})
    task = {'train': pairs[:3], 'test': pairs[3:]}
    (directory / f'task{number}.json').write_text(json.dumps(task))


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A tiny HRM with a puzzle table, which solves some of its tasks."""
  root = tmp_path_factory.mktemp('analyze')
  _write_tasks(root / 'tasks')
  config = arc1.get_config('demo')
  config.data.evaluate = str(root / 'tasks')
  config.data.allow_leaks = True
  config.data.canvas = 2
  config.data.num_aug = 4
  config.batch_size = 16
  config.total_steps = 150
  config.log_every = config.checkpoint_every = 150
  config.optimizer.warmup_steps = 1
  config.optimizer.learning_rate = 0.01
  config.model.hidden_size = 16
  config.model.num_heads = 2
  config.model.H_layers = config.model.L_layers = 1
  config.model.expansion = 1.0
  config.model.puzzle_emb_ndim = 16
  config.act.halting = 'q_learning'
  config.evaluation.batch_size = 16
  builders.train(config, root / 'run')
  return root / 'run'


@pytest.fixture(scope='module')
def subject(run):
  return analyses.prepare(solver.load(run), segments=_SEGMENTS)


@pytest.fixture(scope='module')
def analysed(run, tmp_path_factory):
  """Everything, and where it was written."""
  out = tmp_path_factory.mktemp('analysis') / 'out'
  return analyze.run(run, out=out, segments=_SEGMENTS), out


def _scores(judge):
  names = {'exact': 'exact', 'accuracy': 'accuracy'}
  names |= {f'pass@{k}': f'pass@{k}/outputs' for k in (1, 2)}
  return {short: judge.metrics[f'eval/{name}'] for short, name in names.items()}


def _at(numbers, over, value):
  row = numbers[over].index(value)
  return {name: column[row] for name, column in numbers.items() if name != over}


def test_each_analysis_has_a_figure_its_definition_and_its_settings(analysed):
  summary, out = analysed
  assert summary['analyses'].keys() == analyses.ANALYSES.keys()
  assert json.loads((out / 'summary.json').read_text()) == summary
  for name, found in summary['analyses'].items():
    record = json.loads((out / f'{name}.json').read_text())
    assert record['numbers'] == found['numbers']
    assert {'words', 'formula', 'source'} <= record['definition'].keys()
    assert record['settings']['step'] == 150
    assert record['settings']['rows'] in (8, 40)
    with Image.open(out / f'{name}.png') as picture:
      picture.verify()
  count = 2 * len(analyses.ANALYSES) + 1
  assert len(list(out.iterdir())) == count


@pytest.mark.parametrize('segments', [1, _SEGMENTS])
def test_segments_score_exactly_as_evaluate_does(analysed, run, segments):
  numbers = analysed[0]['analyses']['segments']['numbers']
  judge = evaluate.run(run, segments=segments)
  assert judge.metrics['eval/steps'] == segments
  assert _at(numbers, 'segments', segments) == _scores(judge)
  name = f'step_150_{segments}_segments'
  facts = json.loads((run / 'evaluation' / name / 'scores.json').read_text())
  assert facts['segments'] == segments


def test_segments_make_a_difference(analysed):
  numbers = analysed[0]['analyses']['segments']['numbers']
  assert numbers['segments'] == [1, 2, 3, 4]
  assert len(set(numbers['exact'])) > 1
  assert 0 < numbers['pass@1'][0] < 1


def test_halting_scores_as_evaluate_does(analysed, run):
  numbers = analysed[0]['analyses']['halting']['numbers']
  judge = evaluate.run(run, halting='act')
  steps = judge.metrics['eval/steps']
  assert numbers['act'] == {**_scores(judge), 'segments': steps}
  # The run's own number of segments.
  fixed = evaluate.run(run, segments=2)
  assert numbers['fixed'] == {**_scores(fixed), 'segments': 2}
  names = {path.name for path in (run / 'evaluation').iterdir()}
  assert {'step_150', 'step_150_act'} <= names
  assert 'step_150_2_segments' not in names


def test_augmentations_vote_as_in_evaluate(analysed, run):
  numbers = analysed[0]['analyses']['augmentations']['numbers']
  assert numbers['augmentations'] == [1, 3, 5]
  judge = evaluate.run(run, max_augmentations=3)
  assert _at(numbers, 'augmentations', 3) == _scores(judge)


def test_identifiers_alone_are_changed(subject, monkeypatch):
  given = []

  def spy(query, predict, size, **_):
    assert query.puzzles is subject.puzzles and query.rows is subject.chosen
    assert query.puzzle_table is subject.query.puzzle_table
    given.append(query.identifiers[query.rows.identifier])
    metrics = {'eval/exact': 0.5, 'eval/accuracy': 0.5}
    return types.SimpleNamespace(metrics=metrics)

  monkeypatch.setattr(evaluation, 'evaluate', spy)
  numbers = analyses.identifiers(subject).numbers
  assert list(numbers) == ['right', 'blank', 'swapped']
  right, blank, swapped = given
  np.testing.assert_array_equal(right, subject.chosen.identifier)
  assert not blank.any()
  assert not (swapped == right).any() and swapped.all()


def test_swapped_identifiers_are_another_tasks(subject):
  chosen = subject.chosen
  group_of = dict(zip(chosen.identifier, chosen.group, strict=True))
  swapped = analyses._swapped(subject)[chosen.identifier]
  assert all(
    group_of[other] != group
    for other, group in zip(swapped, chosen.group, strict=True)
  )
  # Each task lends its rows to one other task.
  pairs = {(g, group_of[o]) for g, o in zip(chosen.group, swapped, strict=True)}
  assert len(pairs) == len({lent for _, lent in pairs}) == 4


def test_dimensions_are_of_more_and_more_tasks(analysed):
  found = analysed[0]['analyses']['dimensions']['numbers']
  assert found['tasks'] == [1, 2, 3, 4]
  for network in ('trained', 'fresh'):
    for pooled in found['participation_ratio'][network].values():
      for ratios in pooled.values():
        assert len(ratios) == 4
        assert all(1 <= ratio <= 16 for ratio in ratios)
  trained, fresh = found['participation_ratio'].values()
  assert trained['z_L'] != fresh['z_L']
  record = json.loads((analysed[1] / 'dimensions.json').read_text())
  vectors = record['settings']['vectors']
  # 5 tokens; 2 segments of 4 updates of z_L and 2 of z_H; 8 test inputs.
  assert vectors['z_L'] == {'tokens': 5 * 8 * 8, 'mean_token': 8 * 8}
  assert vectors['z_H'] == {'tokens': 5 * 4 * 8, 'mean_token': 4 * 8}


def test_residuals_have_their_place_among_the_updates(analysed):
  found = analysed[0]['analyses']['residuals']['numbers']
  assert found['z_L']['update'][:6] == [1, 2, 4, 5, 7, 8]
  assert found['z_H']['update'] == [3, 6, 9, 12, 15, 18, 21, 24]
  for values in found.values():
    quantiles = np.array(list(values['quantiles'].values()))
    assert (np.diff(quantiles, axis=0) >= 0).all()
    assert (quantiles[0] <= values['mean']).all()


def test_calibration_counts_every_row(analysed):
  found = analysed[0]['analyses']['calibration']['numbers']
  segments = analysed[0]['analyses']['segments']['numbers']
  assert sum(found['count']) == 40
  assert found['mean_exact'] == _at(segments, 'segments', 2)['exact']


def test_agreement_is_that_of_the_votes(analysed, run):
  found = analysed[0]['analyses']['agreement']['numbers']
  whole = solver.load(run).evaluate()
  shares, right = [], []
  for answer in whole.answers:
    for test, ranked in enumerate(answer.attempts):
      shares.append(ranked[0].votes / answer.cast[test])
      right.append(answer.right()[test])
  assert sum(found['count']) == len(shares) == 8
  assert found['mean_confidence'] == pytest.approx(np.mean(shares))
  assert found['mean_exact'] == np.mean(right)


def test_direct_prediction_says_what_does_not_apply(
  trained_run, tmp_path, capsys
):
  summary = analyze.run(trained_run, out=tmp_path, max_puzzles=4)
  absent = {
    name
    for name, found in summary['analyses'].items()
    if 'not_applicable' in found
  }
  assert absent == _NEVER_IN_DIRECT | {'augmentations', 'identifiers'}
  assert not (tmp_path / 'segments.png').exists()
  lines = capsys.readouterr().out.splitlines()
  assert any(
    line.split(maxsplit=1)
    == ['segments', 'does not apply: direct prediction has no segments']
    for line in lines
  )
  ratios = summary['analyses']['dimensions']['numbers']['participation_ratio']
  assert ratios['trained'].keys() == {'z_H'}


def test_without_answers_only_states_are_looked_at(subject):
  def changed(**fields):
    query = dataclasses.replace(subject.query, **fields)
    return dataclasses.replace(subject, query=query)

  nothing = changed(rows=subject.chosen.take(np.zeros(0, int)))
  grid = np.ones((2, 2), np.uint8)
  unknown = types.SimpleNamespace(
    evaluation_tasks=[Task('a', (), (Pair(grid, None),))]
  )
  unanswered = changed(puzzles=unknown)
  for name in analyses.ANALYSES:
    assert analyses.not_applicable(name, subject) is None
    assert 'nothing is held out' in analyses.not_applicable(name, nothing)
    why = analyses.not_applicable(name, unanswered)
    if name in ('dimensions', 'residuals'):
      assert why is None
    else:
      assert why == 'no held-out answer is known'


def test_answers_of_all_segments_are_chosen_from(tiny_config, tmp_path):
  config = sudoku.get_config('demo,recurrent_transformer')
  config.update(tiny_config, model={'kind': config.model.kind})
  builders.train(config, tmp_path / 'run')
  subject = analyses.prepare(solver.load(tmp_path / 'run'), segments=4)
  puzzles, rows = subject.puzzles, np.arange(10)

  def after(segments):
    found = subject.solver.predict(
      subject.query, 'fixed', segments, batch_size=16
    ).found
    return found['tokens'], found['confidence'], found['exact']

  tokens = [after(count)[0] for count in (1, 2, 3, 4)]
  # What the untrained network says last is right for some, and what it says
  # earlier for others, of which it may be less sure.
  right = np.stack(tokens)[rows % 4, rows]
  puzzles.evaluate = puzzles.evaluate._replace(answers=right)
  _, sure, exact = map(np.stack, zip(*map(after, (1, 2, 3, 4)), strict=True))
  assert len({tuple(row) for row in exact}) > 2
  numbers = analyses.segments(subject).numbers
  assert numbers['exact'] == exact.mean(axis=1).tolist()
  counts = [1, 2, 4]
  surest = [sure[:count].argmax(axis=0) for count in counts]
  assert numbers['chosen'] == {
    **{rule: numbers['chosen'][rule] for rule in RULES},
    'segments': counts,
    'q': [exact[taken, rows].mean() for taken in surest],
    BEST: [exact[:count].any(axis=0).mean() for count in counts],
  }
  record = {
    'analysis': 'segments',
    'numbers': numbers,
    'settings': {'step': 4, 'rows': 10, 'halt_max_steps': 2},
  }
  (axes,) = figures.draw(record).axes
  drawn = {line.get_label(): line.get_ydata() for line in axes.lines}
  assert list(drawn['any so far exact']) == numbers['chosen'][BEST]


def test_only_what_was_asked_for(trained_run, tmp_path):
  summary = analyze.run(trained_run, out=tmp_path, only=['segments'])
  assert list(summary['analyses']) == ['segments']
  assert [path.name for path in tmp_path.iterdir()] == ['summary.json']


@pytest.mark.parametrize(
  'arguments, message',
  [
    ({'only': ['segment']}, 'unknown: segment; use some of dimensions, '),
    ({'step': 7}, 'no checkpoint of step 7; there are 150'),
  ],
)
def test_mistakes_are_named(run, arguments, message):
  with pytest.raises(ConfigError, match=message):
    analyze.run(run, **arguments)


def test_a_directory_that_is_no_run_is_named(tmp_path, run):
  with pytest.raises(ConfigError, match=r'no config\.json'):
    analyze.run(tmp_path)
  (tmp_path / 'config.json').write_text((run / 'config.json').read_text())
  with pytest.raises(ConfigError, match='no checkpoint; train with'):
    analyze.run(tmp_path)
  (tmp_path / 'out').write_text('a file')
  with pytest.raises(ConfigError, match='cannot be written'):
    analyze.run(run, out=tmp_path / 'out')
