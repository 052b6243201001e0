// Actions that wait for the API: each has an id of its own, so that sending it again counts once.
import { sendEvent } from "../api.js";

const waiting = [];
let sending = Promise.resolve();

async function send() {
  while (waiting.length) {
    try {
      await sendEvent(waiting[0]);
    } catch (problem) {
      if (problem.status === 0 || problem.status === 429 || problem.status >= 500) return; // it may pass: it waits
      waiting.shift(); // refused: it would be again
      throw problem;
    }
    waiting.shift();
  }
}

/** Send it after those that wait. → how many still wait. */
export async function sendLater(event) {
  waiting.push({ event_id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`, ...event });
  sending = sending.then(send, send);
  await sending;
  return waiting.length;
}

addEventListener("online", () => (sending = sending.then(send, send).catch(() => {}))); // nobody waits for what is refused
