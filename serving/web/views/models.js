// Data & models: the import's report, training curves, saved results. `/v1/models` reads the home folder.
import { readModels } from "../api.js";
import { count, metric, number, words } from "../format.js";
import { Bar, Chart, Empty, Panel, Problem, Table, Tile, useLoaded } from "../components.js";
import { html } from "../vendor/toolkit.js";

const TONES = ["--accent", "--warm", "--up", "--dim"];
const RECALL = "_hr@10";

export function Models() {
  const [state, error, reload] = useLoaded(readModels);
  if (!state) return html`<h1>Data & models</h1>${error ? html`<${Problem} error=${error} retry=${reload} />` : html`<${Empty} title="Reading…">Reading the home folder.<//>`}`;
  const ladders = state.results.filter((result) => result.command === "report ladder");
  const recalls = state.results.filter((result) => result.command === "evaluate recall");
  const others = state.results.filter((result) => !ladders.includes(result) && !recalls.includes(result));
  return html`
    <h1>Data & models</h1>
    <${Data} data=${state.data} />
    <${Panel} id="training-title" title="Training" note="The latest training of each model in this home; the served bundle may be another.">
      ${state.trainings.length ? html`<div class="split even">${state.trainings.map((training) => html`<${Curve} key=${training.model} training=${training} />`)}</div>`
        : html`<${Empty} title="Nothing was trained here">recsys train all writes its curves to the home folder.<//>`}
    <//>
    ${recalls.map((result) => html`<${Recall} key=${result.file} result=${result} />`)}
    ${ladders.map((result) => html`<${Ladder} key=${result.file} result=${result} />`)}
    <${Panel} id="results-title" title="Other results" note="Every saved result: recsys bench recall --json > var/results/bench-recall.json">
      ${others.length ? others.map((result) => html`<${Result} key=${result.file} result=${result} />`)
        : html`<${Empty} title="None is saved">Results in the home's folder results are shown here.<//>`}
    <//>`;
}

function Data({ data }) {
  if (!data) return html`<${Panel} id="data-title" title="Data"><${Empty} title="No import report">recsys data import writes one into the lake.<//><//>`;
  const days = Object.entries(data.events_by_day ?? {});
  const types = [...new Set(days.flatMap(([, byType]) => Object.keys(byType)))].sort();
  const reasons = Object.entries(data.broken_by_reason ?? {});
  return html`
    <${Panel} id="data-title" title=${`Data: ${data.dataset}`}>
      <div class="tiles">
        <${Tile} label="events" value=${count(data.events)} />
        <${Tile} label="users" value=${count(data.users)} />
        <${Tile} label="items" value=${count(data.items)} />
        <${Tile} label="duplicates dropped" value=${count(data.duplicates)} />
        <${Tile} label="broken rows" value=${count(data.broken)} state=${data.broken ? "warn" : ""} />
        <${Tile} label="unknown items" value=${count(data.unknown_items?.items)} note=${data.unknown_items?.events ? `in ${count(data.unknown_items.events)} events` : ""} />
      </div>
      ${days.length > 1 && html`<${Chart} label=${`Events by day: ${types.join(", ")}`} time=${true} x=${days.map(([day]) => Date.parse(day) / 1000)}
        series=${types.map((type, i) => ({ label: words(type), tone: TONES[i % TONES.length], values: days.map(([, byType]) => byType[type] ?? 0) }))} />`}
      ${reasons.length > 0 && html`<${Table} caption="Broken rows by reason" head=${["reason", ["rows"]]}>${reasons.map(([reason, rows]) => html`<tr><th scope="row">${reason}</th><td class="num">${count(rows)}</td></tr>`)}<//>`}
    <//>`;
}

