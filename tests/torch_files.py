"""Writes state dicts as PyTorch and safetensors do, for tests that read them.

The archives of `torch.save` are made by hand, since PyTorch is not installed;
tests/golden/torch has files of PyTorch itself.
"""

import math
import pickle
import zipfile

import ml_dtypes
import numpy as np

from hrm_jax.published import state_dicts

# The classes of storages in torch; other types have none.
_STORAGES = {
  'float64': 'DoubleStorage',
  'float32': 'FloatStorage',
  'float16': 'HalfStorage',
  'bfloat16': 'BFloat16Storage',
  'int64': 'LongStorage',
  'int32': 'IntStorage',
  'int16': 'ShortStorage',
  'int8': 'CharStorage',
  'uint8': 'ByteStorage',
  'bool': 'BoolStorage',
}


def write(path, arrays):
  """Writes arrays as safetensors or, under another suffix, for `torch.load`."""
  if path.suffix == '.safetensors':
    state_dicts.write(path, arrays)
    return
  # Little-endian and in C order.
  arrays = {
    name: np.asarray(
      array,
      array.dtype
      if array.dtype == ml_dtypes.bfloat16
      else array.dtype.newbyteorder('<'),
      order='C',
    )
    for name, array in arrays.items()
  }
  with zipfile.ZipFile(path, 'x') as archive:

    def put(name, data):
      info = zipfile.ZipInfo(f'archive/{name}')
      info.file_size = len(data)
      with archive.open(info, 'w') as file:
        file.write(data)

    put('data.pkl', b''.join(_pickled(arrays)))
    put('byteorder', b'little')
    for i, array in enumerate(arrays.values()):
      put(f'data/{i}', array.reshape(-1).view(np.uint8))
    put('version', b'3\n')


def _pickled(arrays):
  """Protocol 2 by hand: what it names cannot be imported here."""

  def plain(value):
    # Without the protocol in front and the full stop behind.
    return pickle.dumps(value, 2)[2:-1]

  def named(name):
    return b'c' + name.replace(' ', '\n').encode() + b'\n'

  ordered_dict = named('collections OrderedDict') + b')R'
  yield b'\x80\x02' + ordered_dict + b'('
  for i, (name, array) in enumerate(arrays.items()):
    storage = _STORAGES.get(array.dtype.name)
    strides = tuple(
      math.prod(array.shape[axis:]) for axis in range(1, array.ndim + 1)
    )
    yield plain(name)
    yield named(f'torch._utils _rebuild_tensor_v{2 if storage else 3}')
    yield b'((' + plain('storage')
    yield named(
      f'torch {storage}' if storage else 'torch.storage UntypedStorage'
    )
    yield plain(str(i)) + plain('cpu')
    yield plain(array.size if storage else array.nbytes) + b'tQ'
    yield plain(0) + plain(array.shape) + plain(strides) + plain(False)
    yield ordered_dict
    yield b'tR' if storage else named(f'torch {array.dtype.name}') + b'tR'
  yield b'u.'
