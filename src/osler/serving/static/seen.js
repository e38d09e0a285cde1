// What the model sees: which slices of which images, as what, in the window and plane of the viewer. Every picture is fetched as it goes to
// the image processor.

import { Gone, getJson, query } from "./api.js";
import { byId, clamp, count, make, press, show, tell } from "./dom.js";
import { paint, pictures } from "./pictures.js";
import { uploads } from "./uploads.js";
import { viewer } from "./viewer.js";

const PAUSE = 200; // milliseconds
const MOST_PAINTED = 64; // thumbnails; further pictures are counted

/** Events: "change" when the model sees other pictures. */
class Seen extends EventTarget {
  shown = []; // [{ image, path, slice, width, height, digest, marks }] in the order of the prompt
  #hand = new Set(); // slices that are chosen by hand
  #ofView = []; // slices of the image in the viewer
  #plane = null;
  #timer = 0;
  #asked = 0;

  /** The `study_settings` of a question. */
  settings() {
    const image = this.#only();
    const settings = { images: [...uploads.selected].sort((one, other) => one - other), layout: byId("layout").value };
    const isStudy = uploads.images.some((each) => uploads.selected.has(each.index) && each.num_slices > 1);
    if (isStudy && byId("choice").value === "hand" && image) settings.slice_numbers = [...this.#hand].sort((one, other) => one - other).map((index) => index + 1);
    else if (isStudy) Object.assign(settings, { slices: this.#count(), choice: byId("choice").value === "hand" ? "even" : byId("choice").value });
    if (this.window) settings.window = this.window;
    if (viewer.plane) settings.plane = viewer.plane;
    return settings;
  }

  get window() {
    return viewer.image?.windows.length ? viewer.window : (this.#lastWindow ?? null);
  }
  #lastWindow = null;

  #count() {
    return clamp(Math.round(Number(byId("count").value)) || 8, 1, 256);
  }

  /** The selected image, where it is the only one. */
  #only() {
    return uploads.selected.size === 1 ? uploads.images[[...uploads.selected][0]] : null;
  }

  /** The query of one picture, as the server renders it for the model. */
  queryOf(extra = {}) {
    const { images: _, slice_numbers, ...rest } = this.settings();
    return query({ ...rest, slice_numbers: slice_numbers?.join(","), ...extra });
  }

  reset(choice, slices) {
    this.#hand.clear();
    byId("choice").value = choice;
    if (slices) byId("count").value = String(slices);
  }

  /** Ask the server anew, after a pause in which more may change. */
  refreshSoon() {
    byId("strip").classList.add("is-stale");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), PAUSE);
  }

  /** Wait until what is shown belongs to the settings. */
  async settle() {
    for (let tries = 0; tries < 5 && byId("strip").classList.contains("is-stale"); tries += 1) await this.refresh();
  }

