// Progress and freshness of the stream: the store's offsets, and the reports of the feature workers.
import { age, ago, bytes, count, ms, number } from "../format.js";
import { Bar, Empty, Panel, Table } from "../components.js";
import { html } from "../vendor/toolkit.js";

export function Stream({ state }) {
  if (!state.stream.length) return html`<${Panel} id="stream-title" title="Stream"><${Empty} title="The store is away">The progress of the workers is stored there.<//><//>`;
  const topics = new Map();
  for (const part of state.stream) topics.set(part.topic, [...(topics.get(part.topic) ?? []), part]);
  return html`
    <${Panel} id="stream-title" title="Stream">
      <${Table} caption="Progress of the feature workers" head=${["topic", ["applied"], ["lag"], ["newest event"]]}>
        ${[...topics].map(([topic, parts]) => {
          const newest = Math.max(...parts.map((part) => part.newest_event_ms ?? 0));
          const lag = parts.some((part) => part.lag === null) ? null : parts.reduce((sum, part) => sum + part.lag, 0);
          return html`<tr><th scope="row">${topic}</th><td class="num">${count(parts.reduce((sum, part) => sum + (part.offset ?? 0), 0))}</td><td class="num">${count(lag)}</td><td class="num">${newest ? ago(Date.now() - newest) : "–"}</td></tr>`;
        })}
      <//>
      <p class="dim">Waiting for Kafka in this process: ${bytes(state.outbox_bytes)}.</p>
    <//>
    <${Workers} workers=${state.workers} />
    <${Freshness} freshness=${state.freshness} seconds=${state.window_s} />`;
}

const Workers = ({ workers }) => html`
  <${Panel} id="workers-title" title="Feature workers">
    ${workers.length ? html`
      <${Table} caption="Feature workers, by their own reports" className="workers" head=${["worker", ["partitions"], ["lag"], ["applied"], ["dead letters"], ["outages"], ["reported"]]}>
        ${workers.map((worker) => html`
          <tr><th scope="row" class="name">${worker.name}</th><td class="num">${count(worker.partitions)}</td><td class="num">${count(worker.lag)}</td><td class="num">${count(worker.applied)}</td>
            <td class=${`num ${worker.dead_letters ? "bad" : ""}`}>${count(worker.dead_letters)}</td><td class="num">${count(worker.outages)}</td><td class="num">${ago(1000 * worker.reported_s)}</td></tr>`)}
      <//>
      ${[...new Set(workers.flatMap((worker) => worker.problems))].map((problem) => html`<p class="bad">${problem}</p>`)}` : html`<${Empty} title="No worker reports">Features age until one runs: recsys stream worker<//>`}
  <//>`;

/** The histogram of the window: the buckets between the first and the last one that hold something. */
function Freshness({ freshness, seconds }) {
  const filled = freshness.buckets.map((bucket) => bucket.batches > 0);
  const listed = freshness.buckets.slice(Math.max(0, filled.indexOf(true)), filled.lastIndexOf(true) + 1);
  const total = listed.reduce((sum, bucket) => sum + bucket.batches, 0);
  const most = Math.max(...listed.map((bucket) => bucket.batches), 1);
  const below = (bucket) => {
    const place = freshness.buckets.indexOf(bucket);
    const from = place ? freshness.buckets[place - 1].up_to_ms : 0;
    return bucket.up_to_ms === null ? `over ${age(from)}` : bucket.up_to_ms > 1000 ? `${number(from / 1000)} – ${number(bucket.up_to_ms / 1000)} s` : `${number(from)} – ${number(bucket.up_to_ms)} ms`;
  };
  return html`
    <${Panel} id="fresh-title" title="Freshness" note="From Kafka accepting an event to its features being readable; the oldest event of each batch, all workers.">
      ${total ? html`
        <p>p50 <b>${ms(freshness.p50_ms)} ms</b>, p99 <b>${ms(freshness.p99_ms)} ms</b> of ${count(total)} batches in ${count(seconds)} s.</p>
        <${Table} caption="Batches by how long they took" head=${["took", ["batches"], ""]}>
          ${listed.map((bucket) => html`<tr><th scope="row">${below(bucket)}</th><td class="num">${count(bucket.batches)}</td><td class="wide"><${Bar} size=${bucket.batches / most} /></td></tr>`)}
        <//>` : html`<${Empty} title=${freshness.buckets.length ? "No event in this time" : "Not known yet"}>${freshness.buckets.length ? "Click something in the Feed." : "Workers report once a second."}<//>`}
    <//>`;
}
