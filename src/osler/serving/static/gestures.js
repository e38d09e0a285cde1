// Mouse, fingers and keys on the viewer's stage.

import { byId, press } from "./dom.js";

const LEVEL_PER_PIXEL = 1 / 250; // of the width
const MOVE_STEP = 40; // CSS pixels
const LEVEL_STEP = 0.05;
const WHEEL_STEP = 40; // of the wheel's delta, for one slice

let tool = "window";
let isChosen = false; // a finger scrolls the page until a tool is chosen

/** Let the stage move the viewer. */
export function addGestures(viewer, stage) {
  const choose = (name) => {
    tool = name;
    isChosen = true;
    stage.classList.add("holds-touch");
    press(byId("tool-window"), name === "window");
    press(byId("tool-move"), name === "move");
  };
  byId("tool-window").addEventListener("click", () => choose("window"));
  byId("tool-move").addEventListener("click", () => choose("move"));
  addPointers(viewer, stage);
  addWheel(viewer, stage);
  stage.addEventListener("keydown", (event) => {
    if (viewer.image && !event.altKey && !event.metaKey && onKey(viewer, event)) event.preventDefault();
  });
  stage.addEventListener("dblclick", () => viewer.fit());
}

function addPointers(viewer, stage) {
  const pointers = new Map();
  let pinch = null;
  let hasWindowed = false;

  stage.addEventListener("pointerdown", (event) => {
    if (!viewer.image || event.button > 0) return;
    stage.focus({ preventScroll: true });
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (event.pointerType !== "touch" || isChosen || viewer.zoom > 1 || pointers.size > 1) stage.setPointerCapture(event.pointerId);
    pinch = pointers.size === 2 ? { distance: spread(pointers), zoom: viewer.zoom } : null;
  });

  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = { x: event.clientX, y: event.clientY };
    pointers.set(event.pointerId, now);
    const [x, y] = [now.x - before.x, now.y - before.y];
    if (pinch && pointers.size === 2) {
      viewer.setZoom((pinch.zoom * spread(pointers)) / Math.max(1, pinch.distance), centre(pointers, stage));
      viewer.pan(x / 2, y / 2);
    } else if (event.pointerType === "touch" && !isChosen && viewer.zoom === 1) {
      return;
    } else if (tool === "window" && viewer.image?.windows.length && !event.ctrlKey && (isChosen || event.pointerType !== "touch")) {
      if (!viewer.level) return;
      const width = Math.max(viewer.level.width * (1 + x * LEVEL_PER_PIXEL * 2), 1e-6);
      viewer.setWindow({ center: viewer.level.center + y * LEVEL_PER_PIXEL * viewer.level.width, width }, { isFinal: false });
      hasWindowed = true;
    } else {
      viewer.pan(x, y);
    }
  });

  const end = (event) => {
    pointers.delete(event.pointerId);
    pinch = null;
    if (hasWindowed) viewer.dispatchEvent(new CustomEvent("view"));
    hasWindowed = false;
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
}

function addWheel(viewer, stage) {
  let turned = 0;
  stage.addEventListener(
    "wheel",
    (event) => {
      if (!viewer.image) return;
      if (event.ctrlKey) {
        const box = stage.getBoundingClientRect();
        const around = { x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2 };
        viewer.setZoom(viewer.zoom * Math.exp(-event.deltaY / 300), around);
      } else if (viewer.image.num_slices > 1) {
        turned += event.deltaMode ? event.deltaY * WHEEL_STEP : event.deltaY;
        const steps = Math.trunc(turned / WHEEL_STEP);
        turned -= steps * WHEEL_STEP;
        viewer.moveTo(viewer.index + steps);
      } else {
        return; // the page scrolls
      }
      event.preventDefault();
    },
    { passive: false },
  );
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Whether a key meant the viewer. */
function onKey(viewer, event) {
  const arrow = ARROWS[event.key];
  if (arrow) {
    const [x, y] = arrow;
    if (event.ctrlKey) viewer.pan(-x * MOVE_STEP, -y * MOVE_STEP);
    else if (event.shiftKey) viewer.shiftLevel(-y * LEVEL_STEP, x * LEVEL_STEP * 2);
    else viewer.moveTo(viewer.index + x + y);
    return true;
  }
  if (event.ctrlKey) return false;
  const actions = {
    PageUp: () => viewer.moveTo(viewer.index - 10),
    PageDown: () => viewer.moveTo(viewer.index + 10),
    Home: () => viewer.moveTo(0),
    End: () => viewer.moveTo(viewer.image.num_slices - 1),
    "+": () => viewer.setZoom(viewer.zoom * 1.25),
    "=": () => viewer.setZoom(viewer.zoom * 1.25),
    "-": () => viewer.setZoom(viewer.zoom / 1.25),
    0: () => viewer.fit(),
    "[": () => viewer.stepWindow(-1),
    "]": () => viewer.stepWindow(1),
    m: () => byId("toggle-slice").click(),
    M: () => byId("toggle-slice").click(),
  };
  actions[event.key]?.();
  return event.key in actions;
}

function spread(pointers) {
  const [one, other] = [...pointers.values()];
  return Math.hypot(one.x - other.x, one.y - other.y);
}

function centre(pointers, stage) {
  const [one, other] = [...pointers.values()];
  const box = stage.getBoundingClientRect();
  return { x: (one.x + other.x) / 2 - box.left - box.width / 2, y: (one.y + other.y) / 2 - box.top - box.height / 2 };
}
