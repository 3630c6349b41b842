// Runs the model: segment after segment, and tells what each of them gave.
import * as ort from './runtime/ort.wasm.bundle.min.mjs';

let model, session, current = 0;

// The runtime is kept compressed: no server has to know how.
async function inflated(url) {
  const stream = (await fetched(url)).body.pipeThrough(new DecompressionStream('gzip'));
  return new Response(stream).arrayBuffer();
}

async function fetched(url) {
  const found = await fetch(url);
  if (!found.ok) throw new Error(`${url}: ${found.status} ${found.statusText}`);
  return found;
}

// Numbers from 0 to 1 of a seed (mulberry32), and normal ones (Box and Muller).
function randomOf(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

function initialState(rollouts) {
  const state = {};
  for (const [name, start] of Object.entries(model.initial_state)) {
    const [tokens, size] = model.state_shape;
    const data = new Float32Array(rollouts * tokens * size);
    for (let i = 0; i < data.length; i++) data[i] = start[i % size];
    state[name] = new ort.Tensor('float32', data, [rollouts, tokens, size]);
  }
  return state;
}

// The first rollout is the model as it is; the others have noise on the state.
function disturb(state, noise, normal) {
  for (const {data, dims} of Object.values(state)) {
    for (let i = data.length / dims[0]; i < data.length; i++) data[i] += noise * normal();
  }
}

function halts([halt, on]) {
  return model.halting === 'q_learning' ? halt > on : model.halting === 'halt_only' ? halt > 0 : null;
}

async function solve({id, cells, row, rollouts, noise, segments, quiet}) {
  const repeat = (type, values, kind) => new ort.Tensor(type,
    kind.from({length: rollouts * values.length}, (_, i) => values[i % values.length]), [rollouts, values.length]);
  const feed = {inputs: repeat('int32', cells, Int32Array)};
  if (row) feed.puzzles = repeat('float32', row, Float32Array);
  const normal = randomOf(1);
  let state = initialState(rollouts);
  for (let segment = 1; segment <= segments; segment++) {
    if (id !== current) return;
    if (rollouts > 1) disturb(state, noise, normal);
    const begin = performance.now();
    const found = await session.run({...state, ...feed});
    const ms = performance.now() - begin;
    state = Object.fromEntries(Object.keys(state).map((name) => [name, found[name + '_after']]));
    const [, S, V] = found.logits.dims, logits = found.logits.data, answers = [];
    for (let r = 0; r < rollouts; r++) {
      answers.push(Array.from({length: S}, (_, s) => {
        let best = 0;
        const at = (r * S + s) * V;
        for (let v = 1; v < V; v++) if (logits[at + v] > logits[at + best]) best = v;
        return best;
      }));
    }
    const q = answers.map((_, r) => [...found.q.data.slice(2 * r, 2 * r + 2)]);
    if (!quiet) postMessage({id, segment, ms, answers, q, halts: q.map(halts), last: segment === segments});
    else if (segment === 1) postMessage({id, ready: true});
    // A message that stops this is read between segments.
    await new Promise((done) => setTimeout(done, quiet ? 200 : 0));
  }
}

onmessage = async ({data}) => {
  try {
    current = data.id;
    if (data.load) {
      if (!ort.env.wasm.wasmBinary) {
        ort.env.wasm.numThreads = 1;
        ort.env.logLevel = 'error';
        ort.env.wasm.wasmBinary = await inflated('runtime/ort-wasm-simd-threaded.wasm.gz');
      }
      const file = await (await fetched(data.load + '/segment.onnx')).arrayBuffer();
      session = await ort.InferenceSession.create(file, {executionProviders: ['wasm'], logSeverityLevel: 3});
      model = data.model;
      // The first run takes longer than the others. For some seconds more the browser compiles anew what
      // runs often, and holds a run up for that: better one that nobody waits for.
      await solve({...data, cells: Array(data.size).fill(0), rollouts: 1, segments: 15, quiet: true});
    } else if (data.cells) await solve(data);
  } catch (error) {
    postMessage({id: data.id, error: String(error.message || error)});
  }
};
