// Experiments: the arms and their outcomes so far, with intervals. `/v1/experiments/…/outcomes`.
import { readExperiments, readOutcomes } from "../api.js";
import { ago, change, count, number, percent, probability, rate, tick, words } from "../format.js";
import { Chart, Empty, Panel, Problem, Table, useLoaded } from "../components.js";
import { html, useState } from "../vendor/toolkit.js";

const EVERY_MS = 10_000;
const TONES = ["--accent", "--warm", "--up", "--bad", "--dim"];
const SHARES = new Set(["ctr", "cvr", "list_distance", "return_rate"]);
const WRONG_SPLIT = 0.001;
const FEW = 30;

export function Experiments() {
  const [found, error, reload] = useLoaded(readExperiments, 30_000);
  return html`
    <${Panel} id="arms-title" title="Experiments" note="Users are assigned to arms by a hash. Outcomes are read from the lake, so they lag by the archiver's wait; bands and brackets are 95 % intervals over users.">
      ${error && html`<${Problem} error=${error} retry=${reload} />`}
      ${found?.error && html`<p class="banner">${found.error}</p>`}
      ${found && !found.experiments.length && html`<${Empty} title="None is running">All users get the published bundle. RECSYS_EXPERIMENTS names the file of experiments.<//>`}
      ${found?.experiments.map((experiment) => html`<${Experiment} key=${experiment.name} experiment=${experiment} />`)}
    <//>`;
}

function Experiment({ experiment }) {
  const [metric, choose] = useState("ctr");
  const [found, error, reload] = useLoaded(() => readOutcomes(experiment.name), EVERY_MS, [experiment.name]);
  const begun = found && found.arms.length > 0;
  const select = `metric-${experiment.name}`;
  return html`
    <section class="experiment" aria-labelledby=${`experiment-${experiment.name}`}>
      <header><h3 id=${`experiment-${experiment.name}`}>${experiment.name}</h3>
        <span class="dim">${percent(experiment.last - experiment.first)} of users, layer ${experiment.layer}</span>
        ${begun && html`<label for=${select}>Metric <select id=${select} value=${metric} onChange=${(event) => choose(event.target.value)}>
          ${Object.keys(found.metrics).map((name) => html`<option value=${name}>${words(name)}</option>`)}</select></label>`}
      </header>
      ${error && html`<${Problem} error=${error} retry=${reload} />`}
      ${!found && !error && html`<p class="dim">Reading the lake…</p>`}
      ${begun && html`<${Growth} found=${found} metric=${metric} />`}
      ${found && !begun && html`<p class="dim">None of its users is in the lake yet: lists arrive there some seconds after they were shown (recsys stream archive).</p>`}
      <${Arms} experiment=${experiment} found=${begun ? found : null} metric=${metric} />
    </section>`;
}

function Growth({ found, metric }) {
  const x = found.looks_ms.map((at) => at / 1000);
  const column = (arm, what) => arm.metrics[metric].map((look) => look?.[what] ?? null);
  const series = found.arms.map((arm, i) => ({ label: arm.name, tone: TONES[i % TONES.length], values: column(arm, "value"), low: column(arm, "low"), high: column(arm, "high") }));
  const fewest = Math.min(...found.arms.map((arm) => arm.users.at(-1)));
  return html`
    <p class="note">${found.metrics[metric]}. Newest list ${ago(Date.now() - found.newest_ms)}, read ${ago(1000 * found.age_s)}.${found.crossed > 0 && ` Left out because seen in two arms: ${count(found.crossed)}.`}</p>
    ${found.split_p < WRONG_SPLIT && html`<p class="banner">The users are not split as planned (p ${probability(found.split_p)}): do not trust these outcomes.</p>`}
    ${fewest < FEW && html`<p class="banner">Fewer than ${FEW} users in an arm: the intervals are rough.</p>`}
    ${x.length > 1 && html`<${Chart} label=${`${words(metric)} of each arm over time, with its interval: ${found.arms.map((arm) => `${arm.name} ${value(arm, metric)}`).join(", ")}`} time=${true} x=${x} series=${series} show=${SHARES.has(metric) ? (x) => `${tick(100 * x)} %` : tick} height=${200} />`}`;
}

const shown = (metric) => (SHARES.has(metric) ? rate : number);
const value = (arm, metric) => {
  const look = arm.metrics[metric].at(-1);
  return look ? shown(metric)(look.value) : "–";
};

/** `{rerank: {diversity: "dpp"}}` → ["rerank diversity: dpp"]. */
const flat = (settings, before = "") =>
  Object.entries(settings).flatMap(([name, what]) =>
    what !== null && typeof what === "object" && !Array.isArray(what) ? flat(what, `${before}${words(name)} `) : [`${before}${words(name)}: ${what}`]);

function Arms({ experiment, found, metric }) {
  const show = shown(metric);
  const changes = (arm) => [arm.bundle && `bundle ${arm.bundle}`, ...flat(arm.settings)].filter(Boolean).join(", ") || "nothing";
  return html`
    <${Table} caption=${`Arms of ${experiment.name}`} className="arms" head=${["arm", ["planned"], ["users"], ["lists"], [words(metric)], ["95 % interval"], ["against control"], ["sequential p"], "changes"]}>
      ${experiment.arms.map((arm) => {
        const grown = found?.arms.find((other) => other.name === arm.name);
        const look = grown?.metrics[metric].at(-1);
        const lift = grown?.lifts[metric];
        return html`
          <tr><th scope="row">${arm.name}</th><td class="num">${percent(arm.share)}</td><td class="num">${count(grown?.users.at(-1))}</td><td class="num">${count(grown?.lists.at(-1))}</td>
            <td class="num strong">${grown ? value(grown, metric) : "–"}</td><td class="num">${look ? `${show(look.low)} … ${show(look.high)}` : "–"}</td>
            <td class="num">${lift ? html`<b>${change(lift.relative)}</b> [${change(lift.low)}, ${change(lift.high)}]` : arm.name === found?.control ? "control" : "–"}</td>
            <td class="num">${lift ? probability(lift.sequential_p) : "–"}</td><td class="dim">${changes(arm)}</td></tr>`;
      })}
    <//>`;
}
