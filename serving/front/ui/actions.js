// The changes that an operator makes: a dialog that asks for a reason, and sends the change once it is confirmed.

import { getJson } from "./api.js";
import { field, h, notice } from "./dom.js";

/** What each change asks for beside the reason, and how it is named. */
const CHANGES = {
  promote: { title: "Promote", fields: ["version", "alias", "breaking"], verb: "Promote",
    hint: "The version's files are verified and it is compared with the live one before the alias moves." },
  rollback: { title: "Roll back", fields: ["alias"], verb: "Roll back",
    hint: "The version that was live before answers again, within one poll." },
  rollout: { title: "Start a rollout", fields: ["version", "alias", "plan", "breaking"], verb: "Start",
    hint: "The version gets a growing share of the requests; guards take it back." },
  "rollout/pause": { title: "Pause the rollout", fields: [], verb: "Pause", hint: "It stays in its step. Guards go on." },
  "rollout/resume": { title: "Resume the rollout", fields: [], verb: "Resume", hint: "It goes on with its step." },
  "rollout/abort": { title: "Abort the rollout", fields: [], verb: "Abort",
    hint: "All requests are the stable version's again, within one poll." },
  "rollout/finish": { title: "Finish the rollout", fields: [], verb: "Finish",
    hint: "The candidate is promoted now, whatever the guards say." },
};

/** The path of an operator's route of a model. */
export function adminPath(model, what) {
  return `admin/models/${encodeURIComponent(model)}/${what}`;
}

/** A button that opens the dialog of a change. done: called with its answer. */
export function changeButton(change, model, done) {
  const button = h("button", { type: "button", class: "quiet" }, `${CHANGES[change].title} …`);
  button.addEventListener("click", () => ask(change, model, done));
  return button;
}

function ask(change, model, done) {
  const { title, fields, verb, hint } = CHANGES[change];
  const input = (id, more) => h("input", { id: `change-${id}`, name: id, type: "text", autocomplete: "off", ...more });
  const known = h("datalist", { id: "change-versions" }, Object.keys(model.versions).map((value) => h("option", { value })));
  const parts = {
    version: [field("Version", input("version", { list: "change-versions", required: true, inputMode: "numeric" })), known],
    alias: [field("Alias", input("alias", { value: Object.keys(model.aliases)[0] ?? "champion", required: true }))],
    plan: [
      field("Steps", input("steps", { placeholder: "shadow:200,1%,10%,50%,100%" }), "Left empty: the defaults, as shown."),
      field("Each step takes at least", input("every", { placeholder: "10m" })),
      field("Guards, one a line", h("textarea", { id: "change-guards", name: "guards", rows: 3,
        placeholder: "errors < stable + 1%" }), "Left empty: the defaults of headwaiter rollout."),
    ],
    breaking: [field("If clients will notice: why all the same", input("allow_breaking"))],
  };
  const trouble = h("div", { role: "alert" });
  const confirm = h("button", { type: "submit" }, verb);
  const cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
  const form = h("form", { method: "dialog" }, fields.flatMap((name) => parts[name]),
    field("Reason", input("why", { required: true, maxLength: 2000 }), "For the history, with the name of your key."),
    trouble, h("div", { class: "row end" }, confirm, cancel));
  const heading = h("h2", { id: "change-title" }, `${title}: ${model.name}`);
  const dialog = h("dialog", { "aria-labelledby": "change-title" }, heading, h("p", { class: "muted" }, hint), form);
  cancel.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    trouble.replaceChildren(h("p", { class: "muted" }, "On its way …"));
    try {
      const answer = await getJson(adminPath(model.name, change), { body: bodyOf(new FormData(form)) });
      dialog.close();
      done(answer);
    } catch (error) {
      trouble.replaceChildren(notice(error.message, "error"));
      confirm.disabled = false;
    }
  });
  document.body.append(dialog);
  dialog.showModal();
}

/** The filled fields; steps and guards are lists. */
function bodyOf(data) {
  const split = { steps: ",", guards: "\n" };
  const found = {};
  for (const [name, value] of data) {
    if (!value.trim()) continue;
    const separator = split[name];
    found[name] = separator ? value.split(separator).map((part) => part.trim()).filter(Boolean) : value.trim();
  }
  return found;
}
