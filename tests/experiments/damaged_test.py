"""Edited and damaged files of a run: they read right, or one line tells."""

import copy
import json
import pathlib
import tempfile

import hypothesis
from hypothesis import strategies as st

from data_pipelines.errors import ConfigError, DataError
from data_pipelines.leaks import Verdict, recorded
from experiments.configs import sudoku
from experiments.reporting import comparison, learning_curves, runs
from experiments.reporting import training_curves as curves
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


@in_either_tier(200)
@hypothesis.given(_files())
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

    writer = MetricsWriter(workdir)
    _one_line(writer.forget_after, 6, 4)
    writer.close()
