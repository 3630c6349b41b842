"""The commands as a user runs them: one clear line for each mistake."""

import contextlib
import importlib
import inspect
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import types

import pytest
from absl.testing import flagsaver

from data_pipelines.errors import ConfigError
from experiments import __main__ as script
from experiments.cli import command, shared_flags
from hrm_jax.settings import Settings

_ROOT = pathlib.Path(__file__).parents[2]
_DEMO = '--config=experiments/configs/arc1.py:demo'


# What a help text begins with that leaves out what the flag is.
_ELLIPTICAL = {
  'As', 'At', 'By', 'For', 'From', 'In', 'Instead', 'New', 'Of', 'On', 'One',
  'Elsewhere', 'Overrides', 'Spread', 'That', 'The', 'To', 'Whose', 'With',
}  # fmt: skip


def _module(name):
  return importlib.import_module(f'experiments.{name}')


@pytest.fixture(params=script.COMMANDS)
def module(request):
  return _module(request.param)


@pytest.fixture
def parsed(monkeypatch):
  """Parses a command line in this process; no value of a flag stays."""

  @contextlib.contextmanager
  def call(module, *arguments):
    saved = flagsaver.save_flag_values(module.FLAGS)
    monkeypatch.setattr(sys, 'argv', ['', *arguments])
    try:
      command.parse(module.FLAGS, module.__name__)
      yield {name: module.FLAGS[name].value for name in module.FLAGS}
    finally:
      flagsaver.restore_flag_values(saved, module.FLAGS)

  return call


@pytest.fixture
def parse(parsed):
  """The values of a command line's flags."""

  def call(module, *arguments):
    with parsed(module, *arguments) as values:
      return values

  return call


def _run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', *map(str, arguments)],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def _fails(*arguments):
  """The one line on standard error of a command that must fail."""
  done = _run(*arguments)
  assert done.returncode != 0
  assert done.stdout == ''
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: ')
  return line


@pytest.mark.parametrize(
  'flags, message',
  [
    ([_DEMO, '--workdir=x', 'stray'], 'unexpected arguments: stray'),
    (
      [_DEMO, '--workdir=x', '--coordinator=localhost:1'],
      '--num_processes and --process_id go together',
    ),
    ([_DEMO, '--workdir=x', '--distributed'], 'did not find each other'),
    (
      [
        _DEMO,
        '--workdir=x',
        '--coordinator=host',
        '--num_processes=2',
        '--process_id=0',
      ],
      'must be HOST:PORT',
    ),
    (
      [
        _DEMO,
        '--workdir=x',
        '--coordinator=localhost:1',
        '--num_processes=2',
        '--process_id=2',
      ],
      '--process_id=2 must be from 0',
    ),
    (
      [_DEMO, '--workdir=x', '--config.model.attention=pallas'],
      "use 'auto'",
    ),
    ([_DEMO, '--workdir=x', '--config.mesh.tensor=3'], 'mesh.tensor=3'),
  ],
)
def test_train_mistakes_in_the_command_line(flags, message):
  assert message in _fails('experiments.train', *flags)


def test_train_names_the_file_and_leaves_no_workdir(tmp_path):
  tasks = tmp_path / 'tasks'
  tasks.mkdir()
  grid = [[1, 2], [3]]
  pair = {'input': grid, 'output': [[1]]}
  path = tasks / 'ragged.json'
  path.write_text(json.dumps({'train': [pair], 'test': [pair]}))
  workdir = tmp_path / 'run'
  line = _fails(
    'experiments.train',
    _DEMO,
    f'--config.data.evaluate={tasks}',
    f'--workdir={workdir}',
  )
  assert str(path) in line
  assert 'train' in line
  assert not workdir.exists()


def test_evaluate_of_a_directory_that_is_no_run(tmp_path):
  line = _fails('experiments.evaluate', f'--workdir={tmp_path}')
  assert 'no config.json' in line


@pytest.mark.slow
def test_parity_command_prints_json_last_and_tells_by_its_exit_code():
  golden = _ROOT / 'tests' / 'golden' / 'hrm_no_puzzle.npz'
  done = _run('experiments.verify_parity', f'--golden={golden}')
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout.splitlines()[-1])
  assert result['ok'] is True
  assert result['file'] == str(golden)
  assert result['worst']['final parameters'] <= 2e-6


