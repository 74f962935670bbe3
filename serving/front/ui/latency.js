// Requests per second and latency of the last minutes, from two looks at `/metrics`, and their picture.

import { h, svg } from "./dom.js";

const NAME = "headwaiter_request_duration_seconds_bucket";
const WINDOW_SECONDS = 300;

/** Of each model the number of requests within each bound in seconds, in an exposition of Prometheus' text format. */
export function parse(text) {
  const models = new Map();
  for (const line of text.split("\n")) {
    if (!line.startsWith(NAME)) continue;
    const model = /[{,]model="((?:[^"\\]|\\.)*)"/.exec(line)?.[1];
    const bound = /[{,]le="([^"]+)"/.exec(line)?.[1];
    const count = Number(line.slice(line.lastIndexOf(" ") + 1));
    if (model === undefined || bound === undefined) continue;
    if (!models.has(model)) models.set(model, new Map());
    const counts = models.get(model);
    const at = bound === "+Inf" ? Infinity : Number(bound);
    counts.set(at, (counts.get(at) ?? 0) + count);
  }
  return models;
}

/** The looks of the last minutes. */
export class Latency {
  constructor() {
    this.looks = [];
  }

  /** Adds a look. seconds: of a clock that only grows. A server that has begun to count anew begins the minutes anew. */
  add(models, seconds) {
    const before = this.looks.at(-1)?.models;
    const isNew = before && [...before].some(([name, counts]) => total(models.get(name)) < total(counts));
    if (isNew) this.looks = [];
    this.looks.push({ models, seconds });
    while (seconds - this.looks[0].seconds > WINDOW_SECONDS) this.looks.shift();
  }

  /** Of a model over all looks: requests a second, and quantiles in seconds; null before there are two looks. */
  summary(model) {
    return this.looks.length > 1 ? between(this.looks[0], this.looks.at(-1), model) : null;
  }

  /** Of a model, from look to look. */
  series(model) {
    return this.looks.slice(1).map((look, place) => between(this.looks[place], look, model));
  }
}

function total(counts) {
  return counts?.get(Infinity) ?? 0;
}

function between(first, last, model) {
  const before = first.models.get(model);
  const after = last.models.get(model);
  const counts = [...(after ?? [])].sort(([a], [b]) => a - b).map(([bound, count]) => [bound, count - (before?.get(bound) ?? 0)]);
  const requests = counts.at(-1)?.[1] ?? 0;
  return {
    rate: requests / (last.seconds - first.seconds),
    p50: quantile(counts, requests, 0.5),
    p99: quantile(counts, requests, 0.99),
  };
}

/** Linear within a bucket, as Prometheus' histogram_quantile; null without requests. */
function quantile(counts, requests, share) {
  if (!requests) return null;
  const rank = share * requests;
  let [low, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= rank) return bound === Infinity ? low : low + (bound - low) * ((rank - below) / (count - below || 1));
    [low, below] = [bound, count];
  }
  return low;
}

/** Seconds in the unit that a person reads. */
export function duration(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${(seconds * 1000).toPrecision(2).replace(/e.*/, "")} ms` : `${seconds.toFixed(1)} s`;
}

/** The lines of p50 and p99 with their figures in words. */
export function chart(latency, model) {
  const series = latency.series(model).filter(({ p99 }) => p99 !== null);
  const now = latency.summary(model);
  if (!now) return h("p", { class: "muted" }, "Measuring …");
  const words = `${now.rate.toFixed(1)} requests/s, p50 ${duration(now.p50)}, p99 ${duration(now.p99)}`;
  const top = Math.max(...series.map(({ p99 }) => p99), 1e-9);
  const line = (name) => series.map((each, place) =>
    `${(600 * place) / Math.max(1, series.length - 1)},${(78 - 74 * (each[name] / top)).toFixed(1)}`).join(" ");
  const picture = svg("svg", { viewBox: "0 0 600 80", preserveAspectRatio: "none", class: "chart", "aria-hidden": "true" },
    svg("polyline", { points: line("p99"), class: "p99" }), svg("polyline", { points: line("p50"), class: "p50" }));
  return h("div", {}, h("p", { class: "legend" }, words), series.length > 1 ? picture : null,
    h("p", { class: "muted" }, "Of the last minutes, since this view was opened. Thick line p50, thin line p99."));
}
