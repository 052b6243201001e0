// Feed: a user's list, the reasons of each item, and how the list changes with the user's actions.
import { ApiProblem, keyHeaders, readUser } from "../api.js";
import { Device } from "../edge/device.js";
import { sendLater } from "../edge/outbox.js";
import { age, ms, score, signed, words } from "../format.js";
import { Empty, Panel, Problem, useLoaded } from "../components.js";
import { html, useEffect, useRef, useState } from "../vendor/toolkit.js";

const ACTIONS = [
  ["click", "Click", {}],
  ["like", "Like", {}],
  ["purchase", "Buy", { value: 9.99 }],
  ["dwell", "Dwell 30 s", { value: 30_000 }],
];
const IN_HISTORY = new Set(["click", "like", "purchase"]);
const POLL_EVERY_MS = 25;
const GIVE_UP_MS = 15_000;
const STRONGEST = 2;

export function Feed({ user, answer, error, ask, choose, edge, setEdge, length }) {
  const [said, say] = useState("");
  const [moves, setMoves] = useState(new Map());
  const [busy, setBusy] = useState(false);
  const device = useDevice(edge, answer);
  const [history, historyError, reload] = useLoaded(() => readUser(user), 0, [user, answer]);
  useEffect(() => {
    setMoves(new Map());
    say("");
  }, [user]);

  const act = async ([type, label, more], item, place) => {
    setBusy(true);
    const before = lines.map((other) => other.item_id);
    const began = performance.now();
    try {
      const reranked = IN_HISTORY.has(type) && (await device.act(item.item_id, type));
      if (reranked) {
        setMoves(movesOf(before, reranked.order.slice(0, length).map((line) => answer.edge.items[line.place].item_id)).moves);
        say(`Reranked on this device in ${ms(reranked.ms)} ms; the server has not answered yet.`);
      }
      const waiting = await sendLater({ type, user_id: user, item_id: item.item_id, ...shownIn(answer, item, place), event_time_ms: Date.now(), ...more });
      if (waiting) {
        say(`${reranked ? `Reranked on this device in ${ms(reranked.ms)} ms. ` : ""}The API is away: ${waiting} of your actions wait for it.`);
        return;
      }
      if (!IN_HISTORY.has(type)) {
        say(`${label} is accepted. It changes the item's features now, and your profile from midnight on.`);
        return;
      }
      await until(() => inHistory(user, item.item_id, type, began), began);
      const after = await ask();
      if (!after) return;
      const took = performance.now() - began;
      const changed = movesOf(before, after.items.map((other) => other.item_id));
      setMoves(changed.moves);
      const what = changed.same ? "The list is the same" : `The list changed: ${changed.text}`;
      say(`${what}. ${ms(took)} ms after your ${type}, through Kafka and Redis.`);
    } catch (problem) {
      say(problem.message);
    } finally {
      setBusy(false);
    }
  };

  const lines = device.order
    ? device.order.slice(length * device.page, length * (device.page + 1)).map(({ place, score: now }) => ({ ...answer.edge.items[place], score: now }))
    : (answer?.items ?? []);
  return html`
    <h1 class="sr">Feed</h1>
    <${Who} user=${user} choose=${choose} />
    <label class="edge"><input type="checkbox" checked=${edge} onChange=${(event) => setEdge(event.target.checked)} /> Rerank on this device</label>
    <p class="dim" role="status">${device.state}</p>
    <p class="said" role="status" aria-live="polite">${said}</p>
    <div class="split">
      <${Panel} id="list-title" title="Recommended" note=${answer && summary(answer)}>
        ${error && html`<${Problem} error=${error} retry=${ask} />`}
        ${!error && !answer && html`<${Waiting} />`}
        ${answer && !answer.items.length && html`<${Empty} title="Nothing to recommend">Everything in the catalogue has been seen or is blocked.<//>`}
        ${answer && html`<ol class="list" start=${1 + length * device.page}>${lines.map((item, i) => html`
          <${Line} key=${item.item_id} item=${item} place=${length * device.page + i} shown=${shownBy(answer, item)} move=${moves.get(item.item_id)}
            busy=${busy} act=${(action) => act(action, item, length * device.page + i)} />`)}</ol>`}
        ${device.order?.length > length * (device.page + 1) && html`<button type="button" onClick=${device.next}>Next page, from this device</button>`}
      <//>
      <${Panel} id="history-title" title="History" note=${history && `${history.seen} items seen or disliked`}>
        ${historyError && html`<${Problem} error=${historyError} retry=${reload} />`}
        ${history && !history.history.length && html`<${Empty} title="This user is new">Click something: the list changes within a moment.<//>`}
        ${history && html`<ol class="history">${history.history.slice(0, 20).map((visit) => html`
          <li><span class="kind">${words(visit.type)}</span> <span>${visit.title || visit.item_id}</span>
            <time class="dim" datetime=${new Date(visit.event_time_ms).toISOString()}>${age(Date.now() - visit.event_time_ms)}</time></li>`)}</ol>`}
      <//>
    </div>`;
}

function Who({ user, choose }) {
  const submit = (event) => {
    event.preventDefault();
    const wanted = new FormData(event.target).get("user").trim();
    if (wanted) choose(wanted);
  };
  return html`
    <form class="who" onSubmit=${submit}>
      <label for="user">User</label>
      <input id="user" name="user" key=${user} defaultValue=${user} required maxlength="128" autocomplete="off" spellcheck="false" />
      <button>Show</button>
      <button type="button" class="quiet" onClick=${() => choose(`guest-${Math.random().toString(36).slice(2, 8)}`)}>New user</button>
    </form>`;
}

const Waiting = () => html`<div class="waiting" aria-label="Loading">${[1, 2, 3, 4].map(() => html`<span></span>`)}</div>`;

function summary(answer) {
  const degraded = answer.degraded.length ? ` · degraded: ${answer.degraded.map(words).join(", ")}` : "";
  return `${answer.items.length} items in ${ms(answer.ms)} ms · bundle ${answer.bundle}${degraded}`;
}

/** What the funnel says of an item of the server's list; undefined for one that the device has brought up. */
const shownBy = (answer, item) => answer.funnel.shown.find((shown) => shown.item_id === item.item_id);

/** What an event says of the list that showed the item; nothing of one that this device has brought up. */
function shownIn(answer, item, position) {
  const line = answer.items.find((other) => other.item_id === item.item_id);
  return line ? { request_id: answer.request_id, position, ...(line.token && { token: line.token }) } : {};
}

/** Reranking on this device: `order`, once something was done that the server's list does not know yet; `state` says
 * whether it works, and else that the server's order stays. */
function useDevice(wanted, answer) {
  const device = useRef(null);
  const [state, setState] = useState("");
  const [order, setOrder] = useState(null);
  const [page, setPage] = useState(0);
  const ready = useRef(null); // the answer that the device has proven
  useEffect(() => () => device.current?.close(), []);
  useEffect(() => {
    let over = false;
    ready.current = null;
    setOrder(null);
    setPage(0);
    if (!wanted || !answer) {
      setState("");
      return;
    }
    const fail = (why) => !over && setState(`In the server's order: ${why}.`);
    if (!answer.edge) {
      fail("this bundle has no model for devices");
      return;
    }
    setState("Loading the model for this device…");
    device.current ??= new Device();
    device.current.take(answer.edge, keyHeaders()).then(({ bytes, difference, candidates }) => {
      if (over) return;
      ready.current = answer;
      setState(`This device reranks ${candidates} items after each action. Its scores are the server's within ${difference.toExponential(0)}${bytes ? `; model: ${bytes} bytes downloaded` : ""}.`);
    }, (error) => fail(error.message));
    return () => (over = true);
  }, [wanted, answer]);
  const act = async (itemId, type) => {
    const asked = ready.current;
    if (!asked) return null;
    try {
      const found = await device.current.act(itemId, type);
      if (ready.current !== asked) return null; // another list has come meanwhile
      setOrder(found.order);
      setPage(0);
      return found;
    } catch (error) {
      if (ready.current !== asked) return null;
      setOrder(null);
      setState(`In the server's order: ${error.message}.`);
      return null;
    }
  };
  return { order, page, state, act, next: () => setPage(page + 1) };
}