def test_benchmark_that_does_not_exist():
  assert 'unknown: speed' in _fails('experiments.benchmark', 'speed')


def test_a_command_may_be_written_with_dashes(monkeypatch):
  ran = []
  monkeypatch.setattr(sys, 'argv', ['hrm-jax', 'device-check', '--out=a_b'])
  monkeypatch.setattr(
    script.runpy, 'run_module', lambda name, **_: ran.append((name, *sys.argv))
  )
  script.main()
  assert ran == [('experiments.device_check', 'hrm-jax', '--out=a_b')]


def test_every_command_is_listed_with_one_sentence():
  folder = pathlib.Path(script.__file__).parent
  commands = {
    path.stem
    for path in folder.glob('*.py')
    if '\n  command.run(' in path.read_text()
  }
  assert commands == set(script.COMMANDS)
  begin, empty, *lines = script.listing().splitlines()
  assert (begin[0], empty, len(lines)) == ('C', '', len(script.COMMANDS))
  for line in lines:
    name, sentence = line.split(None, 1)
    assert _module(name).__doc__.startswith(sentence)
    assert len(line) <= 80
    _is_sentence(sentence)


def _is_sentence(text):
  first, *others = text.split()
  assert first[0].isupper(), text
  assert text[-1] == '.', text
  assert len(others) >= 3, text
  assert first.strip(',:;') not in _ELLIPTICAL, text


def test_help_is_the_docstring_and_a_sentence_for_each_flag(
  module, monkeypatch, capsys
):
  monkeypatch.setattr(sys, 'argv', ['', '--workdir=x', '--help', '--nonsense'])
  with pytest.raises(SystemExit) as ended:
    command.run(module.main, module.FLAGS)
  assert not ended.value.code
  printed = capsys.readouterr().out
  *paragraphs, _ = inspect.getdoc(module).split('hrm-jax', 1)
  assert printed.startswith(paragraphs[0])
  assert not re.search(r'\S   +\[', inspect.getdoc(module))
  for name in module.FLAGS:
    assert f'\n  --{name}' in printed.replace('--[no]', '--')
    _is_sentence(command.sentences(module.FLAGS[name]))


@pytest.mark.parametrize(
  'text', ['Of the run.', 'From 0.', 'As config.data.canvas, in cells.']
)
def test_what_is_no_sentence_is_told(text):
  with pytest.raises(AssertionError):
    _is_sentence(text)


def test_a_flag_of_another_command_is_refused(module, parse):
  others = {flag for name in script.COMMANDS for flag in _module(name).FLAGS}
  for flag in sorted(others - set(module.FLAGS)):
    with pytest.raises(ConfigError, match=f'has no flag --{flag}; '):
      parse(module, f'--{flag}=1')


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], '--config is missing, e.g. --config=arc1:demo'),
    ([_DEMO], '--workdir is missing, e.g. --workdir=runs/demo'),
    ([_DEMO, '--workdir='], "--workdir=: '' is no path of this machine; name"),
    ([_DEMO, '--wrkdir=x'], 'train has no flag --wrkdir; did you mean --workd'),
    (['--config=nope.py'], 'nope.py: there is no such file; name one of arc1'),
    (['--config=nope'], 'there is no such config; name one of arc1, arc2, com'),
    (['--config=README.md'], 'this is no Python file; name one of arc1'),
    (['--config='], '--config is missing, e.g. --config=arc1:demo'),
    (
      [_DEMO, '--config.data.allow_leaks=maybe'],
      'must be true or false',
    ),
    (['--config=setup.json'], 'there is no such config; name one of arc1'),
    (['--config=experiments/show.py'], 'it has no function get_config; name'),
    (['--config=arc1:big'], "variant 'big' is unknown"),
    (['--config=experiments/configs/arc1.py:big'], "variant 'big' is unknown"),
    (['--config.seed=1'], '--config.seed needs an experiment, e.g. --config='),
    ([_DEMO, '--config.model=hrm'], 'model is a group of settings; change one'),
    ([_DEMO, '--config.data.canvs=3'], "'data.canvs'; did you mean 'data.canv"),
    (
      [f'{_DEMO},direct', '--config.model.gradient=full'],
      "the config has no setting 'model.gradient'",
    ),
    (
      [_DEMO, '--config.batch_size=many'],
      'many: must be a whole',
    ),
  ],
)
def test_flags_that_cannot_be_used(flags, message, parse, monkeypatch):
  monkeypatch.chdir(_ROOT)
  with pytest.raises(ConfigError) as refused:
    parse(_module('train'), *flags)
  assert message in str(refused.value)
  assert '\n' not in str(refused.value)


