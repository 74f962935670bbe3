// One model in the second view: its versions, its rollout, its latency and its history, and the buttons to change it.

import { adminPath, changeButton } from "./actions.js";
import { getJson, key } from "./api.js";
import { h, notice, table } from "./dom.js";
import { chart } from "./latency.js";

const REGISTRY_MS = 30_000;
const VERDICTS = { pass: "passes", fail: "fails", inconclusive: "not certain yet" };

/** What is shown of a model. changed: called with the answer to a change. */
export class ModelPanel {
  constructor(changed) {
    this.changed = changed;
    this.root = h("section", { class: "panel", "aria-labelledby": "panel-title" });
    this.chart = h("div");
    this.shown = "";
  }

  /** Shows a model; leaves what is shown already, so that the focus stays. Throws ApiError. */
  async show(model, isOperator) {
    const [history, rollout] = isOperator ? await this.read(model.name) : [null, null];
    const text = JSON.stringify([model, history?.message ?? history, rollout, key.get() !== ""]);
    if (text === this.shown) return;
    this.shown = text;
    this.root.replaceChildren(
      h("h2", { id: "panel-title" }, model.name),
      h("p", { class: "muted" }, aliases(model)),
      model.error ? notice(model.error, "error") : "",
      isOperator ? this.buttons(model, rollout) : h("p", { class: "muted" }, "An operator's key shows more."),
      versions(model),
      ...(isOperator ? [h("h3", {}, "Latency"), this.chart, h("h3", {}, "Rollout"), this.rollout(model, rollout),
        h("h3", {}, "History"), moves(history)] : []));
  }

  /** Draws the latency anew. */
  draw(latency, name, trouble) {
    this.chart.replaceChildren(trouble ? h("p", { class: "muted" }, trouble) : chart(latency, name));
  }

  /** History and rollout, from the registry: at most every half minute, unless a rollout is under way. */
  async read(name) {
    const now = performance.now();
    if (this.known?.name === name && now - this.known.at < REGISTRY_MS && !isActive(this.known.read[1])) return this.known.read;
    let read;
    try {
      const [{ moves }, { rollout }] = await Promise.all([getJson(adminPath(name, "history")), getJson(adminPath(name, "rollout"))]);
      read = [moves, rollout];
    } catch (error) {
      read = [error, null]; // the registry may be away, and the rest is still true
    }
    this.known = { name, at: now, read };
    return read;
  }

  /** Reads the registry anew the next time. */
  forget() {
    this.known = null;
  }

  buttons(model, rollout) {
    if (!key.get()) {
      return h("p", { class: "muted" }, "To promote or roll back, type an operator's key above. A server without keys takes no changes.");
    }
    const changes = isActive(rollout) ? ["promote", "rollback"] : ["promote", "rollback", "rollout"];
    return h("div", { class: "row end actions" }, changes.map((change) => changeButton(change, model, this.changed)));
  }

  rollout(model, rollout) {
    if (!rollout) return h("p", { class: "muted" }, "None.");
    const { plan, progress, phase, step, steps } = rollout;
    const end = rollout.stop ?? rollout.done;
    const active = isActive(rollout);
    const changes = active && key.get() ? [phase === "paused" ? "rollout/resume" : "rollout/pause", "rollout/abort", "rollout/finish"] : [];
    const checks = (progress.checks ?? []).map(({ guard, verdict, figures }) =>
      [guard, h("span", { class: verdict }, VERDICTS[verdict]), figures]);
    return h("div", {},
      h("p", {}, `Version ${plan.stable} to ${plan.candidate}, ${phase}: ${plan.why} (${plan.who})`),
      h("ol", { class: "steps" }, steps.map((each) =>
        h("li", active && each === step ? { "aria-current": "step" } : {}, each))),
      active && progress.waits_for ? h("p", { class: "muted" }, `Waits for ${progress.waits_for}.`) : "",
      end ? h("p", {}, `Ended by ${end.who}: ${end.why}`) : "",
      checks.length && active ? table("Guards", ["guard", "verdict", "figures"], checks) : "",
      h("div", { class: "row end actions" }, changes.map((change) => changeButton(change, model, this.changed))));
  }
}

function isActive(rollout) {
  return ["running", "paused", "baking"].includes(rollout?.phase);
}

function aliases({ aliases: found, live }) {
  const named = Object.entries(found).map(([alias, version]) => `${alias}: ${version ?? "none"}`);
  return [`live: ${live ?? "none"}`, ...named].join(" · ");
}

function versions(model) {
  const rows = Object.entries(model.versions).map(([version, found]) => {
    const engines = found.engines ?? [];
    const state = h("span", { class: `state ${found.state}` }, version === model.live ? `${found.state}, live` : found.state);
    const details = found.error || [...new Set(engines.map(({ device, dtype }) => `${device}, ${dtype}`))].join("; ");
    return [version, state, bytes(found.memory_bytes), String(found.restarts ?? "–"), details || "–"];
  });
  return table("Versions", ["version", "state", "memory", "restarts", "runs on"], rows);
}

function moves(history) {
  if (history instanceof Error) return notice(history.message, "error");
  if (!history?.length) return h("p", { class: "muted" }, "No move is recorded.");
  const rows = [...history].reverse().slice(0, 50).map(({ time, action, alias, from, to, who, why }) =>
    [new Date(time * 1000).toLocaleString(), action, alias, `${from ?? "none"} → ${to}`, who, why]);
  return table("The latest moves first", ["when", "what", "alias", "versions", "who", "why"], rows);
}

function bytes(count) {
  if (!count) return "–";
  return count < 2 ** 30 ? `${Math.round(count / 2 ** 20)} MiB` : `${(count / 2 ** 30).toFixed(1)} GiB`;
}
