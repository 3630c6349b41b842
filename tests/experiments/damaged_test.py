"""Edited and damaged files of a run: they read right, or one line tells."""

import contextlib
import copy
import json
import pathlib
import shutil
import tempfile

import pytest
from hypothesis import strategies as st

from data_pipelines.errors import ConfigError, DataError
from data_pipelines.leaks import Verdict, recorded
from experiments import analyze, evaluate, predict, report
from experiments.configs import sudoku
from experiments.reporting import comparison, learning_curves, runs
from experiments.reporting import training_curves as curves
from hrm_jax.published import convert
from hrm_jax.workdir import config as workdir_config
from hrm_jax.workdir.metrics import MetricsWriter
from tests.experiments.names_test import in_either_tier

_DEEP = '[' * 5000 + ']' * 5000
# Texts that stand in JSON where a value stood.
_VALUES = st.one_of(
  st.sampled_from(
    ['null', 'true', '-1', '0', '1', '1e400', '-1e400', 'Infinity', 'NaN',
     '1.5', '1e30', '9' * 40, '1' + '0' * 5000, '""', '"x"', '"\\u001b[2J"',
     '"\\ud800"', '[]', '{}', '[[]]', '[1]', '["a"]', '{"a": 1}', '[null]',
     '[{}]', '{"answers": 1, "allow_leaks": 1}', '"fixed"', '"unscored"',
     _DEEP, '{"a": ' * 3000 + '1' + '}' * 3000, '']
  ),
  st.integers().map(str),
  st.floats().map(json.dumps),
  st.text(max_size=5).map(json.dumps),
)  # fmt: skip
_LEAK = {
  'held_out': 'a', 'held_out_place': 'question', 'trained': 'b',
  'trained_place': 'question', 'kind': 'both',
}  # fmt: skip
_LEAKS = {'answers': 1, 'leaks': [_LEAK], 'allow_leaks': True}
_VERSION = 'train generated x; evaluate generated y'
_CONFIG = {
  **sudoku.get_config('demo').to_dict(),
  'data_version': _VERSION,
  'leaks': _LEAKS,
}
_SCORES = {
  'step': 6, 'data_version': _VERSION, 'trained_on': _VERSION,
  'halting': 'fixed', 'segments': 16, 'rows': 10, 'puzzles': 10,
  'held_out_puzzles': 10, 'leaks': _LEAKS, 'eval/exact': 0.5,
  'eval/accuracy': 0.75, 'eval/valid': 0.5, 'eval/steps': 4.0,
}  # fmt: skip
_LINES = [
  {'step': 3, 'loss': 2.0, 'lm_loss': 1.0, 'accuracy': 0.5},
  {'step': 3, 'eval/exact': 0.25, 'eval/steps': 4.0},
  {'step': 6, 'loss': 1.0, 'lm_loss': 0.5, 'accuracy': 0.75},
  {'step': 6, 'eval/exact': 0.5, 'eval/steps': 4.0},
]
_MARK = '@here@'


@st.composite
def damaged(draw, value):
  """JSON text of a value with some of it replaced, removed or damaged."""
  value = copy.deepcopy(value)
  new = []
  for _ in range(draw(st.integers(1, 3))):
    where, key = value, None
    while isinstance(where, dict | list) and where:
      inside = where
      keys = sorted(where) if isinstance(where, dict) else range(len(where))
      key = draw(st.sampled_from(keys))
      where = where[key]
      if draw(st.booleans()):
        break
    if key is None:
      break
    match draw(st.sampled_from(['change', 'change', 'remove', 'add'])):
      case 'remove':
        del inside[key]
      case 'add' if isinstance(inside, dict):
        inside[draw(st.text(max_size=8))] = _MARK
        new.append(draw(_VALUES))
      case _:
        inside[key] = _MARK
        new.append(draw(_VALUES))
  text = json.dumps(value)
  for one in new:
    text = text.replace(f'"{_MARK}"', one, 1)
  if draw(st.integers(0, 9)) == 0:
    at = draw(st.integers(0, len(text)))
    text = text[:at] + draw(st.sampled_from(['', '\n', '\0', '\x1b', ']', '"']))
  return text.encode(errors='surrogatepass')


