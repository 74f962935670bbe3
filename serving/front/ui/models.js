// The second view: all models at a glance, and one of them with everything about it. Looks anew every few seconds.

import { getJson, request } from "./api.js";
import { h, notice, table } from "./dom.js";
import { Latency, duration, parse } from "./latency.js";
import { ModelPanel } from "./model_panel.js";

const LOOK_SECONDS = 5;

export class ModelsView {
  constructor(root) {
    this.root = root;
    this.latency = new Latency();
    this.panel = new ModelPanel((answer) => this.changed(answer));
    this.chosen = "";
    this.shown = "";
    this.timer = 0;
    this.status = h("p", { class: "muted", role: "status" });
    this.trouble = h("div");
    this.list = h("div");
    this.root.append(h("div", { class: "panel" }, h("h2", {}, "Models"), this.status, this.trouble, this.list), this.panel.root);
  }

  /** Shows the models, and looks again until `close`. Throws ApiError. */
  async open() {
    this.close();
    const turn = this.timer = setInterval(() => document.hidden || this.look().catch((error) => this.fail(error)), LOOK_SECONDS * 1000);
    try {
      await this.look();
    } catch (error) {
      if (this.timer === turn) this.close();
      throw error;
    }
  }

  close() {
    clearInterval(this.timer);
  }

  async look() {
    const found = await getJson("models");
    const isOperator = "machine" in found;
    const trouble = isOperator ? await this.measure() : "";
    this.trouble.replaceChildren(found.registry_error ? notice(`The registry: ${found.registry_error}`, "error") : "");
    this.models = found.models;
    if (!this.models.some(({ name }) => name === this.chosen)) this.chosen = this.models[0]?.name ?? "";
    this.showList(isOperator);
    const model = this.models.find(({ name }) => name === this.chosen);
    this.panel.root.hidden = !model;
    if (!model) return;
    await this.panel.show(model, isOperator);
    this.panel.draw(this.latency, this.chosen, trouble);
  }

  fail(error) {
    this.trouble.replaceChildren(notice(error.message, "error"));
  }

  async changed(answer) {
    this.panel.forget();
    await this.look();
    this.status.textContent = answer.to ? `The alias ${answer.alias} names version ${answer.to}.` : `The rollout is ${answer.rollout.phase}.`;
  }

  /** Looks at the metrics; says why there are none. */
  async measure() {
    try {
      this.latency.add(parse(await (await request("metrics")).text()), performance.now() / 1000);
      return "";
    } catch (error) {
      return error.status === 404 ? "The metrics of this server are at its admin port." : error.message;
    }
  }

  /** The table of all models. Its buttons stay the same elements, so that the focus stays. */
  showList(isOperator) {
    const names = JSON.stringify([this.models.map(({ name }) => name), isOperator]);
    if (names !== this.shown) {
      this.shown = names;
      this.cells = new Map(this.models.map(({ name }) => [name, Array.from({ length: isOperator ? 5 : 2 }, () => h("span"))]));
      const heads = ["model", "live", "versions", ...(isOperator ? ["requests/s", "p50", "p99"] : [])];
      const rows = this.models.map(({ name }) => [this.chooser(name), ...this.cells.get(name)]);
      this.list.replaceChildren(rows.length ? table("Served models", heads, rows) : notice("No model is served, or your key opens none."));
    }
    for (const model of this.models) {
      const now = this.latency.summary(model.name);
      const states = Object.entries(model.versions).map(([version, { state }]) => `${version} ${state}`).join(", ");
      const figures = now ? [now.rate.toFixed(1), duration(now.p50), duration(now.p99)] : ["–", "–", "–"];
      const texts = [model.live ?? "none", states, ...figures];
      this.cells.get(model.name).forEach((cell, place) => { cell.textContent = texts[place]; });
    }
    for (const button of this.list.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.textContent === this.chosen));
    }
  }

  chooser(name) {
    const button = h("button", { type: "button", class: "plain", "aria-pressed": "false" }, name);
    button.addEventListener("click", () => {
      this.chosen = name;
      this.look().catch((error) => this.fail(error));
    });
    return button;
  }
}
