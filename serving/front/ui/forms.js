// The controls of a task's form, and the values that a person filled in.

import { field, h } from "./dom.js";

/** The controls. fields: of `TASKS`. example: of a contract, whose first input is filled in; undefined for none. */
export function controls(fields, example) {
  const input = example?.inputs?.[0];
  const known = { ...(typeof input === "string" ? { text: input } : input), ...example?.parameters };
  return fields.map((each) => field(each.label, control({ ...each, value: known[each.name] ?? each.value }), each.hint));
}

/** What the form says, by field name. Throws Error where something is missing. */
export function read(form, fields) {
  return Object.fromEntries(fields.map((each) => [each.name, valueOf(form.elements.namedItem(each.name), each)]));
}

function control(each) {
  const shared = { id: `field-${each.name}`, name: each.name };
  switch (each.kind) {
    case "long": return h("textarea", { ...shared, rows: each.isOptional ? 2 : 4, value: each.value });
    case "list": return h("textarea", { ...shared, rows: 3, value: [each.value].flat().join("\n") });
    case "check": return h("input", { ...shared, type: "checkbox", checked: each.value });
    case "number": return h("input", { ...shared, type: "number", min: each.min, max: each.max, value: each.value });
    case "file": return h("input", { ...shared, type: "file", accept: each.accept });
    default: return h("input", { ...shared, type: "text", value: each.value, autocomplete: "off" });
  }
}

function valueOf(element, each) {
  if (each.kind === "check") return element.checked;
  if (each.kind === "file") {
    if (!element.files.length) throw missing(element, each);
    return element.files[0];
  }
  if (each.kind === "number") return element.value === "" ? undefined : Number(element.value);
  if (each.kind === "list") return element.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!element.value && !each.isOptional) throw missing(element, each);
  return element.value;
}

function missing(element, each) {
  element.focus();
  return new Error(`${each.label}: fill this in.`);
}
