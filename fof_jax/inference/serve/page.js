"use strict";
const at = (id) => document.getElementById(id);
let shown = null; // file whose grade is shown
let latest = 0; // number of the latest request; older ones are dropped
let maxBytes = Infinity;
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function setStatus(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

async function grade(file, target = "") {
  const number = ++latest;
  setStatus(`Grading ${file.name} …`);
  try {
    if (file.size > maxBytes) {
      throw new Error(`more than ${maxBytes.toLocaleString("en")} bytes; choose a smaller file`);
    }
    const query = target ? `?target=${encodeURIComponent(target)}` : "";
    const send = () => fetch(`grade${query}`, { method: "POST", body: file });
    let response = await send();
    for (let tries = 0; response.status === 503 && tries < 10; tries++) {
      setStatus(`${file.name}: waiting in the queue …`);
      await sleep(Number(response.headers.get("Retry-After")) || 2);
      if (number !== latest) return;
      response = await send();
    }
    const result = await response.json().catch(() => ({ error: response.statusText }));
    if (number !== latest) return;
    if (!response.ok) throw new Error(result.error || response.statusText);
    show(file, result);
    setStatus("");
  } catch (error) {
    if (number !== latest) return;
    if (file !== shown) at("result").hidden = true;
    setStatus(`${file.name}: ${error.message}`, true);
  }
}

function show(file, result) {
  shown = file;
  at("grade").textContent = `${file.name}: grade ${result.pred}`;
  at("rows").replaceChildren(...result.classes.map((name, k) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    const value = document.createElement("td");
    value.textContent = `${result.prob[k].toFixed(3)} ± ${result.spread[k].toFixed(3)}`;
    value.dataset.value = result.prob[k];
    const cell = document.createElement("td");
    const bar = document.createElement("meter");
    bar.value = result.prob[k];
    bar.setAttribute("aria-label", `probability of ${name}`);
    cell.append(bar);
    row.append(head, value, cell);
    return row;
  }));
  at("result").hidden = false;
  if (!result.overlay) return; // no gradients
  at("target").value = result.target;
  at("overlay").src = result.overlay;
  at("overlay").alt = `Class activation map of ${result.target}`;
  at("patches").src = result.patches;
  at("patches").alt = `Patches kept by M for ${result.target}`;
  at("kept").textContent = `Patches kept by M, Eq. (2): ${(100 * result.kept).toFixed(1)}%`;
}

at("file").addEventListener("change", (event) => {
  if (event.target.files.length) grade(event.target.files[0]);
});
at("target").addEventListener("change", (event) => {
  if (shown) grade(shown, event.target.value);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      grade(event.dataTransfer.files[0]);
    }
  });
}
fetch("about").then((response) => response.json()).then((model) => {
  const folds = model.folds === 1 ? "one fold" : `${model.folds} folds`;
  at("model").textContent =
    `${model.method}, ${model.encoder} at ${model.image_size} px, ${folds} trained on ${model.data}`;
  at("card").textContent = model.card;
  maxBytes = model.max_bytes;
  at("limits").textContent =
    `PNG, JPEG or TIFF, 8 bits per channel, up to ${model.max_pixels.toLocaleString("en")} pixels`;
  at("map").hidden = !model.explains;
  at("no-map").hidden = model.explains;
  at("target").replaceChildren(...model.classes.map((name) => new Option(name, name)));
}).catch(() => setStatus("The server does not respond.", true));
