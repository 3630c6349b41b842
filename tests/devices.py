"""How many CPU devices a process sees."""

import os


def xla_flags(count: int) -> str:
  """XLA_FLAGS for so many; of a flag that is given twice the last one holds."""
  return (
    os.environ.get('XLA_FLAGS', '')
    + f' --xla_force_host_platform_device_count={count}'
  )
