"use strict";
// Puts the parts together, and answers to clicks and the address.
function show(changes) {
  const start = performance.now();
  Object.assign(MODEL, changes);
  writeAddress();
  for (const button of byId("layers").children) button.setAttribute("aria-current", String(Number(button.dataset.layer) === MODEL.layer));
  byId("expand").setAttribute("aria-pressed", String(MODEL.expand));
  draw("before");
  draw("after");
  for (const side of ["after", "before"]) if (graph()[side].nodes.some((node) => node.n === MODEL.node)) { choose(side, [MODEL.node]); break; }
  document.documentElement.dataset.drawnMs = String(Math.round(performance.now() - start));
}

function theme(name) {
  const dark = name ? name === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
}

function cards() {
  const before = graph().before, after = graph().after, done = DATA.sites.filter((site) => site.rewritten).length;
  const count = (side, role) => side.counts[role] || 0;
  const sum = (side) => side.collectives.reduce((total, each) => total + each.bytes, 0);
  const told = [
    [done + " of " + DATA.sites.length, "all_reduces rewritten"],
    [count(before, "all_reduce") + " → " + count(after, "all_reduce"), "all_reduce"],
    [count(before, "reduce_scatter") + " → " + count(after, "reduce_scatter"), "reduce_scatter"],
    [count(before, "all_gather") + " → " + count(after, "all_gather"), "all_gather"],
    [bytes(sum(before)) + " → " + bytes(sum(after)), "sent by a rank"],
    [bytes(before.peak) + " → " + bytes(after.peak), "peak of computed values"],
    [bytes(before.mean) + " → " + bytes(after.mean), "the same, on average over the nodes"],
    [bytes(before.returned) + " → " + bytes(after.returned), "returned, saved values among them"],
    [String(after.states.shard || 0), "values that are one rank's rows now"],
  ];
  byId("cards").replaceChildren(...told.map(([number, what]) => {
    const card = make("div", undefined, { className: "card" });
    card.append(make("b", number), make("span", what));
    return card;
  }));
}

function layers() {
  byId("unnamed").hidden = graph().named;
  const scatters = new Map();
  for (const node of graph().after.nodes) if (node.r === "reduce_scatter") scatters.set(node.l, (scatters.get(node.l) || 0) + 1);
  const sums = new Map();
  for (const node of graph().before.nodes) if (node.r === "all_reduce") sums.set(node.l, (sums.get(node.l) || 0) + 1);
  byId("layers").replaceChildren(...graph().layers.map((name, layer) => {
    const button = make("button", name, { type: "button" });
    button.dataset.layer = layer;
    if (sums.get(layer)) button.append(make("small", (scatters.get(layer) || 0) + "/" + sums.get(layer)));
    button.title = "sites rewritten / all_reduces";
    button.addEventListener("click", () => show({ layer, node: "" }));
    return button;
  }));
}

function sites() {
  byId("sites").tBodies[0].replaceChildren(...DATA.sites.map((site) => {
    const row = make("tr", undefined, { className: site.rewritten ? "rewritten" : "left" });
    row.append(make("td", "%" + site.node), make("td", site.rewritten ? "rewritten" : "left"),
      make("td", site.rewritten ? site.rule : site.reason + (site.nearest ? " (nearest: " + site.nearest + ")" : "")));
    return row;
  }));
}

function legend() {
  byId("legend").replaceChildren(...Object.entries(STATES).map(([state, text]) => {
    const item = make("li"), swatch = make("span", undefined, { className: "swatch" });
    swatch.style.background = "var(--" + state + ")";
    item.append(swatch, make("span", text));
    return item;
  }));
}

function search(text) {
  const wanted = text.trim().toLowerCase(), hits = [];
  const has = (value) => value.toLowerCase().includes(wanted);
  if (wanted) {
    for (const side of ["before", "after"]) for (const node of graph()[side].nodes) {
      if (hits.length < 50 && node.l >= 0 && (has(node.n) || has(node.t))) hits.push({ node, say: side + ": %" + node.n + "  " + node.t });
    }
  }
  byId("hits").replaceChildren(...hits.map(({ node, say }) => {
    const item = make("li"), button = make("button", say, { type: "button" });
    button.addEventListener("click", () => { byId("hits").hidden = true; show({ layer: node.l, node: node.n }); });
    item.append(button);
    return item;
  }));
  byId("hits").hidden = !hits.length;
  for (const row of byId("sites").tBodies[0].rows) row.hidden = Boolean(wanted) && !has(row.textContent);
}

function whole() {
  cards();
  layers();
  timeline();
  memory();
  show({});
}

function begin() {
  document.title = DATA.title;
  byId("title").textContent = DATA.title + " · spfast " + DATA.version;
  readAddress();
  theme(MODEL.theme);
  document.body.dataset.view = MODEL.view;
  legend();
  sites();
  const choice = byId("graphs");
  choice.hidden = DATA.graphs.length < 2;
  choice.append(...DATA.graphs.map((each, at) => new Option(each.path || "the graph itself", String(at), false, at === MODEL.graph)));
  choice.addEventListener("change", () => { MODEL.graph = Number(choice.value); MODEL.layer = interesting(); MODEL.node = ""; whole(); });
  byId("expand").addEventListener("click", () => show({ expand: !MODEL.expand }));
  byId("theme").addEventListener("click", () => {
    MODEL.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    theme(MODEL.theme);
    whole();
  });
  byId("search").addEventListener("input", (event) => search(event.target.value));
  const asked = new URLSearchParams(location.hash.slice(1)).get("search");
  whole();
  if (asked) { byId("search").value = asked; search(asked); }
  document.documentElement.dataset.ready = "1";
}

const opened = performance.now();
begin();
document.documentElement.dataset.openedMs = String(Math.round(performance.now() - opened));
