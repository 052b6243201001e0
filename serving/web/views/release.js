// Release: how far the candidate is, what the gate and the guardrails say, and the audit log. `/v1/release`.
import { readRelease } from "../api.js";
import { ago, count, number, percent, probability, when, words } from "../format.js";
import { Empty, Panel, Problem, Table, Tile, useLoaded } from "../components.js";
import { html } from "../vendor/toolkit.js";

const EVERY_MS = 2000;
const PATH = ["trained", "gated", "shadow", "canary-1", "canary-10", "canary-50", "promoted"];
const TITLES = { "canary-1": "1 %", "canary-10": "10 %", "canary-50": "50 %", "rolled-back": "rolled back" };
const title = (stage) => TITLES[stage] ?? stage;

export function Release() {
  const [found, error, reload] = useLoaded(readRelease, EVERY_MS);
  if (!found) return html`<h1>Release</h1>${error ? html`<${Problem} error=${error} retry=${reload} />` : html`<${Empty} title="Reading…">The state follows in a moment.<//>`}`;
  return html`
    <div class="head"><h1>Release</h1><p class="dim">published: ${found.published ?? "none"}${found.waiting && `; next: ${found.waiting}`}</p></div>
    ${(error || found.error) && html`<p class="banner">${error?.message ?? found.error}</p>`}
    ${found.release ? html`<${State} release=${found.release} history=${found.history} />` : html`<${Empty} title="Nothing was released yet">recsys autopilot releases what recsys train proposes; recsys release run VERSION releases a bundle.<//>`}
    ${found.history.length > 0 && html`<${History} lines=${found.history} />`}`;
}

function State({ release, history }) {
  const reached = new Set(history.filter((line) => line.version === release.version).map((line) => line.stage));
  const ended = release.stage === "promoted" || release.stage === "rolled-back";
  const stages = release.stage === "rolled-back" ? [...PATH.slice(0, -1).filter((stage) => reached.has(stage)), "rolled-back"] : PATH;
  const tone = (stage) => (stage !== release.stage ? "" : stage === "rolled-back" ? "bad" : "good");
  return html`
    <${Panel} id="stage-title" title=${`${release.version} against ${release.serving}`} note=${`${release.reason} (${ago(Date.now() - release.since_ms)})`}>
      <ol class="stages" aria-label="Stages of the release">
        ${stages.map((stage) => html`<li aria-current=${stage === release.stage ? "step" : undefined}><span class=${`tag ${tone(stage)}`}>${title(stage)}</span></li>`)}
      </ol>
      <div class="tiles">
        <${Tile} label="users who see it" value=${percent(release.share)} note=${ended ? "ended" : "planned share"} />
        <${Tile} label="users of the canary" value=${count(release.users)} note="in the lake, of this stage" />
        <${Tile} label="failed checks" value=${count(release.checks.filter((check) => check.problem).length)} unit=${`of ${release.checks.length}`} state=${release.checks.some((check) => check.problem) ? "bad" : ""} />
      </div>
    <//>
    <div class="split even">
      <${Guardrails} p=${release.p} />
      <${Checks} checks=${release.checks} />
    </div>`;
}

const Guardrails = ({ p }) => html`
  <${Panel} id="guardrails-title" title="Guardrails of the canary" note="The smallest p of harm so far, valid at any number of looks; 1: no sign of harm. At the level of the error budget the release is rolled back.">
    ${Object.keys(p).length ? html`
      <${Table} caption="Guardrails of the canary" head=${["guardrail", ["p of harm"]]}>
        ${Object.entries(p).toSorted(([, a], [, b]) => a - b).map(([name, value]) => html`<tr><th scope="row">${words(name)}</th><td class="num">${probability(value)}</td></tr>`)}
      <//>` : html`<${Empty} title="No canary yet">Guardrails compare the users of the canary with all others.<//>`}
  <//>`;

const Checks = ({ checks }) => html`
  <${Panel} id="checks-title" title="Offline gate" note="On the newest day. AUC and GAUC are differences to the serving bundle.">
    ${checks.length ? html`
      <${Table} caption="Checks of the offline gate" head=${["check", ["candidate"], ["serving, or usual"], "verdict"]}>
        ${checks.map((check) => html`<tr><th scope="row">${words(check.name)}</th><td class="num">${number(check.candidate)}</td><td class="num">${number(check.serving)}</td><td>${check.problem ? html`<span class="tag bad">failed</span> ${check.problem}` : html`<span class="tag good">passed</span>`}</td></tr>`)}
      <//>` : html`<${Empty} title="Not judged yet">The gate compares both bundles on the newest day.<//>`}
  <//>`;

const History = ({ lines }) => html`
  <${Panel} id="history-title" title="Audit log" note="The latest stages of all releases, newest first; recsys release history has all of them.">
    <${Table} caption="Stages of all releases" head=${["at", "version", "stage", ["users"], "why"]}>
      ${lines.toReversed().map((line) => html`<tr><td class="dim made">${when(Date.parse(line.at))}</td><th scope="row">${line.version}</th><td>${title(line.stage)}</td><td class="num">${line.users ? count(line.users) : "–"}</td><td>${line.reason}</td></tr>`)}
    <//>
  <//>`;
