"""Reads state dicts of PyTorch without PyTorch, and writes safetensors.

A `.pt` file is a zip archive: a pickle that describes the tensors, and the
bytes of each storage beside it. Python's unpickler would run what the pickle
names, and crashes on some pickles that name nothing, so this module follows
the few opcodes of a state dict itself and imports nothing for a file.
"""

import os
import pathlib
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from data_pipelines import files
from data_pipelines.errors import ConfigError


class _Type(NamedTuple):
  """A type of numbers and its names; PyTorch has no storage for some types."""

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

# Number of bytes read at once; more would only cost memory.
_CHUNK = 1 << 24

_RESAVE = 'save it again with torch.save(model.state_dict(), path)'


class _Refusal(Exception):
  """Says what is wrong with a file and how to mend it, without its name."""


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a state dict under the names they were saved with.

  The content of the file decides its format, not its name: an archive of
  `torch.save` (PyTorch 1.6 or later) or safetensors. Nothing in the file is
  executed.

  Returns:
    Read-only arrays in the order of the file; bfloat16 is ml_dtypes.bfloat16.
    Tensors that shared a storage share memory.

  Raises:
    ConfigError: the file is missing, damaged or of another kind, or it holds
      something other than named tensors.
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
  """Writes a state dict as safetensors, whole or not at all.

  Args:
    path: a new file whose name ends in .safetensors.
    arrays: the tensors by name, of any memory layout; written in C order.

  Raises:
    ConfigError: the file has another ending or exists, a name or type has no
      place in such files, or the file cannot be written.
  """
  path = pathlib.Path(path)
  if path.suffix != '.safetensors':
    raise ConfigError(
      f'{path}: state dicts are written as safetensors; end the name in '
      '.safetensors'
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
  try:
    with files.replacing(path) as part:
      part.touch(exist_ok=False)
      mode = part.stat().st_mode
      safetensors.numpy.save_file(
        {
          name: np.asarray(array, _TYPES[array.dtype.name].dtype, order='C')
          for name, array in arrays.items()
        },
        part,
        # Programs that read safetensors for PyTorch look for this.
        metadata={'format': 'pt'},
      )
      # The library makes files that only their owner may read.
      part.chmod(mode)
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise ConfigError(
      f'{path}: cannot be written ({_reason(error)}); name a file in a '
      'directory of yours with enough room'
    ) from error


def _reason(error: Exception) -> str:
  lines = str(error).strip().splitlines() or ['']
  return f'{type(error).__name__}: {lines[0][:200]}'


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


class _Archive:
  """The zip file of `torch.save`, with NAME/data.pkl, NAME/data/0 …."""

  def __init__(self, path: pathlib.Path, file: zipfile.ZipFile):
    """Checks the archive's own table of contents before reading any of it."""
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
    # torch.save does not compress, so no archive may unpack to more bytes.
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
    """Returns the bytes of one file in the archive; zipfile checks the CRC."""
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
    """Returns the bytes of one storage; all tensors that view it share them."""
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
  *_: Any,
) -> np.ndarray:
  """Stands for torch._utils._rebuild_tensor_v2; numpy checks the bounds."""
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


def _tensor_of_type(storage: _Storage, *args: Any) -> np.ndarray:
  """Stands for torch._utils._rebuild_tensor_v3: types without a storage."""
  return _tensor(_Storage(storage.data, args[5]), *args)


def _ordered_dict() -> dict:
  """Takes no arguments, unlike `dict`."""
  return {}


# The names that a pickle may use; nothing else can be called.
_GLOBALS: dict[str, Callable | np.dtype] = {
  'collections OrderedDict': _ordered_dict,
  'torch._utils _rebuild_parameter': lambda data, *_: data,
  'torch._utils _rebuild_tensor_v2': _tensor,
  'torch._utils _rebuild_tensor_v3': _tensor_of_type,
  # Plain bytes; the tensor that views them tells the type.
  'torch.storage UntypedStorage': np.dtype(np.uint8),
  **{f'torch {name}': kind.dtype for name, kind in _TYPES.items()},
  **{
    f'torch {kind.storage}': kind.dtype
    for kind in _TYPES.values()
    if kind.storage
  },
}


# The opcodes that push their own argument, and those that push nothing yet.
_PLAIN = {
  'BINUNICODE', 'SHORT_BINUNICODE', 'BINFLOAT', 'BININT', 'BININT1', 'BININT2',
  'LONG1',
}  # fmt: skip
_EMPTY = {'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple}


def _unpickle(data: bytes, archive: _Archive) -> Any:
  """Builds what a pickle of dicts, tensors and plain values describes.

  Raises:
    _Refusal: the pickle needs anything else; nothing was imported or called.
    Exception: the pickle is damaged; the errors are of many kinds.
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
      case name if name in _PLAIN:
        stack.append(arg)
      case name if name in _EMPTY:
        stack.append(_EMPTY[name]())
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
      case 'APPEND' | 'APPENDS':
        values = since_mark() if opcode.name == 'APPENDS' else [stack.pop()]
        _extend(stack[-1], values)
      case 'SETITEM' | 'SETITEMS':
        if opcode.name == 'SETITEM':
          marks.append(len(stack) - 2)
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
        # This sets _metadata of a state dict, which numbers versions.
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
