"""Reads state dicts of PyTorch without PyTorch, and writes safetensors.

A `.pt` file is a zip archive: a pickle that describes the tensors, and the
bytes of each storage beside it. Python's unpickler would run what the pickle
names, and crashes on some pickles that name nothing, so this module follows
the few opcodes of a state dict itself and imports nothing for a file.
"""

import functools
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
from data_pipelines.errors import ConfigError, first_line

# The types of numbers by name, as safetensors call them, and as PyTorch calls
# a storage of them; some have none.
_DTYPES = {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16,
  'BF16': ml_dtypes.bfloat16, 'I64': np.int64, 'I32': np.int32,
  'I16': np.int16, 'I8': np.int8, 'U64': np.uint64, 'U32': np.uint32,
  'U16': np.uint16, 'U8': np.uint8, 'BOOL': np.bool_,
}  # fmt: skip
_STORAGES = {
  'Double': 'F64', 'Float': 'F32', 'Half': 'F16', 'BFloat16': 'BF16',
  'Long': 'I64', 'Int': 'I32', 'Short': 'I16', 'Char': 'I8', 'Byte': 'U8',
  'Bool': 'BOOL',
}  # fmt: skip
_TYPES = {np.dtype(kind).name: np.dtype(kind) for kind in _DTYPES.values()}

_RESAVE = 'save it again with torch.save(model.state_dict(), path)'


class _Refusal(Exception):
  """Says what is wrong with a file and how to mend it, without its name."""


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a state dict under the names they were saved with.

  The content of the file decides its format, not its name: an archive of
  `torch.save` (PyTorch 1.6 or later) or safetensors. Nothing is executed.

  A checkpoint with a `model_state_dict` is read as that alone.

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
      f'({type(error).__name__}: {first_line(error)})'
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
      f'{path}: state dicts are safetensors; end the name in .safetensors'
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
      # In the machine's own byte order too.
      arrays = {
        name: np.asarray(array, _TYPES[array.dtype.name], order='C')
        for name, array in arrays.items()
      }
      # Programs that read safetensors for PyTorch look for the metadata.
      safetensors.numpy.save_file(arrays, part, metadata={'format': 'pt'})
      # The library makes files that only their owner may read.
      part.chmod(mode)
  except (OSError, ValueError, safetensors.SafetensorError) as error:
    raise ConfigError(
      f'{path}: cannot be written ({first_line(error)}); name a file in a '
      'directory of yours with enough room'
    ) from error


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  arrays = {}
  with safetensors.safe_open(path, framework='numpy') as file:
    for name in file.keys():  # noqa: SIM118 - not a mapping.
      if (kind := file.get_slice(name).get_dtype()) not in _DTYPES:
        raise _Refusal(f'{name!r} is of type {kind}; save it as F32 or BF16')
      arrays[name] = file.get_tensor(name)
      arrays[name].flags.writeable = False
  return arrays


class _Storage(NamedTuple):
  data: np.ndarray
  dtype: np.dtype


def _read_archive(path: pathlib.Path) -> dict[str, np.ndarray]:
  """The zip file of `torch.save`, with NAME/data.pkl, NAME/data/0 …."""
  with zipfile.ZipFile(path) as file:
    root = _root(path, file.infolist())

    @functools.cache
    def record(name: str) -> np.ndarray:
      # Read-only; zipfile checks the CRC.
      return np.frombuffer(file.read(root + name), np.uint8)

    told = f'{root}byteorder' in file.namelist()
    if told and record('byteorder').tobytes() != b'little':
      raise _Refusal(
        'written in big-endian byte order; save it again on a little-endian '
        'machine'
      )
    state = _unpickle(record)
  if isinstance(state, dict):
    # URM's trainer saves its optimizers beside it.
    state = state.get('model_state_dict', state)
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


def _root(path: pathlib.Path, infos: list[zipfile.ZipInfo]) -> str:
  """Checks the table of contents before anything is read; gives NAME/."""
  names = {info.filename for info in infos}
  pickles = [name for name in names if name.endswith('/data.pkl')]
  if len(pickles) != 1:
    raise _Refusal(f'a zip archive without a state dict; {_RESAVE}')
  root = pickles[0].removesuffix('data.pkl')
  if f'{root}constants.pkl' in names:
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
  return root


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


