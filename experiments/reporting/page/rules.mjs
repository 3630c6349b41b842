// The rules of Sudokus and mazes, and how puzzles are written as text. Cells are
// tokens, the indices of `model.tokens`; token 0 is padding.

const problem = (text) => ({problem: text});
const shuffled = (list) => {
  const made = [...list];
  for (let i = made.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [made[i], made[j]] = [made[j], made[i]];
  }
  return made;
};

// Sudoku: token 1 is a blank, d + 1 the digit d --------------------------------
const BLANK = 1;

function sudoku(model) {
  const [n] = model.shape, [height, width] = model.style.box;
  const cells = Array.from({length: n * n}, (_, i) => i);
  const row = (i) => Math.floor(i / n), column = (i) => i % n;
  const box = (i) => Math.floor(row(i) / height) * (n / width) + Math.floor(column(i) / width);
  const units = [[row, 'row'], [column, 'column'], [box, 'box']].flatMap(([of, name]) =>
    Array.from({length: n}, (_, k) => ({name: `${name} ${k + 1}`, cells: cells.filter((i) => of(i) === k)})));
  const peers = cells.map((i) => [...new Set(units.filter((u) => u.cells.includes(i)).flatMap((u) => u.cells))].filter((j) => j !== i));
  const all = (1 << n) - 1;

  function conflict(given) {
    for (const unit of units) for (let digit = 1; digit <= n; digit++) {
      if (unit.cells.filter((i) => given[i] === digit + BLANK).length > 1) return `digit ${digit} is twice in ${unit.name}`;
    }
    return null;
  }

  // At most `limit` solutions, the digits being tried in a random order; null
  // where there are too many ways to try.
  function solutions(given, limit) {
    const left = Array(n * n).fill(all), filled = given.map((v) => v > BLANK ? v - BLANK : 0), found = [];
    filled.forEach((digit, i) => { if (digit) peers[i].forEach((j) => { left[j] &= ~(1 << (digit - 1)); }); });
    let tries = 0;
    const count = (bits) => { let c = 0; for (; bits; bits &= bits - 1) c++; return c; };
    function search() {
      if (++tries > 200000) return false;
      let best = -1, least = n + 1;
      for (let i = 0; i < n * n && least > 1; i++) if (!filled[i] && count(left[i]) < least) { least = count(left[i]); best = i; }
      if (best < 0) { found.push(filled.map((digit) => digit + BLANK)); return found.length < limit; }
      for (const digit of shuffled(Array.from({length: n}, (_, d) => d + 1)).filter((d) => left[best] & (1 << (d - 1)))) {
        const changed = peers[best].filter((j) => left[j] & (1 << (digit - 1)));
        filled[best] = digit;
        changed.forEach((j) => { left[j] &= ~(1 << (digit - 1)); });
        const on = search();
        filled[best] = 0;
        changed.forEach((j) => { left[j] |= 1 << (digit - 1); });
        if (!on) return false;
      }
      return true;
    }
    if (!conflict(given)) search();
    return tries > 200000 ? null : found;
  }

  return {
    blank: BLANK,
    key: (key) => {
      if (['.', '0', ' ', 'Backspace', 'Delete'].includes(key)) return BLANK;
      if (!/^[0-9]$/.test(key)) return null;
      return +key <= n ? +key + BLANK : problem(`${key} is no digit of this Sudoku: it has 1 to ${n}`);
    },
    check(given) {
      const wrong = conflict(given);
      if (wrong) return problem(`No solution: ${wrong}.`);
      const found = solutions(given, 2);
      if (!found) return problem('This Sudoku is too open to tell its solutions; give more digits.');
      if (!found.length) return problem('This Sudoku has no solution.');
      if (found.length > 1) return problem('This Sudoku has more than one solution: any that keeps the rules counts as right.');
      return {truth: found[0]};
    },
    valid: (given, answer) => given.every((v, i) => v <= BLANK || v === answer[i])
      && answer.every((v) => v > BLANK) && !conflict(answer),
    // As many digits as the examples have, if one solution can be kept.
    random() {
      const clues = model.examples.map((e) => cellsOf(model, e.input).filter((v) => v > BLANK).length).sort((a, b) => a - b);
      const made = solutions(Array(n * n).fill(BLANK), 1)[0];
      let left = n * n;
      for (const i of shuffled(cells)) {
        if (left <= clues[clues.length >> 1]) break;
        const digit = made[i];
        made[i] = BLANK;
        if (solutions(made, 2)?.length === 1) left--; else made[i] = digit;
      }
      return made;
    },
  };
}

