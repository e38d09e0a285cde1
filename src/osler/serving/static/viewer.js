// The viewer: one slice on a canvas, with zoom, window and level, and the letters of the patient's sides. The server renders every slice.

import { query } from "./api.js";
import { byId, clamp, make, show, windowTitle } from "./dom.js";
import { formatLevel, pictures } from "./pictures.js";
import { addGestures } from "./gestures.js";

const MOST_ZOOM = 16;
const SMOOTH_BELOW = 6; // screen pixels for one of the picture
const SLOW = 250; // milliseconds after which the stage says that it waits
const AHEAD = 2; // slices that are fetched before they are asked for

const canvas = byId("canvas");
const stage = byId("stage");
const slider = byId("slice");

/** Events: "slice" when another slice is shown, "view" when window or plane are other ones, "fault" with an error in `detail`. */
class Viewer extends EventTarget {
  image = null; // as the server describes it, in the plane that is shown
  #upload = null;
  index = 0;
  window = null; // as a request names it; null for an image without windows
  plane = null;
  level = null; // { center, width } of the slice that is shown
  zoom = 1;
  offset = { x: 0, y: 0 }; // of the picture's centre from the stage's, in CSS pixels
  #drawn = null; // the picture on the canvas: { bitmap, index, position }
  #asked = 0;
  #isLoading = false;

  /** Show an image of an upload, from its middle slice or `index` on. */
  open(upload, image, { window = image.window, plane = null, index = Math.floor((image.num_slices - 1) / 2) } = {}) {
    this.image = image;
    this.#upload = upload;
    this.window = window;
    this.plane = plane;
    this.index = clamp(index, 0, image.num_slices - 1);
    this.#drawn = null;
    this.level = null;
    this.zoom = 1;
    this.offset = { x: 0, y: 0 };
    this.draw();
    this.#fillControls();
    return this.#load();
  }

  close() {
    this.image = null;
    this.#drawn = null;
    this.#asked += 1;
    canvas.setAttribute("aria-label", "No image");
  }

  /** Fetch the slice again where it is missing. */
  reload() {
    if (this.image && this.#drawn?.index !== this.index) this.#load();
  }

  get pathOfSlice() {
    return this.#path(this.index);
  }

  #path(index) {
    return `/v1/uploads/${this.#upload}/${this.image.index}/slices/${index}.png${query({ window: this.window, plane: this.plane })}`;
  }

  moveTo(index) {
    if (!this.image) return;
    const wanted = clamp(Math.round(index), 0, this.image.num_slices - 1);
    if (wanted === this.index) return;
    this.index = wanted;
    this.#load();
    this.dispatchEvent(new CustomEvent("slice"));
  }

  /** Another window: a name, or centre and width. With `isFinal` false it is still being dragged. */
  setWindow(window, { isFinal = true } = {}) {
    if (!this.image?.windows.length) return;
    this.window = typeof window === "string" ? window : formatLevel(window);
    if (typeof window !== "string") this.level = window;
    this.#fillWindows();
    this.#load();
    if (isFinal) this.dispatchEvent(new CustomEvent("view"));
  }

  /** The next (1) or previous (-1) window of the image. */
  stepWindow(step) {
    const names = this.image?.windows ?? [];
    if (!names.length) return;
    const place = names.indexOf(this.window);
    this.setWindow(names[(place + step + names.length + (place < 0 && step < 0 ? 1 : 0)) % names.length]);
  }

  /** Change centre and width by shares of the width. */
  shiftLevel(center, width) {
    if (!this.level) return;
    const wider = Math.max(this.level.width * (1 + width), 1e-6);
    this.setWindow({ center: this.level.center + center * this.level.width, width: wider });
  }

  setZoom(zoom, around = { x: 0, y: 0 }) {
    const next = clamp(zoom, 1, MOST_ZOOM);
    const ratio = next / this.zoom;
    this.offset = { x: around.x + (this.offset.x - around.x) * ratio, y: around.y + (this.offset.y - around.y) * ratio };
    this.zoom = next;
    this.#keepInside();
    this.draw();
  }

  fit() {
    this.offset = { x: 0, y: 0 };
    this.setZoom(1);
  }

  pan(x, y) {
    this.offset = { x: this.offset.x + x, y: this.offset.y + y };
    this.#keepInside();
    this.draw();
  }