function Line({ item, place, shown, move, busy, act }) {
  const name = item.title || item.item_id;
  return html`
    <li>
      <span class="place" aria-hidden="true">${place + 1}</span>
      <div class="what">
        <div class="title"><strong>${name}</strong>${move && html`<span class=${`move ${move.tone}`}>${move.text}</span>`}</div>
        <div class="dim">${item.categories.map(words).join(" · ")}</div>
        <p class="why">${shown ? why(shown) : "Brought up by this device"}</p>
        <div class="actions" role="group" aria-label=${`What you do with ${name}`}>
          ${ACTIONS.map((action) => html`<button type="button" class="quiet" disabled=${busy} data-type=${action[0]} aria-label=${`${action[1]} ${name}`} onClick=${() => act(action)}>${action[1]}</button>`)}
        </div>
      </div>
      <span class="score" title="score"><span class="sr">score </span>${score(item.score)}</span>
    </li>`;
}

/** One sentence: who found it, what spoke for it, what moved it. */
function why(shown) {
  const found = Object.entries(shown.channels).map(([channel, rank]) => `${words(channel)} #${rank + 1}`).join(", ");
  const strong = (shown.reasons ?? [])
    .filter((name) => shown.contributions[name] > 0)
    .slice(0, STRONGEST)
    .map((name) => `${words(name)} ${signed(shown.contributions[name], 2)}`)
    .join(", ");
  const moved = shown.moved_by && shown.rank !== null ? ` · ranked ${shown.rank + 1}, moved by ${shown.moved_by}` : "";
  return `Found by ${found || "filling up"}${strong && ` · for it: ${strong}`}${moved}`;
}

async function inHistory(user, item, type) {
  const { history } = await readUser(user);
  return history.some((visit) => visit.item_id === item && visit.type === type);
}

async function until(isThere, began) {
  while (!(await isThere())) {
    if (performance.now() - began > GIVE_UP_MS) {
      throw new ApiProblem(0, `It is accepted, but was not applied within ${GIVE_UP_MS / 1000} s. Is the worker running (recsys stream worker)?`);
    }
    await new Promise((resume) => setTimeout(resume, POLL_EVERY_MS));
  }
}

/** What differs between two lists of ids: a badge per item, and a sentence. */
export function movesOf(before, after) {
  const moves = new Map();
  for (const [place, id] of after.entries()) {
    const old = before.indexOf(id);
    if (old < 0) moves.set(id, { text: "new", tone: "new" });
    else if (old !== place) moves.set(id, old > place ? { text: `▲ ${old - place}`, tone: "up" } : { text: `▼ ${place - old}`, tone: "down" });
  }
  const added = [...moves.values()].filter((move) => move.tone === "new").length;
  const moved = moves.size - added;
  const left = before.filter((id) => !after.includes(id)).length;
  const parts = [added && `${added} new`, left && `${left} gone`, moved && `${moved} moved`].filter(Boolean);
  return { moves, same: !parts.length, text: parts.join(", ") };
}
