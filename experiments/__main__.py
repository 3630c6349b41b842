"""The console script hrm-jax; `python -m experiments COMMAND` is the same."""

import ast
import difflib
import pathlib
import runpy
import sys

from experiments.cli import command, interrupts

# As they are listed: what a newcomer wants first.
COMMANDS = (
  'demo', 'train', 'evaluate', 'predict', 'adapt', 'compress', 'llm',
  'report', 'analyze', 'compare', 'show', 'leaks', 'export_puzzles', 'convert',
  'export', 'bundle', 'compile', 'verify_parity', 'benchmark', 'speedrun',
  'device_check',
)  # fmt: skip


def main() -> None:
  """Runs the command that the command line names, or lists all."""
  # `device-check` is as good.
  name = (*sys.argv, '--help')[1]
  name = name if name.startswith('-') else name.replace('-', '_')
  if name in ('--help', '-h'):
    print(listing())
  elif name in COMMANDS:
    del sys.argv[1]
    interrupts.end_at_once()
    runpy.run_module(f'experiments.{name}', run_name='__main__', alter_sys=True)
  else:
    close = difflib.get_close_matches(name, COMMANDS, 1)
    command.fail(
      f"there is no command '{name}'; "
      + (f'did you mean {close[0]}?' if close else f'use {", ".join(COMMANDS)}')
    )


def listing() -> str:
  """All commands with the first sentence that each module says of itself."""
  lines = ['Commands of hrm-jax (hrm-jax COMMAND --help says more):', '']
  for name in COMMANDS:
    source = pathlib.Path(__file__).with_name(f'{name}.py').read_text()
    first = ast.get_docstring(ast.parse(source)).splitlines()[0]
    lines.append(f'  {name:16} {first}')
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
