// The only module that talks to the server: requests, their errors, server-sent events, waiting for a busy or absent server.

/** A reply with a status of 400 or more; `message` is the one line of the server. */
export class Refused extends Error {
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** The server cannot be reached. */
export class Gone extends Error {}

const FIRST_PAUSE = 1;
const LONGEST_PAUSE = 30;
const MOST_WAITS = 20;

let key = null;
export function setKey(value) {
  key = value || null;
}

function headersOf(headers = {}) {
  return key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
}

/** One request; a Response with a status below 400. Throws Refused, Gone, and the abort of the signal. */
export async function request(path, options = {}) {
  let reply;
  try {
    reply = await fetch(path, { ...options, headers: headersOf(options.headers), cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.lose();
    throw new Gone("the server does not answer");
  }
  connection.find();
  if (reply.ok) return reply;
  throw await describe(reply);
}

async function describe(reply) {
  let error = {};
  try {
    error = (await reply.json()).error ?? {};
  } catch {
    // no JSON: a proxy may have answered
  }
  const retryAfter = Number(reply.headers.get("retry-after")) || null;
  return new Refused(error.message || `the server answered with ${reply.status}`, { status: reply.status, code: error.code ?? null, retryAfter });
}

export async function getJson(path, options) {
  return (await request(path, options)).json();
}

export function postJson(path, body, options = {}) {
  return request(path, { ...options, method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

/** Send files as one upload: [{ file, name }]. */
export async function sendFiles(files, options = {}) {
  const form = new FormData();
  for (const { file, name } of files) form.append("files", file, name);
  return (await request("/v1/uploads", { ...options, method: "POST", body: form })).json();
}

/** The query of settings: "?slices=8&window=lung"; what is null or undefined is left out. */
export function query(settings) {
  const parts = new URLSearchParams();
  for (const [name, value] of Object.entries(settings)) if (value !== null && value !== undefined) parts.append(name, String(value));
  const text = parts.toString();
  return text ? `?${text}` : "";
}

/** The events of a reply: { event, data } with parsed data. Throws Gone where the reply breaks off before "done" or "error". */
export async function* readEvents(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  let isComplete = false;
  try {
    while (true) {
      const { value, done } = await readPiece(reader);
      if (done) break;
      waiting += value;
      let end = waiting.indexOf("\n\n");
      while (end >= 0) {
        const event = parseEvent(waiting.slice(0, end));
        waiting = waiting.slice(end + 2);
        isComplete ||= event.event === "done" || event.event === "error";
        yield event;
        end = waiting.indexOf("\n\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!isComplete) {
    connection.lose();
    throw new Gone("the server broke off its answer");
  }
}

async function readPiece(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.lose();
    throw new Gone("the server broke off its answer");
  }
}

function parseEvent(text) {
  const lines = text.split("\n");
  const event = lines.find((line) => line.startsWith("event: "))?.slice(7) ?? "message";
  const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
  return { event, data: data ? JSON.parse(data) : null };
}

/** Run `action` until it succeeds or fails for good: waits for a busy server as long as it asks, and for an absent one until it is back.
 * `onWait(seconds, error)` is called every second of a wait, with null when it ends. */
export async function patiently(action, { signal, onWait = () => {} } = {}) {
  for (let tries = 0; ; tries += 1) {
    signal?.throwIfAborted();
    try {
      return await action();
    } catch (error) {
      const isBusy = error instanceof Refused && (error.status === 429 || error.status === 503);
      if (tries >= MOST_WAITS || !(isBusy || error instanceof Gone)) throw error;
      if (isBusy) {
        for (let left = Math.max(1, Math.ceil(error.retryAfter ?? 2)); left > 0; left -= 1) {
          onWait(left, error);
          await sleep(1000, signal);
        }
      } else {
        onWait(0, error);
        await connection.whenBack(signal);
      }
      onWait(null, null);
    }
  }
}

export function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      signal?.removeEventListener("abort", stop);
      resolve();
    }
    function stop() {
      clearTimeout(timer);
      reject(signal.reason);
    }
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** Whether the server answers. Events: "gone" and "waiting" with the seconds until the next try in `detail`, "back". */
class Connection extends EventTarget {
  isLost = false;
  #hurry = null;

  lose() {
    if (this.isLost) return;
    this.isLost = true;
    this.dispatchEvent(new CustomEvent("gone"));
    this.#search();
  }

  find() {
    if (!this.isLost) return;
    this.isLost = false;
    this.#hurry?.abort();
    this.dispatchEvent(new CustomEvent("back"));
  }

  /** Try now rather than at the end of the pause. */
  hurry() {
    this.#hurry?.abort();
  }

  whenBack(signal) {
    if (!this.isLost) return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.addEventListener("back", resolve, { once: true, signal });
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
  }

  async #search() {
    for (let pause = FIRST_PAUSE; this.isLost; pause = Math.min(pause * 2, LONGEST_PAUSE)) {
      this.#hurry = new AbortController();
      try {
        for (let left = pause; left > 0; left -= 1) {
          this.dispatchEvent(new CustomEvent("waiting", { detail: left }));
          await sleep(1000, this.#hurry.signal);
        }
      } catch {
        // hurried
      }
      if (!this.isLost) return;
      try {
        const reply = await fetch("/health", { cache: "no-store" });
        if (reply.ok) this.find();
      } catch {
        // still gone
      }
    }
  }
}

export const connection = new Connection();
