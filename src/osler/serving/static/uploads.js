// The images of the page: sends them, opens one in the viewer, and sends them again where the server has forgotten them.

import { connection, Gone, getJson, patiently, query, Refused, request, sendFiles } from "./api.js";
import { byId, count, make, press, show, tell } from "./dom.js";
import { findFault, takeFiles } from "./files.js";
import { pictures } from "./pictures.js";
import { viewer } from "./viewer.js";

/** Events: "change" when there are other images, with the reply to an example in `detail`; "select" when others are shown to the model. */
class Uploads extends EventTarget {
  reply = null; // of the server, null without images
  selected = new Set(); // indices of the images that the model sees
  maxBytes = Infinity;
  generation = 0; // changes with other images, and not where the same are sent again
  #source = null; // what was sent: { files } or { example }
  #sending = null;
  #resending = null;

  get id() {
    return this.reply?.upload ?? null;
  }

  get images() {
    return this.reply?.images ?? [];
  }

  /** Send files, or the name of an example, and show the first image. */
  async send(source) {
    const fault = source.files ? findFault(source.files, this.maxBytes) : "";
    tell(byId("upload-error"), fault);
    if (fault) return;
    this.#sending?.abort();
    const sending = (this.#sending = new AbortController());
    const busy = byId("uploading");
    show(busy);
    byId("uploading-text").textContent = source.files ? `Sending ${count(source.files.length, "file")}…` : "Drawing the example…";
    try {
      const reply = await patiently(() => this.#post(source, sending.signal), { signal: sending.signal });
      const old = this.id;
      this.#source = source;
      this.#take(reply);
      if (old) request(`/v1/uploads/${old}`, { method: "DELETE" }).catch(() => {});
      this.dispatchEvent(new CustomEvent("change", { detail: source.example ? reply : null }));
    } catch (error) {
      if (error.name !== "AbortError") tell(byId("upload-error"), error.message);
    } finally {
      if (this.#sending === sending) show(busy, false);
    }
  }

  async #post(source, signal) {
    if (source.files) return sendFiles(source.files, { signal });
    return getJson(`/v1/uploads/example${query({ name: source.example })}`, { method: "POST", signal });
  }

  #take(reply) {
    pictures.clear();
    this.generation += 1;
    this.reply = reply;
    this.selected = new Set(reply.images.filter((image) => image.selected).map((image) => image.index));
    if (!this.selected.size) this.selected.add(0);
    this.#fillTabs();
    show(byId("drop"), false);
    show(byId("loaded"));
    show(byId("remove"));
    const first = Math.min(...this.selected);
    this.open(first, { window: reply.window ?? this.images[first].window });
  }

  /** Do something with the upload; where the server no longer has it, send it again first. */
  async using(action) {
    try {
      return await action(this.id);
    } catch (error) {
      if (!(error instanceof Refused) || error.code !== "upload_gone" || !this.#source) throw error;
      await this.resend();
      return action(this.id);
    }
  }

  /** Send the same files again, once for all who miss them. */
  resend() {
    this.#resending ??= this.#resend().finally(() => (this.#resending = null));
    return this.#resending;
  }

  async #resend() {
    const { index, window, plane, image } = viewer;
    this.reply = { ...this.reply, upload: (await this.#post(this.#source)).upload };
    pictures.clear();
    if (image) viewer.open(this.id, image, { index, window, plane });
  }

  /** Show one of the images. */
  open(index, view = {}) {
    const image = this.images[index];
    byId("image-name").textContent = image.name;
    for (const [place, tab] of [...byId("tabs").children].entries()) press(tab.querySelector("button"), place === index);
    const side = { L: "left", R: "right", B: "both sides" }[image.laterality];
    const notes = [...(this.reply.notes ?? []), ...image.notes, ...(side ? [`side by the header: ${side}`] : [])];
    byId("notes").replaceChildren(...notes.map((note) => make("li", { text: note })));
    const kept = image.windows.includes(viewer.window) ? { window: viewer.window } : {};
    viewer.open(this.id, image, { ...kept, ...view });
    viewer.dispatchEvent(new CustomEvent("view"));
  }

  /** Show the image in another plane. */
  async changePlane(plane) {
    const { image, window } = viewer;
    try {
      const turned = await this.using((id) => getJson(`/v1/uploads/${id}/${image.index}${query({ plane })}`));
      await viewer.open(this.id, turned, { window, plane });
      viewer.dispatchEvent(new CustomEvent("view"));
    } catch (error) {
      byId("plane").value = viewer.image.plane;
      tell(byId("upload-error"), error.message);
    }
  }

  remove() {
    this.#sending?.abort();
    if (this.id) request(`/v1/uploads/${this.id}`, { method: "DELETE" }).catch(() => {});
    this.reply = null;
    this.generation += 1;
    this.#source = null;
    viewer.close();
    pictures.clear();
    show(byId("loaded"), false);
    show(byId("remove"), false);
    show(byId("drop"));
    byId("image-name").textContent = "";
    tell(byId("upload-error"), "");
    byId("pick-files").focus();
    this.dispatchEvent(new CustomEvent("change", { detail: null }));
  }

  #fillTabs() {
    const tabs = byId("tabs");
    show(tabs, this.images.length > 1);
    tabs.replaceChildren(
      ...this.images.map((image) =>
        make(
          "div",
          { className: "tab" },
          make("button", { type: "button", text: image.name, "aria-pressed": "false", on: { click: () => this.open(image.index) } }),
          make(
            "label",
            {},
            make("input", {
              type: "checkbox",
              checked: this.selected.has(image.index),
              on: { change: (event) => this.#select(image.index, event.target) },
            }),
            make("span", { text: "to the model" }),
            make("span", { className: "visually-hidden", text: `: ${image.name}` }),
          ),
        ),
      ),
    );
  }

  #select(index, box) {
    if (box.checked) this.selected.add(index);
    else if (this.selected.size > 1) this.selected.delete(index);
    else box.checked = true; // the model sees at least one
    this.dispatchEvent(new CustomEvent("select"));
  }
}

export const uploads = new Uploads();
takeFiles((files) => uploads.send({ files }));
byId("remove").addEventListener("click", () => uploads.remove());
byId("plane").addEventListener("change", (event) => uploads.changePlane(event.target.value));
for (const button of document.querySelectorAll("[data-example]")) {
  button.addEventListener("click", () => uploads.send({ example: button.dataset.example }));
}
connection.addEventListener("back", () => viewer.image && viewer.dispatchEvent(new CustomEvent("view")));
viewer.addEventListener("view", () => viewer.reload());
viewer.addEventListener("fault", async ({ detail: error }) => {
  try {
    if (error instanceof Refused && error.code === "upload_gone") await uploads.resend();
    else if (!(error instanceof Gone)) tell(byId("upload-error"), error.message); // the banner tells of an absent server
  } catch (again) {
    tell(byId("upload-error"), again.message);
  }
});
