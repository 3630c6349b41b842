// The page: a puzzle to be chosen or drawn, and how the model solves it.
import {$, draw, el, plural, spoken} from './grids.mjs';
import {cellsOf, extent, gridOf, parse, rulesOf, textOf} from './rules.mjs';

let model, rules, folder;
// The puzzle: tokens, and the example that they are of, if they are one.
let cells, example, told = {};
let cursor = 0, brush = 1, result = null, shown = 0, id = 0;
const worker = new Worker('worker.mjs', {type: 'module'});

// Models --------------------------------------------------------------------
async function json(url) {
  const found = await fetch(url);
  if (!found.ok) throw new Error(`${url}: ${found.status} ${found.statusText}`);
  return found.json();
}

async function start() {
  const names = await json('models.json');
  $('model').append(...names.map((name) => el('option', {}, name)));
  $('model').parentElement.hidden = names.length < 2;
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (names.includes(wanted)) $('model').value = wanted;
  await choose($('model').value);
}

async function choose(name) {
  stop();
  folder = 'models/' + encodeURIComponent(name);
  model = await json(folder + '/page.json');
  rules = rulesOf(model);
  $('what').textContent = `${model.name}: ${model.puzzles}, ${model.parameters.toLocaleString('en')} parameters. Draw a puzzle and watch the answer form, segment by segment.`;
  $('facts').replaceChildren(...model.facts.flatMap(([key, value]) => [el('dt', {}, key), el('dd', {}, value)]));
  $('example').replaceChildren(...model.examples.map((one, i) => el('option', {value: i}, one.name)), el('option', {value: ''}, 'your own'));
  $('segments').value = model.segments;
  document.querySelectorAll('.recurrent').forEach((one) => { one.hidden = model.kind === 'direct'; });
  $('rollouts').value = 1;
  document.querySelectorAll('.q').forEach((one) => { one.hidden = model.halting === 'none'; });
  $('clear').hidden = model.family === 'arc';
  $('random').textContent = model.family === 'arc' ? 'Another task' : 'Random';
  const kinds = {
    sudoku: ['A Sudoku: digits, with . or 0 for blanks', `Arrow keys move, 1 to ${model.shape[0]} write, Backspace clears, Enter solves.`],
    maze: ['A maze: lines of # wall, space, S and G', 'Arrow keys move; # S G and space write, Enter solves. Or paint with mouse or finger.'],
    arc: ['A grid: lists of colours 0 to 9', 'Arrow keys move, 0 to 9 paint, Enter solves. Or paint with mouse or finger.'],
  }[model.family];
  $('text-label').textContent = kinds[0];
  $('keys').textContent = kinds[1];
  makeBrushes();
  take(0);
  busy('Loading the model …');
  const [row] = model.rows || [], size = model.shape[0] * model.shape[1];
  worker.postMessage({id: ++id, load: folder, row, size, model: {initial_state: model.initial_state, state_shape: model.state_shape, halting: model.halting}});
  $('main').hidden = false;
  paint();
}

function makeBrushes() {
  const names = {sudoku: (t) => t === 1 ? '␣' : model.tokens[t], maze: (t) => ({1: '# wall', 2: 'free', 3: 'S', 4: 'G'})[t], arc: (t) => String(t - 2)}[model.family];
  const tokens = {sudoku: [...model.tokens].map((_, t) => t).slice(1), maze: [1, 2, 3, 4], arc: Array.from({length: 10}, (_, c) => c + 2)}[model.family];
  // A Sudoku's digits go into the cell that is chosen; others paint.
  brush = tokens[0];
  $('brushes').replaceChildren(...(model.family === 'sudoku'
    ? tokens.map((t) => el('button', {type: 'button', onclick: () => write(cursor, t), 'aria-label': t === 1 ? 'clear the cell' : `write ${names(t)}`}, names(t)))
    : tokens.map((t) => el('label', {class: 'chip'}, el('input', {type: 'radio', name: 'brush', checked: t === brush, onchange: () => { brush = t; }}),
      el('span', {}, model.family === 'arc' ? swatch(model.style.colours[t]) : null, ' ', names(t))))));
}

