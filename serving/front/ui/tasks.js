// What the page asks for each task, the body that it sends, and how it shows the answer.
//
// A task has `fields` of the form, `body(values)`, `show(answer, values)`, and `streams` where texts come token by token.
// A field that has the name of a part of the task's input, or of a parameter, takes it from the contract's example.
// Field kinds: line, long (a text of some lines), list (an entry a line), check, number, choice, file.

import * as show from "./answers.js";

const text = (label, value, more = {}) => ({ name: "text", label, kind: "long", value, ...more });
const length = { name: "max_new_tokens", label: "New tokens at most", kind: "number", value: 40, min: 1, max: 2048 };

/** Leaves out what was not filled in. */
function filled(parameters) {
  return Object.fromEntries(Object.entries(parameters).filter(([, value]) => value !== "" && value !== undefined));
}

const writes = (label, value) => ({
  fields: [text(label, value), length],
  body: (v) => ({ inputs: v.text, parameters: filled({ max_new_tokens: v.max_new_tokens }) }),
  show: show.writtenText,
  streams: true,
});

export const TASKS = {
  "feature-extraction": {
    fields: [
      text("Text", "My parcel has not arrived."),
      { name: "other", label: "Another text, to compare", kind: "long", value: "", isOptional: true,
        hint: "With it the answer is the cosine of the two." },
    ],
    body: (v) => ({ inputs: v.other ? { source_sentence: v.text, sentences: [v.other] } : v.text }),
    show: (answer, v) => (v.other ? show.cosine(answer[0]) : show.vector(answer)),
  },
  "text-classification": {
    fields: [
      text("Text", "I like it very much."),
      { name: "text_pair", label: "A second text, if the model reads pairs", kind: "long", value: "", isOptional: true },
      { name: "texts", label: "Or texts to rank by how well they answer the first, one a line", kind: "list", value: "",
        isOptional: true, hint: "For a model with one label." },
    ],
    body: (v) => {
      if (v.texts.length) return { inputs: { query: v.text, texts: v.texts } };
      return { inputs: v.text_pair ? { text: v.text, text_pair: v.text_pair } : v.text };
    },
    show: (answer, v) => (v.texts.length ? show.ranking(answer, v.texts) : show.labels(answer[0])),
  },
  "zero-shot-classification": {
    fields: [
      text("Text", "A late goal decided the match."),
      { name: "candidate_labels", label: "Labels, one a line", kind: "list", value: "sports\npolitics\nweather" },
      { name: "multi_label", label: "Several labels may hold", kind: "check", value: false },
    ],
    body: (v) => ({ inputs: v.text, parameters: { candidate_labels: v.candidate_labels, multi_label: v.multi_label } }),
    show: show.labels,
  },
  "token-classification": {
    fields: [text("Text", "Ada lives in Paris and works for Babbage & Co.")],
    body: (v) => ({ inputs: v.text }),
    show: (answer, v) => show.entities(answer, v.text),
  },
  "question-answering": {
    fields: [
      { name: "question", label: "Question", kind: "line", value: "Where does Ada live?" },
      { name: "context", label: "Text that may hold the answer", kind: "long",
        value: "Ada lives in Paris. She counts parcels from nine to five." },
    ],
    body: (v) => ({ inputs: { question: v.question, context: v.context } }),
    show: (answer, v) => show.span(answer, v.context),
  },
  "fill-mask": {
    fields: [text("Text with a mask", "Paris is the [MASK] of France.",
      { hint: "The mask is the tokenizer's own: [MASK] of BERT, <mask> of RoBERTa." })],
    body: (v) => ({ inputs: v.text }),
    show: show.candidates,
  },
  "text-generation": writes("Text to continue", "Once upon a time"),
  "text2text-generation": writes("Text", "The quick brown fox jumps over the lazy dog."),
  "summarization": writes("Text to summarize", "The quick brown fox jumps over the lazy dog, and the dog sleeps on."),
  "translation": writes("Text to translate", "The parcel is late."),
  "multiple-choice": {
    fields: [
      { ...text("Beginning", "It rains, so I take"), name: "prompt" },
      { name: "choices", label: "Endings, one a line", kind: "list", value: "an umbrella.\na kite." },
    ],
    body: (v) => ({ inputs: { prompt: v.prompt, choices: v.choices } }),
    show: (answer) => show.labels(answer.map(({ text: label, score }) => ({ label, score }))),
  },
  "next-sentence-prediction": {
    fields: [text("Text", "The cat sat."), { ...text("What may follow", "Then it slept."), name: "text_pair" }],
    body: (v) => ({ inputs: { text: v.text, text_pair: v.text_pair } }),
    show: show.follows,
  },
  "image-classification": {
    fields: [{ name: "file", label: "Image", kind: "file", accept: "image/*" }],
    body: (v) => v.file,
    show: (answer, v) => show.imageLabels(answer, v.file),
  },
};

/** Of a task that this page does not know: the body as it is sent. */
export const ANY_TASK = {
  fields: [text("Inputs, in JSON", '"a text"')],
  body: (v) => ({ inputs: JSON.parse(v.text) }),
  show: show.plain,
};
