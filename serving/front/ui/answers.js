// Answers as a person reads them. Each function makes one element of a task's answer.

import { h, table } from "./dom.js";

const TONES = 6;

/** Labels with their scores, best first. A score that is no probability has no bar. */
export function labels(found) {
  const hasBars = found.every(({ score }) => score >= 0 && score <= 1);
  return h("ol", { class: "bars" }, found.map(({ label, score }) =>
    h("li", {}, h("span", { class: "name" }, label), hasBars ? bar(score) : null,
      h("span", { class: "figure" }, hasBars ? percent(score) : score.toPrecision(4)))));
}

/** Texts in the order of their scores. */
export function ranking(found, texts) {
  return h("ol", { class: "ranking" }, found.map(({ index, score }) =>
    h("li", {}, h("span", {}, texts[index]), h("span", { class: "figure" }, score.toPrecision(3)))));
}

/** A text in which each entity is marked with its label. Places count characters, as Python does, not UTF-16 units. */
export function entities(found, text) {
  const characters = Array.from(text);
  const tones = new Map();
  const parts = [];
  let place = 0;
  for (const entity of [...found].sort((a, b) => a.start - b.start)) {
    if (entity.start < place) continue; // an overlap: shown in the table alone
    const label = entity.entity_group ?? entity.entity;
    if (!tones.has(label)) tones.set(label, tones.size % TONES);
    parts.push(characters.slice(place, entity.start).join(""));
    parts.push(h("mark", { class: `tone-${tones.get(label)}` }, characters.slice(entity.start, entity.end).join(""),
      h("span", { class: "tag" }, label)));
    place = entity.end;
  }
  parts.push(characters.slice(place).join(""));
  const rows = found.map((each) => [each.word, each.entity_group ?? each.entity, percent(each.score)]);
  return h("div", {}, h("p", { class: "prose" }, parts),
    found.length ? table("Entities", ["word", "label", "score"], rows) : h("p", { class: "muted" }, "No entities."));
}

/** The answer of a question, where it stands in the text. */
export function span(answer, context) {
  const best = Array.isArray(answer) ? answer[0] : answer;
  const characters = Array.from(context);
  const part = (from, to) => characters.slice(from, to).join("");
  return h("div", {},
    h("p", { class: "lead" }, best.answer || "No answer in the text", " ",
      h("span", { class: "figure" }, percent(best.score))),
    h("p", { class: "prose" }, part(0, best.start), h("mark", { class: "tone-0" }, part(best.start, best.end)),
      part(best.end)));
}

/** What may stand for each mask. */
export function candidates(answer) {
  const masks = Array.isArray(answer[0]) ? answer : [answer];
  return h("div", {}, masks.map((found, place) => h("div", {},
    masks.length > 1 ? h("h4", {}, `Mask ${place + 1}`) : null,
    labels(found.map(({ token_str: label, score }) => ({ label, score }))),
    found[0]?.sequence ? h("p", { class: "prose" }, found[0].sequence) : null)));
}

/** A text that a model wrote; an answer, or what has come of a stream. */
export function writtenText(answer) {
  const first = typeof answer === "string" ? answer : Object.values(answer[0]).find((each) => typeof each === "string");
  return h("p", { class: "prose written" }, first);
}

/** Whether a text follows another. */
export function follows({ follows: does, score }) {
  const probability = score ?? 0;
  return h("div", {}, h("p", { class: "lead" }, does ? "It follows." : "It does not follow."),
    labels([{ label: "follows", score: probability }, { label: "does not", score: 1 - probability }]));
}

/** An image beside its labels. */
export function imageLabels(answer, file) {
  const address = URL.createObjectURL(file);
  const image = h("img", { src: address, alt: `The chosen image, ${file.name}`, class: "preview" });
  image.addEventListener("load", () => URL.revokeObjectURL(address), { once: true });
  return h("div", { class: "beside" }, image, labels(answer));
}

/** The cosine of two vectors. */
export function cosine(value) {
  return h("div", {}, h("p", { class: "lead" }, value.toFixed(3), " ", h("span", { class: "muted" }, "cosine")),
    h("div", { class: "scale", role: "img", "aria-label": `${value.toFixed(3)} between -1 and 1` }, bar((value + 1) / 2)),
    h("p", { class: "muted ends" }, h("span", {}, "-1 opposite"), h("span", {}, "1 alike")));
}

/** A vector, or one of each token: its size, its length and its first numbers. */
export function vector(answer) {
  const rows = Array.isArray(answer[0]) ? answer.flat(answer[0][0] instanceof Array ? 1 : 0) : [answer];
  const norm = (row) => Math.hypot(...row).toFixed(3);
  const what = rows.length === 1 ? "One vector" : `${rows.length} vectors, one of each token`;
  const shown = rows.slice(0, 12).map((row) => [norm(row), row.slice(0, 6).map((each) => each.toFixed(3)).join("  ") + " …"]);
  return h("div", {}, h("p", { class: "lead" }, `${what} of ${rows[0].length} numbers`),
    table("Vectors", ["length", "first numbers"], shown));
}

/** Any answer, in JSON. */
export function plain(answer) {
  return h("pre", { tabIndex: 0 }, JSON.stringify(answer, null, 2));
}

/** A share in 0..1 in percent. */
export function percent(share) {
  return `${(100 * share).toFixed(share > 0.0995 || share === 0 ? 0 : 1)} %`;
}

function bar(share) {
  const fill = h("span", { class: "fill" });
  fill.style.inlineSize = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return h("span", { class: "bar-track", "aria-hidden": "true" }, fill);
}