# The names that a pickle may use; nothing else can be called.
_GLOBALS: dict[str, Callable | np.dtype] = {
  # Takes no arguments, unlike `dict`.
  'collections OrderedDict': lambda: {},  # noqa: PIE807
  'torch._utils _rebuild_parameter': lambda data, *_: data,
  'torch._utils _rebuild_tensor_v2': _tensor,
  # Of types without a storage.
  'torch._utils _rebuild_tensor_v3': lambda storage, *args: _tensor(
    _Storage(storage.data, args[5]), *args
  ),
  # Plain bytes; the tensor that views them tells the type.
  'torch.storage UntypedStorage': np.dtype(np.uint8),
  **{f'torch {name}': dtype for name, dtype in _TYPES.items()},
  **{
    f'torch {name}Storage': np.dtype(_DTYPES[kind])
    for name, kind in _STORAGES.items()
  },
}


# The opcodes that push their own argument, and those that push one value.
_PLAIN = {
  'BINUNICODE', 'SHORT_BINUNICODE', 'BINFLOAT', 'BININT', 'BININT1', 'BININT2',
  'LONG1',
}  # fmt: skip
_VALUES: dict[str, Callable[[], object]] = {
  'EMPTY_DICT': dict, 'EMPTY_LIST': list, 'EMPTY_TUPLE': tuple,
  'NONE': lambda: None, 'NEWTRUE': lambda: True, 'NEWFALSE': lambda: False,
}  # fmt: skip


def _unpickle(record: Callable[[str], np.ndarray]) -> Any:
  """Builds what a pickle of dicts, tensors and plain values describes.

  Where it needs anything else, nothing was imported or called. Where it is
  damaged, the errors are of many kinds.
  """
  arg: Any  # Each opcode has its own kind.
  stack, marks, memo = list[Any](), list[int](), {}

  def since_mark() -> list:
    start = marks.pop()
    items = stack[start:]
    del stack[start:]
    return items

  for opcode, arg, _ in pickletools.genops(record('data.pkl').tobytes()):
    match opcode.name:
      case 'PROTO' | 'FRAME':
        pass
      case name if name in _PLAIN:
        stack.append(arg)
      case name if name in _VALUES:
        stack.append(_VALUES[name]())
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE' | 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        if length := opcode.name[5:]:
          marks.append(len(stack) - int(length))
        stack.append(tuple(since_mark()))
      case 'BINPUT' | 'LONG_BINPUT':
        memo[arg] = stack[-1]
      case 'MEMOIZE':
        memo[len(memo)] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[arg])
      case 'APPEND' | 'APPENDS':
        values = since_mark() if opcode.name == 'APPENDS' else [stack.pop()]
        if not isinstance(stack[-1], list):
          raise _refused_pickle('APPENDS')
        stack[-1].extend(values)
      case 'SETITEM' | 'SETITEMS':
        if opcode.name == 'SETITEM':
          marks.append(len(stack) - 2)
        values = since_mark()
        if not isinstance(stack[-1], dict):
          raise _refused_pickle('SETITEMS')
        for key, value in zip(values[::2], values[1::2], strict=True):
          # Hashing a deeply nested tuple would overflow the stack.
          if not isinstance(key, str | int):
            raise _Refusal(f'has a key that is no name; {_RESAVE}')
          if key in stack[-1]:
            raise _Refusal(f'has the key {key!r} twice; {_RESAVE}')
          stack[-1][key] = value
      case 'GLOBAL' | 'STACK_GLOBAL':
        if opcode.name == 'STACK_GLOBAL':
          name, module = stack.pop(), stack.pop()
          if not isinstance(name, str) or not isinstance(module, str):
            raise _refused_pickle('STACK_GLOBAL')
          arg = f'{module} {name}'
        if arg not in _GLOBALS:
          raise _refused_pickle(arg.replace(' ', '.'))
        stack.append(_GLOBALS[arg])
      case 'BINPERSID':
        kind, dtype, key, _, count = stack.pop()
        if (kind, type(key), type(count)) != ('storage', str, int):
          raise TypeError('a storage is not described by a key and a count')
        # All tensors that view it share it.
        storage = record(f'data/{key}')
        if len(storage) != count * dtype.itemsize:
          raise ValueError(f'storage {key} is not of {count} {dtype}')
        stack.append(_Storage(storage, dtype))
      case 'REDUCE':
        args, function = stack.pop(), stack.pop()
        if not isinstance(args, tuple):
          raise TypeError('arguments are not in a tuple')
        # Only _GLOBALS hold what can be called.
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
