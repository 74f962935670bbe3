// Starts the page: the key, and which of the two views is shown.

import { key } from "./api.js";
import { AskView } from "./ask.js";
import { notice } from "./dom.js";
import { ModelsView } from "./models.js";

const views = {
  ask: new AskView(document.getElementById("view-ask")),
  models: new ModelsView(document.getElementById("view-models")),
};

/** Shows the view that the address names. */
function show() {
  const name = location.hash.slice(1) in views ? location.hash.slice(1) : "ask";
  for (const [each, view] of Object.entries(views)) {
    const isShown = each === name;
    view.root.hidden = !isShown;
    document.getElementById(`link-${each}`).setAttribute("aria-current", isShown ? "page" : "false");
    isShown ? open(view) : view.close();
  }
}

async function open(view) {
  const trouble = document.getElementById("trouble");
  try {
    await view.open();
    trouble.replaceChildren();
  } catch (error) {
    const needsKey = error.status === 401;
    trouble.replaceChildren(notice(needsKey ? "This server asks for a key. Type it above." : error.message, "error"));
    if (needsKey) document.getElementById("key").focus();
  }
}

const input = document.getElementById("key");
input.value = key.get();
document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set(input.value.trim());
  show();
});
addEventListener("hashchange", show);
show();
