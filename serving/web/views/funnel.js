// Funnel: one request from recall to the list. The data is `?explain=true`, as `recsys explain` prints it.
import { age, count, ms, number, score, signed, words } from "../format.js";
import { Bar, Diverging, Empty, Panel, Problem, Table, Tile } from "../components.js";
import { html, useEffect, useState } from "../vendor/toolkit.js";

const SHARES = 14;
const KINDS = {
  query_hydrator: "read the user", source: "recall", merger: "merge", candidate_hydrator: "read features",
  filter: "filter", scorer: "score", selector: "rerank", side_effect: "log",
};

export function Funnel({ user, answer, error, ask }) {
  const [chosen, choose] = useState(0);
  useEffect(() => choose(0), [answer]);
  if (error) return html`<h1>Funnel</h1><${Problem} error=${error} retry=${ask} />`;
  if (!answer) return html`<h1>Funnel</h1><${Empty} title="Requesting a list…">The funnel shows every stage of it.<//>`;
  const { funnel } = answer;
  const shown = funnel.shown ?? [];
  return html`
    <div class="head"><h1>Funnel</h1><p class="dim">user ${user} · request ${answer.request_id} · bundle ${answer.bundle}</p>
      <button type="button" class="quiet" onClick=${ask}>Request again</button></div>
    ${answer.degraded.length > 0 && html`<p class="banner">Degraded: ${answer.degraded.map(words).join(", ")}. The list is the best possible without them.</p>`}
    <${Narrowing} funnel=${funnel} total=${answer.ms} />
    <${Waterfall} stages=${funnel.stages} />
    ${shown.length > 0 && html`
      <${Panel} id="items-title" title="Shown items" note="Choose one to see what speaks for it.">
        <${Items} shown=${shown} chosen=${chosen} choose=${choose} />
      <//>
      <${Detail} item=${shown[Math.min(chosen, shown.length - 1)]} funnel=${funnel} />`}
    <div class="split even">
      <${Passed} ranked=${funnel.ranked ?? []} />
      <${Removed} removed=${funnel.removed ?? {}} />
    </div>`;
}

/** How many candidates were left after each kind of stage. */
function Narrowing({ funnel, total }) {
  const of = (kind) => funnel.stages.filter((stage) => stage.kind === kind);
  const recalled = Object.values(funnel.channels ?? {}).reduce((sum, n) => sum + n, 0);
  const merged = of("merger")[0]?.out;
  const left = of("filter").at(-1)?.out ?? merged;
  const picked = of("selector")[0]?.out;
  const steps = [["recalled", recalled], ["different", merged], ["allowed", left], ["shown", picked]];
  return html`
    <div class="tiles">
      ${steps.map(([label, n]) => html`<${Tile} label=${label} value=${count(n)} />`)}
      <${Tile} label="time in the API" value=${ms(total)} unit="ms" />
      <${Tile} label="user" value=${funnel.user.known ? "known" : "new"} note=${`${funnel.user.history} events in the history`} />
    </div>`;
}

function Waterfall({ stages }) {
  const end = Math.max(...stages.map((stage) => stage.began_ms + stage.ms), 0.001);
  return html`
    <${Panel} id="waterfall-title" title="Where the milliseconds went">
      <${Table} caption="Stages of the request in order" className="waterfall" head=${["stage", "does", ["in"], ["out"], `from 0 to ${ms(end)} ms`, ["ms"]]}>
        ${stages.map((stage) => html`
          <tr class=${stage.status === "ok" ? "" : "bad"}>
            <th scope="row">${words(stage.stage)}</th>
            <td class="dim">${KINDS[stage.kind] ?? words(stage.kind)}</td>
            <td class="num">${stage.kind === "source" || stage.kind === "query_hydrator" ? "" : count(stage.in)}</td>
            <td class="num">${stage.kind === "query_hydrator" ? "" : count(stage.out)}</td>
            <td class="wide"><${Bar} from=${stage.began_ms / end} size=${stage.ms / end} tone=${stage.status === "ok" ? stage.kind : "minus"} /></td>
            <td class="num">${stage.status === "ok" ? ms(stage.ms) : html`<span title=${stage.error}>${words(stage.status)}</span>`}</td>
          </tr>`)}
      <//>
    <//>`;
}

