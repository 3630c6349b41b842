"""A kernel is trusted after a check, and one that fails it is not used."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import types

import jax
import numpy as np
import pytest
from absl import logging

from data_pipelines.errors import ConfigError
from hrm_jax.models import kernel_check
from hrm_jax.models.attention import dispatch as attention
from hrm_jax.models.attention import tpu as tpu_attention
from hrm_jax.settings import HRMSettings
from tests import builders, devices

_ROOT = pathlib.Path(__file__).parents[3]
_BLOCK = HRMSettings(
  hidden_size=64, num_heads=4, expansion=1.0, attention='pallas'
)


def _results(**changes):
  block = dataclasses.replace(_BLOCK, **changes)
  return kernel_check.results(block, _BLOCK.dtype, 37, jax.devices()[0])


@pytest.fixture(scope='module')
def exact():
  return _results(attention='xla', dtype='float32')


@pytest.mark.parametrize(
  ('fusion', 'dtype'), [('block', 'bfloat16'), ('attention', 'float16')]
)
def test_the_tpus_kernels_pass(fusion, dtype):
  block = dataclasses.replace(_BLOCK, dtype=dtype, fusion=fusion)
  assert kernel_check.check(block, 37, jax.devices()[0]) == ''


@pytest.mark.parametrize(
  'changes', [{'pos_encodings': 'none'}, {'num_heads': 2}]
)
def test_a_kernel_that_computes_something_else_is_wrong(exact, changes):
  found = kernel_check.fault(lambda: _results(**changes), lambda: exact)
  assert found.startswith('wrong by ')


@pytest.mark.parametrize('value', [0.0, np.nan, np.inf])
@pytest.mark.parametrize('array', [0, -1])
def test_one_wrong_token_is_seen(exact, array, value):
  wrong = [x.copy() for x in exact]
  wrong[array][1, 36] = value
  assert kernel_check.fault(lambda: exact, lambda: exact) == ''
  assert kernel_check.fault(lambda: wrong, lambda: exact)[:9] == 'wrong by '


def test_a_kernel_that_raises_or_hangs(exact):
  def raises():
    raise RuntimeError('no such instruction\nmore of it')

  ended = threading.Event()
  try:
    found = kernel_check.fault(raises, lambda: exact)
    assert found == 'no such instruction'
    found = kernel_check.fault(ended.wait, lambda: exact, patience=0.1)
    assert found == 'no result within 0 s'
  finally:
    ended.set()


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """The cache directory."""
  monkeypatch.setenv('HRM_JAX_CACHE', str(tmp_path))
  return tmp_path


def test_a_verdict_is_kept_for_its_key(cache):
  asked = []

  def verdict(found):
    return lambda: asked.append(found) or found

  for key, found, expected in [
    ({'tokens': 1}, '', ''),
    ({'tokens': 1}, 'wrong', ''),
    ({'tokens': 2}, 'wrong', 'wrong'),
    ({'tokens': 2}, '', 'wrong'),
  ]:
    assert kernel_check.kept(key, verdict(found)) == expected
  assert asked == ['', 'wrong']
  # Damaged files count as none.
  for path in cache.glob('kernels/*.json'):
    path.write_bytes(path.read_bytes()[:-5])
  assert kernel_check.kept({'tokens': 2}, verdict('')) == ''


def test_a_check_that_ends_the_process_is_not_tried_again(cache):
  """It stands there while it runs; an interrupted one has found nothing."""

  def dies():
    (path,) = cache.glob('kernels/*.json')
    assert 'ended during' in json.loads(path.read_text())['fault']
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    kernel_check.kept({}, dies)
  assert kernel_check.kept({}, lambda: 'wrong') == 'wrong'


def test_without_a_place_for_the_verdict_each_start_checks(cache):
  (cache / 'kernels').write_text('a file')
  for found in ('', 'wrong'):
    assert kernel_check.kept({}, lambda found=found: found) == found


def _mesh(platform='tpu', **changes):
  """As much of a mesh as the check asks for, of a device that is not there."""
  device = types.SimpleNamespace(
    platform=platform,
    device_kind='TPU v5 lite',
    client=types.SimpleNamespace(platform_version='PJRT'),
  )
  vars(device).update(changes)
  shape = {'data': 1, 'fsdp': 1, 'tensor': 1}
  return types.SimpleNamespace(local_devices=[device], shape=shape)


def _model(**fields):
  fields = dict(vocab_size=12, seq_len=9, dtype='bfloat16') | fields
  return builders.model('hrm', **fields)


def test_a_sound_kernel_is_used(cache, monkeypatch):
  monkeypatch.setattr(kernel_check, 'check', lambda *_: '')
  model, told = kernel_check.settled(_model(), _mesh())
  assert model.settings.attention == told == 'pallas'


def test_a_broken_kernel_is_not_used(cache, monkeypatch, caplog):
  monkeypatch.setattr(kernel_check, 'check', lambda *_: 'wrong by 0.5')
  caplog.set_level(logging.WARNING)
  for _ in range(2):
    caplog.clear()
    model, told = kernel_check.settled(_model(), _mesh())
    assert model.settings.attention == 'xla_recompute'
    assert told == (
      'xla_recompute, as pallas failed its check on TPU v5 lite (wrong by 0.5)'
    )
    (line,) = caplog.messages
    assert 'TPU v5 lite (wrong by 0.5); going on by plain XLA' in line
    assert str(cache / 'kernels') in line
    # Not tried again.
    monkeypatch.setattr(kernel_check, 'check', None)


def test_a_broken_kernel_that_was_asked_for_is_refused(cache, monkeypatch):
  monkeypatch.setattr(kernel_check, 'check', lambda *_: 'wrong by 0.5')
  with pytest.raises(ConfigError, match=r"pallas failed.*0\.5.*use 'auto'"):
    kernel_check.settled(_model(attention='pallas'), _mesh())


def test_a_kernel_that_fails_in_another_process_is_not_used(cache, monkeypatch):
  monkeypatch.setattr(kernel_check, 'check', lambda *_: '')
  monkeypatch.setattr(kernel_check.processes, 'any_of', lambda _: True)
  model, told = kernel_check.settled(_model(), _mesh())
  assert model.settings.attention == 'xla_recompute'
  assert told.endswith('(in another process)')


def test_a_verdict_is_of_a_device_versions_code_and_shapes(
  cache, monkeypatch, tmp_path
):
  checked = []
  monkeypatch.setattr(
    kernel_check, 'check', lambda *of: checked.append(of) or ''
  )

  def checks(mesh, **fields):
    """Whether this is checked, and not once more."""
    before = len(checked)
    for _ in range(2):
      kernel_check.settled(_model(**fields), mesh)
    return len(checked) - before

  assert checks(_mesh()) == 1
  assert checks(_mesh()) == 0
  assert checks(_mesh(), num_heads=2) == 1
  assert checks(_mesh(), seq_len=16) == 1
  assert checks(_mesh(device_kind='TPU v6 lite')) == 1
  client = types.SimpleNamespace(platform_version='PJRT 2')
  assert checks(_mesh(client=client)) == 1
  with monkeypatch.context() as patch:
    (tmp_path / 'code' / 'attention').mkdir(parents=True)
    (tmp_path / 'code' / 'attention' / 'kernel.py').touch()
    patch.setattr(kernel_check, '__file__', str(tmp_path / 'code' / 'x.py'))
    assert checks(_mesh()) == 1
    (tmp_path / 'code' / 'attention' / 'kernel.py').write_text('0')
    assert checks(_mesh()) == 1
  for name in ('jax', 'jaxlib', 'libtpu', 'nvidia-cudnn-cu12'):
    for version in ('1', '2'):
      found = types.SimpleNamespace(name=name, version=version)
      with monkeypatch.context() as patch:
        patch.setattr(
          kernel_check.importlib.metadata, 'distributions', [found].copy
        )
        assert checks(_mesh()) == 1
  assert checks(_mesh()) == 0


def test_where_no_kernel_runs_nothing_is_checked(monkeypatch):
  monkeypatch.setattr(kernel_check, 'check', None)
  model, told = kernel_check.settled(_model(), _mesh('cpu'))
  assert model.settings.attention == told == 'cpu'
  model = builders.model('trm', vocab_size=12, seq_len=9, mlp_t=True)
  kernel_check.settled(model, _mesh())


@pytest.mark.slow
def test_a_run_with_a_broken_kernel_is_one_by_plain_xla(
  tiny_config, cache, tmp_path, monkeypatch, caplog
):
  """The TPU's kernels, interpreted; what it trains is the same to the bit."""

  def train(workdir):
    state = builders.train(tiny_config, workdir)
    return jax.tree.map(np.asarray, state.params)

  tiny_config.model.attention = 'xla_recompute'
  expected = train(tmp_path / 'plain')
  tiny_config.model.attention = 'auto'

  def as_on_a_tpu(settings, device):
    chosen = 'pallas' if settings.attention == 'auto' else settings.attention
    return dataclasses.replace(settings, attention=chosen)

  def forgets_the_softmax(rope_ref, qkv_ref, out_ref, num_heads):
    out_ref[...] = qkv_ref[:, -out_ref.shape[-1] :]

  monkeypatch.setattr(attention, 'resolved', as_on_a_tpu)
  monkeypatch.setattr(tpu_attention, 'heads_forward', forgets_the_softmax)
  found = train(tmp_path / 'broken')
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  assert sum('failed its check' in text for text in caplog.messages) == 2
  written = json.loads((tmp_path / 'broken/config.json').read_text())
  assert written['attention'].startswith('xla_recompute, as pallas failed')
  assert written['model']['attention'] == 'auto'


_AGREE = """
import sys
import jax
from hrm_jax.parallel import processes
index = int(sys.argv[1])
jax.distributed.initialize(f'localhost:{sys.argv[2]}', 2, index)
print([processes.any_of(index in some) for some in ([], [1], [0, 1])])
"""


@pytest.mark.slow
def test_processes_decide_alike():
  with socket.socket() as probe:
    probe.bind(('localhost', 0))
    port = probe.getsockname()[1]
  running = [
    subprocess.Popen(
      [sys.executable, '-c', _AGREE, str(index), str(port)],
      cwd=_ROOT,
      env=os.environ | {'XLA_FLAGS': devices.xla_flags(1)},
      stdout=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  for process in running:
    # Gloo speaks too, when it likes.
    assert '[False, True, True]' in process.communicate(timeout=120)[0]
