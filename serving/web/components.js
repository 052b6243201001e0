// The components of the views.
import { tick } from "./format.js";
import { html, uPlot, useEffect, useLayoutEffect, useRef, useState } from "./vendor/toolkit.js";

export const Panel = ({ title, note, children, id, actions }) => html`
  <section class="panel" aria-labelledby=${id}>
    <header><h2 id=${id}>${title}</h2>${actions}</header>
    ${note && html`<p class="note">${note}</p>`}
    ${children}
  </section>`;

export const Empty = ({ title, children }) => html`<div class="empty"><strong>${title}</strong><p>${children}</p></div>`;

export const Problem = ({ error, retry }) => html`
  <div class="empty problem" role="alert">
    <strong>${error.status === 503 ? "Not available now" : error.status ? `Error ${error.status}` : "No connection"}</strong>
    <p>${error.message}</p>
    ${error.requestId && html`<p class="dim">request ${error.requestId}</p>`}
    ${retry && html`<button type="button" onClick=${retry}>Try again</button>`}
  </div>`;

export const Tile = ({ label, value, unit, note, state }) => html`
  <div class=${`tile ${state ?? ""}`}>
    <span class="label">${label}</span>
    <span class="value">${value}${unit && value !== "–" && html`<small> ${unit}</small>`}</span>
    ${note && html`<span class="dim">${note}</span>`}
  </div>`;

/** A table that scrolls inside itself on a narrow screen, and can be reached by the keyboard to do so.
 * `head`: one title per column; [title] above numbers, which are aligned right. */
export const Table = ({ caption, head, children, className }) => html`
  <div class="scroll" role="region" aria-label=${caption} tabindex="0">
    <table class=${className}>
      <caption class="sr">${caption}</caption>
      <thead><tr>${head.map((title) => (Array.isArray(title) ? html`<th scope="col" class="num">${title[0]}</th>` : html`<th scope="col">${title}</th>`))}</tr></thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;

/** A bar from `from` to `from + size`, both shares of the width. The number next to it says the same in words. */
export const Bar = ({ from = 0, size, tone = "" }) => html`
  <span class=${`bar ${tone}`} aria-hidden="true"><span style=${{ left: `${100 * from}%`, width: `${100 * Math.max(size, 0.004)}%` }}></span></span>`;

/** A bar to the left or right of the middle: `value` in -1 … 1. */
export const Diverging = ({ value }) =>
  html`<${Bar} from=${value < 0 ? 0.5 + value / 2 : 0.5} size=${Math.abs(value) / 2} tone=${value < 0 ? "minus" : "plus"} />`;

/** Run `load` now and every `everyMs` (0: once) while the console is visible, sooner if a problem says when to retry. → [content, error, reload] */
export function useLoaded(load, everyMs = 0, needs = []) {
  const [state, set] = useState([null, null]);
  const latest = useRef(load);
  latest.current = load;
  const reload = useRef(() => {});
  useEffect(() => {
    let over = false;
    let timer;
    const step = async () => {
      clearTimeout(timer);
      let nextMs = everyMs;
      try {
        if (!document.hidden) {
          const content = await latest.current();
          if (!over) set([content, null]);
        }
      } catch (error) {
        if (!over) set(([content]) => [content, error]);
        if (error.retryS) nextMs = Math.min(everyMs, 1000 * error.retryS);
      }
      if (!over && everyMs) timer = setTimeout(step, nextMs);
    };
    reload.current = step;
    step();
    return () => {
      over = true;
      clearTimeout(timer);
    };
  }, [everyMs, ...needs]);
  return [...state, () => reload.current()];
}

/** A custom property as a canvas can paint it: `light-dark()` resolved. */
function colour(name, box) {
  const probe = box.appendChild(document.createElement("i"));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

const faint = (rgb) => rgb.replace(/^rgb\((.*)\)$/, "rgba($1, .16)");

/** What is drawn, bands first so that every line lies above them. */
const drawn = (series) => [
  ...series.filter((s) => s.high).flatMap((s) => [{ tone: s.tone, bound: "high", values: s.high }, { tone: s.tone, bound: "low", values: s.low }]),
  ...series,
];

const dark = matchMedia("(prefers-color-scheme: dark)");

/** Ticks of a time axis: seconds where they are closer than a minute, days where they are days. */
function clock(_, ticks) {
  const step = ticks[1] - ticks[0];
  const parts = step < 60 ? { hour: "2-digit", minute: "2-digit", second: "2-digit" } : step < 86_400 ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short" };
  const text = new Intl.DateTimeFormat("en-GB", parts);
  return ticks.map((tick) => text.format(tick * 1000));
}

/** Lines over x. `series`: [{label, values, tone, low, high}], tone a custom property of style.css; between `low` and
 * `high` lies a band. `span`: seconds that a time axis shows at least. The table below it, or the label, says the same
 * in words. */
export function Chart({ label, x, series, time = false, span = 0, fromZero = false, height = 180, show = tick }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [mode, setMode] = useState(dark.matches);
  const shape = `${series.map((s) => `${s.label}${s.high ? "~" : ""}`)}|${time}|${mode}`;
  useEffect(() => {
    const change = () => setMode(dark.matches);
    dark.addEventListener("change", change);
    return () => dark.removeEventListener("change", change);
  }, []);
  useLayoutEffect(() => {
    const axis = { stroke: colour("--dim", box.current), grid: { stroke: colour("--line", box.current), width: 1 }, ticks: { show: false }, font: "12px system-ui", space: 60 };
    const lines = drawn(series);
    plot.current = new uPlot(
      {
        width: box.current.clientWidth,
        height,
        padding: [12, 12, 0, 0],
        scales: { x: { time, ...(span && { range: ({ data: [at] }) => [Math.min(at[0], at.at(-1) - span), at.at(-1)] }) }, ...(fromZero && { y: { range: (_, low, high) => [0, high > 0 ? high * 1.05 : 1] } }) },
        cursor: { points: { size: 6 }, drag: { x: false, y: false } },
        legend: { show: false },
        axes: [{ ...axis, size: 30, ...(time ? { values: clock } : { incrs: [1, 2, 5, 10, 20, 50, 100] }) }, { ...axis, size: 56, space: 36, values: (_, ticks) => ticks.map(show) }],
        series: [
          {},
          ...lines.map((line) =>
            line.bound ? { stroke: "transparent", points: { show: false } } : { stroke: colour(line.tone, box.current), width: 2, points: { show: x.length < 30, size: 5 } }),
        ],
        bands: lines.flatMap((line, i) => (line.bound === "high" ? [{ series: [i + 1, i + 2], fill: faint(colour(line.tone, box.current)) }] : [])),
      },
      [x, ...lines.map((line) => line.values)],
      box.current,
    );
    const watch = new ResizeObserver(() => plot.current?.setSize({ width: box.current.clientWidth, height }));
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [shape]);
  useLayoutEffect(() => plot.current?.setData([x, ...drawn(series).map((line) => line.values)]), [x, series]);
  return html`
    ${series.length > 1 && html`<ul class="legend">${series.map((s) => html`<li><span style=${{ background: `var(${s.tone})` }}></span>${s.label}</li>`)}</ul>`}
    <div class="chart" role="img" aria-label=${label} style=${{ minHeight: `${height}px` }} ref=${box}></div>`;
}
