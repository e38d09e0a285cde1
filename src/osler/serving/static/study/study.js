// The page of one reader: asks where the reader stands, shows the open case, measures how long it is visible, and saves the answer.

const base = location.pathname.replace(/\/+$/, "");
const token = base.split("/").pop();
const find = (id) => document.getElementById(id);
const FIRST_PAUSE = 1; // seconds until a failed step is tried again; doubles with each failure in a row
const LONGEST_PAUSE = 30;
const SCREENS = ["intro", "case", "paused", "waiting", "finished"];

const PARTS = {
  without_image: {
    title: "Questions without images",
    text: "These questions are about images that you do not see in this part, on purpose. Choose what you think most likely.",
  },
  unaided: { title: "Questions with images", text: "Look at the images and answer the question below them. A click enlarges an image." },
  with_model: {
    title: "Questions with a model's answer",
    text: "The same questions again, in another order. You also see what a model answered. Decide yourself whether to follow it.",
  },
};

/** The time that a case was visible, kept over a reload of the page. */
class Clock {
  #seconds = 0;
  #since = null;
  #key = null;

  open(position) {
    this.#key = `osler-study/${token}/${position}`;
    this.#seconds = Number(sessionStorage.getItem(this.#key)) || 0;
    this.#since = null;
    this.update(true);
  }

