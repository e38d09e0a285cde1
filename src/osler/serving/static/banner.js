// The banner above everything: the server is gone, and when it is tried again; it is back.

import { connection } from "./api.js";
import { byId, show } from "./dom.js";

const banner = byId("banner");
const action = byId("banner-action");
let timer = 0;

function say(text, kind, button = "") {
  clearTimeout(timer);
  if (byId("banner-text").textContent !== text) byId("banner-text").textContent = text;
  banner.dataset.kind = kind;
  action.textContent = button;
  show(action, Boolean(button));
  show(banner);
}

connection.addEventListener("gone", () => say("The server does not answer. Your question is kept.", "gone", "Try now"));
connection.addEventListener("waiting", ({ detail: seconds }) => {
  action.textContent = `Try now (${seconds} s)`;
});
connection.addEventListener("back", () => {
  say("The server is back.", "back");
  timer = setTimeout(() => show(banner, false), 4000);
});
action.addEventListener("click", () => connection.hurry());
