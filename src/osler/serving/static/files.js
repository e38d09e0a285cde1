// Files from the pickers, from a drop and from the clipboard, with the paths that tell which folder they are of.

import { byId } from "./dom.js";

const MOST_FILES = 2000;

/** [{ file, name }] of an <input type="file">. */
export function ofInput(input) {
  const found = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
  input.value = ""; // so that the same file can be chosen again
  return found;
}

/** [{ file, name }] of a drop: folders are read with everything in them. */
export async function ofDrop(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, name: file.name }));
  const found = [];
  for (const entry of entries) await walk(entry, "", found);
  return found;
}

async function walk(entry, folder, found) {
  if (found.length > MOST_FILES) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, name: folder + entry.name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // at most 100 at a time
    if (!part.length) return;
    for (const child of part) await walk(child, `${folder}${entry.name}/`, found);
  }
}

/** Why files are not sent; "" where they may be. */
export function findFault(files, maxBytes) {
  if (!files.length) return "There is no file in it: choose an image or a folder with images.";
  if (files.length > MOST_FILES) return `More than ${MOST_FILES} files: choose the folder of one series.`;
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
  if (bytes > maxBytes) return `${toMiB(bytes)} are more than the server takes (${toMiB(maxBytes)}): choose one series of it.`;
  return "";
}

function toMiB(bytes) {
  return `${Math.max(1, Math.round(bytes / 1024 ** 2))} MiB`;
}

/** Let the page take files from its buttons, from a drop anywhere, and from the clipboard. */
export function takeFiles(take) {
  for (const [button, input] of [["pick-files", "files"], ["pick-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", (event) => {
      const files = ofInput(event.target);
      if (files.length) take(files);
    });
  }
  const card = byId("viewer");
  let depth = 0;
  const mark = (isOver) => card.classList.toggle("is-over", isOver);
  document.addEventListener("dragenter", (event) => hasFiles(event) && mark((depth += 1) > 0));
  document.addEventListener("dragleave", (event) => hasFiles(event) && mark((depth = Math.max(0, depth - 1)) > 0));
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    mark(Boolean((depth = 0)));
    take(await ofDrop(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files.map((file) => ({ file, name: file.name })));
  });
}

function hasFiles(event) {
  return event.dataTransfer?.types.includes("Files");
}