  /** Ask the server anew what it shows to the model. */
  async refresh() {
    clearTimeout(this.#timer);
    byId("strip").classList.add("is-stale");
    const asked = (this.#asked += 1);
    if (!uploads.id) {
      this.shown = [];
      byId("seen-notes").replaceChildren();
      return;
    }
    if (viewer.image?.windows.length) this.#lastWindow = viewer.window;
    if (viewer.plane !== this.#plane && byId("choice").value === "hand") byId("choice").value = "even"; // other slices in another plane
    this.#plane = viewer.plane;
    this.#fillSettings();
    const found = [];
    const hidden = [];
    try {
      for (const index of this.settings().images) {
        const part = await uploads.using((id) => getJson(`/v1/uploads/${id}/${index}/shown${this.queryOf()}`));
        if (asked !== this.#asked) return;
        if (index === viewer.image?.index) this.#ofView = part.slices;
        hidden.push(...part.hidden);
        part.pictures.forEach((picture, place) =>
          found.push({
            ...picture,
            image: index,
            number: place,
            slice: part.pictures.length === part.slices.length ? part.slices[place] : null,
            slices: part.slices,
            of: part.num_slices,
          }),
        );
      }
      tell(byId("seen-error"), "");
    } catch (error) {
      if (asked !== this.#asked) return;
      if (error instanceof Gone) return; // asked again when the server is back
      tell(byId("seen-error"), error.message);
    }
    if (!uploads.selected.has(viewer.image?.index)) this.#ofView = [];
    this.shown = found;
    byId("seen-notes").replaceChildren(...[...new Set(hidden)].map((note) => make("li", { text: note })));
    byId("strip").classList.remove("is-stale");
    this.#fillStrip();
    this.#fillTicks();
    this.dispatchEvent(new CustomEvent("change"));
  }

  pathOf(picture, extra) {
    return `/v1/uploads/${uploads.id}/${this.endOf(picture, extra)}`;
  }

  /** The path of a picture below that of the upload. */
  endOf(picture, extra) {
    return `${picture.image}/shown/${picture.number}.png${this.queryOf(extra)}`;
  }

  #fillSettings() {
    const isStudy = uploads.images.some((image) => uploads.selected.has(image.index) && image.num_slices > 1);
    show(byId("seen-settings"), isStudy);
    const byHand = byId("choice").querySelector('[value="hand"]');
    byHand.disabled = !this.#only();
    if (byHand.disabled && byId("choice").value === "hand") byId("choice").value = "even";
    const isByHand = byId("choice").value === "hand";
    show(byId("count-field"), !isByHand);
    show(byId("toggle-slice"), Boolean(this.#only()) && uploads.selected.has(viewer.image?.index) && viewer.image.num_slices > 1);
  }

  #fillStrip() {
    const painted = this.shown.slice(0, MOST_PAINTED);
    byId("strip").replaceChildren(...painted.map((picture) => this.#frame(picture)));
    const sizes = new Set(this.shown.map(({ width, height }) => `${width} × ${height}`));
    const more = this.shown.length > MOST_PAINTED ? `, the first ${MOST_PAINTED} here` : "";
    byId("seen-count").textContent = `${count(this.shown.length, "picture")}${more}, ${sizes.size === 1 ? [...sizes][0] : "several sizes of"} pixels, exactly as sent`;
  }

  #frame(picture) {
    const image = uploads.images[picture.image];
    const isMany = picture.of > 1;
    const place = !isMany ? image.name : picture.slice === null ? `${count(picture.slices.length, "slice")}` : `${picture.slice + 1}`;
    const words = !isMany ? image.name : picture.slice === null ? `slices ${picture.slices.map((one) => one + 1).join(", ")}` : `slice ${picture.slice + 1} of ${picture.of}`;
    const canvas = make("canvas", { role: "img", "aria-label": `Sent to the model: ${words}`, width: 1, height: 1 });
    pictures.load(this.pathOf(picture)).then(
      ({ bitmap }) => paint(canvas, bitmap),
      (error) => error instanceof Gone || tell(byId("seen-error"), error.message),
    );
    const go = () => {
      if (viewer.image.index !== picture.image) uploads.open(picture.image);
      if (picture.slice !== null) viewer.moveTo(picture.slice);
    };
    return make("li", {}, make("button", { type: "button", className: "frame", title: words, on: { click: go } }, canvas, make("span", { text: place })));
  }

  /** Which slices of the viewer's image the model sees, below the slider and on the button. */
  #fillTicks() {
    const last = Math.max(1, (viewer.image?.num_slices ?? 1) - 1);
    byId("ticks").replaceChildren(
      ...this.#ofView.map((slice) => {
        const tick = make("span", { className: slice === viewer.index ? "tick here" : "tick" });
        tick.style.setProperty("--place", String(slice / last));
        return tick;
      }),
    );
    press(byId("toggle-slice"), this.#ofView.includes(viewer.index));
    byId("stage").classList.toggle("is-seen", this.#ofView.includes(viewer.index));
  }

  onSlice() {
    this.#fillTicks();
  }

  /** Show the slice in the viewer to the model, or no longer. */
  toggleSlice() {
    if (!this.#only() || byId("toggle-slice").hidden) return;
    if (byId("choice").value !== "hand") {
      this.#hand = new Set(this.#ofView);
      byId("choice").value = "hand";
    }
    if (!this.#hand.has(viewer.index)) this.#hand.add(viewer.index);
    else if (this.#hand.size > 1) this.#hand.delete(viewer.index);
    this.refresh();
  }

  onChoice() {
    if (byId("choice").value === "hand") this.#hand = new Set(this.#ofView.length ? this.#ofView : [viewer.index]);
    this.refresh();
  }
}

export const seen = new Seen();
viewer.addEventListener("slice", () => seen.onSlice());
viewer.addEventListener("view", () => seen.refreshSoon());
uploads.addEventListener("select", () => seen.refreshSoon());
byId("choice").addEventListener("change", () => seen.onChoice());
byId("count").addEventListener("input", () => seen.refreshSoon());
byId("layout").addEventListener("change", () => seen.refresh());
byId("toggle-slice").addEventListener("click", () => seen.toggleSlice());
