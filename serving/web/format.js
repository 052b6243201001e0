// Numbers, times and names as people read them.

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));

/** Three significant digits, so that a column lines up, without exponents for what has a usual size. */
export function number(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1000) return whole.format(x);
  if (size < 0.001) return x.toExponential(1);
  return x.toLocaleString(LOCALE, { minimumSignificantDigits: Number.isInteger(x) ? 1 : 3, maximumSignificantDigits: 3 });
}

/** null: the metric was measured and is undefined, such as the AUC of one label. */
export const metric = (x) => (x === null ? "undefined" : number(x));

/** The same at an axis, where the ticks are round: no zeros behind them. */
export const tick = (x) => x.toLocaleString(LOCALE, { maximumSignificantDigits: 4 });

export const ms = (x) => (x === null || x === undefined ? "–" : x >= 100 ? `${whole.format(x)}` : x.toFixed(x >= 10 ? 1 : 2));
export const score = (x) => (x === null || x === undefined ? "–" : x.toFixed(3));
export const signed = (x, places = 4) => `${x > 0 ? "+" : x < 0 ? "−" : ""}${Math.abs(x).toFixed(places)}`;
/** A rate of a few percent needs more places than a share of many. */
export const rate = (x) => `${(100 * x).toFixed(Math.abs(x) < 0.1 ? 2 : 1)} %`;
export const percent = (x) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(1)} %`);

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  for (; n >= 1024 && at < units.length - 1; at += 1) n /= 1024;
  return `${at ? n.toFixed(1) : n} ${units[at]}`;
}

/** "12 s", "3 min", "5 h", "2 d". */
export function age(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "–";
  const seconds = Math.max(0, milliseconds / 1000);
  if (seconds < 1) return "now";
  const [length, unit] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([length]) => seconds >= length);
  return `${Math.floor(seconds / length)} ${unit}`;
}

/** "now", "3 min ago". */
export const ago = (milliseconds) => {
  const text = age(milliseconds);
  return text === "now" || text === "–" ? text : `${text} ago`;
};

/** A percentile that was read from a histogram whose first bucket ends at half a millisecond. */
export const bucketed = (x) => (x !== null && x !== undefined && x < 0.5 ? "< 0.5" : ms(x));

export const change = (share) => `${share > 0 ? "+" : share < 0 ? "−" : ""}${Math.abs(100 * share).toFixed(1)} %`;

export const probability = (p) => (p < 0.001 ? "< 0.001" : p.toFixed(3));

export const when = (milliseconds) =>
  new Date(milliseconds).toLocaleString(LOCALE, { dateStyle: "medium", timeStyle: "short" });

const SHORT = /^(ctr|cvr|auc|gauc|mb|hr@\d+|ndcg@\d+)$/;

/** `two_tower` → "two tower", `click_auc` → "click AUC". */
export const words = (name) => name.split("_").map((word) => (SHORT.test(word) ? word.toUpperCase() : word)).join(" ");
