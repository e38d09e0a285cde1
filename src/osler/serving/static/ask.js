// Asking: the request, its stream, stopping it, waiting for a busy or absent server, and asking again with other images.

import * as answer from "./answer.js";
import { connection, patiently, postJson, readEvents, Refused } from "./api.js";
import { byId, count, show, tell } from "./dom.js";
import { FormFault, readQuestion, setBusy } from "./form.js";
import { history } from "./history.js";
import { beginLooks, LOOKS, renderLook, renderLooks, summarize } from "./look.js";
import { pictures, toDataUrl } from "./pictures.js";
import { seen } from "./seen.js";
import { uploads } from "./uploads.js";

const MOST_KEPT = 8; // pictures of an answer that the history and a download hold
const KEPT_SIDE = 768;
const STATUS = { queue_full: 429, draining: 503 }; // of errors after the beginning of a stream

let running = null; // the AbortController of what is being asked
let example = null; // { question, target } of a drawn example

export function setExample(told) {
  example = told;
}

/** Ask what the form says. */
export async function ask() {
  if (running) return;
  let body;
  clearFault();
  try {
    body = readQuestion();
    if (!uploads.id) throw new FormFault("Choose an image first, or try a drawn one.", byId("pick-files"));
  } catch (error) {
    if (!(error instanceof FormFault)) throw error;
    showFault(error);
    return;
  }
  let entry = null;
  answer.begin(body.question);
  const isDone = await run(async (signal) => {
    await seen.settle();
    const settings = seen.settings();
    entry = { ...newEntry(body, settings), kept: keepPictures(seen.shown) };
    await stream(entry, { ...body, study_settings: settings }, signal, {
      start: ({ images }) => answer.status(`Looking at ${count(images.count, "picture")}…`),
      token: (text) => answer.stream(text),
      answer: (reply) => (entry.reply = reply),
    });
  });
  if (!isDone || !entry?.reply) return;
  entry.pictures = await entry.kept;
  history.add(entry);
  open(entry);
  answer.bringIntoView();
}

/** Tell what is missing or not accepted, and bring its field into sight, also out of a closed section. */
function showFault({ message, field }) {
  answer.fail(message);
  if (!field) return;
  const section = field.closest("details");
  if (section) section.open = true;
  if (field.matches("input, select, textarea")) field.setAttribute("aria-invalid", "true");
  field.focus();
  byId("ask-error").scrollIntoView({ block: "nearest" }); // it stands below the field
}

