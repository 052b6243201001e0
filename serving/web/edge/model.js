// The model of `GET /v1/edge/…`: downloaded once, then by deltas, and checked before it is used.

const STORE = "recsys-edge";
const PREFIX = "/v1/edge/model/";

const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const digest = async (content) => hex(await crypto.subtle.digest("SHA-256", content));

async function get(path, headers) {
  const response = await fetch(path, { headers });
  if (!response.ok) throw new Error((await response.json().catch(() => null))?.detail ?? response.statusText);
  return response;
}

/** What a delta makes of a model: each byte plus that of the inflated delta, modulo 256. */
export async function patched(base, delta) {
  const inflated = new Response(new Blob([delta]).stream().pipeThrough(new DecompressionStream("deflate")));
  const added = new Uint8Array(await inflated.arrayBuffer());
  return new Uint8Array(base).map((byte, i) => byte + added[i]).buffer;
}

/** The model that the manifest names: kept from before, or patched, or whole. → {content, bytes}: bytes downloaded. */
async function current(manifest, headers) {
  const store = await caches.open(STORE);
  const path = PREFIX + manifest.model;
  const kept = await store.match(path);
  if (kept) return { content: await kept.arrayBuffer(), bytes: 0 };
  const found = (await downloadedDelta(store, manifest, headers)) ?? (await downloaded(path, headers));
  if ((await digest(found.content)) !== manifest.model) throw new Error("the model's checksum is not that of the manifest");
  for (const request of await store.keys()) await store.delete(request);
  await store.put(path, new Response(found.content));
  return found;
}

async function downloadedDelta(store, manifest, headers) {
  for (const request of await store.keys()) {
    const version = new URL(request.url).pathname.slice(PREFIX.length);
    if (!manifest.deltas[version]) continue;
    const delta = await (await get(`/v1/edge/delta/${version}/${manifest.model}`, headers)).arrayBuffer();
    const content = await patched(await (await store.match(request)).arrayBuffer(), delta);
    if ((await digest(content)) === manifest.model) return { content, bytes: delta.byteLength };
  }
  return null;
}

async function downloaded(path, headers) {
  const content = await (await get(path, headers)).arrayBuffer();
  return { content, bytes: content.byteLength };
}

/** → {manifest, content, bytes} of a version; of another one than the lists' nothing may be computed. */
export async function update(version, headers) {
  if (!globalThis.caches || !crypto.subtle) throw new Error("a device reranks only what comes by https or from localhost");
  const manifest = await (await get(`/v1/edge/manifest?version=${version}`, headers)).json();
  return { manifest, ...(await current(manifest, headers)) };
}
