// The stages of a request, from its `Server-Timing` header.

import { h } from "./dom.js";

/** A bar of the stages with their milliseconds, in a list; empty for an answer without the header, as a stream. */
export function timings(header) {
  const stages = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, time]) => ({ name, time: Number(time) }));
  const total = stages.reduce((sum, { time }) => sum + time, 0);
  if (!total) return [];
  const parts = stages.map(({ time }, place) => {
    const part = h("span", { class: `stage-${place}` });
    part.style.flexGrow = time / total;
    return part;
  });
  return [h("section", { class: "timings", "aria-label": "Stages of the request" },
    h("div", { class: "stages", "aria-hidden": "true" }, parts),
    h("ul", {}, stages.map(({ name, time }, place) =>
      h("li", {}, h("span", { class: `dot stage-${place}`, "aria-hidden": "true" }), `${name} `,
        h("span", { class: "figure" }, `${time < 10 ? time.toFixed(2) : time.toFixed(0)} ms`)))))];
}
