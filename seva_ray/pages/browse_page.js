"use strict";
// Shows the rows that the filters leave, 40 at a time. Data come from scripts beside the page, which call hold and
// hold_rows, because browsers do not fetch files from a disk.
const PER_PAGE = 40, FIRST_MARGIN = 5;
const shards = new Map();
let index = null, starts = [], found = [], shown = 0;
const at = (id) => document.getElementById(id);

function hold(data) {
  index = data;
  let start = 0;
  starts = data.sizes.map((size) => { const first = start; start += size; return first; });
  for (const [id, names] of [["verdict", data.verdicts], ["source", data.sources], ["view", data.views]]) {
    names.forEach((name, place) => {
      const option = document.createElement("option");
      option.value = place;
      option.textContent = name;
      at(id).append(option);
    });
  }
  index.margins.forEach((name, place) => {
    const option = document.createElement("option");
    option.value = place;
    option.textContent = name;
    at("scorer").append(option);
  });
  if (index.margins.length) document.body.classList.add("margins");
  filter();
}

function hold_rows(place, rows) { shards.get(place).resolve(rows); }

function shard(place) {
  if (!shards.has(place)) {
    const entry = {};
    entry.rows = new Promise((resolve, reject) => { entry.resolve = resolve; entry.reject = reject; });
    shards.set(place, entry);
    const script = document.createElement("script");
    script.src = "rows/" + String(place).padStart(6, "0") + ".js";
    script.onerror = () => { shards.delete(place); entry.reject(new Error(script.src + " cannot be loaded")); };
    document.head.append(script);
  }
  return shards.get(place).rows;
}

function shard_of(row) {  // the last shard that starts at or before the row and is not empty
  let low = 0, high = starts.length - 1;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if (starts[middle] <= row) low = middle; else high = middle - 1;
  }
  return low;
}

function filter() {
  const [verdict, source, view] = ["verdict", "source", "view"].map((id) => at(id).value);
  const least = Number(at("least").value) || 0, most = Number(at("most").value) || Infinity;
  const [lowest, highest] = ["lowest", "highest"].map((id) => at(id).value === "" ? null : Number(at(id).value));
  const within = (margin) => (lowest === null && highest === null) ||
    (typeof margin === "number" && margin >= (lowest ?? -Infinity) && margin <= (highest ?? Infinity));
  const fits = (value, code) => value === "" || Number(value) === code;
  const scorer = Number(at("scorer").value), order = Number(at("order").value);
  found = [];
  index.rows.forEach(([v, s, w, chosen, rejected, ...margins], row) => {
    const longer = Math.max(chosen, rejected);
    if (fits(verdict, v) && fits(source, s) && fits(view, w) && longer >= least && longer <= most
        && within(margins[scorer])) found.push(row);
  });
  if (order) {  // rows without a margin come last
    const margin = (row) => index.rows[row][FIRST_MARGIN + scorer] ?? order * Infinity;
    found.sort((one, other) => margin(one) === margin(other) ? one - other : order * (margin(one) - margin(other)));
  }
  shown = 0;
  show();
}

function element(tag, name, text) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== undefined) made.textContent = text;
  return made;
}

async function show() {
  const rows = found.slice(shown, shown + PER_PAGE), wanted = shown;
  const last = Math.min(shown + PER_PAGE, found.length);
  at("count").textContent = found.length
    ? `${(shown + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${found.length.toLocaleString("en")}`
    : "no prompt matches the filters";
  at("before").disabled = shown === 0;
  at("after").disabled = last >= found.length;
  let cards;
  try {
    cards = await Promise.all(rows.map(async (row) => card(row, (await shard(shard_of(row)))[row - starts[shard_of(row)]])));
  } catch (error) {
    cards = [element("p", "note", error.message)];
  }
  if (wanted === shown) at("rows").replaceChildren(...cards);
}

function card(row, [id, question, chosen, rejected, image, error]) {
  const [verdict, source, view, , , ...margins] = index.rows[row];
  const made = element("article", "sample"), body = element("div", "body");
  const header = element("header");
  header.append(element("h3", "", question));
  header.append(element("div", "about", `${index.verdicts[verdict]} · ${index.views[view]} · ${index.sources[source]} · ${id}`));
  const picture = element(image ? "img" : "div", image ? "" : "missing", image ? undefined : "no image");
  if (image) { picture.src = image; picture.loading = "lazy"; picture.alt = "The image that is asked about: " + question; }
  const answers = element("div", "answers");
  for (const [name, text] of [["chosen", chosen], ["rejected", rejected]]) {
    const answer = element("div", "answer " + name);
    answer.append(element("h4", "", name), element("p", text ? "" : "blank", text || "no text"));
    answers.append(answer);
  }
  margins.forEach((margin, place) => {
    if (typeof margin === "number") answers.append(element("p", "note", `margin ${index.margins[place]}: ${margin.toFixed(2)} nats`));
  });
  if (error) answers.append(element("p", "note", error));
  body.append(picture, answers);
  made.append(header, body);
  return made;
}

for (const id of ["verdict", "source", "view", "least", "most", "scorer", "order", "lowest", "highest"]) at(id).addEventListener("change", filter);
at("before").addEventListener("click", () => { shown = Math.max(0, shown - PER_PAGE); show(); });
at("after").addEventListener("click", () => { shown += PER_PAGE; show(); scrollTo(0, 0); });
const data = document.createElement("script");
data.src = "index.js";
data.onerror = () => { at("count").textContent = "index.js, which lies beside this page, cannot be loaded"; };
document.head.append(data);
