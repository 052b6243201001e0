// The worker that reranks: it keeps one model and one list, and answers {id, op, …} with {id, …} or {id, error}.
import * as ort from "../vendor/onnxruntime-web-1.30.0/ort.wasm.bundle.min.mjs";
import { agrees, bytes, decode, order, withActs } from "./list.js";
import { update } from "./model.js";

const HEADS = ["click", "conversion", "like", "dwell"];
const OUTPUTS = [...HEADS, "value"];
const ARRAYS = { int16: Int16Array, int32: Int32Array, float32: Float32Array };
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = { wasm: new URL("../vendor/onnxruntime-web-1.30.0/ort-wasm-simd-threaded.wasm", import.meta.url).href };

let model = null; // {session, manifest}
let list = null; // null: there is none, or its scores are not proven
let acts = [];

const tensor = (dtype, data, dims) => new ort.Tensor(dtype, data, dims);

async function run(session, feeds) {
  const found = await session.run(feeds);
  return OUTPUTS.map((name) => found[name].data);
}

/** Load the model of this version, and prove by its golden arrays that this browser computes what training did. */
async function load({ version, headers }) {
  if (model?.manifest.model === version) return 0;
  const { manifest, content, bytes: downloaded } = await update(version, headers);
  const session = await ort.InferenceSession.create(new Uint8Array(content));
  const golden = (part) => Object.entries(manifest.golden).filter(([name]) => name.startsWith(part)).map(([name, { dtype, shape, data }]) => [name.slice(part.length), tensor(dtype, new ARRAYS[dtype](bytes(data)), shape)]);
  const found = await run(session, Object.fromEntries(golden("in/")));
  const wanted = Object.fromEntries(golden("out/"));
  if (!OUTPUTS.every((name, i) => agrees(found[i], wanted[name].data))) throw new Error("this browser computes other scores than the model's golden ones");
  await model?.session.release();
  model = { session, manifest };
  return downloaded;
}

const scored = (list, history) =>
  run(model.session, {
    history_rows: tensor("int16", history.rows, [history.scales.length, list.width]),
    history_scales: tensor("float32", history.scales, [history.scales.length]),
    types: tensor("int32", Int32Array.from(history.types), [history.types.length]),
    gaps: tensor("int32", Int32Array.from(history.gaps), [history.gaps.length]),
    rows: tensor("int16", list.rows, [list.items.length, list.width]),
    scales: tensor("float32", list.scales, [list.items.length]),
    features: tensor("float32", list.features, [list.items.length, list.features.length / list.items.length]),
    weights: tensor("float32", list.weights, [list.weights.length]),
  });

/** Take a new list: its model must compute the server's scores. → the largest difference. */
async function take({ edge, headers }) {
  list = null;
  const downloaded = await load({ version: edge.model, headers });
  const decoded = decode(edge);
  const found = await scored(decoded, decoded.history);
  const n = decoded.items.length;
  const wanted = OUTPUTS.map((_, i) => decoded.server.subarray(i * n, (i + 1) * n));
  const difference = Math.max(...found.map((scores, i) => scores.reduce((most, x, j) => Math.max(most, Math.abs(x - wanted[i][j])), 0)));
  if (!found.every((scores, i) => agrees(scores, wanted[i]))) {
    throw new Error(`the scores of this device differ from the server's by ${difference.toPrecision(2)}`);
  }
  list = decoded;
  acts = [];
  return { bytes: downloaded, difference, candidates: n };
}

/** Note an act and rerank. `type`: of an event; one that is in no history only takes its item out. → {order, ms} */
async function act({ itemId, type, atMs }) {
  const began = performance.now();
  if (!list) throw new Error("there is no list for this device");
  const place = list.items.findIndex((item) => item.item_id === itemId);
  if (place >= 0) acts.push({ place, type: model.manifest.types[type], atMs });
  const value = (await scored(list, withActs(list, acts, model.manifest.history, atMs))).at(-1);
  const n = list.items.length;
  return { order: order(list, value, list.server.subarray(list.server.length - n), acts), ms: performance.now() - began };
}

const OPS = { take, act };
let last = Promise.resolve();
onmessage = ({ data: { id, op, ...body } }) => {
  const done = last.then(() => OPS[op](body)); // one at a time: a list may arrive while an act is scored
  last = done.catch(() => {});
  done.then((result) => postMessage({ id, ...result }), (error) => postMessage({ id, error: error.message }));
};