@pytest.mark.parametrize(
  'flags, message',
  [
    ([], 'give either --config, e.g. --config=arc1:demo, or --compress'),
    (['--compress=x', _DEMO], 'give either --config'),
    ([_DEMO], '--target is missing'),
    (['--compress=x', '--hours=2'], '--hours has no effect with --compress'),
    (['--compress=x', '--largest_batch'], '--largest_batch has no effect'),
    ([_DEMO, '--programs=2'], '--programs has no effect with --config'),
  ],
)
def test_compile_refuses_what_it_would_not_read(
  flags, message, parsed, monkeypatch
):
  monkeypatch.chdir(_ROOT)
  compile_ = _module('compile')
  with (
    parsed(compile_, *flags),
    pytest.raises(ConfigError, match=message),
  ):
    compile_.main(None)


@pytest.mark.parametrize(
  'body, message',
  [
    ('import', 'SyntaxError: '),
    ('def get_config(): return 1 / 0', 'ZeroDivisionError: '),
    ('def get_config(): pass', 'its get_config returns no ConfigDict'),
  ],
)
def test_config_file_that_cannot_be_loaded(body, message, parse, tmp_path):
  path = tmp_path / 'own.py'
  path.write_text(body)
  with pytest.raises(ConfigError) as refused:
    parse(_module('train'), f'--config={path}')
  assert f'--config={path}: {message}' in str(refused.value)


@pytest.mark.parametrize('config', ['arc1:demo', _DEMO.split('=')[1]])
def test_configs_go_by_name_or_path_and_flags_in_any_order(config, parse):
  flags = ['--config.batch_size=7', '--workdir=x', f'--config={config}']
  found = parse(_module('train'), *flags)
  assert found['config'].batch_size == found['config.batch_size'] == 7
  assert found['config'].data.evaluate == 'arc1:training'
  assert found['workdir'] == pathlib.Path('x')


def test_names_of_configs():
  assert shared_flags.configs() == [
    'arc1',
    'arc2',
    'comparison',
    'maze',
    'speedrun',
    'sudoku',
  ]


def test_commands_that_only_read_puzzles_do_without_jax():
  done = _run('experiments', 'leaks', '--train=sudoku:box=2x2')
  assert done.returncode == 2
  code = """
import sys
from experiments import __main__, export_puzzles, leaks, show
assert not {'jax', 'tensorflow'} & set(sys.modules)
"""
  assert subprocess.run([sys.executable, '-c', code], cwd=_ROOT).returncode == 0


def test_console_script_names_what_there_is(monkeypatch, capsys):
  monkeypatch.setattr(sys, 'argv', ['hrm-jax'])
  script.main()
  assert '\n  evaluate ' in capsys.readouterr().out
  for name, message in (
    ('evaluat', "no command 'evaluat'; did you mean evaluate?"),
    ('x', "no command 'x'; use demo, train,"),
  ):
    monkeypatch.setattr(sys, 'argv', ['hrm-jax', name])
    with pytest.raises(SystemExit) as ended:
      script.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_messages_name_the_command_as_it_was_typed(monkeypatch):
  for started, typed in (
    (['python', '/usr/bin/hrm-jax', 'train'], 'hrm-jax train'),
    (['python', '-m', 'experiments.train'], 'python -m experiments.train'),
    (['python', '-m', 'experiments', 'train'], 'python -m experiments.train'),
  ):
    monkeypatch.setattr(sys, 'orig_argv', started)
    assert command.typed('experiments.train') == typed
  monkeypatch.setattr(sys, 'orig_argv', ['python', '/usr/bin/hrm-jax', 'show'])
  show = _module('show')
  text = command.help_text(show.FLAGS, 'hrm-jax show', show.__doc__)
  assert '\nhrm-jax show --data=SPEC' in text