  #keepInside() {
    const roomX = (stage.clientWidth * (this.zoom - 1)) / 2;
    const roomY = (stage.clientHeight * (this.zoom - 1)) / 2;
    this.offset = { x: clamp(this.offset.x, -roomX, roomX), y: clamp(this.offset.y, -roomY, roomY) };
  }

  async #load() {
    const asked = (this.#asked += 1);
    slider.value = String(this.index);
    this.#label();
    if (this.#isLoading) return; // the one that loads looks again when it is done
    this.#isLoading = true;
    const { image, index } = this;
    const slow = setTimeout(() => stage.classList.add("is-loading"), SLOW);
    try {
      const picture = await pictures.load(this.pathOfSlice);
      if (this.image !== image || !image) return;
      this.#drawn = { bitmap: picture.bitmap, index, position: picture.position };
      if (asked === this.#asked || !this.level) this.level = picture.level;
      this.draw();
    } catch (error) {
      this.dispatchEvent(new CustomEvent("fault", { detail: error }));
    } finally {
      clearTimeout(slow);
      stage.classList.remove("is-loading");
      this.#isLoading = false;
      if (this.image && asked !== this.#asked) this.#load();
      else if (this.image) this.#label();
    }
    if (this.image) for (let step = 1; step <= AHEAD; step += 1) this.#prefetch(this.index + step), this.#prefetch(this.index - step);
  }

  #prefetch(index) {
    if (index >= 0 && index < this.image.num_slices) pictures.load(this.#path(index)).catch(() => {});
  }

  draw() {
    const ratio = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(stage.clientWidth * ratio));
    const height = Math.max(1, Math.round(stage.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    if (!this.#drawn) return;
    const { bitmap } = this.#drawn;
    const { width: own, height: tall } = bitmap;
    const scale = Math.min(width / own, height / tall) * this.zoom;
    context.imageSmoothingEnabled = scale < SMOOTH_BELOW * ratio;
    context.imageSmoothingQuality = "high";
    const left = (width - own * scale) / 2 + this.offset.x * ratio;
    const top = (height - tall * scale) / 2 + this.offset.y * ratio;
    context.drawImage(bitmap, left, top, own * scale, tall * scale);
    stage.dataset.zoom = this.zoom.toFixed(2);
    stage.classList.toggle("is-zoomed", this.zoom > 1);
  }

  /** Words for the picture that is drawn: for who does not see it, and at its edges. Without one there are no letters. */
  #label() {
    const image = this.image;
    if (!image) return;
    slider.setAttribute("aria-valuetext", image.num_slices > 1 ? `slice ${this.index + 1} of ${image.num_slices}` : "only slice");
    const marks = this.#drawn ? image.marks : null;
    for (const side of ["left", "right", "top", "bottom"]) byId(`mark-${side}`).textContent = marks?.[side] ?? "";
    byId("corner-level").textContent = this.#drawn && this.level ? `C ${shorten(this.level.center)}  W ${shorten(this.level.width)}` : "";
    if (!this.#drawn) {
      byId("corner").textContent = "";
      canvas.setAttribute("aria-label", `${image.name}: not here yet`);
      return;
    }
    const { index, position: millimetres } = this.#drawn;
    const isMany = image.num_slices > 1;
    const place = isMany ? `slice ${index + 1} of ${image.num_slices}` : "";
    const position = isMany && millimetres !== null ? `${millimetres.toFixed(1)} mm` : "";
    const kind = [image.plane, image.modality ?? ""].filter(Boolean).join(" ") || "picture";
    const sides = image.marks ? `, left edge is ${sideName(image.marks.left)}, upper edge ${sideName(image.marks.top)}` : "";
    const shown = this.window ? `, window ${windowTitle(this.window)}` : "";
    canvas.setAttribute("aria-label", `${image.name}: ${kind}${place ? `, ${place}` : ""}${shown}${sides}`);
    byId("corner").textContent = [place && `${index + 1} / ${image.num_slices}`, position].filter(Boolean).join("  ");
  }

  #fillControls() {
    const { image } = this;
    show(byId("slices"), image.num_slices > 1);
    byId("viewer").classList.toggle("is-study", image.num_slices > 1);
    slider.max = String(image.num_slices - 1);
    const planes = byId("plane");
    planes.replaceChildren(...image.planes.map((plane) => make("option", { value: plane, text: plane, selected: plane === image.plane })));
    show(byId("plane-field"), image.planes.length > 1);
    show(byId("window-field"), image.windows.length > 0);
    show(byId("tool-group"), image.windows.length > 0);
    stage.classList.toggle("has-window", image.windows.length > 0);
    this.#fillWindows();
  }

  #fillWindows() {
    const names = this.image.windows;
    const own = this.window && !names.includes(this.window) ? [this.window] : [];
    byId("window").replaceChildren(
      ...[...names, ...own].map((name) => make("option", { value: name, text: windowTitle(name), selected: name === this.window })),
    );
  }
}

const SIDES = { R: "right", L: "left", A: "front", P: "back", H: "head", F: "feet" };
function sideName(letters) {
  return [...letters].map((letter) => SIDES[letter] ?? letter).join(" and ");
}

function shorten(number) {
  return Math.abs(number) >= 100 ? String(Math.round(number)) : String(Number(number.toPrecision(3)));
}

export const viewer = new Viewer();
addGestures(viewer, stage);
slider.addEventListener("input", () => viewer.moveTo(Number(slider.value)));
byId("window").addEventListener("change", (event) => viewer.setWindow(event.target.value));
byId("zoom-in").addEventListener("click", () => viewer.setZoom(viewer.zoom * 1.25));
byId("zoom-out").addEventListener("click", () => viewer.setZoom(viewer.zoom / 1.25));
byId("zoom-fit").addEventListener("click", () => viewer.fit());
new ResizeObserver(() => viewer.draw()).observe(stage);