// Mazes: # wall, space free, S start, G goal, o path ---------------------------
const [WALL, FREE, START, GOAL, PATH] = [1, 2, 3, 4, 5];

function maze(model) {
  const [height, width] = model.shape, size = height * width;
  const beside = (i) => [i - width, i + width, i % width ? i - 1 : -1, (i + 1) % width ? i + 1 : -1].filter((j) => j >= 0 && j < size);

  function distances(open, from) {
    const steps = Array(size).fill(-1), queue = [from];
    steps[from] = 0;
    for (const i of queue) for (const j of beside(i)) if (open[j] && steps[j] < 0) { steps[j] = steps[i] + 1; queue.push(j); }
    return [steps, queue];
  }

  function shortest(cells) {
    return distances(cells.map((v) => v !== WALL), cells.indexOf(START))[0][cells.indexOf(GOAL)];
  }

  return {
    blank: FREE,
    key: (key) => ({'#': WALL, w: WALL, ' ': FREE, '.': FREE, Backspace: FREE, Delete: FREE, s: START, S: START, g: GOAL, G: GOAL})[key] ?? null,
    check(cells) {
      for (const [token, name] of [[START, 'start S'], [GOAL, 'goal G']]) {
        const count = cells.filter((v) => v === token).length;
        if (count !== 1) return {...problem(`This maze has ${count || 'no'} ${name}; it must have one.`), unusable: true};
      }
      return shortest(cells) < 0 ? problem('No way leads from S to G in this maze.') : {};
    },
    valid(cells, answer) {
      const path = answer.map((v, i) => v === PATH && cells[i] === FREE);
      if (!answer.every((v, i) => v === cells[i] || path[i]) || shortest(cells) < 0) return false;
      const way = path.map((on, i) => on || cells[i] === START || cells[i] === GOAL);
      return path.filter(Boolean).length === shortest(cells) - 1
        && distances(way, cells.indexOf(START))[0][cells.indexOf(GOAL)] === shortest(cells);
    },
    // Corridors, carved depth first where a cell touches one open cell.
    random() {
      const least = Math.min(...model.examples.map((e) => shortest(cellsOf(model, e.input))));
      let best = null;
      for (let tries = 0; tries < 50 && !(best?.length >= least); tries++) {
        const open = Array(size).fill(false), stack = [Math.floor(Math.random() * size)];
        open[stack[0]] = true;
        while (stack.length) {
          const next = shuffled(beside(stack.at(-1)).filter((j) => !open[j] && beside(j).filter((k) => open[k]).length === 1))[0];
          if (next === undefined) stack.pop(); else { open[next] = true; stack.push(next); }
        }
        const start = distances(open, open.indexOf(true))[1].at(-1), [steps, queue] = distances(open, start), length = steps[queue.at(-1)];
        if (!(best?.length >= length)) {
          const cells = open.map((on) => on ? FREE : WALL);
          cells[start] = START; cells[queue.at(-1)] = GOAL;
          best = {cells, length};
        }
      }
      return best.cells;
    },
  };
}

// ARC: tokens of a canvas; 1 marks the end of a grid, c + 2 is the colour c -----
function arc() {
  return {
    key: (key) => /^[0-9]$/.test(key) ? +key + 2 : null,
    check: () => ({}),
    valid: () => null,
  };
}

export const rulesOf = (model) => ({sudoku, maze, arc})[model.family](model);

