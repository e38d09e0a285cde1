// Pictures of the server as bitmaps, kept for a while. A page with a key cannot use <img src>, so each is fetched.

import { request } from "./api.js";

const MOST_PIXELS = 60e6;

class Pictures {
  #kept = new Map(); // path -> promise of { bitmap, blob, level, position }

  /** The picture at a path, fetched once: { bitmap, blob, level: { center, width } or null, position in mm or null }. */
  load(path) {
    let found = this.#kept.get(path);
    if (found) this.#kept.delete(path); // to the end: the one that was used last
    else found = fetchPicture(path);
    this.#kept.set(path, found);
    found.then(() => this.#forgetOld(), () => this.#kept.delete(path));
    return found;
  }

  /** The picture if it is here already. */
  peek(path) {
    return this.#kept.get(path);
  }

  clear() {
    this.#kept.clear();
  }

  async #forgetOld() {
    let pixels = 0;
    for (const [path, promise] of [...this.#kept].reverse()) {
      const { bitmap } = await promise.catch(() => ({ bitmap: null }));
      pixels += bitmap ? bitmap.width * bitmap.height : 0;
      if (pixels > MOST_PIXELS) this.#kept.delete(path);
    }
  }
}

async function fetchPicture(path) {
  const reply = await request(path);
  const blob = await reply.blob();
  const position = reply.headers.get("x-osler-position");
  return {
    bitmap: await createImageBitmap(blob),
    blob,
    level: parseLevel(reply.headers.get("x-osler-level")),
    position: position === null ? null : Number(position),
  };
}

function parseLevel(text) {
  const [center, width] = (text ?? "").split("/").map(Number);
  return Number.isFinite(center) && Number.isFinite(width) && width > 0 ? { center, width } : null;
}

/** A window for the server: "40/400", or "0.1..0.9" for narrow ones. */
export function formatLevel({ center, width }) {
  if (width >= 20) return `${Math.round(center)}/${Math.round(width)}`;
  const digits = Math.min(10, Math.max(0, 3 - Math.floor(Math.log10(width))));
  return `${(center - width / 2).toFixed(digits)}..${(center + width / 2).toFixed(digits)}`;
}

/** A picture as a data URL of at most `side` pixels a side, and whether it was reduced for that. */
export async function toDataUrl(bitmap, side) {
  const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return { url: canvas.toDataURL("image/png"), isReduced: scale < 1 };
}

/** Draw a bitmap into a canvas element at its own size. */
export function paint(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

export const pictures = new Pictures();
