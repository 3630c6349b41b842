"""State dicts of PyTorch, as files of either kind, without PyTorch.

A `.pt` file is a zip archive: a pickle that says which tensors there are, and
the bytes of each storage beside it. Python's unpickler would run what the
pickle names, and crashes on some that name nothing, so this module follows
the few opcodes of a state dict itself and imports nothing for a file.
"""

import math
import os
import pathlib
import pickle
import pickletools
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines.errors import ConfigError


class _Type(NamedTuple):
  """One type of numbers and its names; PyTorch has no storage of some."""

  dtype: np.dtype
  storage: str | None
  safetensors: str


_TYPES = {
  kind.dtype.name: kind
  for kind in (
    _Type(np.dtype(np.float64), 'DoubleStorage', 'F64'),
    _Type(np.dtype(np.float32), 'FloatStorage', 'F32'),
    _Type(np.dtype(np.float16), 'HalfStorage', 'F16'),
    _Type(np.dtype(ml_dtypes.bfloat16), 'BFloat16Storage', 'BF16'),
    _Type(np.dtype(np.int64), 'LongStorage', 'I64'),
    _Type(np.dtype(np.int32), 'IntStorage', 'I32'),
    _Type(np.dtype(np.int16), 'ShortStorage', 'I16'),
    _Type(np.dtype(np.int8), 'CharStorage', 'I8'),
    _Type(np.dtype(np.uint64), None, 'U64'),
    _Type(np.dtype(np.uint32), None, 'U32'),
    _Type(np.dtype(np.uint16), None, 'U16'),
    _Type(np.dtype(np.uint8), 'ByteStorage', 'U8'),
    _Type(np.dtype(np.bool_), 'BoolStorage', 'BOOL'),
  )
}

# As a type of storage: bytes, whose type the tensor says.
_UNTYPED = 'torch.storage UntypedStorage'

# Bytes of a storage that are read at once; more only costs memory.
_CHUNK = 1 << 24

_RESAVE = 'save it again with torch.save(model.state_dict(), path)'


class _Refusal(Exception):
  """What is wrong with a file and what to do, still without its name."""


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """The tensors of a state dict under the names they were saved with.

  The content decides the format, not the name: an archive of `torch.save`
  (PyTorch 1.6 or later) or safetensors. Nothing in the file is executed.

  Returns:
    Read-only arrays in the order of the file; bfloat16 is ml_dtypes.bfloat16.
    Tensors that shared a storage share memory.

  Raises:
    ConfigError: the file is missing, damaged, of another kind or holds
      something else than named tensors.
  """
  path = pathlib.Path(path)
  try:
    if not path.is_file():
      raise _Refusal('no such file; name a .pt or .safetensors file')
    with path.open('rb') as file:
      head = file.read(9)
    # A zip has its compression method there, which is never 123.
    if head[8:] == b'{':
      return _read_safetensors(path)
    if head.startswith(b'PK\3\4'):
      return _read_archive(path)
    if head.startswith(b'\x80'):
      raise _Refusal(
        'a bare pickle, as PyTorch before 1.6 wrote; refused and not '
        f'executed; {_RESAVE}'
      )
    raise _Refusal(
      'neither a state dict of torch.save nor safetensors, it may be damaged; '
      'copy or download it again'
    )
  except _Refusal as error:
    raise ConfigError(f'{path}: {error}') from None
  except MemoryError:
    raise
  # zipfile, pickletools, numpy and safetensors each have their own errors.
  except Exception as error:
    raise ConfigError(
      f'{path}: cannot be read, it may be damaged; copy or download it again '
      f'({_reason(error)})'
    ) from error


