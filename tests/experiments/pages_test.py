"""Pages that are to be followed literally work when they are."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

_ROOT = pathlib.Path(__file__).parents[2]
_DOCS = _ROOT / 'docs'
_MIRROR = 'mirror:size=4x4:count=20:tests=4'
_CODE = re.compile(r'^```python\n(.*?)^```', re.S | re.M)
_FILE = re.compile(
  r'^```\w+ title="([^",]+)(, in \w+)?"\n(.*?)^```', re.S | re.M
)


def _run(folder, *arguments):
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=folder,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu', 'HRM_JAX_CACHE': str(folder)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout + done.stderr


def test_hrm_from_inside(tmp_path):
  page = (_DOCS / 'tutorials' / 'from_inside.md').read_text()
  script = tmp_path / 'page.py'
  script.write_text('\n'.join(_CODE.findall(page)))
  assert '[0 0 0 1 1 1 1 1]' in _run(_ROOT, '-c', script.read_text())


def test_a_model_and_a_puzzle_of_ones_own(tmp_path):
  for package in ('data_pipelines', 'hrm_jax', 'experiments'):
    shutil.copytree(_ROOT / package, tmp_path / package)
  for page in ('add_your_own_model.md', 'add_your_own_puzzle.md'):
    text = (_DOCS / 'how_to' / page).read_text()
    for name, inside, block in _FILE.findall(text):
      path = tmp_path / name
      before = path.read_text() if path.exists() else ''
      path.write_text(_with_block(before, block, bool(inside)))
  said = _run(
    tmp_path, '-m', 'experiments.train', '--config=sudoku:demo,looped',
    '--config.model.loops=3', f'--config.data.train={_MIRROR}',
    f'--config.data.evaluate={_MIRROR}',
    '--config.data.num_aug=3', '--config.batch_size=8',
    '--config.total_steps=1', '--config.model.hidden_size=32',
    '--config.model.puzzle_emb_ndim=0', '--workdir=run',
  )  # fmt: skip
  assert 'mirror puzzles of 4 × 4' in said
  said = _run(tmp_path, '-m', 'experiments.evaluate', '--workdir=run')
  assert '/4)' in said


def _with_block(text: str, block: str, inside: bool) -> str:
  """Does to a file what a page says."""
  first, last = block.splitlines()[0], block.splitlines()[-1]
  if inside:
    # An entry; where its neighbours are shown, it goes between them.
    place = f'{first}\n{last}\n' if first != last else "  'hrm': HRM,\n"
    assert place in text
    return text.replace(place, block if first != last else place + block)
  if first.startswith('SYSTEMS'):
    return re.sub(r'^SYSTEMS = .*\n', block, text, flags=re.M)
  if 'KINDS:' in block:
    return text[: text.index('from ')] + block
  if 'Settings(' in block and 'import' not in block:
    return text.replace('\nMODELS:', f'\n{block}\n\nMODELS:')
  if first.startswith('from hrm_jax.models') and text:
    return text.replace(first[:20], block + first[:20], 1)
  return block
