// Light and dark: as the system says, until the button is pressed. The choice is kept in the browser; nothing else is.

import { byId, press } from "./dom.js";

const NAME = "osler-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function remembered() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null; // a browser may forbid it
  }
}

function apply() {
  const chosen = remembered();
  if (chosen) document.documentElement.dataset.theme = chosen;
  press(byId("theme"), (chosen ?? (system.matches ? "dark" : "light")) === "dark");
}

byId("theme").addEventListener("click", () => {
  const isDark = byId("theme").getAttribute("aria-pressed") === "true";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  try {
    localStorage.setItem(NAME, isDark ? "light" : "dark");
  } catch {
    // kept for this page only
  }
  press(byId("theme"), !isDark);
});
system.addEventListener("change", apply);
apply();