@st.composite
def _files(draw):
  """The files of a run, one of them damaged."""
  which = draw(st.sampled_from(['config', 'scores', 'metrics']))
  found = {
    'config.json': json.dumps(_CONFIG).encode(),
    'evaluation/step_6/scores.json': json.dumps(_SCORES).encode(),
    'metrics.jsonl': b''.join(json.dumps(x).encode() + b'\n' for x in _LINES),
  }
  if which == 'config':
    found['config.json'] = draw(damaged(_CONFIG))
  elif which == 'scores':
    found['evaluation/step_6/scores.json'] = draw(damaged(_SCORES))
  else:
    lines = [draw(damaged(line)) for line in _LINES[:2]]
    lines += [json.dumps(line).encode() for line in _LINES[2:]]
    found['metrics.jsonl'] = b'\n'.join(draw(st.permutations(lines))) + b'\n'
  return found


def _one_line(function, *arguments):
  """What a function returns; None where it says in a line what is wrong."""
  try:
    return function(*arguments)
  except (ConfigError, DataError) as error:
    assert '\n' not in str(error) and len(str(error)) < 1000
    return None


def _start(workdir):
  """What evaluate, predict, analyze and convert read before the weights."""
  _, facts = workdir_config.read(workdir)
  verdict = Verdict([], (), False).beside(facts.get('leaks'))
  return verdict.note(), verdict.record()


def _leaks_of(scores):
  known = recorded(scores.leaks)
  return sorted({leak.entry for leak in known}), {x.held_out for x in known}


def _compare(one):
  found = comparison.measure([one])
  json.dumps([m.record() for m in found])
  return comparison.report(found)


def _curves(one):
  return [c.record() for c in learning_curves.read([one], 'exact')]


def _charts(one):
  return json.dumps(curves.collect(one.metrics), allow_nan=False)


@in_either_tier(200, _files())
def test_damaged_files_of_a_run(contents):
  _try_files(contents)


def _try_files(contents):
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder)
    for name, data in contents.items():
      path = workdir / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(data)
    _one_line(_start, workdir)
    one = _one_line(runs.read, workdir)
    if one is not None:
      for read in (_compare, _curves, _charts):
        _one_line(read, one)
      scores = _one_line(lambda: one.scores)
      if scores is not None:
        _one_line(_leaks_of, scores)

    with contextlib.closing(MetricsWriter(workdir)) as writer:
      _one_line(writer.forget_after, 6, 4)