function Curve({ training }) {
  const validated = [...new Set(training.curve.flatMap((epoch) => Object.keys(epoch.validation)))];
  const names = validated.length ? validated : training.curve.some((epoch) => epoch.loss !== null) ? ["loss"] : [];
  const at = (epoch, name) => (name === "loss" ? epoch.loss : epoch.validation[name]) ?? null;
  const metrics = Object.entries(training.metrics);
  return html`
    <div>
      <h3>${words(training.model)}</h3>
      ${training.curve.length > 1 && names.length > 0 && html`<${Chart} label=${`Training of ${words(training.model)} by epoch: ${names.join(", ")}`} x=${training.curve.map((epoch) => epoch.epoch)}
        series=${names.map((name, i) => ({ label: words(name), tone: TONES[i % TONES.length], values: training.curve.map((epoch) => at(epoch, name)) }))} />
        <p class="note">${names.map(words).join(", ")} by epoch</p>`}
      <${Table} caption=${`Metrics of ${words(training.model)}`} head=${["metric", ["value"]]}>
        ${metrics.map(([name, value]) => html`<tr><th scope="row">${words(name)}</th><td class="num">${metric(value)}</td></tr>`)}
      <//>
    </div>`;
}

/** `<model>_hr@10[_<slice>]`: one row per model, one column per slice. */
function Recall({ result }) {
  const models = Object.keys(result.figures).filter((name) => name.endsWith(RECALL)).map((name) => name.slice(0, -RECALL.length));
  const prefix = `${models[0]}${RECALL}`;
  const slices = Object.keys(result.figures).filter((name) => name.startsWith(`${prefix}_`)).map((name) => name.slice(prefix.length + 1));
  const most = Math.max(...models.map((model) => result.figures[`${model}${RECALL}`]), 0.001);
  return html`
    <${Panel} id=${`recall-${result.file}`} title="Recall, by slice" note=${`HR@10 · ${result.file}`}>
      <${Table} caption="Hit rate at 10 by model and slice" head=${["model", ["all"], "", ...slices.map((slice) => [words(slice)])]}>
        ${models.sort((a, b) => result.figures[`${b}${RECALL}`] - result.figures[`${a}${RECALL}`]).map((model) => html`
          <tr><th scope="row">${words(model)}</th><td class="num strong">${number(result.figures[`${model}${RECALL}`])}</td>
            <td class="wide"><${Bar} size=${result.figures[`${model}${RECALL}`] / most} /></td>
            ${slices.map((slice) => html`<td class="num">${number(result.figures[`${model}${RECALL}_${slice}`])}</td>`)}</tr>`)}
      <//>
    <//>`;
}

function Ladder({ result }) {
  const variants = Object.keys(result.figures).filter((name) => name.endsWith("_memory_mib")).map((name) => name.slice(0, -"_memory_mib".length));
  const columns = [["mb", "MB"], ["memory_mib", "memory MiB"], ["p50_ms", "p50 ms"], ["p99_ms", "p99 ms"], ["click_auc", "click AUC"], ["overlap", "overlap"]];
  const most = Math.max(...variants.map((variant) => result.figures[`${variant}_mb`]), 0.001);
  return html`
    <${Panel} id=${`ladder-${result.file}`} title="Compression ladder" note=${result.file}>
      <${Table} caption="Size, speed and quality of each variant" head=${["variant", "size", ...columns.map(([, title]) => [title]), "gate"]}>
        ${variants.map((variant) => html`
          <tr><th scope="row">${words(variant)}</th><td class="wide"><${Bar} size=${result.figures[`${variant}_mb`] / most} /></td>
            ${columns.map(([name]) => html`<td class="num">${number(result.figures[`${variant}_${name}`])}</td>`)}
            <td>${result.figures[`${variant}_passed`] ? "passed" : "refused"}</td></tr>`)}
      <//>
    <//>`;
}

const Result = ({ result }) => html`
  <details>
    <summary><b>${result.command}</b> <span class=${`tag ${result.met ? "good" : "bad"}`}>${result.met ? "goals met" : "goals missed"}</span> <span class="dim">${result.file}</span></summary>
    <${Table} caption=${`Figures of ${result.command}`} head=${["figure", ["value"], ["goal"], ""]}>
      ${Object.entries(result.figures).map(([name, value]) => {
        const goal = result.goals[name];
        return html`<tr><th scope="row">${words(name)}</th><td class="num">${number(value)}</td><td class="num">${goal ? `${goal.op} ${number(goal.value)}` : ""}</td><td>${goal ? html`<span class=${`tag ${goal.met ? "good" : "bad"}`}>${goal.met ? "met" : "missed"}</span>` : ""}</td></tr>`;
      })}
    <//>
  </details>`;
