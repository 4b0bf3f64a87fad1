"use strict";
const at = (id) => document.getElementById(id);
let shown = null; // file whose grade is shown
let latest = 0; // number of the latest request; older ones are dropped
let maxBytes = Infinity;
let folds = 1; // models in the ensemble
const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function setStatus(text, error = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", error);
}

async function grade(file, target = "") {
  const number = ++latest;
  setStatus(`Grading ${file.name} … A large image takes minutes.`);
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
  const unsure = result.abstain === null ? result.uncertain : result.abstain;
  at("grade").textContent = unsure && result.abstain
    ? `${file.name}: no grade given, ${result.pred} or ${result.second}`
    : unsure ? `${file.name}: uncertain, grade ${result.pred} or ${result.second}`
    : `${file.name}: grade ${result.pred}`;
  at("uncertain").hidden = !unsure;
  at("uncertain").textContent = result.abstain
    ? "The model abstains by its rule: too many of such predictions were wrong."
    : `The two most probable grades, ${result.pred} and ` +
    `${result.second}, differ by less than ${result.min_margin.toFixed(2)} in probability.`;
  at("warning").hidden = !result.warning;
  at("warning").textContent = result.warning || "";
  at("rows").replaceChildren(...result.classes.map((name, k) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    const value = document.createElement("td");
    const spread = folds > 1 ? ` ± ${result.spread[k].toFixed(2)}` : "";
    value.textContent = `${result.prob[k].toFixed(2)}${spread}`;
    value.dataset.value = result.prob[k];
    const cell = document.createElement("td");
    const bar = document.createElement("meter");
    bar.value = result.prob[k];
    bar.setAttribute("aria-label", `probability of ${name}`);
    cell.append(bar);
    row.append(head, value, cell);
    return row;
  }));
  at("original").src = result.original;
  at("original").alt = file.name;
  at("result").hidden = false;
  if (!result.overlay) return; // no gradients
  at("target").value = result.target;
  at("overlay").src = result.overlay;
  at("overlay").alt = `Map of what speaks for grade ${result.target}`;
  at("evidence").textContent = `What speaks for grade ${result.target}`;
  at("patches").src = result.patches;
  at("patches").alt = `Parts with the strongest evidence for grade ${result.target}`;
  const kept = (100 * result.kept).toFixed(result.kept > 0 && result.kept < 0.01 ? 1 : 0);
  at("kept").textContent = result.kept > 0
    ? `The strongest evidence for grade ${result.target}: ${kept}% of the image, the rest is gray`
    : `No part of the image speaks clearly for grade ${result.target}`;
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
  folds = model.folds;
  const ensemble = folds === 1 ? "one model" : `${folds} models, averaged,`;
  at("model").textContent = `${ensemble} of the method ${model.method} (${model.encoder} at ` +
    `${model.image_size} px), trained on ${model.data}`;
  at("meaning").textContent = folds === 1
    ? "Probability of each grade"
    : `Probability of each grade: mean of ${folds} models ± how much they differ (standard deviation)`;
  at("synthetic").hidden = !model.synthetic;
  at("card").textContent = model.card;
  maxBytes = model.max_bytes;
  at("limits").textContent =
    `PNG, JPEG or TIFF, 8 bits per channel, up to ${model.max_pixels.toLocaleString("en")} pixels`;
  for (const part of [at("choice"), ...document.querySelectorAll(".map")]) {
    part.hidden = !model.explains;
  }
  at("no-map").hidden = model.explains;
  at("target").replaceChildren(...model.classes.map((name) => new Option(name, name)));
}).catch(() => setStatus("The server does not respond.", true));
