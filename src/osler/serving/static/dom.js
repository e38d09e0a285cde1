// Small helpers for the document. Text is always set as text, never as HTML.

/** The element with this id; a missing one is a fault of the page. */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no element ${id}`);
  return found;
}

/** A new element: `make("li", { className: "bar", text: "B" }, child, ...)`. Attributes with a dash go to setAttribute. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name === "text") element.textContent = value;
    else if (name === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Show or hide an element, and say whether it is shown. */
export function show(element, isShown = true) {
  element.hidden = !isShown;
  return isShown;
}

/** A line of text in an element that is hidden while it is empty. */
export function tell(element, text) {
  element.textContent = text || "";
  element.hidden = !text;
}

export function press(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** "1 slice", "3 slices". */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** A share as whole percent; what is not quite all or nothing is not shown as that. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const whole = Math.round(share * 100);
  if (whole === 100 && share < 1) return "> 99 %";
  return whole === 0 && share > 0 ? "< 1 %" : `${whole} %`;
}

/** A window as the page names it: "soft tissue", "of the file". */
export function windowTitle(name) {
  if (name === "file") return "of the file";
  if (name.startsWith("file:")) return `of the file, number ${name.slice(5)}`;
  return name.replaceAll("_", " ");
}