_EDITS = [
  # The file, what stands there, what is put there.
  *(
    ('config.json', old, new)
    for old, new in [
      ('"batch_size": 16', '"batch_size": "16"'),
      ('"batch_size": 16', '"batch_size": 1e400'),
      ('"batch_size": 16', '"batch_size": null'),
      ('"batch_size": 16', f'"batch_size": {_DEEP}'),
      ('"hidden_size": 16', '"hidden_size": Infinity'),
      ('"hidden_size": 16', '"hidden_size": 32'),
      ('"hidden_size": 16', f'"hidden_size": {2**40}'),
      ('"layers": 1', f'"layers": {10**30}'),
      ('"expansion": 1.0', '"expansion": 1e300'),
      ('"expansion": 1.0', f'"expansion": {10**400}'),
      ('"kind": "direct"', '"kind": ["direct"]'),
      ('"kind": "direct"', '"kind": {}'),
      ('"known_leaks": []', '"known_leaks": "a->b"'),
      ('"num_aug": 3', '"num_aug": -1'),
      ('"num_aug": 3', '"num_aug": true'),
      ('"train": "', '"train": "\\u001b[2J'),
      ('"seed": 3', '"seed": 3, "\\u001b[2J": 1'),
      ('"seed": 3', '"seed": -3'),
      ('"answers": 0', '"answers": 0, "leaks": 3, "old'),
      ('"allow_leaks"', '"allowed"'),
      ('"data_version": ', '"data_version": 3, "old": '),
      ('{', '['),
      ('{', f'{_DEEP}{{'),
    ]
  ),
  *(
    ('evaluation/step_4/scores.json', old, new)
    for old, new in [
      ('"leaks": []', '"leaks": [1]'),
      ('"leaks": []', '"leaks": [{"held_out": 1}]'),
      ('"leaks": []', '"names": [1]'),
      ('"eval/steps"', '"eval/Steps"'),
      ('"eval/exact": ', '"eval/exact": "a", "old": '),
      ('"eval/exact": ', '"eval/exact": 1e400, "old": '),
      ('"eval/accuracy": ', f'"eval/accuracy": {10**400}, "old": '),
      ('"step": 4', '"step": 4.0'),
      ('"rows": 10', '"rows": -1'),
      ('{', '\ufeff{'),
      ('{', ''),
    ]
  ),
  *(
    ('evaluation/step_4/predictions.csv', old, new)
    for old, new in [
      ('puzzle,', 'name,'),
      ('exact', 'accurate'),
      (',0.', ',x'),
      ('question,', ''),
      ('1', '9'),
      ('\r\n', '\r\n\r\n'),
      ('\r\n', ',\0\r\n'),
      ('\r\n', ',nan,inf\r\n'),
      ('puzzle,', f'"{"x" * 200_000}",'),
    ]
  ),
  *(
    ('metrics.jsonl', old, new)
    for old, new in [
      ('"step": 1', '"step": 1e400'),
      ('"step": 1', f'"step": {10**40}'),
      ('"step": 1', '"step": -1'),
      ('"step": 1', f'"step": 1, "x": {_DEEP}'),
      ('"loss": ', '"loss": Infinity, "old": '),
      ('"loss": ', '"loss": {}, "old": '),
      ('"loss": ', f'"loss": {10**400}, "old": '),
      ('{', '[{'),
    ]
  ),
  *(
    ('analysis/step_4/summary.json', old, new)
    for old, new in [
      ('{"x"', '{"y"'),
      ('"headline": "h"', '"headline": 3'),
      ('{"analyses"', '[{"analyses"'),
      ('{"x"', '[{"x"'),
      ('{"x"', '{"../../x"'),
      ('{"x"', '{"/etc/passwd"'),
      ('{"x"', '{"x\\u0000"'),
    ]
  ),
]


@pytest.mark.slow
@pytest.mark.parametrize('number', range(len(_EDITS)))
def test_files_edited_by_hand(trained_run, tmp_path, number):
  name, old, new = _EDITS[number]
  workdir = tmp_path / 'run'
  shutil.copytree(trained_run, workdir)
  analysis = workdir / 'analysis' / 'step_4'
  analysis.mkdir(parents=True)
  (analysis / 'summary.json').write_text(
    '{"analyses": {"x": {"headline": "h"}}}'
  )
  (analysis / 'x.json').write_text('{"definition": {"words": "w"}}')
  (analysis / 'x.png').write_bytes(b'')
  _one_line(report.run, workdir)
  path = workdir / name
  with path.open(newline='') as file:
    text = file.read()
  assert old in text
  with path.open('w', newline='') as file:
    file.write(text.replace(old, new))
  commands = [report.run, evaluate.run]
  if name == 'config.json':
    commands += [
      lambda place: predict.run(place, '1.34341221434321'),
      lambda place: convert.write(place, tmp_path / 'x.safetensors'),
      lambda place: analyze.run(place, only=['halting'], max_puzzles=2),
    ]
  for command in commands:
    _one_line(command, workdir)