function swatch(colour) {
  const made = el('i', {'aria-hidden': 'true'});
  made.style.background = colour;
  return made;
}

// The puzzle ----------------------------------------------------------------
function take(index) {
  example = index;
  $('example').value = index;
  set(cellsOf(model, model.examples[index].input));
  const pairs = model.examples[index].demonstrations || [];
  $('demonstrations').replaceChildren(pairs.length ? el('h3', {}, 'Demonstrations') : '', el('div', {class: 'grids'}, pairs.map(([input, output], i) => el('div', {class: 'grids panel'},
    figure(`input ${i + 1}`, input), el('span', {class: 'arrow', 'aria-hidden': 'true'}, '→'), figure(`output ${i + 1}`, output)))));
}

function figure(caption, text, given) {
  const canvas = el('canvas', {role: 'img', 'aria-label': spoken(caption, text, model.style)});
  draw(canvas, text, {style: model.style, side: 140, most: 20, given: given && gridOf(model, given)});
  return el('figure', {}, el('figcaption', {}, caption), canvas);
}

const isExample = () => gridOf(model, cells) === gridOf(model, cellsOf(model, model.examples[example].input));

function set(made) {
  stop();
  cells = made;
  result = null;
  const same = isExample();
  $('example').value = same ? example : '';
  told = rules.check(cells);
  const truth = model.examples[example].truth;
  if (same && truth) told.truth = cellsOf(model, truth);
  $('text').value = textOf(model, cells);
  $('truth').hidden = !told.truth;
  $('truth').lastElementChild.replaceChildren(told.truth ? figure('true answer', gridOf(model, told.truth, extent(model, told.truth)), cells) : '');
  complain(told.problem);
  ready();
  paint();
}

function complain(text) {
  $('problem').hidden = !text;
  $('problem').textContent = text || '';
}

function write(at, token) {
  if (model.family === 'arc' && cells[at] < 2) return;
  const made = [...cells];
  // There is one start and one goal.
  if (model.family === 'maze' && token > 2) made.forEach((v, i) => { if (v === token) made[i] = rules.blank; });
  made[at] = token;
  set(made);
}

// The board -----------------------------------------------------------------
const truthText = () => told.truth && gridOf(model, told.truth);

function paint() {
  const answer = result && shown > 0 ? result[shown - 1].answers[0] : null;
  const seen = answer || cells, size = extent(model, cells, told.truth, ...(result || []).map((one) => one.answers[0]));
  const side = Math.min(420, document.documentElement.clientWidth - 34), canvas = $('board');
  const box = paintOn(canvas, seen, shown > 0 ? before(shown) : null, size, side, answer);
  if (!answer) {
    const pen = canvas.getContext('2d');
    pen.strokeStyle = '#0969da'; pen.lineWidth = 3;
    pen.strokeRect(cursor % model.shape[1] * box + 2, Math.floor(cursor / model.shape[1]) * box + 2, box - 3, box - 3);
  }
  $('caption').textContent = answer ? `Answer after segment ${shown}` : 'The puzzle';
  canvas.setAttribute('aria-label', spokenCell());
  canvas.dataset.cell = box;
  canvas.dataset.shown = gridOf(model, seen);
}

const before = (segment, rollout = 0) => segment > 1 ? result[segment - 2].answers[rollout] : cells;

function paintOn(canvas, seen, last, size, side, answer) {
  draw(canvas, gridOf(model, seen), {style: model.style, size, side, most: 60, given: gridOf(model, cells), truth: truthText(),
    label: answer && model.family === 'arc' ? truthText() : null});
  const pen = canvas.getContext('2d'), [height, width] = size, box = (canvas.style.width.slice(0, -2) - 1) / width;
  if (answer) for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) {
    const i = r * model.shape[1] + c, x = c * box, y = r * box;
    if (last && last[i] !== seen[i]) { pen.strokeStyle = '#0757a8'; pen.lineWidth = 2; pen.strokeRect(x + 2.5, y + 2.5, box - 4, box - 4); }
    if (wrongAt(seen, i)) {
      // On any colour it is seen.
      for (const [colour, width] of [['#fff', 4], ['#c62828', 1.5]]) {
        pen.strokeStyle = colour; pen.lineWidth = width;
        pen.beginPath(); pen.moveTo(x + 3, y + 3); pen.lineTo(x + box / 3, y + box / 3); pen.moveTo(x + box / 3, y + 3); pen.lineTo(x + 3, y + box / 3); pen.stroke();
      }
    }
  }
  return box;
}

