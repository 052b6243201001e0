// A list for devices (docs/device.md): its arrays, the actions that it does not know yet, and the order after them.

const MAX_GAP = 31;

/** Base64 → an ArrayBuffer. */
export const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
const floats = (text) => new Float32Array(bytes(text));
const shorts = (text) => new Int16Array(bytes(text));

/** 1 + floor(log2(1 + whole seconds between)), as `recsys.models.encoding.gap_buckets`. */
export function gapBucket(earlierMs, laterMs) {
  const seconds = Math.floor(Math.max(laterMs - earlierMs, 0) / 1000);
  return Math.min(32 - Math.clz32(Math.min(seconds, 2 ** 31) + 1), MAX_GAP);
}

/** The `edge` of an answer as typed arrays. */
export function decode(list) {
  const n = list.items.length;
  const shared = floats(list.features.shared);
  const varying = floats(list.features.varying);
  const features = new Float32Array(n * shared.length);
  for (let i = 0; i < n; i++) features.set(shared, i * shared.length);
  list.features.columns.forEach((column, c) => {
    for (let i = 0; i < n; i++) features[i * shared.length + column] = varying[c * n + i];
  });
  const rows = shorts(list.rows);
  return {
    items: list.items,
    width: rows.length / n,
    rows,
    scales: floats(list.scales),
    features,
    weights: Float32Array.from(list.weights),
    history: { rows: shorts(list.history.rows), scales: floats(list.history.scales), types: list.history.types, gaps: list.history.gaps },
    newestMs: list.history.newest_ms,
    isNew: new Set(list.new),
    server: floats(list.scores),
  };
}

/** The user's history with `acts`, [{place, type, atMs}] oldest first, of which the latest `length` events count. */
export function withActs(list, acts, length, nowMs) {
  const { rows, scales, types, gaps } = list.history;
  const known = acts.filter((act) => act.type && !list.isNew.has(act.place));
  if (!known.length) return list.history;
  const isEmpty = !list.newestMs;
  const before = isEmpty ? 0 : types.length;
  const first = Math.max(0, before + known.length - length);
  const times = known.map((act) => act.atMs);
  const until = [...times, nowMs];
  const row = (place) => list.rows.subarray(place * list.width, (place + 1) * list.width);
  const following = known.map((act, i) => gapBucket(times[i], until[i + 1]));
  const earlier = before ? [...gaps.slice(0, -1), gapBucket(list.newestMs, times[0])] : [];
  return {
    rows: Int16Array.from([...rows.subarray(0, before * list.width), ...known.flatMap((act) => [...row(act.place)])].slice(first * list.width)),
    scales: Float32Array.from([...scales.subarray(0, before), ...known.map((act) => list.scales[act.place])].slice(first)),
    types: [...types.slice(0, before), ...known.map((act) => act.type)].slice(first),
    gaps: [...earlier, ...following].slice(first),
  };
}

/** Places, the best first: the server's score, plus by how much the acts change what the model thinks an item is worth.
 * Items of the acts are left out, as the seen filter would. `value`, `valueBefore`: with and without the acts. */
export function order(list, value, valueBefore, acts) {
  const gone = new Set(acts.map((act) => act.place));
  const score = list.items.map((item, i) => item.score + value[i] - valueBefore[i]);
  return [...score.keys()].filter((i) => !gone.has(i)).sort((a, b) => score[b] - score[a]).map((place) => ({ place, score: score[place] }));
}

/** Whether all numbers agree within 1e-4, absolute or relative. */
export const agrees = (found, wanted) =>
  found.length === wanted.length && found.every((x, i) => Math.abs(x - wanted[i]) <= 1e-4 + 1e-4 * Math.abs(wanted[i]));
