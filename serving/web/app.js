// The shell: the chosen user, the open view, and what the views share. Each view is a file in views/.
import { readHealth, recommend, saveKey } from "./api.js";
import { useLoaded } from "./components.js";
import { html, render, useCallback, useEffect, useRef, useState } from "./vendor/toolkit.js";
import { Feed } from "./views/feed.js";
import { Funnel } from "./views/funnel.js";
import { Models } from "./views/models.js";
import { Release } from "./views/release.js";
import { System } from "./views/system.js";

const VIEWS = [
  ["feed", "Feed", Feed],
  ["funnel", "Funnel", Funnel],
  ["system", "System", System],
  ["release", "Release", Release],
  ["models", "Data & models", Models],
];
const LENGTH = 12;
const HEALTH_EVERY_MS = 5000;

/** `#/funnel?user=196` → ["funnel", "196"] */
function place() {
  const [view, query] = location.hash.replace(/^#\/?/, "").split("?");
  return [VIEWS.some(([name]) => name === view) ? view : "feed", new URLSearchParams(query).get("user") ?? "1"];
}

const link = (view, user) => `#/${view}?user=${encodeURIComponent(user)}`;

function App() {
  const [[view, user], setPlace] = useState(place);
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  const [asksKey, setAsksKey] = useState("");
  const [edge, setEdge] = useState(false); // whether lists come with what this device needs to rerank
  const main = useRef(null);

  useEffect(() => {
    const change = () => {
      setPlace(place());
      scrollTo(0, 0);
      main.current?.focus({ preventScroll: true });
    };
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  useEffect(() => {
    document.title = `${VIEWS.find(([name]) => name === view)[1]} · recsys`;
  }, [view]);

  const ask = useCallback(async () => {
    try {
      const found = await recommend(user, LENGTH, edge);
      setAnswer(found);
      setError(null);
      return found;
    } catch (problem) {
      setError(problem);
      setAnswer(null);
      if (problem.status === 401) setAsksKey(problem.message);
      return null;
    }
  }, [user, edge]);
  useEffect(() => {
    setAnswer(null);
    ask();
  }, [ask]);

  const shared = { user, answer, error, ask, edge, setEdge, length: LENGTH, setAnswer, askKey: setAsksKey, choose: (id) => (location.hash = link(view, id)) };
  const View = VIEWS.find(([name]) => name === view)[2];
  return html`
    <header class="top">
      <a class="brand" href=${link("feed", user)}>recsys</a>
      <nav aria-label="Views">
        ${VIEWS.map(([name, title]) => html`<a href=${link(name, user)} aria-current=${name === view ? "page" : undefined}>${title}</a>`)}
      </nav>
      <${Health} />
    </header>
    <main id="main" tabindex="-1" ref=${main}><${View} ...${shared} /></main>
    ${asksKey && html`<${KeyDialog} why=${asksKey} done=${() => { setAsksKey(""); ask(); }} />`}`;
}

function Health() {
  const [health, error] = useLoaded(readHealth, HEALTH_EVERY_MS);
  if (error) return html`<p class="health bad" role="status"><span class="dot"></span>the API is away</p>`;
  if (!health) return html`<p class="health" role="status"></p>`;
  const state = !health.ready ? "bad" : health.degraded.length ? "warn" : "good";
  const text = !health.ready ? "no bundle" : health.degraded.length ? `degraded: ${health.degraded.join(", ")}` : health.bundle;
  return html`<p class=${`health ${state}`} role="status"><span class="dot"></span>${text}</p>`;
}

function KeyDialog({ why, done }) {
  const box = useRef(null);
  useEffect(() => box.current.showModal(), []);
  const use = (event) => {
    event.preventDefault();
    saveKey(new FormData(event.target).get("key").trim());
    done();
  };
  return html`
    <dialog ref=${box} aria-labelledby="key-title" onClose=${done}>
      <form onSubmit=${use}>
        <h2 id="key-title">This API asks for a key</h2>
        <p>${why}</p>
        <label>API key <input name="key" type="password" autocomplete="off" required /></label>
        <p class="dim">Kept in this tab until it is closed.</p>
        <div class="row"><button>Use this key</button><button type="button" class="quiet" onClick=${() => box.current.close()}>Cancel</button></div>
      </form>
    </dialog>`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