/** What was told of an earlier try no longer holds. */
function clearFault() {
  answer.fail("");
  for (const field of byId("ask").querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

/** Ask the question of the shown answer again, with other images. */
async function look() {
  const entry = history.current;
  if (running || !entry) return;
  entry.looks = [];
  show(byId("look-hint"), false);
  beginLooks(entry.lookPath);
  await run(async (signal) => {
    const body = { ...entry.body, study_settings: entry.settings, look: LOOKS };
    await stream(entry, body, signal, {
      start: () => answer.status("Asking again…"),
      answer: (reply) => {
        const isOther = reply.answer !== entry.reply.answer;
        entry.reply = reply;
        if (isOther) answer.render(reply, entry.target);
        answer.status("Answered; asking with other images…");
      },
      look: (one) => {
        entry.looks.push(one);
        renderLook(one, entry.reply);
      },
    });
  });
  if (entry.looks.length) answer.status("Answered, also with other images");
  byId("look-summary").textContent = summarize(entry.looks, entry.reply);
  byId("look-button").textContent = "Ask again";
  if (!entry.looks.length) renderLooks([], entry.reply);
  history.touch();
}

/** Run one request at a time; whether it came to its end. Tells waits and faults. */
async function run(action) {
  running = new AbortController();
  const { signal } = running;
  setBusy(true);
  byId("look-button").disabled = true;
  answer.fail("");
  try {
    await action(signal);
    return true;
  } catch (error) {
    const isStopped = signal.aborted;
    answer.end(isStopped ? "Stopped" : "Not answered");
    if (!isStopped) answer.fail(wordsOf(error));
    return false;
  } finally {
    running = null;
    setBusy(false);
    byId("look-button").disabled = false;
  }
}

/** One question and its events; begins anew where the server is busy or goes away. */
async function stream(entry, body, signal, on) {
  await patiently(
    async () => {
      let text = "";
      const reply = await uploads.using((upload) => postJson("/v1/answer", { ...body, upload }, { signal }));
      for await (const { event, data } of readEvents(reply)) {
        if (event === "error") throw new Refused(data.error.message, { status: STATUS[data.error.code] ?? 500, code: data.error.code });
        if (event === "token") on.token?.((text += data.text));
        else on[event]?.(data);
      }
    },
    {
      signal,
      onWait: (seconds, error) => {
        if (error === null) answer.status("Asking again…");
        else if (seconds) answer.status(`The server is busy: asks again in ${seconds} s`);
        else answer.status("The server is away: asks again when it is back");
      },
    },
  );
}

function wordsOf(error) {
  if (error instanceof Refused && error.status === 401) {
    show(byId("key-form"));
    return "The server asks for an API key: enter it above.";
  }
  return error.message;
}

function newEntry(body, settings) {
  const [first] = seen.shown;
  const isExample = example && body.question === example.question && uploads.reply?.target === example.target;
  return {
    time: new Date(),
    body: { ...body },
    settings,
    generation: uploads.generation,
    target: isExample && JSON.stringify(body.choices) === JSON.stringify(example.choices) ? example.target : null,
    pictures: [],
    numPictures: seen.shown.length,
    lookPath: first ? lookPathOf(first) : null,
    reply: null,
    looks: [],
  };
}

/** From a look to the path of what it shows in place of a picture, with the settings of now. */
function lookPathOf(picture) {
  const ends = Object.fromEntries(LOOKS.map((look) => [look, seen.endOf(picture, { look })]));
  return (look) => `/v1/uploads/${uploads.id}/${ends[look]}`;
}

/** The pictures of an answer, small enough to be kept. */
async function keepPictures(shown) {
  const kept = shown.slice(0, MOST_KEPT).map(async (picture) => {
    const { bitmap } = await pictures.load(seen.pathOf(picture));
    const { url, isReduced } = await toDataUrl(bitmap, KEPT_SIDE);
    const { width, height, digest, slice, of, marks } = picture;
    return { width, height, digest, slice, of, marks, url, isReduced };
  });
  return (await Promise.allSettled(kept)).filter((one) => one.status === "fulfilled").map((one) => one.value);
}

/** Show an answer of the history. */
function open(entry) {
  history.current = entry;
  answer.begin(entry.body.question);
  answer.render(entry.reply, entry.target);
  renderLooks(entry.looks, entry.reply, entry.lookPath);
  const isHere = entry.generation === uploads.generation;
  show(byId("look-button"), isHere);
  tell(byId("look-hint"), entry.looks.length ? "" : isHere ? "The same question with the image blanked, swapped for another one, and mirrored." : "The image of this answer is no longer open.");
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
byId("ask").addEventListener("input", clearFault);
byId("ask").querySelector(".options").addEventListener("click", (event) => event.target.closest("button") && clearFault()); // an option more, or less
byId("stop").addEventListener("click", () => running?.abort());
byId("look-button").addEventListener("click", look);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  } else if (event.key === "Escape" && running && !byId("help").open) {
    running.abort();
  }
});
history.addEventListener("open", ({ detail: entry }) => {
  if (!running) open(entry);
});
uploads.addEventListener("change", () => {
  running?.abort();
  clearFault();
  if (!history.current) return;
  history.current = null; // it is about other images
  show(byId("answer"), false);
});
connection.addEventListener("back", () => running || answer.fail(""));
