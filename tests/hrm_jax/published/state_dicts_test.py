"""PyTorch's files read bit for bit, and never executed; ours as well."""

import io
import itertools
import os
import pathlib
import pickle
import resource
import struct
import zipfile

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from data_pipelines.errors import ConfigError
from hrm_jax.published import state_dicts
from tests import torch_files

GOLDEN = pathlib.Path(__file__).parents[2] / 'golden' / 'torch'
SUFFIXES = ('.pt', '.pth', '.safetensors')
DTYPES = (
  *(np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.bool_),
  *(np.int64, np.int32, np.int16, np.int8),
  *(np.uint64, np.uint32, np.uint16, np.uint8),
)
DAMAGED = hypothesis.settings(
  max_examples=150,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def _expected(name):
  arrays = {}
  with np.load(GOLDEN / name) as file:
    for key, array in file.items():
      name, _, bits = key.partition(':')
      arrays[name] = array.view(ml_dtypes.bfloat16) if bits else array
  return arrays


def _assert_equal(found, expected):
  assert list(found) == list(expected)
  for name, array in expected.items():
    assert found[name].dtype == array.dtype, name
    assert found[name].shape == array.shape, name
    assert found[name].tobytes() == array.tobytes(), name


def _arrays():
  """Random bits of every type, in every memory layout."""
  rng = np.random.default_rng(0)
  arrays = {}
  for dtype in map(np.dtype, DTYPES):
    bits = rng.integers(0, 256, (4, 6, dtype.itemsize), dtype=np.uint8)
    if dtype == np.bool_:
      bits %= 2
    array = bits.view(dtype)[..., 0]
    prefix = f'_orig_mod.model.inner.{dtype}'
    arrays |= {
      f'{prefix}.whole': array,
      f'{prefix}.transposed': array.T,
      f'{prefix}.cut': array[::-1, 1::2],
      # A stride below zero that NumPy still calls contiguous.
      f'{prefix}.row': array[::-1][:1],
      f'{prefix}.cube ü': array.reshape(2, 3, 4).swapaxes(0, 2),
      f'{prefix}.scalar': array[0, 0, ...],
      f'{prefix}.empty': array[:0],
    }
  return arrays | {'bits': np.arange(2**16, dtype='u2').view(DTYPES[3])}


@pytest.mark.parametrize(
  'name, values',
  [
    ('step_3', 'step_3.npz'),
    ('protocol4.pt', 'step_3.npz'),
    ('module.pt', 'module.npz'),
  ],
)
def test_files_of_real_torch_are_read_bit_for_bit(name, values):
  found = state_dicts.read(GOLDEN / name)
  _assert_equal(found, _expected(values))
  assert not any(array.flags.writeable for array in found.values())


def test_tensors_that_share_a_storage_share_memory():
  found = state_dicts.read(GOLDEN / 'step_3')
  table = found['_orig_mod.model.inner.puzzle_emb.weights']
  for name in ('transposed', 'rows'):
    assert np.shares_memory(found[f'_orig_mod.model.inner.{name}'], table)


@pytest.mark.parametrize(
  'name, words',
  [
    ('legacy.pt', 'bare pickle.* not executed.*torch.save'),
    ('script.pt', 'TorchScript.* not executed.*torch.save'),
    ('nested.pt', r"'model' is a dict.*torch.save\(checkpoint\['model'\]"),
  ],
)
def test_other_files_of_real_torch_are_refused(tmp_path, name, words):
  _refused(tmp_path, (GOLDEN / name).read_bytes(), words)


def test_a_checkpoint_of_urm_is_read_without_its_optimizers(tmp_path):
  path = tmp_path / 'step_3.pt'
  with (
    zipfile.ZipFile(GOLDEN / 'nested.pt') as old,
    zipfile.ZipFile(path, 'w') as new,
  ):
    for name in old.namelist():
      # As URM's trainer names it; 'step' stands beside.
      data = old.read(name).replace(
        b'X\x05\0\0\0model', b'X\x10\0\0\0model_state_dict'
      )
      new.writestr(name, data)
  _assert_equal(state_dicts.read(path), _expected('module.npz'))


def _refused(tmp_path, data, words):
  path = tmp_path / 'file'
  path.write_bytes(data)
  with pytest.raises(ConfigError, match=words) as error:
    state_dicts.read(path)
  assert str(error.value).startswith(f'{path}: ')
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_what_is_written_comes_back_bit_for_bit(tmp_path, suffix):
  arrays = _arrays()
  torch_files.write(tmp_path / f'a{suffix}', arrays)
  # The content decides, not the name.
  path = (tmp_path / f'a{suffix}').rename(tmp_path / 'step_1')
  found = state_dicts.read(path)
  _assert_equal({name: found[name] for name in arrays}, arrays)
  assert len(found) == len(arrays)
  assert not any(array.flags.writeable for array in found.values())
  umask = os.umask(0)
  os.umask(umask)
  assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_arrays_larger_than_one_read_and_none_at_all(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  array = np.arange(2**24 + 5, dtype=np.uint8)
  torch_files.write(path, {'a': array})
  np.testing.assert_array_equal(state_dicts.read(path)['a'], array)
  torch_files.write(tmp_path / f'none{suffix}', {})
  assert state_dicts.read(tmp_path / f'none{suffix}') == {}


def test_other_byte_order_is_written_as_the_same_values(tmp_path):
  for suffix in SUFFIXES:
    path = tmp_path / f'a{suffix}'
    torch_files.write(path, {'a': np.arange(3, dtype='>f4')})
    found = state_dicts.read(path)
    _assert_equal(found, {'a': np.arange(3, dtype='<f4')})


def test_writing_refuses_and_leaves_nothing_behind(tmp_path):
  good = {'a': np.zeros(2**18)}
  path = tmp_path / 'a.safetensors'

  def refused(path, arrays, words):
    with pytest.raises(ConfigError, match=words) as error:
      state_dicts.write(path, arrays)
    assert str(error.value).startswith(f'{path}: ')
    assert '\n' not in str(error.value)

  refused(tmp_path / 'a.pt', good, 'end the name in .safetensors')
  refused(path, {3: good['a']}, 'cannot be named 3')
  refused(path, {'__metadata__': good['a']}, 'cannot be named')
  refused(path, {'a': np.zeros(2, complex)}, "'a' is of type complex128")
  refused(path, {'a': np.array(['b'])}, "'a' is of type <U1")
  refused(tmp_path / 'none' / path.name, good, 'No such file.*with enough room')
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  # As on a full disk, but in the first half of the file.
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
  try:
    refused(path, good, 'too large.*with enough room')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not list(tmp_path.iterdir())
  path.write_text('old')
  refused(path, good, 'exists already')
  assert path.read_text() == 'old'
  assert list(tmp_path.iterdir()) == [path]


def _archive(pickled, changed=(), compression=zipfile.ZIP_STORED):
  """A zip file as of torch.save; six float32 of storage '0'."""
  buffer = io.BytesIO()
  records = {
    'data.pkl': pickled,
    'byteorder': b'little',
    'data/0': np.arange(6, dtype=np.float32).tobytes(),
    'version': b'3\n',
  } | dict(changed)
  with zipfile.ZipFile(buffer, 'w', compression) as archive:
    for name, data in records.items():
      if data is not None:
        archive.writestr(f'file/{name}', data)
  return buffer.getvalue()


def _text(text):
  return b'X' + struct.pack('<I', len(text.encode())) + text.encode()


def _plain(value):
  return pickle.dumps(value, 2)[2:-1]


def _named_tensor(
  kind='storage',
  storage=b'ctorch\nFloatStorage\n',
  key='0',
  count=6,
  offset=0,
  size=(6,),
  stride=(1,),
):
  """The pickle of {'a': one tensor}."""
  return (
    b'\x80\x02}'
    + _text('a')
    + b'ctorch._utils\n_rebuild_tensor_v2\n(('
    + _plain(kind)
    + storage
    + b''.join(map(_plain, (key, 'cpu', count)))
    + b'tQ'
    + b''.join(map(_plain, (offset, size, stride, False, None)))
    + b'tRs.'
  )


def test_a_tensor_is_read_where_the_pickle_says(tmp_path):
  path = tmp_path / 'a'
  path.write_bytes(
    _archive(_named_tensor(offset=1, size=(2, 2), stride=(3, 1)))
  )
  np.testing.assert_array_equal(state_dicts.read(path)['a'], [[1, 2], [4, 5]])


NESTED = b')' + b'\x85' * 100_000


@pytest.mark.parametrize(
  'pickled',
  [
    _named_tensor(kind='module'),
    _named_tensor(key='1'),
    _named_tensor(key='../byteorder'),
    _named_tensor(key=0),
    _named_tensor(key=(('0',),)),
    _named_tensor(count=5),
    _named_tensor(count=7),
    _named_tensor(count=-6),
    _named_tensor(count=2**62),
    _named_tensor(count='6'),
    _named_tensor(count=6.0),
    _named_tensor(storage=_plain('FloatStorage')),
    _named_tensor(storage=b'ccollections\nOrderedDict\n'),
    _named_tensor(offset=1),
    _named_tensor(offset=-1),
    _named_tensor(offset=2**70),
    _named_tensor(offset='0'),
    _named_tensor(size=(7,)),
    _named_tensor(size=(-1,)),
    _named_tensor(size=(2**62,)),
    _named_tensor(size=(2**40, 2**40), stride=(0, 0)),
    _named_tensor(size=('6',)),
    _named_tensor(size=6),
    _named_tensor(size=(1,) * 65, stride=(1,) * 65),
    _named_tensor(stride=(2,)),
    _named_tensor(stride=(-1,)),
    _named_tensor(stride=(2**61,)),
    _named_tensor(stride=(1, 1)),
    _named_tensor(stride=([0] * 9,)),
    _named_tensor(stride=()),
    # The storage itself, a storage of nothing, and arguments of other kinds.
    b'\x80\x02}' + _text('a') + b'ctorch._utils\n_rebuild_tensor_v2\n)Rs.',
    b'\x80\x02}X\x01\0\0\0aNQs.',
    b'\x80\x02}X\x01\0\0\0a]K\x01Rs.',
    # No memo, no mark, no value, no end.
    b'\x80\x02h\x05.',
    b'\x80\x02t.',
    b'\x80\x02.',
    b'\x80\x02}',
    b'',
    # Python's unpickler takes 8 GB for this.
    b'\x80\x02}r\xff\xff\xff\x1f0.',
    b'\x80\x04' + NESTED + NESTED + b'\x93.',
    b'\x80\x02}X\x01\0\0\0a' + NESTED + b's.',
    b'\x80\x02}(X\x01\0\0\0au.',
    b'\x80\x02ctorch\nFloatStorage\n.',
  ],
  ids=itertools.count(),
)
def test_hostile_descriptions_of_tensors_are_errors(tmp_path, pickled):
  _refused(tmp_path, _archive(pickled), '; (save|copy)')


@pytest.mark.parametrize(
  'pickled, words',
  [
    # Python's unpickler overflows its stack where such keys are deeper still.
    (b'}' + NESTED + b'K\x01s.', 'has a key that is no name; save'),
    (b'}K\x01K\x02s.', 'has the key 1, which is no name; save'),
    (b'}' + 2 * (_text('a') + b'}s') + b'.', "has the key 'a' twice; save"),
    (b'}' + _text('a') + b'K\x01s.', "'a' is a int, not a tensor; save"),
    (b'].', 'holds a list, not a dict; save'),
    (b'ccollections\nOrderedDict\n}R.', 'arguments are not in a tuple'),
  ],
)
def test_what_is_not_a_state_dict_is_named(tmp_path, pickled, words):
  _refused(tmp_path, _archive(b'\x80\x02' + pickled), words)


def _runs(marker):
  """Pickles that run a command when Python's unpickler reads them.

  By how they do it: the name that must be refused, and the pickle.
  """
  command = f'touch {marker}'
  evaluated = f'__import__("os").system({command!r})'
  system, argument = b'cos\nsystem\n', _text(command) + b'\x85R.'
  return {
    'REDUCE': ('os.system', b'\x80\x02' + system + argument),
    'INST': ('os.system', b'(' + _text(command) + b'ios\nsystem\n.'),
    'OBJ': ('os.system', b'(' + system + _text(command) + b'o.'),
    'STACK_GLOBAL': (
      'os.system',
      b'\x80\x04' + _text('os') + _text('system') + b'\x93' + argument,
    ),
    'eval': (
      'builtins.eval',
      b'\x80\x02cbuiltins\neval\n' + _text(evaluated) + b'\x85R.',
    ),
    'numpy': (
      'numpy.testing.runstring',
      b'\x80\x02cnumpy.testing\nrunstring\n' + _text(evaluated) + b'}\x86R.',
    ),
    # From a module that is allowed to one that is not.
    'dotted': (
      'collections._sys.modules.__getitem__',
      b'\x80\x04'
      + _text('collections')
      + _text('_sys.modules.__getitem__')
      + b'\x93'
      + _text('os')
      + b'\x85R0'
      + system
      + argument,
    ),
  }


@pytest.mark.parametrize('how', _runs(''))
def test_pickles_that_run_commands_run_nothing_here(tmp_path, how):
  marker = tmp_path / 'marker'
  name, pickled = _runs(marker)[how]
  _refused(tmp_path, _archive(pickled), f"'{name}', which is refused")
  # In front of and inside a state dict that is sound otherwise.
  sound = _named_tensor()
  _refused(tmp_path, _archive(pickled[:-1] + b'0' + sound[2:]), 'not executed')
  inside = sound[:-1] + _text('b') + pickled[:-1] + b's.'
  _refused(tmp_path, _archive(inside), 'not executed')
  _refused(tmp_path, b'\x80\x02' + pickled, 'not executed')
  assert not marker.exists()
  # It does run elsewhere, so the marker would have shown it.
  pickle.loads(pickled)
  assert marker.exists()


@pytest.mark.parametrize(
  'pickled, what',
  [
    (f'c{name.replace(" ", chr(10))}\n'.encode(), name.replace(' ', '.'))
    for name in (
      'torch load',
      'torch EvilStorage',
      'torch.storage _load_from_bytes',
      'torch._utils _import_dotted_name',
      'collections namedtuple',
      'collections OrderedDict.fromkeys',
      'collections.OrderedDict fromkeys',
      'copyreg _reconstructor',
      'numpy ndarray',
      '__builtin__ getattr',
    )
  ]
  + [
    (
      _text('collections') + _text('OrderedDict.__reduce__') + b'\x93',
      'collections.OrderedDict.__reduce__',
    ),
    (b')K\x01\x93', 'STACK_GLOBAL'),
    (b'ccollections\nOrderedDict\n)\x81', 'NEWOBJ'),
    (b'ccollections\nOrderedDict\n)}\x92', 'NEWOBJ_EX'),
    (b'\x82\x01', 'EXT1'),
    (b'P0\n', 'PERSID'),
    # State for what all files share.
    (b'ccollections\nOrderedDict\n}X\x01\0\0\0a}sb', 'BUILD'),
    (b'ctorch\nFloatStorage\n}b', 'BUILD'),
    (b'ccollections\nOrderedDict\n(X\x01\0\0\0a}u', 'SETITEMS'),
    (b')]a', 'APPENDS'),
  ],
)
def test_other_names_and_opcodes_are_refused_by_name(tmp_path, pickled, what):
  data = _archive(b'\x80\x02' + pickled + b'.')
  _refused(tmp_path, data, f"'{what}', which is refused and not executed")


def test_state_of_a_dict_changes_nothing(tmp_path):
  build = b'}' + _text('__class__') + b'ccollections\nOrderedDict\nsb.'
  path = tmp_path / 'a'
  path.write_bytes(_archive(_named_tensor()[:-1] + build))
  assert type(state_dicts.read(path)) is dict


@pytest.mark.parametrize(
  'data, words',
  [
    (_archive(_named_tensor(), {'byteorder': b'big'}), 'big-endian'),
    (_archive(_named_tensor(), {'constants.pkl': b''}), 'TorchScript'),
    (_archive(_named_tensor(), {'b/data.pkl': b''}), 'without a state dict'),
    (_archive(_named_tensor(), {'data.pkl': None}), 'without a state dict'),
    (_archive(_named_tensor(), {'data/0': None}), 'data/0'),
    (
      _archive(_named_tensor(), compression=zipfile.ZIP_DEFLATED),
      'not an archive that torch.save wrote',
    ),
    (b'', 'neither a state dict'),
    (b'PK\3\4', 'damaged'),
    (b'hello, world', 'neither a state dict'),
    (b'\x10\0\0\0\0\0\0\0{}', 'damaged'),
  ],
)
def test_other_files_are_refused(tmp_path, data, words):
  _refused(tmp_path, data, words)


def test_sizes_that_the_archive_lies_about_are_refused(tmp_path):
  data = _archive(_named_tensor())
  # The size in the directory at the end, 24 bytes, made 3 GB.
  at = data.rindex(b'file/data/0') - 46
  lie = data[: at + 24] + struct.pack('<I', 3 * 2**30) + data[at + 28 :]
  _refused(tmp_path, lie, 'not an archive that torch.save wrote')
  # The same record twice.
  twice = _archive(_named_tensor(), {'data/1': b'', 'data/2': b''})
  twice = twice.replace(b'data/2', b'data/1')
  _refused(tmp_path, twice, 'not an archive that torch.save wrote')


def test_types_that_numpy_has_not_are_refused(tmp_path):
  header = b'{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}'
  data = struct.pack('<Q', len(header)) + header + b'\0'
  _refused(tmp_path, data, "'a' is of type F8_E4M3; save it as")


def test_no_file_and_a_directory_are_refused(tmp_path):
  for path in (tmp_path, tmp_path / 'none', tmp_path / 'a\0'):
    with pytest.raises(ConfigError, match='no such file'):
      state_dicts.read(path)


def _sound(tmp_path, suffix):
  path = tmp_path / f'sound{suffix}'
  arrays = {
    'model.inner.a': np.arange(12, dtype=np.float32).reshape(3, 4),
    'model.inner.b': np.arange(5).astype(ml_dtypes.bfloat16),
    'model.inner.c': np.arange(3, dtype=np.uint16),
  }
  if not path.exists():
    torch_files.write(path, arrays)
  return path.read_bytes(), arrays


def _read_damaged(tmp_path, data):
  path = tmp_path / 'damaged'
  path.write_bytes(data)
  try:
    return state_dicts.read(path)
  except ConfigError as error:
    assert '\n' not in str(error)
    return None


@pytest.mark.parametrize('suffix', ['.pt', '.safetensors'])
def test_a_file_cut_anywhere_is_an_error(tmp_path, suffix):
  data, _ = _sound(tmp_path, suffix)
  for length in range(0, len(data), 3):
    assert _read_damaged(tmp_path, data[:length]) is None, length


@DAMAGED
@hypothesis.given(data=st.data())
def test_a_flipped_archive_is_an_error_or_as_it_was(tmp_path, data):
  sound, arrays = _sound(tmp_path, '.pt')
  damaged = bytearray(sound)
  at = data.draw(st.integers(0, len(sound) - 1))
  damaged[at] ^= data.draw(st.integers(1, 255))
  if (found := _read_damaged(tmp_path, bytes(damaged))) is not None:
    _assert_equal(found, arrays)


@DAMAGED
@hypothesis.given(data=st.data())
def test_a_flipped_safetensors_header_is_an_error_or_data(tmp_path, data):
  sound, _ = _sound(tmp_path, '.safetensors')
  damaged = bytearray(sound)
  at = data.draw(st.integers(0, 8 + struct.unpack('<Q', sound[:8])[0] - 1))
  damaged[at] ^= data.draw(st.integers(1, 255))
  _read_damaged(tmp_path, bytes(damaged))


@DAMAGED
@hypothesis.given(data=st.data())
def test_a_changed_pickle_is_an_error_or_data(tmp_path, data):
  """The CRC is right here, so that all of it is followed."""
  pickled = bytearray(_named_tensor()[:-1] + b'}b.')
  for _ in range(data.draw(st.integers(1, 3))):
    at = data.draw(st.integers(0, len(pickled) - 1))
    pickled[at : at + data.draw(st.integers(0, 3))] = data.draw(
      st.binary(max_size=3)
    )
  _read_damaged(tmp_path, _archive(bytes(pickled)))