  /** Runs only where a case is open and this page can be seen. */
  update(isShown) {
    const isRunning = this.#key !== null && isShown && document.visibilityState === "visible";
    if (this.#since !== null) this.#seconds += (performance.now() - this.#since) / 1000;
    this.#since = isRunning ? performance.now() : null;
    if (this.#key !== null) sessionStorage.setItem(this.#key, String(this.#seconds));
  }

  read() {
    this.update(true);
    return Math.round(this.#seconds * 1000) / 1000;
  }

  close() {
    if (this.#key !== null) sessionStorage.removeItem(this.#key);
    this.#key = null;
    this.#since = null;
  }
}

const clock = new Clock();
let current = null; // the open case
let state = null;
let confirmed = null; // the answer that is being saved; it is sent as it was confirmed, however often
let isBusy = false;
let retry = null;
let retryTimer = 0;
let pause = FIRST_PAUSE;

class Refused extends Error {
  constructor(status, message, { isPassing = false } = {}) {
    super(message);
    this.status = status;
    this.isPassing = isPassing; // of a server that is away or busy: the same request may succeed later
  }
}

async function call(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let reply;
  try {
    reply = await fetch(`${base}/${path}`, { ...options, cache: "no-store" });
  } catch {
    throw new Refused(0, "The server cannot be reached.", { isPassing: true });
  }
  const content = await reply.json().catch(() => ({}));
  const isPassing = reply.status === 429 || reply.status >= 500;
  if (!reply.ok) throw new Refused(reply.status, content.error?.message ?? `The server replied with ${reply.status}.`, { isPassing });
  return content;
}

/** Runs one step at a time, and then the step that it gives. A failure is shown with a button that tries the failed step again. Where it may
 * pass, the page also tries by itself. */
async function attempt(step) {
  if (isBusy) return;
  isBusy = true;
  clearTimeout(retryTimer);
  try {
    for (let next = step; next; pause = FIRST_PAUSE) {
      retry = next;
      next = await next();
    }
    find("trouble").hidden = true;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 409) retry = load;
    if (!error.isPassing) confirmed = null; // it may be changed
    tellTrouble(error);
  } finally {
    isBusy = false;
    lockAnswer(current === null || confirmed !== null);
  }
}

function tellTrouble(error) {
  const kept = confirmed === null ? "" : " Your answer is not saved yet. It is kept here while this page is open.";
  const again = error.isPassing ? ` This page tries again by itself, next in ${pause} second${pause === 1 ? "" : "s"}.` : "";
  find("trouble-text").textContent = `${error.message}${kept}${again}`;
  if (find("trouble").hidden) {
    find("trouble").hidden = false;
    find("trouble").scrollIntoView({ block: "nearest" });
  }
  if (!error.isPassing) return;
  retryTimer = setTimeout(() => attempt(retry), pause * 1000);
  pause = Math.min(pause * 2, LONGEST_PAUSE);
}

/** A confirmed answer that is not saved yet cannot be changed, as the server may have it already. */
function lockAnswer(isLocked) {
  for (const control of find("form").elements) control.disabled = isLocked;
}

function show(name) {
  for (const screen of SCREENS) find(screen).hidden = screen !== name;
  find("progress").hidden = state === null;
  clock.update(name === "case");
  const title = find(name).querySelector("h1");
  title.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function showState(next) {
  state = next;
  find("reader").textContent = next.reader;
  find("reader-name").textContent = next.reader;
  find("bar").max = next.total;
  find("bar").value = next.done;
  find("count").textContent = `${next.done} of ${next.total} answered`;
}

/** Where the reader stands: the introduction of a part, a wait, or the end. */
function showPlace() {
  if (state.phase === "finished") return show("finished");
  if (state.phase === "waiting") {
    find("opens").textContent = `on ${new Date(state.opens).toLocaleString("en-GB", { dateStyle: "long", timeStyle: "short" })}`;
    return show("waiting");
  }
  const { name, number, of, done, total } = state.part;
  find("intro-title").textContent = of > 1 ? `Part ${number} of ${of}: ${PARTS[name].title}` : PARTS[name].title;
  find("intro-text").textContent = `${PARTS[name].text} This part has ${total} case${total === 1 ? "" : "s"}${done ? `, of which ${done} are answered` : ""}.`;
  find("begin").textContent = state.done ? "Continue" : "Begin";
  find("rules").open = state.done === 0;
  return show("intro");
}

async function load() {
  current = null;
  confirmed = null;
  clock.close();
  showState(await call("state"));
  showPlace();
}

async function openCase() {
  const opened = await call("case", {});
  const pictures = await loadPictures(opened);
  current = opened;
  fill(opened, pictures);
  show("case");
  clock.open(opened.position);
  find("status").textContent = `Case ${state.done + 1} of ${state.total}.`;
}

/** The pictures of a case, complete, so that the time of a slow network does not count. */
async function loadPictures(opened) {
  const images = Array.from({ length: opened.pictures }, (_, number) => {
    const image = new Image();
    image.alt = opened.pictures === 1 ? "The image of the question" : `Image ${number + 1} of ${opened.pictures}`;
    image.src = `${base}/pictures/${opened.position}/${number}.png`;
    return image;
  });
  try {
    await Promise.all(images.map((image) => image.decode()));
  } catch {
    throw new Refused(0, "A picture of this case did not arrive.");
  }
  return images;
}

function fill(opened, pictures) {
  find("question").textContent = opened.question;
  find("context").textContent = opened.context ?? "";
  find("case").classList.toggle("blind", pictures.length === 0);
  find("without").hidden = opened.part !== "without_image";
  find("pictures").classList.toggle("one", pictures.length === 1);
  find("pictures").replaceChildren(...pictures.map(frame));
  find("options").replaceChildren(...opened.choices.map(option));
  find("choices").hidden = opened.choices.length === 0;
  find("open").hidden = opened.choices.length > 0;
  find("text").value = "";
  find("comment").value = "";
  find("more").open = false;
  fillModel(opened.model);
  updateConfirm();
}

function frame(image, number, all) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(image);
  if (all.length > 1) {
    const caption = document.createElement("span");
    caption.textContent = `${number + 1} of ${all.length}`;
    caption.setAttribute("aria-hidden", "true");
    button.append(caption);
  }
  button.setAttribute("aria-label", `${image.alt}, enlarge`);
  button.addEventListener("click", () => {
    find("large-picture").src = image.src;
    find("large-picture").alt = image.alt;
    find("large").showModal();
  });
  return button;
}

function option({ letter, text }) {
  const label = document.createElement("label");
  label.className = "option";
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "answer", value: letter });
  const name = Object.assign(document.createElement("b"), { textContent: letter });
  const words = Object.assign(document.createElement("span"), { textContent: text });
  label.append(input, name, words);
  input.addEventListener("change", updateConfirm);
  return label;
}

function fillModel(model) {
  find("model").hidden = model === null;
  if (model === null) return;
  const said = model.text === null ? "It gave no answer that can be read." : model.answer ? `${model.answer}  ${model.text}` : model.text;
  find("model-answer").textContent = said;
  find("model-reasoning").textContent = model.reasoning ?? "";
}

function chosen() {
  if (current === null) return "";
  if (current.choices.length === 0) return find("text").value.trim();
  return find("options").querySelector("input:checked")?.value ?? "";
}

function updateConfirm() {
  find("confirm").setAttribute("aria-disabled", String(chosen() === ""));
}

async function confirm() {
  const answer = chosen();
  if (answer === "") {
    find("status").textContent = "Choose an answer first.";
    return null;
  }
  const { position } = current;
  const part = state.part.name;
  confirmed ??= { position, answer, comment: find("comment").value.trim(), seconds: clock.read() };
  lockAnswer(true);
  const next = await call("answers", confirmed);
  confirmed = null;
  clock.close();
  current = null;
  showState(next);
  if (next.phase === "open" && next.part.name === part) return openCase;
  showPlace();
  return null;
}

/** Confirm the answer; where it is saved and the next case did not arrive, ask for that case. */
function proceed() {
  return attempt(current === null ? openCase : confirm);
}

function onKey(event) {
  if (find("case").hidden || find("large").open || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const isWriting = event.target.matches?.("textarea, input[type=text]");
  const isControl = event.target.matches?.("button, summary, textarea");
  if (event.key === "Enter" && !isControl) {
    event.preventDefault();
    proceed();
  } else if (!isWriting && find("letters").checked && /^[a-z]$/i.test(event.key)) {
    const input = find("options").querySelector(`input[value="${event.key.toUpperCase()}"]`);
    if (input === null || input.disabled) return;
    event.preventDefault();
    input.checked = true;
    input.focus();
    updateConfirm();
  }
}

find("begin").addEventListener("click", () => attempt(openCase));
find("form").addEventListener("submit", (event) => {
  event.preventDefault();
  proceed();
});
find("text").addEventListener("input", updateConfirm);
find("pause").addEventListener("click", () => show("paused"));
find("resume").addEventListener("click", () => show("case"));
find("again").addEventListener("click", () => attempt(retry));
find("close").addEventListener("click", () => find("large").close());
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => clock.update(!find("case").hidden));
window.addEventListener("pagehide", () => clock.update(false));
attempt(load);
