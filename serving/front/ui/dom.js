// Makes elements. Text is always text: nothing that a server or a person wrote is parsed as markup.

/** An element. properties: of the element; `class`, `aria-*`, `data-*`, `for` and other hyphenated names are attributes. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class" || name === "for" || name === "list" || name === "role" || name.includes("-")) {
      element.setAttribute(name, value);
    } else {
      element[name] = value;
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** An element of SVG. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A control with its label. */
export function field(label, control, hint = "") {
  const note = hint ? h("small", { id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return h("div", { class: control.type === "checkbox" ? "field check" : "field" },
    h("label", { for: control.id }, label), control, note);
}

/** A message for a person: of an error or of an outcome. */
export function notice(text, kind = "") {
  return h("p", { class: `notice ${kind}` }, text);
}

/** A table with a heading row. rows: lists of texts or elements. */
export function table(caption, heads, rows) {
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": caption },
    h("table", {}, h("caption", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}