function Items({ shown, chosen, choose }) {
  const heads = Object.keys(shown[0].scores);
  return html`
    <${Table} caption="Shown items with their ranks and scores" className="items" head=${[[""], "item", "found by", ...heads.map((head) => [words(head)]), ["score"], ["ranked"], "moved by"]}>
      ${shown.map((item, place) => html`
        <tr class=${place === chosen ? "chosen" : ""}>
          <td class="num dim">${place + 1}</td>
          <th scope="row"><button type="button" class="link" aria-pressed=${place === chosen} onClick=${() => choose(place)}>${item.title || item.item_id}</button></th>
          <td>${Object.entries(item.channels).map(([name, rank]) => html`<span class="tag">${words(name)} <b>${rank + 1}</b></span>`)}</td>
          ${heads.map((head) => html`<td class="num">${score(item.scores[head])}</td>`)}
          <td class="num strong">${score(item.score)}</td>
          <td class="num">${item.rank === null ? "–" : item.rank + 1}</td>
          <td class="dim">${item.moved_by || "–"}</td>
        </tr>`)}
    <//>`;
}

function Detail({ item, funnel: { features, shared } }) {
  const [all, setAll] = useState(false);
  if (!item.contributions) {
    return html`<${Panel} id="why-title" title=${item.title || item.item_id}><${Empty} title="No contributions">They are computed for the first 30 items of a ranked list.<//><//>`;
  }
  const strength = (name) => Math.abs(item.contributions[name]);
  const others = Object.keys(item.contributions).filter((name) => !item.reasons.includes(name)).sort((a, b) => strength(b) - strength(a));
  const names = [...item.reasons, ...others];
  const listed = all ? names : item.reasons.slice(0, SHARES);
  const most = Math.max(...listed.map(strength)) || 1;
  return html`
    <${Panel} id="why-title" title=${`Why ${item.title || item.item_id}`}
      note="What the score would lose (blue) or gain (orange) if the ranker did not know this. Reasons are what differs between candidates; features that are the same for all of them are listed last. Age: of the newest event behind the value."
      actions=${html`<button type="button" class="quiet" aria-expanded=${all} onClick=${() => setAll(!all)}>${all ? "Strongest only" : `All ${names.length} features`}</button>`}>
      <${Table} caption="Contributions of features to the score" className="shares" head=${["feature", "of", ["value"], ["age"], "contribution", [""]]}>
        ${listed.map((name) => html`
          <tr>
            <th scope="row">${words(name)}${shared.includes(name) && html` <span class="dim">same for all</span>`}</th>
            <td class="dim">${words(features[name]?.of ?? "model")}</td>
            <td class="num">${(features[name]?.columns ?? []).map((column) => number(item.features[column])).join(" · ") || "–"}</td>
            <td class="num">${item.ages_ms ? age(item.ages_ms[name]) : "–"}</td>
            <td class="wide"><${Diverging} value=${item.contributions[name] / most} /></td>
            <td class="num">${signed(item.contributions[name])}</td>
          </tr>`)}
      <//>
    <//>`;
}

/** The best items that were not shown, because of diversity or a cap. */
function Passed({ ranked }) {
  const passed = ranked.map((item, rank) => ({ ...item, rank })).filter((item) => item.place === null).slice(0, 10);
  return html`
    <${Panel} id="passed-title" title="Ranked, not shown">
      ${passed.length ? html`
        <${Table} caption="The best ranked items that were not shown" head=${["rank", "item", ["score"]]}>
          ${passed.map((item) => html`<tr><td class="rank">${item.rank + 1}</td><th scope="row">${item.title || item.item_id}</th><td class="num">${score(item.score)}</td></tr>`)}
        <//>` : html`<${Empty} title="Everything is shown">There were no more candidates.<//>`}
    <//>`;
}

function Removed({ removed }) {
  const rows = Object.entries(removed).flatMap(([filter, reasons]) =>
    Object.entries(reasons).filter(([, found]) => found.count).map(([reason, found]) => ({ filter, reason, ...found })));
  return html`
    <${Panel} id="removed-title" title="Removed">
      ${rows.length ? rows.map((row) => html`
        <details>
          <summary><b>${count(row.count)}</b> ${words(row.reason)} <span class="dim">by filter ${words(row.filter)}</span></summary>
          <ul class="plain">${row.items.map((item) => html`<li>${item.title || item.item_id}</li>`)}</ul>
        </details>`) : html`<${Empty} title="Nothing was removed">Recall had already left out what the user has seen.<//>`}
    <//>`;
}
