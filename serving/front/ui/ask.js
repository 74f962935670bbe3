// The first view: choose a model and a version, ask, and read the answer.

import { ApiError, events, getJson, modelPath, request } from "./api.js";
import { plain } from "./answers.js";
import { field, h, notice } from "./dom.js";
import { controls, read } from "./forms.js";
import { snippets } from "./snippets.js";
import { ANY_TASK, TASKS } from "./tasks.js";
import { timings } from "./timings.js";

export class AskView {
  constructor(root) {
    this.root = root;
    this.models = [];
    this.asking = null;
    this.model = h("select", { id: "model" });
    this.version = h("select", { id: "version" });
    this.stream = h("input", { id: "stream", type: "checkbox", checked: true });
    this.parameters = h("textarea", { id: "parameters", rows: 2, placeholder: '{"top_k": 3}', spellcheck: false });
    this.facts = h("p", { class: "muted facts" });
    this.inputs = h("div");
    this.send = h("button", { type: "submit" }, "Ask");
    this.stop = h("button", { type: "button", class: "quiet", hidden: true }, "Stop");
    this.status = h("p", { class: "muted", role: "status" });
    this.answer = h("div", { id: "answer", class: "answer" });
    this.form = h("form", { class: "panel", noValidate: true },
      h("div", { class: "row" }, field("Model", this.model), field("Version", this.version)),
      this.facts, this.inputs,
      h("details", {}, h("summary", {}, "Parameters"), field("Parameters, in JSON", this.parameters)),
      h("div", { class: "row end" }, this.send, this.stop));
    this.root.append(this.form,
      h("div", { class: "panel" }, h("h2", {}, "Answer"), this.status, this.answer));
    this.model.addEventListener("change", () => this.choose().catch((error) => this.refuse(error)));
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.ask(); });
    this.stop.addEventListener("click", () => this.asking?.abort());
  }

  /** Lists the models; keeps the choice. Throws ApiError. */
  async open() {
    this.models = (await getJson("models")).models;
    const before = this.model.value;
    this.model.replaceChildren(...this.models.map(({ name }) => h("option", { value: name }, name)));
    if (this.models.some(({ name }) => name === before)) this.model.value = before;
    this.send.disabled = !this.models.length;
    if (!this.models.length) {
      this.inputs.replaceChildren(notice("No model is served, or your key opens none."));
      return;
    }
    if (this.model.value !== before || !before) await this.choose();
    else this.listVersions();
  }

  close() {
    this.asking?.abort();
  }

  /** Shows the form of the chosen model's task. Throws ApiError. */
  async choose() {
    this.version.replaceChildren();
    const model = this.listVersions();
    this.answer.replaceChildren();
    this.status.textContent = "";
    this.inputs.replaceChildren();
    const contract = Object.values(model.versions).map((each) => each.contract).find(Boolean);
    const name = contract?.task ?? (await getJson(`${modelPath(model.name)}/info`)).model_pipeline_tag;
    if (model.name !== this.model.value) return; // another one was chosen meanwhile
    this.task = TASKS[name] ?? ANY_TASK;
    this.facts.textContent = [name, contract?.model_class, contract?.max_tokens ? `at most ${contract.max_tokens} tokens` : ""]
      .filter(Boolean).join(" · ");
    const streaming = this.task.streams ? h("div", { class: "field check" },
      h("label", { for: "stream" }, "Token by token"), this.stream) : null;
    this.inputs.replaceChildren(...controls(this.task.fields, contract?.example), ...(streaming ? [streaming] : []));
    this.form.querySelector("details").hidden = this.task.fields.some(({ kind }) => kind === "file");
  }

  /** Lists the versions of the chosen model, which is returned; keeps the choice. */
  listVersions() {
    const model = this.models.find(({ name }) => name === this.model.value);
    const before = this.version.value;
    const live = `live${model.live ? `, now ${model.live}` : ""}`;
    this.version.replaceChildren(h("option", { value: "" }, live),
      ...Object.entries(model.versions).map(([version, { state }]) => h("option", { value: version }, `${version}, ${state}`)));
    this.version.value = before in model.versions ? before : "";
    return model;
  }

  async ask() {
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    const { task, form } = this;
    const path = modelPath(this.model.value, this.version.value);
    this.answer.replaceChildren();
    this.answer.setAttribute("aria-busy", "true");
    this.stop.hidden = false;
    this.status.textContent = "Asking …";
    try {
      const values = read(form, task.fields);
      const body = this.body(task, values);
      const began = performance.now();
      const response = await request(path, { body, signal: asking.signal });
      const told = response.headers.get("X-Model-Version");
      if (body.stream === true) await this.readStream(response, task, values, began);
      else this.show(await response.json(), task, values);
      if (this.asking !== asking) return;
      this.status.textContent = `Version ${told} · ${Math.round(performance.now() - began)} ms in all`;
      this.answer.append(...timings(response.headers.get("Server-Timing")), this.commands(path, body));
    } catch (error) {
      if (this.asking === asking) this.refuse(error);
    } finally {
      if (this.asking === asking) {
        this.stop.hidden = true;
        this.answer.setAttribute("aria-busy", "false");
      }
    }
  }

  /** The body to send. Throws Error for parameters that are no object of JSON. */
  body(task, values) {
    const body = task.body(values);
    if (body instanceof Blob) return body;
    let more = {};
    try {
      more = JSON.parse(this.parameters.value.trim() || "{}");
    } catch {
      this.parameters.closest("details").open = true;
      throw new Error("Parameters: this is not JSON, as in {\"top_k\": 3}.");
    }
    const parameters = { ...body.parameters, ...more };
    if (Object.keys(parameters).length) body.parameters = parameters;
    if (task.streams && this.stream.checked) body.stream = true;
    return body;
  }

  show(answer, task, values) {
    this.answer.replaceChildren(task.show(answer, values),
      h("details", {}, h("summary", {}, "As JSON"), plain(answer)));
  }

  /** Shows a text while it is written. */
  async readStream(response, task, values, began) {
    const shown = task.show("", values);
    const first = h("p", { class: "muted" });
    this.answer.replaceChildren(shown, first);
    let count = 0;
    for await (const event of events(response)) {
      if (event.error) throw new ApiError(0, event.error);
      if (!count++) first.textContent = `First token after ${Math.round(performance.now() - began)} ms`;
      shown.append(event.token.text);
    }
    first.textContent += `, ${count} tokens`;
  }

  commands(path, body) {
    return h("section", { class: "commands", "aria-label": "The same request" },
      Object.entries(snippets(path, body)).map(([name, text]) => {
        const copy = h("button", { type: "button", class: "quiet" }, `Copy ${name}`);
        copy.addEventListener("click", async () => {
          await navigator.clipboard.writeText(text);
          this.status.textContent = `The ${name} command is copied.`;
        });
        return h("details", {}, h("summary", {}, `The same by ${name}`),
          h("pre", { tabIndex: 0, "aria-label": `${name} command` }, text), copy);
      }));
  }

  refuse(error) {
    const isStopped = error.name === "AbortError";
    this.status.textContent = isStopped ? "Stopped." : error.status ? `Refused with ${error.status}` : "Not answered";
    if (!isStopped) this.answer.replaceChildren(notice(error.message, "error"));
  }
}
