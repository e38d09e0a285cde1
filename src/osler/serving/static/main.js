// The page's beginning: what the server is, the key where it asks for one, and a drawn example at the first visit.

import "./theme.js";
import "./banner.js";
import "./export.js";
import { getJson, patiently, Refused, setKey } from "./api.js";
import { setExample } from "./ask.js";
import { byId, show, tell } from "./dom.js";
import { clearExample, fillExample, setOptions, setUpForm } from "./form.js";
import { seen } from "./seen.js";
import { uploads } from "./uploads.js";

const VISITED = "osler-visited";

async function begin() {
  let about;
  try {
    about = await patiently(() => getJson("/v1/about"));
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 401) throw error;
    show(byId("key-form"));
    byId("key").focus();
    return;
  }
  show(byId("key-form"), false);
  tell(byId("policy"), about.policy ?? "");
  byId("policy").title = about.fingerprint ? `Fingerprint ${about.fingerprint}` : "";
  byId("foot-disclaimer").textContent = about.disclaimer;
  byId("disclaimer").textContent = about.disclaimer.replace(/\.$/, "");
  setUpForm(about);
  seen.reset(about.study.choice === "information" ? "information" : "even", about.study.slices);
  byId("layout").value = about.study.layout;
  uploads.maxBytes = about.max_bytes;
  show(byId("keeps"), about.keeps_answers);
  document.documentElement.dataset.ready = "true";
  if (isFirstVisit()) uploads.send({ example: "picture" });
}

function isFirstVisit() {
  try {
    const isFirst = localStorage.getItem(VISITED) === null;
    localStorage.setItem(VISITED, "yes");
    return isFirst;
  } catch {
    return true;
  }
}

uploads.addEventListener("change", ({ detail: example }) => {
  setExample(example);
  if (example) fillExample(example);
  else if (uploads.id) clearExample();
  seen.reset("even");
  seen.refresh();
});

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value.trim());
  byId("key").value = "";
  begin();
});

// The image stays in sight beside a long answer; of a card that is higher than the window its lower end does.
const card = byId("viewer");
function stick() {
  const top = Math.min(70, innerHeight - card.offsetHeight - 16);
  card.style.setProperty("--sticky-top", `${top}px`);
}
new ResizeObserver(stick).observe(card);
addEventListener("resize", stick);

const help = byId("help");
byId("help-open").addEventListener("click", () => help.showModal());
byId("help-close").addEventListener("click", () => help.close());
help.addEventListener("click", (event) => event.target === help && help.close());

setOptions(["", ""]);
begin();
