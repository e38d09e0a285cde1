// An answer to take away: as JSON for the clipboard, as one HTML page that needs nothing else. Names of files are in neither.

import { answerOf, verdictText } from "./answer.js";
import { byId, make, percent } from "./dom.js";
import { history } from "./history.js";
import { summarize } from "./look.js";

const DISCLAIMER = "Research tool, not for clinical use.";
const STYLE = `
:root { color-scheme: light dark; --ink: #16202b; --soft: #4d5a68; --line: #d5dce3; --paper: #fff; --fill: #0b6b73; --wash: #eef3f5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8edf2; --soft: #a9b6c2; --line: #33404c; --paper: #141b22; --fill: #55c1c4; --wash: #1d2730; } }
body { margin: 2rem auto; max-width: 46rem; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
h1 { font-size: 1.35rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.warning { border: 1px solid currentColor; border-radius: .5rem; padding: .5rem .8rem; font-weight: 600; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .8rem; padding: 0; list-style: none; }
.pictures li:only-child { max-width: 22rem; grid-column: 1 / -1; }
.pictures img { display: block; width: 100%; height: auto; background: #000; border-radius: .35rem; }
.soft, figcaption, dt { color: var(--soft); font-size: .875rem; }
.option { display: grid; grid-template-columns: 2rem 1fr auto; gap: .1rem .6rem; margin: .5rem 0; }
progress { grid-column: 2 / -1; width: 100%; height: .55rem; accent-color: var(--fill); }
.chosen { font-weight: 650; } figure { margin: 0; } dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; }
dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; } .text { white-space: pre-wrap; }`;

/** Everything about an answer but the pixels. */
export function toJson(entry) {
  const { stream: _, ...asked } = entry.body;
  return {
    tool: "osler",
    disclaimer: DISCLAIMER,
    time: entry.time.toISOString(),
    asked: { ...asked, study_settings: entry.settings },
    pictures: entry.pictures.map(({ width, height, digest, slice }) => ({ width, height, digest, slice })),
    answer: { ...entry.reply, look: entry.looks },
    known_answer: entry.target,
  };
}

/** The page of an answer as text. It is built from nodes, so every text in it is escaped. */
export function toPage(entry) {
  const page = document.implementation.createHTMLDocument(`Osler: ${entry.body.question}`);
  page.documentElement.lang = "en";
  const policy = page.createElement("meta");
  policy.httpEquiv = "Content-Security-Policy";
  policy.content = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
  const charset = page.createElement("meta");
  charset.setAttribute("charset", "utf-8");
  const viewport = page.createElement("meta");
  viewport.name = "viewport";
  viewport.content = "width=device-width, initial-scale=1";
  page.head.prepend(charset, policy, viewport);
  page.body.append(page.adoptNode(bodyOf(entry)));
  const html = page.documentElement.outerHTML; // the policy of this page forbids a style element here, so the text gets it
  return `<!doctype html>\n${html.replace("</head>", () => `<style>${STYLE}\n</style></head>`)}\n`;
}

function bodyOf(entry) {
  const { reply } = entry;
  const context = Object.entries(entry.body.context ?? {});
  const section = (title, ...children) => make("section", {}, make("h2", { text: title }), ...children);
  return make(
    "main",
    {},
    make("h1", { text: entry.body.question }),
    make("p", { className: "warning", text: `${DISCLAIMER} Answers may be wrong, also when they sound sure.` }),
    make("p", { className: "soft", text: `${reply.policy.name}, ${entry.time.toLocaleString()}` }),
    section("What the model saw", picturesOf(entry)),
    context.length ? section("Patient context", listOf(context.map(([name, value]) => [name.replaceAll("_", " "), value]))) : null,
    section("Answer", make("p", { className: "chosen", text: verdictText(reply) }), ...reply.choices.map((choice) => optionOf(choice, reply))),
    entry.target ? make("p", { text: `Drawn example: the right answer is ${entry.target}.` }) : null,
    reply.reasoning ? section("Reasoning", make("p", { className: "text", text: reply.reasoning })) : null,
    entry.looks.length
      ? section("Did it look?", make("p", { className: "chosen", text: summarize(entry.looks, reply) }), make("ul", {}, ...entry.looks.map(({ sentence }) => make("li", { text: sentence }))))
      : null,
    section("Details", detailsOf(entry)),
    make("p", { className: "soft", text: "Made by Osler. The pictures are those that were sent to the model; file names are left out." }),
  );
}

function picturesOf(entry) {
  const figures = entry.pictures.map((picture, place) => {
    const words = picture.of > 1 && picture.slice !== null ? `slice ${picture.slice + 1} of ${picture.of}` : `picture ${place + 1}`;
    const sides = picture.marks ? `; edges: left ${picture.marks.left}, right ${picture.marks.right}` : "";
    const note = `${words}, ${picture.width} × ${picture.height} pixels${picture.isReduced ? ", shown smaller" : ""}${sides}`;
    return make("li", {}, make("figure", {}, make("img", { src: picture.url, alt: words }), make("figcaption", { text: note })));
  });
  const more = entry.numPictures - entry.pictures.length;
  return make("div", {}, make("ul", { className: "pictures" }, ...figures), more > 0 ? make("p", { className: "soft", text: `and ${more} more` }) : null);
}

function optionOf(choice, reply) {
  const share = reply.vote_share === null ? choice.probability : choice.votes;
  return make(
    "div",
    { className: choice.letter === answerOf(reply) ? "option chosen" : "option" },
    make("span", { text: choice.letter }),
    make("span", { text: choice.text }),
    make("span", { text: percent(share) }),
    make("progress", { max: 1, value: share ?? 0, "aria-label": `Share of ${choice.letter}` }),
  );
}

function detailsOf(entry) {
  const { reply } = entry;
  return listOf([
    ["Policy", `${reply.policy.name}, fingerprint ${reply.policy.fingerprint}`],
    ["Prompt", reply.prompt],
    ["SHA-256 of the prompt", reply.prompt_hash],
    ...entry.pictures.map((picture, place) => [`Digest of picture ${place + 1}`, picture.digest ?? "not known"]),
    ["Completion", reply.completion],
    ["Read by the rule", reply.rule],
    ["Settings", JSON.stringify(entry.settings)],
    ["Tokens", `${reply.usage.prompt_tokens} of the prompt (${reply.images.tokens} of pictures), ${reply.usage.completion_tokens} of the completion`],
  ]);
}

function listOf(rows) {
  return make("dl", {}, ...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = make("textarea", { value: text, className: "visually-hidden" }); // not every address may use the clipboard
    document.body.append(area);
    area.select();
    const isCopied = document.execCommand("copy");
    area.remove();
    return isCopied;
  }
}

byId("copy").addEventListener("click", async () => {
  const isCopied = await copy(JSON.stringify(toJson(history.current), null, 2));
  byId("taken").textContent = isCopied ? "Copied" : "The browser does not let the page copy: download it instead";
});
byId("download").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([toPage(history.current)], { type: "text/html" }));
  const stamp = history.current.time.toISOString().slice(0, 19).replaceAll(/[-:]/g, "").replace("T", "-");
  make("a", { href: url, download: `osler-${stamp}.html` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
  byId("taken").textContent = "Downloaded";
});
