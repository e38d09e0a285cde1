// The answers of this session. They are in memory only: nothing is stored in the browser.

import { verdictText } from "./answer.js";
import { byId, make, show } from "./dom.js";
import { fillForm } from "./form.js";

/** Events: "open" with an entry in `detail`. */
class History extends EventTarget {
  entries = [];
  #current = null;

  get current() {
    return this.#current;
  }

  set current(entry) {
    this.#current = entry;
    this.touch();
  }

  add(entry) {
    this.entries.unshift(entry);
    this.current = entry;
  }

  clear() {
    this.entries = [];
    this.current = null;
    show(byId("answer"), false);
    byId("question").focus();
  }

  /** Draw the list anew. */
  touch() {
    show(byId("history"), this.entries.length > 0);
    byId("history-list").replaceChildren(...this.entries.map((entry) => this.#row(entry)));
  }

  #row(entry) {
    const picture = entry.pictures[0];
    const isCurrent = entry === this.#current;
    const open = () => {
      fillForm(entry.body);
      this.dispatchEvent(new CustomEvent("open", { detail: entry }));
    };
    return make(
      "li",
      {},
      make(
        "button",
        { type: "button", className: "past", "aria-current": isCurrent ? "true" : null, on: { click: open } },
        picture ? make("img", { src: picture.url, alt: "", width: 44, height: 44 }) : null,
        make(
          "span",
          { className: "past-text" },
          make("span", { className: "past-question", text: entry.body.question }),
          make("span", { className: "hint", text: `${verdictText(entry.reply)} ${timeOf(entry.time)}` }),
        ),
      ),
    );
  }
}

function timeOf(time) {
  return time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

export const history = new History();
byId("history-clear").addEventListener("click", () => history.clear());