// Of an ARC task the cells outside of the true answer's grid do not count.
const wrongAt = (answer, i) => told.truth && told.truth[i] !== 0 && answer[i] !== told.truth[i];
const wrongCells = (answer) => told.truth ? answer.filter((_, i) => wrongAt(answer, i)).length : null;

function spokenCell() {
  const width = model.shape[1], token = (result && shown ? result[shown - 1].answers[0] : cells)[cursor];
  const value = model.family === 'arc' ? (token < 2 ? 'outside' : `colour ${token - 2}`)
    : {'.': 'blank', ' ': 'free', '#': 'wall', S: 'start', G: 'goal', o: 'way'}[model.tokens[token]] || model.tokens[token];
  return `row ${Math.floor(cursor / width) + 1}, column ${cursor % width + 1}: ${value}`;
}

function cellAt(event) {
  const area = $('board').getBoundingClientRect(), box = +$('board').dataset.cell;
  const column = Math.floor((event.clientX - area.left) / box), row = Math.floor((event.clientY - area.top) / box);
  const inside = row >= 0 && column >= 0 && row < model.shape[0] && column < model.shape[1];
  return inside ? row * model.shape[1] + column : null;
}

let drawing = false;
$('board').addEventListener('pointerdown', (event) => {
  const at = cellAt(event);
  if (at === null) return;
  // A touch on an answer goes back to the puzzle.
  if (result && shown) return show(0);
  cursor = at;
  drawing = model.family !== 'sudoku';
  if (drawing) { $('board').setPointerCapture(event.pointerId); write(at, brush); } else paint();
});
$('board').addEventListener('pointermove', (event) => {
  const at = drawing ? cellAt(event) : null;
  if (at !== null && at !== cursor) { cursor = at; write(at, brush); }
});
for (const name of ['pointerup', 'pointercancel']) $('board').addEventListener(name, () => { drawing = false; });

$('board').addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const [height, width] = extent(model, cells), row = Math.floor(cursor / model.shape[1]), column = cursor % model.shape[1];
  const moved = {ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1]}[event.key];
  if (event.key === 'Enter') solve();
  else if (moved) {
    cursor = Math.min(height - 1, Math.max(0, moved[0])) * model.shape[1] + Math.min(width - 1, Math.max(0, moved[1]));
    paint();
  } else {
    const token = rules.key(event.key);
    if (token === null) return;
    if (token.problem) complain(token.problem); else write(cursor, token);
  }
  event.preventDefault();
});
$('board').addEventListener('paste', (event) => read(event.clipboardData.getData('text')));

function read(text) {
  const found = parse(model, text);
  if (found.problem) return complain(found.problem);
  set(found.cells);
}

// Solving -------------------------------------------------------------------
let loaded = false, running = false;

function busy(text) {
  loaded = false;
  $('solve').disabled = true;
  $('status').textContent = text;
}

function ready() {
  $('solve').disabled = !loaded || Boolean(told.unusable);
  $('solve').textContent = running ? 'Stop' : 'Solve';
  $('steps').hidden = $('table').hidden = $('legend').hidden = !result;
  if (!result) {
    shown = 0;
    $('others').replaceChildren();
    if (loaded) $('status').textContent = 'Ready.';
  }
}

function stop() {
  if (running) worker.postMessage({id: ++id});
  running = false;
}

function solve() {
  if (running) { stop(); return ready(); }
  if ($('solve').disabled) return;
  const rollouts = model.kind === 'direct' ? 1 : +$('rollouts').value;
  const segments = Math.min(64, Math.max(1, Math.round(+$('segments').value) || model.segments));
  $('segments').value = segments;
  result = [];
  shown = 0;
  running = true;
  $('table').tBodies[0].replaceChildren();
  $('status').textContent = 'Thinking …';
  ready();
  const row = model.rows && model.rows[model.examples[example].row];
  worker.postMessage({id: ++id, cells, row, rollouts, noise: Math.max(0, +$('noise').value) || 0, segments});
}

