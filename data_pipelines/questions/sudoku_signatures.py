"""Compiled hashes of Sudokus that no symmetry changes.

They are sums of scrambled numbers, which tell multisets apart.
"""

import numpy as np

from data_pipelines.questions.generator import compiled, mix_one
from data_pipelines.questions.sudoku_solver import FIRST_DIGIT


@compiled
def of_questions(questions, geometry, square, rounds, result):
  """The signatures of `Sudoku.signatures`, by sums of scrambled colours."""
  size = questions.shape[1]
  units, band, stack = geometry.units, geometry.band, geometry.stack
  n = units.shape[1]
  colour = np.zeros(size, np.uint64)
  mixed = np.zeros(size, np.uint64)
  # Sums over each row, column and box; then over bands, stacks and tokens.
  unit = np.zeros(3 * n, np.uint64)
  bands = np.zeros(n, np.uint64)
  stacks = np.zeros(n, np.uint64)
  tokens = np.zeros(n + FIRST_DIGIT, np.uint64)
  box_of = np.zeros(size, np.int64)
  for b in range(n):
    for k in range(n):
      box_of[units[2 * n + b, k]] = b
  one, two, three, four, five = (
    np.uint64(0xD1342543DE82EF95),
    np.uint64(0xA0761D6478BD642F),
    np.uint64(0xE7037ED1A0B428DB),
    np.uint64(0x8EBC6AF09C88C6E3),
    np.uint64(0x589965CC75374CC3),
  )
  # Rows and columns are told apart only where no transposition mixes them.
  axis = np.uint64(0) if square else one
  for i in range(questions.shape[0]):
    question = questions[i]
    for cell in range(size):
      colour[cell] = two if question[cell] >= FIRST_DIGIT else three
    for _ in range(rounds):
      tokens[:] = 0
      bands[:] = 0
      stacks[:] = 0
      for cell in range(size):
        mixed[cell] = mix_one(colour[cell])
        tokens[question[cell]] += mixed[cell]
      for u in range(3 * n):
        total = np.uint64(0)
        for k in range(n):
          total += mixed[units[u, k]]
        unit[u] = mix_one(total + two)
      for line in range(n):
        bands[band[line * n]] += unit[line]
        stacks[stack[line]] += unit[n + line]
      for k in range(n):
        bands[k] = mix_one(bands[k]) * three
        stacks[k] = mix_one(stacks[k]) * three
      for k in range(n + FIRST_DIGIT):
        tokens[k] = mix_one(tokens[k]) * four
      for cell in range(size):
        row, column = cell // n, cell % n
        across = mix_one(unit[row] + bands[band[cell]])
        down = mix_one(unit[n + column] + stacks[stack[cell]] + axis)
        total = colour[cell] * five + across + down
        total += unit[2 * n + box_of[cell]] * one
        if question[cell] >= FIRST_DIGIT:
          total += tokens[question[cell]]
        colour[cell] = mix_one(total)
    total = np.uint64(0)
    for cell in range(size):
      total += mix_one(colour[cell] ^ four)
    result[i] = mix_one(total)


@compiled
def of_answers(answers, box_rows, box_columns, result):
  side = box_rows * box_columns
  follower = np.zeros(side, np.int64)
  met = np.zeros(side, np.bool_)
  sums = np.zeros((2, side), np.uint64)
  one = np.uint64(1)
  for i in range(answers.shape[0]):
    grid = answers[i]
    sums[:] = 0
    for axis in range(2):
      line_step, cell_step = (side, 1) if axis == 0 else (1, side)
      in_strip = box_rows if axis == 0 else box_columns
      for a in range(side):
        near, far = np.uint64(0), np.uint64(0)
        for b in range(side):
          if a == b:
            continue
          for k in range(side):
            digit = grid[a * line_step + k * cell_step] - FIRST_DIGIT
            other = grid[b * line_step + k * cell_step] - FIRST_DIGIT
            follower[digit % side] = other % side
          met[:] = False
          cycles = np.uint64(0)
          for digit in range(side):
            length = np.uint64(0)
            while not met[digit]:
              met[digit] = True
              digit = follower[digit]
              length += one
            cycles += mix_one(length)
          if a // in_strip == b // in_strip:
            near += mix_one(cycles)
          else:
            far += mix_one(cycles)
        sums[axis, a // in_strip] += mix_one(near + mix_one(far + one))
    rows, columns = np.uint64(0), np.uint64(0)
    for strip in range(side):
      rows += mix_one(sums[0, strip] + one)
      columns += mix_one(sums[1, strip] + one)
    if box_rows == box_columns:
      result[i] = mix_one(rows) + mix_one(columns)
    else:
      result[i] = mix_one(rows) + mix_one(columns + one)
