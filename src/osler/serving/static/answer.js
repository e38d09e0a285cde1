// The answer's card: the stream, then the answer, a bar for each option, and what it rests on.

import { byId, make, percent, show, tell } from "./dom.js";

const live = byId("live");
let spoken = 0;

/** The reasoning within a completion so far, without tags and without a tag that has only begun. */
export function readStream(text) {
  const own = text.split("<think>");
  const inside = (own[1] ?? own[0]).split("</think>")[0];
  const thought = own.length > 1 || !text.includes("<answer>") ? inside : text.replace(/<answer>[\s\S]*/, "");
  return thought.replace(/<\/?(?:think|answer)>/g, " ").replace(/<[a-z/]*$/, "").trim();
}

/** Begin a new answer to a question. */
export function begin(question) {
  show(byId("answer"));
  bringIntoView();
  byId("asked").textContent = question;
  for (const id of ["verdict", "bars", "look", "take", "facts"]) show(byId(id), false);
  byId("looks").replaceChildren();
  byId("look-summary").textContent = "";
  byId("taken").textContent = "";
  byId("reasoning").textContent = "";
  byId("reasoning-title").textContent = "Reasoning";
  byId("reasoning-block").classList.add("is-streaming");
  show(byId("reasoning-block"));
  status("Waiting for the server…");
  live.textContent = "";
  spoken = 0;
}

/** Scroll to the answer, unless its beginning is in sight. */
export function bringIntoView(card = byId("answer")) {
  const box = card.getBoundingClientRect();
  if (box.top > 0 && box.top < innerHeight / 2) return; // it is in sight already
  const isCalm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  card.scrollIntoView({ block: "start", behavior: isCalm ? "auto" : "smooth" });
}

export function status(text) {
  byId("answer-status").textContent = text;
}

/** Show more of the stream. Whole sentences are spoken, not single words. */
export function stream(text) {
  const reasoning = readStream(text);
  byId("reasoning").textContent = reasoning;
  const end = Math.max(reasoning.lastIndexOf(". "), reasoning.lastIndexOf(".\n"));
  if (end >= spoken) {
    live.textContent = reasoning.slice(spoken, end + 1);
    spoken = end + 1;
  }
}

/** The stream is over, with or without an answer. */
export function end(text = "") {
  byId("reasoning-block").classList.remove("is-streaming");
  if (text) status(text);
  if (!byId("reasoning").textContent) show(byId("reasoning-block"), false);
}

/** Show a whole reply. `target` is the letter of the known answer of a drawn example. */
export function render(reply, target = null) {
  const answer = answerOf(reply);
  const reasoning = reply.reasoning ?? (answer === null ? reply.completion : "");
  byId("reasoning").textContent = reasoning.trim();
  byId("reasoning-title").textContent = reply.reasoning === null && answer === null ? "What it said" : "Reasoning";
  show(byId("reasoning-block"), Boolean(reasoning.trim()));
  byId("reasoning-block").classList.remove("is-streaming");
  renderVerdict(reply, target);
  renderBars(byId("bars"), reply.choices, answer, reply.vote_share !== null);
  show(byId("look"), true);
  show(byId("take"));
  renderFacts(reply);
  const seconds = reply.timings ? ` in ${reply.timings.total.toFixed(1)} s` : "";
  status(`Answered${seconds}`);
  live.textContent = `${verdictText(reply)}`;
}

/** The answer of a reply, or of a look; null where no rule reads one, and where it is a letter of no option. */
export function answerOf({ answer, choices }) {
  return choices.length && !choices.some(({ letter }) => letter === answer) ? null : answer;
}

export function verdictText(reply) {
  if (answerOf(reply) === null) return "No answer that can be read.";
  const text = reply.choices.length ? `${reply.answer}: ${reply.answer_text}` : reply.answer;
  return reply.abstains ? `Abstains; it leans towards ${text}.` : `Answer ${text}.`;
}

function renderVerdict(reply, target) {
  const parts = [];
  const answer = answerOf(reply);
  if (answer === null) {
    const why = reply.finish_reason === "length" ? "It was cut off: allow more tokens under How to ask." : "See what it said below, or ask in another way.";
    parts.push(make("p", { className: "said none", text: "No answer that can be read" }), make("p", { className: "hint", text: why }));
  } else {
    const letter = reply.choices.length ? make("span", { className: "letter big", text: answer }) : null;
    const said = make("p", { className: reply.abstains ? "said abstains" : "said" }, letter, make("span", { text: reply.answer_text ?? answer }));
    parts.push(said);
    if (reply.abstains) parts.push(make("p", { className: "flag", text: `Abstains: ${percent(reply.confidence)} is below the limit of ${percent(reply.threshold)}` }));
    else if (reply.confidence !== null) {
      const what = reply.vote_share === null ? "of the probability among the options" : "of the votes";
      parts.push(make("p", { className: "hint", text: `${percent(reply.confidence)} ${what}. A sure answer can be wrong.` }));
    }
  }
  if (target) {
    const isRight = answer === target;
    const known = reply.choices.find(({ letter }) => letter === target);
    const text = `Drawn example: the right answer is ${target}${known ? ` (${known.text})` : ""}${answer === null ? "" : isRight ? ", as answered" : ", so this answer is wrong"}.`;
    parts.push(make("p", { className: isRight ? "known right" : "known wrong", text }));
  }
  byId("verdict").replaceChildren(...parts);
  show(byId("verdict"));
}

/** A bar for each option: its probability, or its share of the votes. */
export function renderBars(list, choices, answer, isVoted = false) {
  show(list, choices.length > 0);
  list.replaceChildren(
    ...choices.map((choice) => {
      const share = isVoted ? choice.votes : choice.probability;
      const fill = make("span", { className: "fill" });
      fill.style.setProperty("--share", String(share ?? 0));
      return make(
        "li",
        { className: choice.letter === answer ? "bar chosen" : "bar" },
        make("span", { className: "letter", text: choice.letter }),
        make("span", { className: "bar-text", text: choice.text }),
        make("span", { className: "bar-share", text: percent(share) }),
        make("span", { className: "track", "aria-hidden": "true" }, fill),
      );
    }),
  );
}

function renderFacts(reply) {
  const rows = [
    ["Model", `${reply.policy.name} (${reply.policy.fingerprint.slice(0, 12)})`],
    ["Pictures", `${reply.images.count}, ${reply.images.tokens} image tokens${reply.images.slice_numbers ? `; slices ${reply.images.slice_numbers.join(", ")}` : ""}`],
    ["Tokens", `${reply.usage.prompt_tokens} of the prompt, ${reply.usage.completion_tokens} of the completion`],
    ["Read by", `${reply.rule}${reply.is_well_formed ? "" : "; the completion has not the form that was asked for"}`],
    ["Seconds", `${reply.timings.total.toFixed(2)}, of which ${reply.timings.queued.toFixed(2)} in the queue`],
    ["Prompt", reply.prompt],
    ["Completion", reply.completion],
    ["Hash of the prompt", reply.prompt_hash],
  ];
  byId("facts-list").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  show(byId("facts"));
}

export function fail(message) {
  tell(byId("ask-error"), message);
}
