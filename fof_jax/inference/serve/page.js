"use strict";
const at = (id) => document.getElementById(id);
let chosen = null; // the file whose grade is shown
let asked = 0; // of several requests the last one counts
let limit = Infinity; // bytes of a file
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

function say(text, fault = false) {
  at("status").textContent = text;
  at("status").classList.toggle("fault", fault);
}

async function grade(file, target = "") {
  const mine = ++asked;
  say(`Grading ${file.name} …`);
  try {
    if (file.size > limit) {
      throw new Error(`more than ${limit.toLocaleString("en")} bytes; choose a smaller file`);
    }
    const query = target ? `?target=${encodeURIComponent(target)}` : "";
    const send = () => fetch(`grade${query}`, { method: "POST", body: file });
    let answer = await send();
    for (let tries = 0; answer.status === 503 && tries < 10; tries++) {
      say(`${file.name}: waiting for others' images …`);
      await pause(Number(answer.headers.get("Retry-After")) || 2);
      if (mine !== asked) return;
      answer = await send();
    }
    const found = await answer.json().catch(() => ({ error: answer.statusText }));
    if (mine !== asked) return;
    if (!answer.ok) throw new Error(found.error || answer.statusText);
    show(file, found);
    say("");
  } catch (fault) {
    if (mine !== asked) return;
    if (file !== chosen) at("result").hidden = true;
    say(`${file.name}: ${fault.message}`, true);
  }
}

function show(file, found) {
  chosen = file;
  at("grade").textContent = `${file.name}: grade ${found.pred}`;
  at("rows").replaceChildren(...found.classes.map((name, k) => {
    const row = document.createElement("tr");
    const head = document.createElement("th");
    head.scope = "row";
    head.textContent = name;
    const figure = document.createElement("td");
    figure.textContent = `${found.prob[k].toFixed(3)} ± ${found.spread[k].toFixed(3)}`;
    figure.dataset.value = found.prob[k];
    const cell = document.createElement("td");
    const bar = document.createElement("meter");
    bar.value = found.prob[k];
    bar.setAttribute("aria-label", `probability of ${name}`);
    cell.append(bar);
    row.append(head, figure, cell);
    return row;
  }));
  at("result").hidden = false;
  if (!found.overlay) return; // no gradients
  at("target").value = found.target;
  at("overlay").src = found.overlay;
  at("overlay").alt = `Where the model sees evidence for ${found.target}`;
  at("patches").src = found.patches;
  at("patches").alt = `Patches that M keeps for ${found.target}`;
  at("kept").textContent = `Patches that M keeps, Eq. (2): ${(100 * found.kept).toFixed(1)}%`;
}

at("file").addEventListener("change", (event) => {
  if (event.target.files.length) grade(event.target.files[0]);
});
at("target").addEventListener("change", (event) => {
  if (chosen) grade(chosen, event.target.value);
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
fetch("about").then((answer) => answer.json()).then((model) => {
  const folds = model.folds === 1 ? "one fold" : `${model.folds} folds`;
  at("model").textContent =
    `${model.method}, ${model.encoder} at ${model.image_size} px, ${folds} trained on ${model.data}`;
  at("card").textContent = model.card;
  limit = model.max_bytes;
  at("limits").textContent =
    `PNG, JPEG or TIFF, 8 bits a channel, up to ${model.max_pixels.toLocaleString("en")} pixels`;
  at("focus").hidden = !model.explains;
  at("blind").hidden = model.explains;
  at("target").replaceChildren(...model.classes.map((name) => new Option(name, name)));
}).catch(() => say("The server does not answer.", true));
