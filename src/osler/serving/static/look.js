// "Did it look?": the same question with the image blanked, swapped and mirrored, and in words what changed.

import { byId, make, percent, show } from "./dom.js";
import { paint, pictures } from "./pictures.js";

export const LOOKS = ["blank", "swapped", "mirrored"];
const TITLES = { blank: "Blanked", swapped: "Swapped", mirrored: "Mirrored" };

/** What the looks say together, in a sentence; "" before both of the first two are here. */
export function summarize(looks) {
  const of = Object.fromEntries(looks.map((look) => [look.image, look]));
  if (!of.blank || !of.swapped) return "";
  const changed = Number(of.blank.changed) + Number(of.swapped.changed);
  if (changed === 2) return "The answer changes when the image is taken away: here it depends on the image.";
  if (changed === 0) return "The answer stays the same when the image is taken away: it may not rest on the image at all.";
  return "The answer changes with one of two other images: it depends on the image only in part.";
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

/** Fill the place of one look. */
export function renderLook(look) {
  const place = byId("looks").querySelector(`[data-image="${look.image}"]`);
  if (!place) return;
  place.classList.remove("is-waiting");
  place.classList.toggle("is-changed", look.changed);
  place.querySelector(".change").textContent = look.answer === null ? "no answer" : look.changed ? "other answer" : "same answer";
  const gain = look.gain === null ? "" : ` The image gives the answer ${look.gain >= 0 ? "+" : "−"}${percent(Math.abs(look.gain))}.`;
  place.querySelector(".look-text").textContent = look.sentence;
  place.querySelector(".look-text").title = gain.trim();
}

/** All looks of an answer, e.g. of the history. */
export function renderLooks(looks, pathOf) {
  if (!looks.length) {
    byId("looks").replaceChildren();
    byId("look-summary").textContent = "";
  } else {
    beginLooks(pathOf);
    for (const look of looks) renderLook(look);
    for (const place of byId("looks").querySelectorAll(".is-waiting")) place.remove();
    byId("look-summary").textContent = summarize(looks);
  }
  show(byId("look-hint"), !looks.length);
  byId("look-button").textContent = looks.length ? "Ask again" : "Ask again with other images";
}
