// System: load and state now, from `/v1/system`, `/v1/bundles` and `/v1/experiments`, polled every two seconds.
import { activate, readBundles, readSystem } from "../api.js";
import { age, ago, bucketed, bytes, count, metric, ms, number, percent, when, words } from "../format.js";
import { Bar, Chart, Empty, Panel, Problem, Table, Tile, useLoaded } from "../components.js";
import { html, useEffect, useState } from "../vendor/toolkit.js";
import { Experiments } from "./experiments.js";
import { Stream } from "./stream.js";

const EVERY_MS = 2000;
const SPAN_S = 300; // of the charts
const POINTS = (1000 * SPAN_S) / EVERY_MS;
const HOT = "/v1/recommendations";
const DRIFTS = 12;
const MOVING = 0.1;
const DIFFERENT = 0.25;

export function System({ askKey }) {
  const [paused, pause] = useState(false);
  const [state, error, reload] = useLoaded(readSystem, paused ? 0 : EVERY_MS);
  const [past, setPast] = useState([]);
  useEffect(() => {
    if (!state) return;
    const hot = state.routes.find((route) => route.name === HOT);
    setPast((old) => [...old, { at: Date.now() / 1000, qps: state.requests_per_s, p50: hot?.p50_ms ?? null, p99: hot?.p99_ms ?? null }].slice(-POINTS));
  }, [state]);
  if (!state) return html`<h1>System</h1>${error ? html`<${Problem} error=${error} retry=${reload} />` : html`<${Empty} title="Reading…">The first numbers follow in a moment.<//>`}`;
  return html`
    <div class="head"><h1>System</h1><p class="dim">the last ${count(state.window_s)} s, all processes of this API</p>
      <button type="button" class="quiet" aria-pressed=${paused} onClick=${() => pause(!paused)}>${paused ? "Resume" : "Pause"}</button></div>
    ${error && html`<p class="banner">${error.message}</p>`}
    <${Tiles} state=${state} />
    <div class="split even tall">
      <${Panel} id="rate-title" title="Requests per second"><${Chart} label="Requests per second over time" time=${true} span=${SPAN_S} fromZero=${true} x=${past.map((p) => p.at)} series=${[{ label: "requests/s", tone: "--accent", values: past.map((p) => p.qps) }]} /><//>
      <${Panel} id="latency-title" title="Recommendation, milliseconds"><${Chart} label="Median and 99th percentile of a recommendation over time" time=${true} span=${SPAN_S} fromZero=${true} x=${past.map((p) => p.at)}
        series=${[{ label: "p50", tone: "--accent", values: past.map((p) => p.p50) }, { label: "p99", tone: "--warm", values: past.map((p) => p.p99) }]} /><//>
    </div>
    <div class="split even">
      <div><${Stages} stages=${state.stages} /><${Caches} caches=${state.caches} /></div>
      <div><${Stream} state=${state} /></div>
    </div>
    <${Experiments} />
    <${Bundles} askKey=${askKey} />
    <${Drift} drift=${state.drift} />`;
}

function Tiles({ state }) {
  const hot = state.routes.find((route) => route.name === HOT);
  const lags = state.stream.map((part) => part.lag).filter((lag) => lag !== null);
  const degraded = Object.entries(state.degraded);
  return html`
    <div class="tiles">
      <${Tile} label="requests" value=${number(state.requests_per_s)} unit="/s" />
      <${Tile} label="errors (5xx)" value=${number(state.errors_per_s)} unit="/s" state=${state.errors_per_s > 0 ? "bad" : ""} />
      <${Tile} label="recommendation p99" value=${ms(hot?.p99_ms)} unit="ms" note=${hot?.p50_ms == null ? "none in the window" : `p50 ${ms(hot.p50_ms)} ms`} />
      <${Tile} label="stream lag" value=${lags.length ? count(lags.reduce((a, b) => a + b, 0)) : "–"} unit="records" note=${lags.length ? "" : "the log cannot be asked"} />
      <${Tile} label="event to feature, p99" value=${ms(state.freshness.p99_ms)} unit="ms" note=${state.freshness.p50_ms === null ? "no event in the window" : `p50 ${ms(state.freshness.p50_ms)} ms`} />
      <${Tile} label="item features" value=${age(state.item_features_age_s * 1000)} note="since last known current" />
      <${Tile} label="degraded answers" value=${count(degraded.reduce((sum, [, n]) => sum + n, 0))} state=${degraded.length ? "warn" : ""} note=${degraded.map(([reason, n]) => `${words(reason)} ${n}`).join(", ") || "none"} />
    </div>`;
}

