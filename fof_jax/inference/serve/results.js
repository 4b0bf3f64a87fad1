"use strict";
// Shows one result, the list of all, and offers both for download.
const at = (id) => document.getElementById(id);
const KINDS = { original: "image", overlay: "map", patches: "patches", slide: "tiles" };
let folds = 1; // models in the ensemble
let explains = true; // whether the model has a map
let columns = []; // header of the table

function verdict(result) {
  if (result.abstain) return `no grade given, ${result.pred} or ${result.second}`;
  const unsure = result.abstain === null && result.uncertain;
  return unsure ? `uncertain, grade ${result.pred} or ${result.second}`
    : `grade ${result.pred}`;
}

function showResult(result) {
  const unsure = result.abstain === null ? result.uncertain : result.abstain;
  at("grade").textContent = `${result.name}: ${verdict(result)}`;
  at("uncertain").hidden = !unsure;
  at("uncertain").textContent = result.abstain
    ? "The model abstains by its rule: too many of such predictions were wrong."
    : `The two most probable grades, ${result.pred} and ` +
    `${result.second}, differ by less than ${result.min_margin.toFixed(2)} in probability.`;
  at("warning").hidden = !result.warning;
  at("warning").textContent = result.warning || "";
  at("rows").replaceChildren(...result.classes.map((name, k) => probabilityRow(result, name, k)));
  const ofSlide = Boolean(result.slide);
  at("of-slide").hidden = !ofSlide;
  at("of-image").hidden = ofSlide;
  for (const part of [at("choice"), ...document.querySelectorAll(".map")]) {
    part.hidden = ofSlide || !explains;
  }
  at("no-map").hidden = ofSlide || explains;
  if (ofSlide) showSlide(result);
  else showImage(result);
  at("downloads").replaceChildren(...downloads(result));
  at("result").hidden = false;
}

function probabilityRow(result, name, k) {
  const row = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = name;
  const value = document.createElement("td");
  const spread = folds > 1 ? ` \u00b1 ${result.spread[k].toFixed(2)}` : "";
  value.textContent = `${result.prob[k].toFixed(2)}${spread}`;
  value.dataset.value = result.prob[k];
  const cell = document.createElement("td");
  const bar = document.createElement("meter");
  bar.value = result.prob[k];
  bar.setAttribute("aria-label", `probability of ${name}`);
  cell.append(bar);
  row.append(head, value, cell);
  return row;
}

function showSlide(result) {
  at("tiles").src = result.slide;
  at("tiles").alt = `Predicted grade of each tile of ${result.name}`;
  at("tiles-of").textContent =
    `Predicted grade of each of ${result.tiles} tiles; the slide's probabilities are their mean`;
}

function showImage(result) {
  at("original").src = result.original;
  at("original").alt = result.name;
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

// One row per file of `items`, of {name, result, error, open}.
function showList(items, chosen) {
  at("list").hidden = items.length < 2;
  at("table").hidden = !items.some((item) => rowOf(item));
  at("files").replaceChildren(...items.map((item) => {
    const row = document.createElement("tr");
    row.classList.toggle("chosen", item === chosen);
    const head = document.createElement("th");
    head.scope = "row";
    if (item.result) {
      const open = document.createElement("button");
      open.type = "button";
      open.className = "link";
      open.textContent = item.name;
      if (item === chosen) open.setAttribute("aria-current", "true");
      open.addEventListener("click", item.open);
      head.append(open);
    } else {
      head.textContent = item.name;
    }
    const grade = document.createElement("td");
    grade.className = item.error ? "long error" : "long";
    grade.textContent = item.error || (item.result ? verdict(item.result) : "waiting");
    const value = document.createElement("td");
    value.textContent = item.result ? Math.max(...item.result.prob).toFixed(2) : "";
    row.append(head, grade, value);
    return row;
  }));
}

// Cells of predictions.csv: those of the server, or a row with the error.
function rowOf(item) {
  if (item.result) return item.result.row;
  if (!item.error) return null;
  const own = { patient: item.name, image: item.name, error: item.error };
  return columns.map((name) => own[name] || "");
}

function tableOf(items) {
  const quoted = (cell) => /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
  const rows = [columns, ...items.map(rowOf).filter(Boolean)];
  return rows.map((row) => row.map(quoted).join(",") + "\n").join("");
}

function downloads(result) {
  const stem = result.name.replace(/\.[^.]*$/, "").replace(/[\\/]/g, "_");
  const found = Object.keys(KINDS).filter((kind) => result[kind]).map((kind) =>
    saveButton(`Save the ${KINDS[kind]} (PNG)`, `${stem}_${KINDS[kind]}.png`, "image/png",
      () => Uint8Array.from(atob(result[kind].split(",")[1]), (c) => c.charCodeAt(0))));
  if (result.tiles_csv) {
    found.push(saveButton("Save the tiles (CSV)", `${stem}.csv`, "text/csv", () => result.tiles_csv));
    found.push(saveButton("Save the polygons (GeoJSON)", `${stem}.geojson`,
      "application/geo+json", () => result.geojson));
  }
  return found;
}

function saveButton(text, name, type, content) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.addEventListener("click", () => save(name, type, content()));
  return button;
}

function save(name, type, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
