// What `recsys bench edge` runs in the console's page, by the console's own modules.
globalThis.measure = (() => {
  let device;
  let edge;
  let took;

  async function answer(user, wanted) {
    const body = JSON.stringify({ user_id: user, k: 12, edge: wanted });
    performance.clearResourceTimings();
    const response = await fetch("/v1/recommendations", { method: "POST", headers: { "content-type": "application/json" }, body });
    const content = await response.json();
    return [content, performance.getEntriesByName(response.url).at(-1).encodedBodySize];
  }

  /** Take the list of a user. → the compressed bytes that it has more than one for no device */
  async function list(user) {
    const [content, bytes] = await answer(user, true);
    const [, plain] = await answer(user, false);
    edge = content.edge;
    took = await device.take(edge, {});
    return bytes - plain;
  }

  return {
    list,
    /** The first list: runtime, model and golden arrays, too. */
    async start(user) {
      const { Device } = await import("/static/edge/device.js");
      device = new Device();
      const began = performance.now();
      await list(user);
      return { ms: performance.now() - began, downloaded: took.bytes };
    },
    /** Milliseconds from an act until its order is here, one after the other. */
    async rerank(user, acts) {
      const bytes = await list(user);
      const found = { ms: [], inWorker: [], bytes, candidates: took.candidates, difference: took.difference };
      for (let n = 0; n < acts; n++) {
        const began = performance.now();
        const { ms } = await device.act(edge.items[n].item_id, "click");
        found.ms.push(performance.now() - began);
        found.inWorker.push(ms);
      }
      return found;
    },
    /** Full pages of items that were not shown before, with an act on each page. */
    async pages(size, most) {
      const shown = new Set();
      let places = edge.items.map((_, place) => place);
      let pages = 0;
      while (pages < most) {
        const page = places.filter((place) => !shown.has(place)).slice(0, size);
        if (page.length < size) break;
        page.forEach((place) => shown.add(place));
        pages++;
        places = (await device.act(edge.items[page[0]].item_id, "click")).order.map(({ place }) => place);
      }
      return pages;
    },
  };
})();
