"""Measures what needs no model: input pipelines, generators and voting."""

import json
import pathlib
import tempfile

import numpy as np

from data_pipelines.arc import encoding, voting
from data_pipelines.questions import maze, sudoku
from experiments.benchmarks import timing


def input_pipeline() -> None:
  """Measures each kind of set in a process of its own, with 0.4 GB of disk."""
  with tempfile.TemporaryDirectory() as scratch:
    published = pathlib.Path(scratch) / 'arc1'
    timing.run_module(
      'experiments.export_puzzles', '--train=arc1:training',
      '--evaluate=arc1:evaluation', '--num_aug=50', f'--out={published}',
    )  # fmt: skip
    for title, train, evaluate, *more in (
      ('ARC-1 × 1000', 'arc1:training', 'arc1:evaluation'),
      ('ARC-2 × 1000', 'arc2:training', 'arc2:evaluation'),
      ('Sudoku 9 × 9, 1000 × 1000', 'sudoku', ''),
      ('mazes 30 × 30, 1000', 'maze', '', '--num_aug=0'),
      ('ARC-1 × 50, published format', published, published),
    ):
      line = timing.run_module(
        'experiments.benchmarks.input',
        *(f'--train={train}', f'--evaluate={evaluate}', *more),
      )
      found = json.loads(line)
      print(
        f'{title:28}  {found["examples"]:9,.0f} examples/s  '
        f'{found["batches"]:6.1f} batches of 768/s  peak '
        f'{found["resident"]:5.0f} MiB  load {found["load"]:.1f} s, first '
        f'batch {found["first_batch"]:.1f} s later, at position 10^6 '
        f'{found["far"]:+.2f} s\n{"":28}  {found["set"]}'
      )


def generators() -> None:
  """Generates 1,000 puzzles of the paper's sizes, compiling included."""
  for name, make in (
    (
      'Sudokus of 9 × 9, at most 27 clues',
      lambda: sudoku.generate(sudoku.Sudoku(3, 3), 1000, 0, 27),
    ),
    (
      'mazes of 30 × 30, at least 110 steps',
      lambda: maze.generate(maze.Maze(30, 30), 1000, 0, 110),
    ),
  ):
    print(f'1000 {name}: {timing.seconds(make):.1f} s')


def decode_and_vote() -> None:
  """Votes over 419 test inputs × 1000 augmentations of made-up predictions.

  A tenth of the predictions has another size, 60 % differ from the answer in
  one to five cells, and the others are the answer.
  """
  rng = np.random.default_rng(0)
  made = [_predictions(rng, 1000) for _ in range(20)]

  def vote():
    for number in range(419):
      tokens, dihedral, colours, confidence = made[number % len(made)]
      grids, heights, widths = encoding.decode(tokens, dihedral, colours)
      voting.vote(grids, heights, widths, confidence)

  print(f'419 test inputs × 1000 predictions: {timing.seconds(vote):.1f} s')


def _predictions(rng: np.random.Generator, count: int):
  answer = rng.integers(0, 10, rng.integers(3, 31, 2)).astype(np.uint8)
  dihedral = rng.integers(0, 8, count)
  colours = np.tile(np.arange(10, dtype=np.uint8), (count, 1))
  colours[:, 1:] = rng.permuted(colours[:, 1:], axis=1)
  tokens = []
  for transform, permutation in zip(dihedral, colours, strict=True):
    grid, kind = answer.copy(), rng.random()
    if kind < 0.1:
      grid = rng.integers(0, 10, rng.integers(1, 31, 2)).astype(np.uint8)
    elif kind < 0.7:
      cells = rng.integers(0, grid.size, rng.integers(1, 6))
      grid.flat[cells] = rng.integers(0, 10, len(cells))
    tokens.append(
      encoding.encode(encoding.augment(grid, transform, permutation))
    )
  return np.stack(tokens), dihedral, colours, rng.random(count)