function Stages({ stages }) {
  const most = Math.max(...stages.map((stage) => stage.p99_ms ?? 0), 0.001);
  return html`
    <${Panel} id="stages-title" title="Stages of a recommendation">
      ${stages.length ? html`
        <${Table} caption="Percentiles of each stage" head=${["stage", ["p50 ms"], ["p99 ms"], ""]}>
          ${stages.map((stage) => html`<tr><th scope="row">${words(stage.name)}</th><td class="num">${bucketed(stage.p50_ms)}</td><td class="num">${bucketed(stage.p99_ms)}</td><td class="wide">${stage.p99_ms !== null && html`<${Bar} size=${stage.p99_ms / most} />`}</td></tr>`)}
        <//>` : html`<${Empty} title="No request yet">Ask for a list in the Feed.<//>`}
    <//>`;
}

const Caches = ({ caches }) => html`
  <${Panel} id="caches-title" title="Caches">
    <${Table} caption="Hits of each cache since the start" head=${["cache", ["hits"], ["misses"], ["share"], ["size"]]}>
      ${caches.map((cache) => html`<tr><th scope="row">${words(cache.name)}</th><td class="num">${count(cache.hits)}</td><td class="num">${count(cache.misses)}</td><td class="num">${percent(cache.hit_share)}</td><td class="num">${bytes(cache.bytes)}</td></tr>`)}
    <//>
  <//>`;

function Bundles({ askKey }) {
  const [found, error, reload] = useLoaded(readBundles, 10_000);
  const [said, say] = useState("");
  const swap = async (version) => {
    say(`Loading ${version}…`);
    try {
      const done = await activate(version);
      say(`${done.active} is active now; before, it was ${done.previous ?? "none"}.`);
    } catch (problem) {
      say(problem.message);
      if (problem.status === 401 || problem.status === 403) askKey(problem.message);
    }
    reload();
  };
  const metrics = [...new Set((found?.bundles ?? []).flatMap((bundle) => Object.keys(bundle.metrics)))].slice(0, 4);
  return html`
    <${Panel} id="bundles-title" title="Bundles" note="Switching loads and checks the bundle first; no request is dropped. With API keys on it needs the admin scope.">
      <p class="said" role="status" aria-live="polite">${said}</p>
      ${error && html`<${Problem} error=${error} retry=${reload} />`}
      ${found && !found.bundles.length && html`<${Empty} title="No bundle yet">recsys train all creates and publishes one.<//>`}
      ${found && found.bundles.length > 0 && html`
        <${Table} caption="Bundles with their metrics" className="bundles" head=${["version", "", "created", ...metrics.map((name) => [words(name)])]}>
          ${found.bundles.toReversed().map((bundle) => html`
            <tr class=${bundle.active ? "chosen" : ""}>
              <th scope="row">${bundle.version}</th>
              <td>${bundle.active ? html`<span class="tag good">active</span>` : html`<button type="button" class="quiet" onClick=${() => swap(bundle.version)}>Activate<span class="sr"> ${bundle.version}</span></button>`}
                ${bundle.refused && html`<p class="dim bad">refused: ${bundle.refused}</p>`}</td>
              <td class="dim made">${bundle.created_ms ? when(bundle.created_ms) : "–"}</td>
              ${metrics.map((name) => html`<td class="num">${metric(bundle.metrics[name])}</td>`)}
            </tr>`)}
        <//>`}
    <//>`;
}

function Drift({ drift }) {
  const entries = Object.entries(drift.psi);
  const listed = entries.slice(0, DRIFTS);
  const verdict = (psi) => (psi > DIFFERENT ? "a different population" : psi > MOVING ? "moving" : "stable");
  const moved = entries.filter(([, psi]) => psi > DIFFERENT).length;
  return html`
    <${Panel} id="drift-title" title="Drift of features since training" note="Population stability index of the served values of this process: below 0.1 stable, above 0.25 a different population. Features of the clock always move.">
      ${drift.missing ? html`<${Empty} title="Not known yet">${drift.missing}.<//>` : html`
        <p>${count(drift.rows)} served items: ${moved} of ${entries.length} features above ${DIFFERENT}.</p>
        <${Table} caption="Features that moved most" head=${["feature", ["PSI"], "", "verdict"]}>
          ${listed.map(([name, psi]) => html`<tr><th scope="row">${words(name)}</th><td class="num">${psi.toFixed(3)}</td><td class="wide"><${Bar} size=${Math.min(1, psi)} tone=${psi > DIFFERENT ? "minus" : ""} /></td><td class="dim">${verdict(psi)}</td></tr>`)}
        <//>`}
    <//>`;
}
