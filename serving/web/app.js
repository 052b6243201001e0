// The page: who, what they did, what is recommended and why. Plain requests to the same API that everybody uses.
const byId = (id) => document.getElementById(id);
const REFRESH_MS = 50;
const GIVE_UP_MS = 15_000;

const state = { user: "", shown: [], requestId: "" };

async function call(path, body) {
  const key = sessionStorage.getItem("api-key");
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: { ...(body && { "content-type": "application/json" }), ...(key && { "x-api-key": key }) },
    body: body && JSON.stringify(body),
  });
  if (response.status === 401) {
    const entered = prompt("This API asks for a key:");
    if (entered) {
      sessionStorage.setItem("api-key", entered);
      return call(path, body);
    }
  }
  const content = response.status === 204 ? null : await response.json();
  if (!response.ok) throw new Error(content.detail ?? response.statusText);
  return content;
}

const ask = () => call("/v1/recommendations?explain=true", { user_id: state.user, k: 12, context: { page: "demo" } });
const ids = (answer) => answer.items.map((item) => item.item_id);
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

async function show() {
  say("…");
  try {
    const [answer] = await Promise.all([ask(), showHistory(), showHealth()]);
    showList(answer, []);
    say(`${answer.items.length} items in ${answer.ms.toFixed(1)} ms by bundle ${answer.bundle}`, answer.degraded);
  } catch (error) {
    say(`No list: ${error.message}`);
    byId("list").replaceChildren();
  }
}

async function act(type, item, button) {
  const began = performance.now();
  button.disabled = true;
  const before = state.shown;
  try {
    await call("/v1/events", { type, user_id: state.user, item_id: item.item_id, request_id: state.requestId, position: before.indexOf(item.item_id) });
    for (;;) {
      const answer = await ask();
      const ms = performance.now() - began;
      if (!same(ids(answer), before)) {
        showList(answer, before);
        say(`The list changed ${ms.toFixed(0)} ms after your ${type}, through Kafka and Redis.`, answer.degraded);
        await showHistory();
        return;
      }
      if (ms > GIVE_UP_MS) return say(`Your ${type} is kept, but the list has not changed for ${GIVE_UP_MS / 1000} s. Is the worker running?`);
      say(`Waiting for the list to change: ${ms.toFixed(0)} ms`);
      await new Promise((resume) => setTimeout(resume, REFRESH_MS));
    }
  } catch (error) {
    say(`Not sent: ${error.message}`);
  } finally {
    button.disabled = false;
  }
}

function showList(answer, before) {
  state.shown = ids(answer);
  state.requestId = answer.request_id;
  const shown = new Map((answer.funnel.shown ?? []).map((line) => [line.item_id, line]));
  byId("list").replaceChildren(...answer.items.map((item, place) => {
    const line = byId("line").content.cloneNode(true);
    const fill = (name, text) => { line.querySelector(`.${name}`).textContent = text; };
    fill("title", item.title || item.item_id);
    fill("categories", item.categories.join(", "));
    fill("moved", moved(item.item_id, place, before));
    fill("why", why(item, shown.get(item.item_id)));
    for (const button of line.querySelectorAll("button")) {
      button.setAttribute("aria-label", `${button.textContent} ${item.title || item.item_id}`);
      button.addEventListener("click", () => act(button.dataset.type, item, button));
    }
    return line;
  }));
  showStages(answer.funnel.stages);
}

function moved(id, place, before) {
  if (!before.length) return "";
  const old = before.indexOf(id);
  if (old < 0) return "new";
  return old === place ? "" : `${old > place ? "▲" : "▼"} ${Math.abs(old - place)}`;
}

function why(item, line) {
  const found = item.channels.map((name) => (line?.channels[name] === undefined ? name : `${name} #${line.channels[name] + 1}`));
  const scores = Object.entries(line?.scores ?? {}).map(([head, value]) => `${head} ${value.toFixed(3)}`);
  return [`found by ${found.join(", ")}`, `score ${item.score.toFixed(3)}`, ...scores].join(" · ");
}

function showStages(stages) {
  byId("stages").tBodies[0].replaceChildren(...stages.map((stage) => {
    const row = document.createElement("tr");
    for (const text of [stage.stage, stage.in, stage.out, stage.status === "ok" ? stage.ms.toFixed(2) : stage.status]) {
      const cell = document.createElement("td");
      cell.textContent = text;
      row.append(cell);
    }
    if (stage.status !== "ok") row.className = "degraded";
    return row;
  }));
}

async function showHistory() {
  const user = await call(`/v1/users/${encodeURIComponent(state.user)}`);
  const lines = user.history.slice(0, 15).map((visit) => {
    const line = document.createElement("li");
    line.textContent = `${visit.type}: ${visit.title || visit.item_id}, ${new Date(visit.event_time_ms).toLocaleString()}`;
    return line;
  });
  byId("history").replaceChildren(...lines);
  if (!lines.length) byId("history").textContent = "Nothing yet: this user is unknown. Click something.";
}

async function showHealth() {
  const response = await fetch("/readyz");
  const health = await response.json();
  byId("health").textContent = health.degraded?.length ? `degraded: ${health.degraded.join(", ")}` : `bundle ${health.bundle}`;
  byId("health").classList.toggle("degraded", Boolean(health.degraded?.length));
}

function say(text, degraded = []) {
  byId("status").textContent = degraded.length ? `${text} Degraded: ${degraded.join(", ")}.` : text;
  byId("status").classList.toggle("degraded", degraded.length > 0);
}

function choose(user) {
  state.user = byId("user").value = user;
  history.replaceState(null, "", `?user=${encodeURIComponent(user)}`);
  show();
}

byId("who").addEventListener("submit", (event) => {
  event.preventDefault();
  choose(byId("user").value.trim());
});
byId("new-user").addEventListener("click", () => choose(`guest-${crypto.randomUUID().slice(0, 8)}`));
choose(new URLSearchParams(location.search).get("user") ?? byId("user").value);
