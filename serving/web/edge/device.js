// The device from the console's side: a worker that is started when it is first wanted.

/** Errors are reasons for the server's order, never for none. */
export class Device {
  #worker;
  #calls = new Map();
  #next = 0;

  constructor() {
    this.#worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data: { id, error, ...result } }) => {
      const call = this.#calls.get(id);
      this.#calls.delete(id);
      if (error) call?.reject(new Error(error));
      else call?.resolve(result);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.broken = new Error("onnxruntime-web is not there; `make edge-runtime` fetches it into the repository");
      for (const { reject } of this.#calls.values()) reject(this.broken);
      this.#calls.clear();
    };
  }

  #call(op, body) {
    if (this.broken) return Promise.reject(this.broken);
    return new Promise((resolve, reject) => {
      const id = this.#next++;
      this.#calls.set(id, { resolve, reject });
      this.#worker.postMessage({ id, op, ...body });
    });
  }

  /** The `edge` of an answer. → {bytes, difference, candidates} */
  take = (edge, headers) => this.#call("take", { edge, headers });
  /** → {order: [{place, score}], ms} */
  act = (itemId, type, atMs = Date.now()) => this.#call("act", { itemId, type, atMs });
  close = () => this.#worker.terminate();
}