// The tokens of a grid as text (base 36, `/` between rows), and the other way.
export function cellsOf(model, text) {
  const [height, width] = model.shape, rows = text.split('/');
  return Array.from({length: height * width}, (_, i) => parseInt((rows[Math.floor(i / width)] || '')[i % width] || '0', 36));
}

export function gridOf(model, cells, [height, width] = model.shape) {
  return Array.from({length: height}, (_, r) => cells.slice(r * model.shape[1], r * model.shape[1] + width).map((v) => v.toString(36)).join('')).join('/');
}

// What is shown of a canvas: all rows and columns that have tokens somewhere.
export function extent(model, ...many) {
  const [height, width] = model.shape;
  if (model.family !== 'arc') return [height, width];
  const used = many.filter(Boolean).flatMap((cells) => cells.flatMap((v, i) => v ? [[Math.floor(i / width), i % width]] : []));
  return [0, 1].map((axis) => 1 + used.reduce((most, at) => Math.max(most, at[axis]), 0));
}

// Puzzles as people copy them.
export function textOf(model, cells) {
  const [, width] = model.shape, characters = cells.map((v) => model.tokens[v]);
  if (model.family === 'sudoku') return characters.join('');
  if (model.family === 'arc') return JSON.stringify(gridOf(model, cells, extent(model, cells)).split('/')
    .map((row) => [...row].map((c) => parseInt(c, 36) - 2).filter((c) => c >= 0)).filter((row) => row.length));
  return Array.from({length: cells.length / width}, (_, r) => characters.slice(r * width, (r + 1) * width).join('')).join('\n');
}

export function parse(model, text) {
  const [height, width] = model.shape;
  if (model.family === 'arc') return parseGrid(model, text);
  const isMaze = model.family === 'maze';
  const lines = text.replace(/\r/g, '').split('\n').filter((line) => line.length);
  if (isMaze && (lines.length !== height || lines.some((line) => line.length !== width))) {
    return problem(`A maze of this model has ${height} lines of ${width} characters; line 1 here has ${lines[0]?.length ?? 0}, and there are ${lines.length} lines.`);
  }
  const characters = isMaze ? [...lines.join('').replaceAll('.', ' ')] : [...text.replace(/\s/g, '').replaceAll('0', '.')];
  if (characters.length !== height * width) return problem(`A Sudoku of this model has ${height * width} characters, these are ${characters.length}.`);
  const allowed = model.tokens.slice(1, isMaze ? PATH : undefined);
  const wrong = characters.findIndex((c) => !allowed.includes(c));
  if (wrong >= 0) {
    const where = `row ${Math.floor(wrong / width) + 1}, column ${wrong % width + 1}`;
    return problem(`'${characters[wrong]}' in ${where} is none of ${isMaze ? "'# SG'" : `'.' and the digits 1 to ${height}`}.`);
  }
  return {cells: characters.map((c) => model.tokens.indexOf(c))};
}

function parseGrid(model, text) {
  const [height, width] = model.shape;
  let rows;
  try { rows = JSON.parse(text); } catch { rows = null; }
  const columns = rows?.[0]?.length;
  if (!Array.isArray(rows) || !columns || rows.some((row) => row.length !== columns || row.some((v) => !Number.isInteger(v) || v < 0 || v > 9))) {
    return problem('A grid is a list of equally long lists of colours 0 to 9, such as [[0, 1], [2, 3]].');
  }
  if (rows.length > height || columns > width) return problem(`A grid of this model has at most ${height} × ${width} cells.`);
  const cells = Array(height * width).fill(0);
  rows.forEach((row, r) => row.forEach((v, c) => { cells[r * width + c] = v + 2; }));
  // The end of the grid, as `data_pipelines.arc.encoding` marks it.
  if (rows.length < height) for (let c = 0; c < columns; c++) cells[rows.length * width + c] = 1;
  if (columns < width) for (let r = 0; r < rows.length; r++) cells[r * width + columns] = 1;
  return {cells};
}