@pytest.mark.parametrize('start', ['-c', '-m'])
def test_ctrl_c_while_libraries_are_imported(tmp_path, start):
  # Stands for a library of which the import takes long.
  for name in ('numpy', 'jax'):
    (tmp_path / f'{name}.py').write_text(
      'import os, time\n'
      'print("importing", flush=True)\n'
      'while True:\n'
      '  try:\n'
      '    time.sleep(100)\n'
      '  except KeyboardInterrupt:\n'
      '    pass\n'
    )
  how = {
    '-m': ['-m', 'experiments.evaluate', '--workdir=x'],
    '-c': ['-c', 'from experiments.__main__ import main; main()', 'evaluate'],
  }
  with subprocess.Popen(
    [sys.executable, *how[start]],
    cwd=_ROOT,
    env=os.environ | {'PYTHONPATH': f'{tmp_path}'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    assert process.stdout.readline() == b'importing\n'
    os.kill(process.pid, signal.SIGINT)
    try:
      _, errors = process.communicate(timeout=60)
    finally:
      process.kill()
  assert (process.returncode, errors) == (130, b'interrupted\n')


@pytest.mark.parametrize(
  ('number', 'code', 'told'),
  [
    (signal.SIGINT, 130, b'interrupted\n'),
    (signal.SIGTERM, 143, b'terminated\n'),
  ],
)
def test_a_signal_ends_a_command_in_one_line(number, code, told):
  sleeping = """
import time
from experiments.cli import interrupts

interrupts.end_at_once()

from experiments.cli import command, shared_flags
from hrm_jax.settings import Settings

def main(_):
  try:
    print('started', flush=True)
    time.sleep(100)
  finally:
    print('tidied up')

command.run(main, shared_flags.define())
"""
  with subprocess.Popen(
    [sys.executable, '-c', sleeping],
    cwd=_ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    assert process.stdout.readline() == b'started\n'
    os.kill(process.pid, number)
    try:
      out, errors = process.communicate(timeout=60)
    finally:
      process.kill()
  assert (process.returncode, errors) == (code, told)
  assert out == b'tidied up\n'


def test_a_job_in_the_background_is_not_interrupted():
  """Shells start it with Ctrl-C ignored: that is meant for another one."""
  waiting = """
from experiments.cli import interrupts

interrupts.end_at_once()

from experiments.cli import command, shared_flags
from hrm_jax.settings import Settings

def main(_):
  print('started', flush=True)
  input()

command.run(main, shared_flags.define())
"""
  ignoring = ['sh', '-c', 'trap "" INT; exec "$0" "$@"']
  with subprocess.Popen(
    [*ignoring, sys.executable, '-c', waiting],
    cwd=_ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  ) as process:
    assert process.stdout.readline() == b'started\n'
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(b'\n', timeout=60)
  assert (process.returncode, errors) == (0, b'')


def test_demo_trains_and_scores_with_the_settings_that_it_is_given(
  monkeypatch, tmp_path, capsys
):
  demo, seen = _module('demo'), []
  path = tmp_path / 'evaluation' / 'step_3' / 'predictions.png'
  path.parent.mkdir(parents=True)
  path.touch()
  settings, code = Settings(), 75
  config = settings.to_dict()
  monkeypatch.setattr(
    demo, 'FLAGS', types.SimpleNamespace(workdir=tmp_path, config=config)
  )
  monkeypatch.setattr(
    demo.train, 'to_end', lambda *found: seen.append(found) or code
  )
  monkeypatch.setattr(demo.evaluate, 'run', seen.append)
  assert demo.main([]) == 75
  assert seen == [(settings, tmp_path)]
  code = None
  assert demo.main([]) is None
  assert seen[1:] == [(settings, tmp_path), tmp_path]
  printed = capsys.readouterr().out
  assert str(path) in printed
  assert f'report --workdir={tmp_path}\n' in printed
  assert f"hrm_jax.load('{tmp_path}')" in printed
