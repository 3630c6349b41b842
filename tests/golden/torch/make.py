"""Writes the files beside it: what real PyTorch saves, and the values."""

import pathlib

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
PREFIX = '_orig_mod.model.inner.'

torch.manual_seed(0)
table = torch.randn(6, 4)
state = {
  PREFIX + 'L_level.layers.0.mlp.down_proj.weight': torch.randn(3, 5),
  PREFIX + 'H_init': torch.tensor([1.5, -0.0, float('nan'), 1e30]).bfloat16(),
  PREFIX + 'q_head.bias': torch.nn.Parameter(torch.randn(2)),
  PREFIX + 'transposed': table.T,
  PREFIX + 'puzzle_emb.weights': table,
  PREFIX + 'rows': table[2:4, 1:],
  PREFIX + 'expanded': torch.randn(3, 1).expand(3, 4),
  'scalar': torch.tensor(2.5, dtype=torch.float64),
  'empty': torch.empty(0, 3),
  'float16': torch.randn(4).half(),
  'bool': torch.tensor([True, False, True]),
  'int8': torch.tensor([-128, 127], dtype=torch.int8),
  'int16': torch.tensor([-(2**15)], dtype=torch.int16),
  'int32': torch.tensor([-(2**31)], dtype=torch.int32),
  'int64': torch.tensor([-(2**63)], dtype=torch.int64),
  'uint8': torch.tensor([255], dtype=torch.uint8),
  'uint16': torch.tensor([2**16 - 1], dtype=torch.uint16),
  'uint32': torch.tensor([2**32 - 1], dtype=torch.uint32),
  'uint64': torch.tensor([2**63 + 1], dtype=torch.uint64),
}
module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))

# The published code names its files so, without a suffix.
torch.save(state, HERE / 'step_3')
torch.save(state, HERE / 'protocol4.pt', pickle_protocol=4)
torch.save(module.state_dict(), HERE / 'module.pt')
torch.save({'model': module.state_dict(), 'step': 3}, HERE / 'nested.pt')
torch.save(
  module.state_dict(),
  HERE / 'legacy.pt',
  _use_new_zipfile_serialization=False,
)
torch.jit.script(torch.nn.Identity()).save(HERE / 'script.pt')


def expected(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
  """The values; NumPy cannot store bfloat16, so its bits as uint16."""
  arrays = {}
  for name, tensor in state.items():
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
      arrays[f'{name}:bfloat16'] = tensor.view(torch.uint16).numpy()
    else:
      arrays[name] = tensor.numpy()
  return arrays


np.savez_compressed(HERE / 'step_3.npz', **expected(state))
np.savez_compressed(HERE / 'module.npz', **expected(module.state_dict()))