def write(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes a state dict, whole or not at all.

  Args:
    path: a new file; its suffix chooses the format: .pt and .pth are read by
      `torch.load(path, weights_only=True)`, .safetensors by that library.
    arrays: by name, of any memory layout; written in C order.

  Raises:
    ConfigError: the suffix is another, the file exists, a name or type has
      no place in such files, or the file cannot be written.
  """
  path = pathlib.Path(path)
  if path.suffix not in _WRITERS:
    raise ConfigError(
      f'{path}: no known format; end the name in {", ".join(_WRITERS)}'
    )
  if os.path.lexists(path):
    raise ConfigError(f'{path}: exists already; remove it or name another file')
  for name, array in arrays.items():
    # Safetensors keeps one name for itself.
    if not isinstance(name, str) or name == '__metadata__':
      raise ConfigError(f'{path}: a tensor cannot be named {name!r}; rename it')
    if array.dtype.name not in _TYPES:
      raise ConfigError(
        f'{path}: {name!r} is of type {array.dtype}; convert it to one of '
        + ', '.join(_TYPES)
      )
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    _WRITERS[path.suffix](part, arrays)
    with part.open('rb+') as file:
      os.fsync(file.fileno())
    part.replace(path)
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise ConfigError(
      f'{path}: cannot be written ({_reason(error)}); name a file in a '
      'directory of yours with enough room'
    ) from error
  finally:
    part.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:200]}'


def _in_c_order(array: np.ndarray) -> np.ndarray:
  dtype = _TYPES[array.dtype.name].dtype
  return np.asarray(array, dtype, order='C')


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  known = {kind.safetensors for kind in _TYPES.values()}
  arrays = {}
  with safetensors.safe_open(path, framework='numpy') as file:
    for name in file.keys():  # noqa: SIM118 - not a mapping.
      if (kind := file.get_slice(name).get_dtype()) not in known:
        raise _Refusal(f'{name!r} is of type {kind}; save it as F32 or BF16')
      arrays[name] = file.get_tensor(name)
      arrays[name].flags.writeable = False
  return arrays


def _write_safetensors(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> None:
  path.touch(exist_ok=False)
  mode = path.stat().st_mode
  safetensors.numpy.save_file(
    {name: _in_c_order(array) for name, array in arrays.items()},
    path,
    # Programs that read safetensors for PyTorch look for this.
    metadata={'format': 'pt'},
  )
  # It makes files that nobody but their owner may read.
  path.chmod(mode)


class _Archive:
  """The zip file of `torch.save`: NAME/data.pkl, NAME/data/0, …"""

  def __init__(self, path: pathlib.Path, file: zipfile.ZipFile):
    """Checks what the archive says of itself before any of it is read."""
    infos = file.infolist()
    names = {info.filename for info in infos}
    roots = [
      name.removesuffix('data.pkl')
      for name in names
      if name.endswith('/data.pkl')
    ]
    if len(roots) != 1:
      raise _Refusal(f'a zip archive without a state dict; {_RESAVE}')
    (self._root,) = roots
    if f'{self._root}constants.pkl' in names:
      raise _Refusal(
        f'a TorchScript archive, which holds code; not executed; {_RESAVE}'
      )
    # torch.save does not compress, so no archive is larger than it looks.
    if (
      len(names) < len(infos)
      or any(info.compress_type != zipfile.ZIP_STORED for info in infos)
      or sum(info.file_size for info in infos) > path.stat().st_size
    ):
      raise _Refusal(f'not an archive that torch.save wrote; {_RESAVE}')
    self._file = file
    self._storages: dict[str, np.ndarray] = {}
    if (
      f'{self._root}byteorder' in names
      and self.record('byteorder').tobytes() != b'little'
    ):
      raise _Refusal(
        'written in big-endian byte order; save it again on a little-endian '
        'machine'
      )

  def record(self, name: str) -> np.ndarray:
    """The bytes of one file in the archive; zipfile checks their CRC."""
    info = self._file.getinfo(self._root + name)
    data = np.empty(info.file_size, np.uint8)
    at = 0
    with self._file.open(info) as file:
      while count := file.readinto(data[at : at + _CHUNK]):
        at += count
    if at != len(data):
      raise EOFError(f'{info.filename} ends early')
    data.flags.writeable = False
    return data

  def storage(self, key: str, nbytes: int) -> np.ndarray:
    """The bytes of one storage, read once however many tensors view it."""
    if key not in self._storages:
      self._storages[key] = self.record(f'data/{key}')
    if len(self._storages[key]) != nbytes:
      raise ValueError(f'storage {key} is not of {nbytes} bytes')
    return self._storages[key]


class _Storage(NamedTuple):
  data: np.ndarray
  dtype: np.dtype


def _read_archive(path: pathlib.Path) -> dict[str, np.ndarray]:
  with zipfile.ZipFile(path) as file:
    archive = _Archive(path, file)
    state = _unpickle(archive.record('data.pkl').tobytes(), archive)
  if not isinstance(state, dict):
    raise _Refusal(f'holds a {type(state).__name__}, not a dict; {_RESAVE}')
  for name, value in state.items():
    if not isinstance(name, str):
      raise _Refusal(f'has the key {name!r}, which is no name; {_RESAVE}')
    if isinstance(value, dict):
      raise _Refusal(
        f'{name!r} is a dict of its own; save that one alone with '
        f'torch.save(checkpoint[{name!r}], path)'
      )
    if not isinstance(value, np.ndarray):
      raise _Refusal(
        f'{name!r} is a {type(value).__name__}, not a tensor; save the file '
        'again without it'
      )
  return state


def _tensor(
  storage: _Storage,
  offset: int,
  size: tuple[int, ...],
  stride: tuple[int, ...],
  _requires_grad: bool,
  _hooks: Any,
  *_: Any,
) -> np.ndarray:
  """torch._utils._rebuild_tensor_v2; numpy checks the bounds."""
  if not isinstance(storage, _Storage) or not all(
    isinstance(number, int) for number in (offset, *size, *stride)
  ):
    raise TypeError('a tensor is not described by a storage and integers')
  return np.ndarray(
    size,
    storage.dtype,
    storage.data,
    offset * storage.dtype.itemsize,
    tuple(step * storage.dtype.itemsize for step in stride),
  )


def _tensor_of_type(
  storage: _Storage,
  offset: int,
  size: tuple[int, ...],
  stride: tuple[int, ...],
  _requires_grad: bool,
  _hooks: Any,
  dtype: np.dtype,
  *_: Any,
) -> np.ndarray:
  """torch._utils._rebuild_tensor_v3, for types that have no storage."""
  storage = _Storage(storage.data, dtype)
  return _tensor(storage, offset, size, stride, False, None)


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
  return data


def _ordered_dict() -> dict:
  return {}


# What a pickle may name. Only what is listed here can be called.
_GLOBALS: dict[str, Callable | np.dtype] = {
  'collections OrderedDict': _ordered_dict,
  'torch._utils _rebuild_parameter': _parameter,
  'torch._utils _rebuild_tensor_v2': _tensor,
  'torch._utils _rebuild_tensor_v3': _tensor_of_type,
  _UNTYPED: np.dtype(np.uint8),
  **{f'torch {name}': kind.dtype for name, kind in _TYPES.items()},
  **{
    f'torch {kind.storage}': kind.dtype
    for kind in _TYPES.values()
    if kind.storage
  },
}


def _unpickle(data: bytes, archive: _Archive) -> Any:
  """What a pickle of dicts, tensors and plain values describes.

  Raises:
    _Refusal: it needs anything else; nothing was imported or called.
    Exception: of many kinds, where it is damaged.
  """
  stack, marks, memo = [], [], {}

  def since_mark() -> list:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for opcode, arg, _ in pickletools.genops(data):
    match opcode.name:
      case 'PROTO' | 'FRAME':
        pass
      case 'NONE':
        stack.append(None)
      case 'NEWTRUE' | 'NEWFALSE':
        stack.append(opcode.name == 'NEWTRUE')
      case (
        'BINUNICODE'
        | 'SHORT_BINUNICODE'
        | 'BINFLOAT'
        | 'BININT'
        | 'BININT1'
        | 'BININT2'
        | 'LONG1'
      ):
        stack.append(arg)
      case 'EMPTY_DICT':
        stack.append({})
      case 'EMPTY_LIST':
        stack.append([])
      case 'EMPTY_TUPLE':
        stack.append(())
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE':
        stack.append(tuple(since_mark()))
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        start = len(stack) - int(opcode.name[-1])
        stack[start:] = [tuple(stack[start:])]
      case 'BINPUT' | 'LONG_BINPUT':
        memo[arg] = stack[-1]
      case 'MEMOIZE':
        memo[len(memo)] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[arg])
      case 'APPEND':
        value = stack.pop()
        _extend(stack[-1], [value])
      case 'APPENDS':
        values = since_mark()
        _extend(stack[-1], values)
      case 'SETITEM':
        value, key = stack.pop(), stack.pop()
        _set_items(stack[-1], [key, value])
      case 'SETITEMS':
        values = since_mark()
        _set_items(stack[-1], values)
      case 'GLOBAL':
        stack.append(_global(arg))
      case 'STACK_GLOBAL':
        name, module = stack.pop(), stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
          raise _refused_pickle('STACK_GLOBAL')
        stack.append(_global(f'{module} {name}'))
      case 'BINPERSID':
        kind, dtype, key, _, count = stack.pop()
        if (
          kind != 'storage'
          or not isinstance(key, str)
          or not isinstance(count, int)
        ):
          raise TypeError('a storage is not described by a key and a count')
        stack.append(
          _Storage(archive.storage(key, count * dtype.itemsize), dtype)
        )
      case 'REDUCE':
        args, function = stack.pop(), stack.pop()
        if not isinstance(args, tuple):
          raise TypeError('arguments are not in a tuple')
        # Only _global pushes what can be called.
        stack.append(function(*args))
      case 'BUILD':
        # The attribute _metadata of a state dict, which numbers versions.
        stack.pop()
        if not isinstance(stack[-1], dict):
          raise _refused_pickle('BUILD')
      case 'STOP':
        return stack.pop()
      case 'INST':
        raise _refused_pickle(arg.replace(' ', '.'))
      case _:
        raise _refused_pickle(opcode.name)


def _refused_pickle(what: str) -> _Refusal:
  return _Refusal(
    f'its pickle needs {what[:200]!r}, which is refused and not executed; '
    f'{_RESAVE}'
  )


def _global(name: str) -> Any:
  if name not in _GLOBALS:
    raise _refused_pickle(name.replace(' ', '.'))
  return _GLOBALS[name]


def _extend(target: Any, values: list) -> None:
  if not isinstance(target, list):
    raise _refused_pickle('APPENDS')
  target.extend(values)


def _set_items(target: Any, values: list) -> None:
  if not isinstance(target, dict):
    raise _refused_pickle('SETITEMS')
  for key, value in zip(values[::2], values[1::2], strict=True):
    # Hashing a deeply nested tuple would overflow the interpreter's stack.
    if not isinstance(key, str | int):
      raise _Refusal(f'has a key that is no name; {_RESAVE}')
    if key in target:
      raise _Refusal(f'has the key {key!r} twice; {_RESAVE}')
    target[key] = value


def _write_archive(
  path: pathlib.Path, arrays: Mapping[str, np.ndarray]
) -> None:
  # Without a date the same arrays give the same bytes.
  with zipfile.ZipFile(path, 'x') as archive:

    def put(name: str, data: bytes | np.ndarray) -> None:
      info = zipfile.ZipInfo(f'archive/{name}')
      info.file_size = len(data)
      with archive.open(info, 'w') as file:
        file.write(data)

    put('data.pkl', b''.join(_pickled(arrays)))
    put('byteorder', b'little')
    for i, array in enumerate(arrays.values()):
      put(f'data/{i}', _in_c_order(array).reshape(-1).view(np.uint8))
    put('version', b'3\n')


def _pickled(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
  """Protocol 2, by hand: what it names cannot be imported here."""

  def plain(value: Any) -> bytes:
    # Less the protocol in front and the full stop behind.
    return pickle.dumps(value, 2)[2:-1]

  def named(name: str) -> bytes:
    return b'c' + name.replace(' ', '\n').encode() + b'\n'

  ordered_dict = named('collections OrderedDict') + b')R'
  yield b'\x80\x02' + ordered_dict + b'('
  for i, (name, array) in enumerate(arrays.items()):
    kind = _TYPES[array.dtype.name]
    strides = tuple(
      math.prod(array.shape[axis:]) for axis in range(1, array.ndim + 1)
    )
    typed = kind.storage is not None
    yield plain(name)
    yield named(f'torch._utils _rebuild_tensor_v{2 if typed else 3}')
    yield b'((' + plain('storage')
    yield named(f'torch {kind.storage}' if typed else _UNTYPED)
    yield plain(str(i)) + plain('cpu')
    yield plain(array.size if typed else array.nbytes) + b'tQ'
    yield plain(0) + plain(array.shape) + plain(strides) + plain(False)
    yield ordered_dict
    yield b'tR' if typed else named(f'torch {array.dtype.name}') + b'tR'
  yield b'u.'


_WRITERS = {
  '.pt': _write_archive,
  '.pth': _write_archive,
  '.safetensors': _write_safetensors,
}
