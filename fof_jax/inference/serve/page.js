"use strict";
// Sends files and slides one by one, and keeps their results. results.js shows them.
const MAX_FILES = 100; // whose results and pictures the page keeps
let items = []; // {name, file or slide, result, error, open}
let shown = null; // item whose result is shown
let latest = 0; // number of the latest choice of files; older ones are dropped
let maxBytes = Infinity;
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function setStatus(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

function send(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
  return fetch(path, { ...options, headers });
}

function requestOf(item, target) {
  if (item.slide) {
    return send("slide", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ path: item.slide, mpp: item.mpp }),
    });
  }
  const query = new URLSearchParams({ name: item.name });
  if (target) query.set("target", target);
  return send(`grade?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: item.file,
  });
}

// Grades an item; true unless newer files were chosen meanwhile.
async function grade(item, target = "") {
  const number = latest;
  const place = items.length > 1 ? ` (${items.indexOf(item) + 1} of ${items.length})` : "";
  setStatus(`Grading ${item.name}${place} \u2026 A slide or a large image takes minutes.`);
  try {
    if (item.file && item.file.size > maxBytes) {
      throw new Error(`more than ${maxBytes.toLocaleString("en")} bytes; choose a smaller file`);
    }
    let response = await requestOf(item, target);
    for (let tries = 0; response.status === 503 && tries < 10; tries++) {
      setStatus(`${item.name}: waiting in the queue \u2026`);
      await sleep(Number(response.headers.get("Retry-After")) || 2);
      if (number !== latest) return false;
      response = await requestOf(item, target);
    }
    const result = await response.json().catch(() => ({ error: response.statusText }));
    if (number !== latest) return false;
    if (!response.ok) throw new Error(result.error || response.statusText);
    item.result = result;
    item.error = "";
    setStatus("");
  } catch (error) {
    if (number !== latest) return false;
    if (!item.result) item.error = error.message;
    setStatus(`${item.name}: ${error.message}`, true);
  }
  return true;
}

function open(item) {
  shown = item;
  showResult(item.result);
  showList(items, shown);
}

async function gradeAll(chosen) {
  latest += 1;
  items = chosen.slice(0, MAX_FILES);
  shown = null;
  at("result").hidden = true;
  for (const item of items) item.open = () => open(item);
  showList(items, shown);
  for (const item of items) {
    if (!await grade(item)) return;
    if (item.result && !shown) open(item);
    showList(items, shown);
  }
  const failed = items.filter((item) => item.error);
  if (chosen.length > MAX_FILES) {
    setStatus(`Only the first ${MAX_FILES} of ${chosen.length} files; for more use predict.`, true);
  } else if (items.length > 1) {
    setStatus(`${items.length - failed.length} of ${items.length} files graded.`, failed.length > 0);
  }
}

const gradeFiles = (files) => gradeAll([...files].map((file) => ({ name: file.name, file })));

at("file").addEventListener("change", (event) => {
  if (event.target.files.length) gradeFiles(event.target.files);
});
at("target").addEventListener("change", async (event) => {
  const item = shown;
  if (item && await grade(item, event.target.value) && item === shown) open(item);
});
at("csv").addEventListener("click", () => save("predictions.csv", "text/csv", tableOf(items)));
at("slides").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("slide").value;
  const mpp = at("mpp").value ? Number(at("mpp").value) : null;
  gradeAll([{ name, slide: name, mpp }]);
});
at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", at("token").value);
  start();
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      gradeFiles(event.dataTransfer.files);
    }
  });
}

async function start() {
  try {
    const response = await send("about");
    const refused = response.status === 401;
    at("access").hidden = !refused;
    at("drop").hidden = refused;
    if (refused) {
      setStatus(sessionStorage.getItem("token") ? "This is not the token." : "", true);
      return;
    }
    setStatus("");
    describe(await response.json());
  } catch {
    setStatus("The server does not respond.", true);
  }
}

async function describe(model) {
  folds = model.folds;
  explains = model.explains;
  columns = model.columns;
  maxBytes = model.max_bytes;
  const ensemble = folds === 1 ? "one model" : `${folds} models, averaged,`;
  at("model").textContent = `${ensemble} of the method ${model.method} (${model.encoder} at ` +
    `${model.image_size} px), trained on ${model.data}`;
  at("meaning").textContent = folds === 1
    ? "Probability of each grade"
    : `Probability of each grade: mean of ${folds} models \u00b1 how much they differ (standard deviation)`;
  at("synthetic").hidden = !model.synthetic;
  at("card").textContent = model.card;
  at("limits").textContent =
    `PNG, JPEG or TIFF, 8 bits per channel, up to ${model.max_pixels.toLocaleString("en")} pixels`;
  at("target").replaceChildren(...model.classes.map((name) => new Option(name, name)));
  if (!model.slides) return;
  const { slides } = await (await send("slides")).json();
  at("slide").replaceChildren(...slides.map((name) => new Option(name, name)));
  at("slides").hidden = false;
  if (!slides.length) setStatus("The server's folder has no slides.");
}
start();
