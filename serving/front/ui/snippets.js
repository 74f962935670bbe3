// The request as commands that another program can run: curl and Python.

import { ROOT, key } from "./api.js";

const VARIABLE = "HEADWAITER_API_KEY";

/** The commands, by name. path: of the request. body: data or a File. The key itself never stands in them. */
export function snippets(path, body) {
  const url = new URL(path, ROOT).href;
  const streams = body.stream === true; // a File has a method of that name
  return { curl: curl(url, body, streams), Python: python(url, body, streams) };
}

function curl(url, body, streams) {
  const parts = [`curl ${streams ? "-N " : ""}${quoted(url)}`];
  if (key.get()) parts.push(`-H "Authorization: Bearer $${VARIABLE}"`);
  if (body instanceof File) {
    parts.push(`--data-binary ${quoted(`@${body.name}`)}`);
  } else {
    parts.push("-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(body))}`);
  }
  return parts.join(" \\\n  ");
}

/** A word of a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function python(url, body, streams) {
  const given = [literal(url)];
  if (body instanceof File) given.push(`data=open(${literal(body.name)}, "rb")`);
  else given.push(`json=${literal(body)}`);
  if (key.get()) given.push(`headers={"Authorization": "Bearer " + os.environ["${VARIABLE}"]}`);
  if (streams) given.push("stream=True");
  const lines = [...(key.get() ? ["import os", ""] : []), "import requests", ""];
  lines.push(`answer = requests.post(\n    ${given.join(",\n    ")},\n)`, "answer.raise_for_status()");
  if (streams) lines.push("for line in answer.iter_lines():", "    print(line.decode())");
  else lines.push("print(answer.json())");
  return lines.join("\n");
}

/** JSON data as Python. JSON's escapes are Python's, but for pairs of surrogates, which JSON.stringify leaves as they are. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}`;
  }
  return JSON.stringify(value);
}
