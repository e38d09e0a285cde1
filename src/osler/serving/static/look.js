// "Did it look?": the same question with the image blanked, swapped and mirrored, and in words what changed.

import { answerOf } from "./answer.js";
import { byId, make, percent, show } from "./dom.js";
import { paint, pictures } from "./pictures.js";

export const LOOKS = ["blank", "swapped", "mirrored"];
const TITLES = { blank: "Blanked", swapped: "Swapped", mirrored: "Mirrored" };

const LESS_SURE_FALL = 0.2; // of the probability of the answer without the image, from which the answer counts as less sure

/** What the looks at an answer, `reply`, say together; "" before both of the first two are here. */
export function summarize(looks, reply) {
  const of = Object.fromEntries(looks.map((look) => [look.image, look]));
  if (!of.blank || !of.swapped) return "";
  if (answerOf(reply) === null) return "The question with the image itself got no answer that can be read: there is no answer to compare with.";
  const { blank, swapped } = of;
  if (blank.changed && swapped.changed) return "The answer changes when the image is taken away: here it depends on the image.";
  if (blank.changed) return "The answer changes with the image blanked, not with it swapped: it depends on the image only in part.";
  if (swapped.changed) return "The answer changes with the image swapped, not with it blanked: it depends on the image only in part.";
  const least = (blank.gain ?? 0) >= (swapped.gain ?? 0) ? blank : swapped; // the one that leaves the lower probability
  if ((least.gain ?? 0) < LESS_SURE_FALL - 1e-9) return "The answer stays the same when the image is taken away: it may not rest on the image at all.";
  const [before, after] = [reply, least].map(({ choices }) => choices.find(({ letter }) => letter === reply.answer)?.probability.toFixed(2));
  const how = least === blank ? "blanked" : "swapped";
  return `The answer stays, but it is less sure without the image: the probability of ${reply.answer} falls from ${before} to ${after} with the image ${how}.`;
}

/** What changed with one look, in a word or two. */
function changeOf(look, reply) {
  if (answerOf(look) === null) return "no answer";
  if (answerOf(reply) === null) return "an answer";
  return look.changed ? "other answer" : "same answer";
}

/** Empty places for the looks, with the pictures that they show. */
export function beginLooks(pathOf) {
  byId("look-summary").textContent = "";
  byId("looks").replaceChildren(
    ...LOOKS.map((image) => {
      const canvas = make("canvas", { width: 1, height: 1, role: "img", "aria-label": `The first picture, ${TITLES[image].toLowerCase()}` });
      if (pathOf) pictures.load(pathOf(image)).then(({ bitmap }) => paint(canvas, bitmap), () => {});
      return make(
        "li",
        { className: "is-waiting", dataset: { image } },
        canvas,
        make("div", {}, make("p", { className: "look-title" }, make("strong", { text: TITLES[image] }), make("span", { className: "change", text: "…" })), make("p", { className: "look-text", text: "Asking…" })),
      );
    }),
  );
}

/** Fill the place of one look at an answer. */
export function renderLook(look, reply) {
  const place = byId("looks").querySelector(`[data-image="${look.image}"]`);
  if (!place) return;
  place.classList.remove("is-waiting");
  place.classList.toggle("is-changed", look.changed && answerOf(reply) !== null);
  place.querySelector(".change").textContent = changeOf(look, reply);
  const gain = look.gain === null ? "" : ` The image gives the answer ${look.gain >= 0 ? "+" : "−"}${percent(Math.abs(look.gain))}.`;
  place.querySelector(".look-text").textContent = look.sentence;
  place.querySelector(".look-text").title = gain.trim();
}

/** All looks at an answer, e.g. of the history. */
export function renderLooks(looks, reply, pathOf = null) {
  if (!looks.length) {
    byId("looks").replaceChildren();
    byId("look-summary").textContent = "";
  } else {
    beginLooks(pathOf);
    for (const look of looks) renderLook(look, reply);
    for (const place of byId("looks").querySelectorAll(".is-waiting")) place.remove();
    byId("look-summary").textContent = summarize(looks, reply);
  }
  show(byId("look-hint"), !looks.length);
  byId("look-button").textContent = looks.length ? "Ask again" : "Ask again with other images";
}
