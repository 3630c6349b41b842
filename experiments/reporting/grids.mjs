// What the report and the page of a model share: elements, and grids as they are
// drawn. A grid is a text with a character for each cell (base 36), `/` between rows.
export const $ = (id) => document.getElementById(id);
export const plural = (n, word) => n + ' ' + word + (n === 1 ? '' : 's');

// An element; children that are texts stay texts, whatever they hold.
export function el(tag, attributes, ...children) {
  const made = ['svg', 'path', 'line', 'text', 'circle'].includes(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? '' : value);
  }
  made.append(...children.flat().filter((child) => child != null));
  return made;
}

export const rowsOf = (text) => text.split('/').map((row) => [...row].map((c) => parseInt(c, 36)));

export function sizeOf(...texts) {
  const all = texts.filter((text) => text != null).map(rowsOf);
  return [Math.max(1, ...all.map((rows) => rows.length)),
    Math.max(1, ...all.flat().map((row) => row.length))];
}

// Draws a grid. options: style, size [rows, columns], side and most (pixels of
// the grid and of a cell at most),
// label (canvas: cells of 0 there do not count and are drawn pale), given and
// truth (Sudoku: digits that were filled in are blue, wrong ones red).
export function draw(canvas, text, options) {
  const {style, side, label, given, truth, most = 24} = options;
  const rows = rowsOf(text), [height, width] = options.size || sizeOf(text);
  const cell = Math.max(3, Math.min(most, Math.floor(side / Math.max(height, width))));
  const scale = Math.min(3, Math.max(2, Math.ceil(devicePixelRatio || 1)));
  canvas.width = (width * cell + 1) * scale;
  canvas.height = (height * cell + 1) * scale;
  canvas.style.width = width * cell + 1 + 'px';
  const pen = canvas.getContext('2d');
  pen.scale(scale, scale);
  pen.textAlign = 'center'; pen.textBaseline = 'middle';
  pen.font = `600 ${Math.round(cell * 0.66)}px system-ui, sans-serif`;
  pen.fillStyle = '#fff';
  pen.fillRect(0, 0, width * cell + 1, height * cell + 1);
  const [labels, givens, truths] = [label, given, truth].map((t) => t && rowsOf(t));
  for (let r = 0; r < height; r++) for (let c = 0; c < width; c++) {
    const value = (rows[r] || [])[c] || 0, x = c * cell, y = r * cell;
    pen.globalAlpha = labels && !((labels[r] || [])[c]) ? 0.22 : 1;
    pen.fillStyle = style.colours[value];
    pen.fillRect(x, y, cell + 1, cell + 1);
    if (cell >= 5) {
      pen.strokeStyle = style.line; pen.lineWidth = 1;
      pen.strokeRect(x + .5, y + .5, cell, cell);
    }
    pen.globalAlpha = 1;
    if (style.texts[value]) {
      pen.fillStyle = '#222';
      if (style.box && givens && givens[r][c] !== value) {
        pen.fillStyle = truths && truths[r][c] !== value ? '#c62828' : '#0757a8';
      }
      pen.fillText(style.texts[value], x + cell / 2, y + cell / 2 + 1);
    }
  }
  if (style.box) {
    pen.strokeStyle = '#222'; pen.lineWidth = 1.5;
    for (let r = 0; r <= height; r += style.box[0]) line(0, r * cell, width * cell, r * cell);
    for (let c = 0; c <= width; c += style.box[1]) line(c * cell, 0, c * cell, height * cell);
  }
  function line(...at) {
    pen.beginPath(); pen.moveTo(at[0] + .5, at[1] + .5); pen.lineTo(at[2] + .5, at[3] + .5); pen.stroke();
  }
}

// What a grid is, for those who hear the page.
export function spoken(name, text, style) {
  const rows = rowsOf(text), [height, width] = sizeOf(text);
  const cells = height * width > 100 ? '' : ': ' + rows.map((row) => row.map(
    (v) => style.texts[v] || v).join(' ')).join('; ');
  return `${name}, ${height} by ${width}${cells}`;
}