worker.onmessage = ({data}) => {
  if (data.id !== id) return;
  if (data.error) {
    running = false;
    complain(`The model cannot run here: ${data.error}`);
    return ready();
  }
  if (data.ready) {
    loaded = true;
    return ready();
  }
  result.push(data);
  running = !data.last;
  ready();
  addLine(data);
  show(data.segment);
};
worker.onerror = (event) => complain(`The model cannot run here: ${event.message || 'this browser has no module workers'}`);

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// What a rollout's answer is worth, by the truth or by the rules.
function verdict(answer) {
  const valid = rules.valid(cells, answer), wrong = wrongCells(answer);
  if (valid || (valid === null && wrong === 0)) return ['solved', '✓ solved'];
  if (valid === null && wrong === null) return ['', 'true answer not known'];
  return ['failed', model.family === 'maze' || wrong === null ? '✕ breaks the rules' : `✕ ${plural(wrong, 'cell')} wrong`];
}

function addLine(one) {
  const [answer] = one.answers, last = before(one.segment);
  const hasQ = model.halting !== 'none';
  const texts = [hasQ ? sigmoid(one.q[0][0]).toFixed(2) : '', hasQ ? (one.halts[0] ? 'yes' : 'no') : '',
    answer.filter((v, i) => v !== last[i]).length, verdict(answer)[0] === 'solved' ? 0 : wrongCells(answer) ?? '–', one.ms.toFixed(0)];
  $('table').tBodies[0].append(el('tr', {onclick: () => show(one.segment)}, el('th', {scope: 'row'}, one.segment),
    texts.map((text, i) => el('td', {hidden: i < 2 && !hasQ}, String(text)))));
}

function show(segment) {
  shown = segment;
  $('slider').max = result.length;
  $('slider').value = segment;
  $('slider').setAttribute('aria-valuetext', segment ? `segment ${segment} of ${result.length}` : 'the puzzle');
  $('back').disabled = segment === 0;
  $('forth').disabled = segment === result.length;
  [...$('table').tBodies[0].rows].forEach((row, i) => row.classList.toggle('shown', i + 1 === segment));
  paint();
  if (!segment) {
    $('status').textContent = 'The puzzle as it was given.';
    return $('others').replaceChildren();
  }
  const one = result[segment - 1], halts = one.halts[0] ? ', the model would halt here' : '';
  $('status').replaceChildren(`Segment ${segment} of ${result.length}: `, badge(one.answers[0]), halts + '.');
  const size = extent(model, cells, ...one.answers);
  $('others').replaceChildren(...one.answers.slice(1).map((answer, i) => {
    const canvas = el('canvas', {role: 'img', 'aria-label': `rollout ${i + 2}: ${verdict(answer)[1]}`});
    paintOn(canvas, answer, before(segment, i + 1), size, 150, answer);
    return el('figure', {}, el('figcaption', {}, `rollout ${i + 2}, with noise`), canvas, el('div', {}, badge(answer)));
  }));
}

function badge(answer) {
  const [status, words] = verdict(answer);
  return el('span', {class: `badge ${status}`}, words);
}

// Controls ------------------------------------------------------------------
const failed = (error) => { complain(String(error.message || error)); $('main').hidden = false; };
$('model').addEventListener('change', () => { location.hash = $('model').value; choose($('model').value).catch(failed); });
$('example').addEventListener('change', () => { if ($('example').value !== '') take(+$('example').value); });
$('random').addEventListener('click', () => {
  if (model.family === 'arc') take((example + 1 + Math.floor(Math.random() * (model.examples.length - 1))) % model.examples.length);
  else set(rules.random());
});
$('clear').addEventListener('click', () => { set(cells.map(() => rules.blank)); $('board').focus(); });
$('use').addEventListener('click', () => read($('text').value));
$('solve').addEventListener('click', solve);
$('back').addEventListener('click', () => show(shown - 1));
$('forth').addEventListener('click', () => show(shown + 1));
$('slider').addEventListener('input', () => show(+$('slider').value));
addEventListener('resize', () => { if (cells) paint(); });
start().catch(failed);
