// The question's form: its text, options, patient context and how to ask, and the body of the request.

import { byId, make, show } from "./dom.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const OPTION_SETS = {
  "Yes or no": ["yes", "no"],
  "Modality": ["CT", "MRI", "X-ray", "Ultrasound"],
  "Plane": ["axial", "coronal", "sagittal"],
  "Normal or not": ["normal", "abnormal"],
  "Side": ["left", "right", "both sides", "neither"],
  "None (open answer)": [],
};
const FORMATS = {
  think_answer: "Reasons first, then answers.",
  answer: "Answers at once.",
  answer_think: "Answers first, then explains.",
  free: "Answers freely, as an untrained model does.",
};

const NUMBERS = { votes: "Votes", threshold: "Abstain below", "max-tokens": "Longest answer", seed: "Seed" };

let about = { max_choices: 26, max_votes: 16, max_tokens: 4096, strategies: [] };

/** Fill what depends on the server. */
export function setUpForm(told) {
  about = told;
  byId("strategy").replaceChildren(
    ...told.strategies.map(({ name }) => make("option", { value: name, text: name.replaceAll("_", " "), selected: name === "think" })),
  );
  byId("votes").max = String(told.max_votes);
  byId("max-tokens").max = String(told.max_tokens);
  onSettings();
}

/** The texts of the options that are filled in. */
export function readOptions() {
  return [...byId("options").querySelectorAll("input")].map((input) => input.value.trim()).filter(Boolean);
}

export function setOptions(texts) {
  byId("options").replaceChildren();
  for (const text of texts) addOption(text);
  number();
}

function addOption(text = "") {
  const input = make("input", { type: "text", value: text, maxLength: 1000, autocomplete: "off" });
  const remove = make("button", { type: "button", className: "quiet icon", text: "×" });
  const row = make("li", {}, make("span", { className: "letter", "aria-hidden": "true" }), input, remove);
  remove.addEventListener("click", () => {
    const neighbour = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    number();
    (neighbour?.querySelector("input") ?? byId("add-option")).focus();
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      (row.nextElementSibling?.querySelector("input") ?? byId("add-option")).focus();
    } else if (event.key === "Backspace" && !input.value) {
      event.preventDefault();
      remove.click();
    }
  });
  byId("options").append(row);
  number();
  return input;
}

function number() {
  const rows = [...byId("options").children];
  for (const [place, row] of rows.entries()) {
    row.querySelector(".letter").textContent = LETTERS[place];
    row.querySelector("input").setAttribute("aria-label", `Option ${LETTERS[place]}`);
    row.querySelector("button").setAttribute("aria-label", `Remove option ${LETTERS[place]}`);
  }
  byId("add-option").disabled = rows.length >= about.max_choices;
}

/** The patient context as the request has it; null where nothing is given. */
export function readContext() {
  const fields = [...byId("context").querySelectorAll("[name]")].map((field) => [field.name, field.value.trim()]);
  const given = Object.fromEntries(fields.filter(([, value]) => value));
  return Object.keys(given).length ? given : null;
}

/** The body of a question, without its images; an Error with a line for the user where something is missing. */
export function readQuestion() {
  const question = byId("question").value.trim();
  if (!question) throw new FormFault("Write a question first.", byId("question"));
  const choices = readOptions();
  if (choices.length === 1) throw new FormFault("One option is no choice: add another, or remove it for an open answer.", byId("options").querySelector("input"));
  if (new Set(choices.map((text) => text.toLowerCase())).size < choices.length) {
    throw new FormFault("Two options are the same: change one.", byId("options").querySelector("input"));
  }
  const strategy = about.strategies.find(({ name }) => name === byId("strategy").value);
  if (!choices.length && strategy && !strategy.takes_open_questions) {
    throw new FormFault(`The strategy ${strategy.name} needs options: add some, or choose another one.`, byId("strategy"));
  }
  for (const id of Object.keys(NUMBERS)) if (numberFault(id)) throw new FormFault(numberFault(id), byId(id));
  const context = readContext();
  return {
    question,
    choices,
    ...(context && { context }),
    strategy: strategy?.name ?? "think",
    votes: numberOf("votes", 1),
    ...(byId("threshold").value !== "" && { threshold: numberOf("threshold") }),
    max_tokens: numberOf("max-tokens", 256),
    seed: numberOf("seed", 0),
    stream: true,
  };
}

export class FormFault extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** Why the number of a field cannot be sent, in a sentence; "" where it can, and where the field is empty. */
function numberFault(id) {
  const { value, min, max, validity } = byId(id);
  const isWhole = id !== "threshold";
  const isInRange = !validity.badInput && !validity.rangeUnderflow && !validity.rangeOverflow;
  if (isInRange && (!isWhole || Number.isInteger(Number(value)))) return "";
  return `${NUMBERS[id]} must be a ${isWhole ? "whole number" : "number"} from ${min} to ${max}.`;
}

/** The number of a field without a fault. */
function numberOf(id, usual) {
  const { value } = byId(id);
  return value === "" ? usual : Number(value);
}

let filled = null; // { question, choices } of the drawn example that filled the form

/** Put the question of a drawn example into the form. The patient context stays: whoever wrote it may want it back. */
export function fillExample({ question, choices }) {
  fillForm({ question, choices, context: readContext() });
  filled = { question, choices };
}

/** The image is no longer that of the example: of its question and options, empty what is as the example had it. */
export function clearExample() {
  if (!filled) return;
  if (byId("question").value.trim() === filled.question) byId("question").value = "";
  if (JSON.stringify(readOptions()) === JSON.stringify(filled.choices)) setOptions(["", ""]);
  filled = null;
}

/** Put a question of the history back into the form, with its context or none. */
export function fillForm({ question, choices, context = null, strategy = null }) {
  filled = null;
  byId("question").value = question;
  setOptions(choices);
  for (const field of byId("context").querySelectorAll("[name]")) field.value = context?.[field.name] ?? "";
  if (strategy) byId("strategy").value = strategy;
  onContext();
  onSettings();
}

function onContext() {
  const given = Object.keys(readContext() ?? {}).length;
  byId("context-count").textContent = given ? `${given} given` : "nothing given";
}

function onSettings() {
  const strategy = about.strategies.find(({ name }) => name === byId("strategy").value);
  const refused = Object.keys(NUMBERS).filter(numberFault);
  const votes = refused.includes("votes") ? 1 : numberOf("votes", 1);
  const parts = [(strategy?.name ?? "think").replaceAll("_", " "), votes > 1 ? `, ${votes} votes` : ""];
  if (refused.length) parts.push(`; not accepted: ${refused.map((id) => NUMBERS[id].toLowerCase()).join(", ")}`);
  byId("settings-summary").textContent = parts.join("");
  byId("strategy-hint").textContent = strategy ? `${FORMATS[strategy.format]}${strategy.takes_context ? "" : " Its wording has no place for patient context."}` : "";
}

byId("add-option").addEventListener("click", () => addOption().focus());
byId("context").addEventListener("input", onContext);
byId("settings").addEventListener("input", onSettings);
const sets = byId("option-sets");
sets.replaceChildren(make("option", { value: "", text: "Example options…" }), ...Object.keys(OPTION_SETS).map((name) => make("option", { text: name })));
sets.addEventListener("change", () => {
  if (sets.value) setOptions(OPTION_SETS[sets.value]);
  sets.value = "";
});

/** While an answer comes the form cannot be sent again. */
export function setBusy(isBusy) {
  byId("ask-button").disabled = isBusy;
  show(byId("stop"), isBusy);
}
