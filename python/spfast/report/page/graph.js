"use strict";
// One layer as a graph, drawn by Cytoscape.js and laid out by dagre.
const SHORT = /\.(default|Tensor|Scalar|dim|int|Tensor_Scalar|overload)$/;
const label = (target) => target.replace(SHORT, "").replace(/^_c10d_functional\./, "");
const COLLECTIVES = new Set(["all_reduce", "reduce_scatter", "all_gather"]);
const drawn = { before: null, after: null };

// What a box holds: its operators, the most telling first.
const TELLING = /mm|attention|conv|norm|silu|gelu|softmax|quant|embedding|moe/;
function boxLabel(members) {
  const counts = new Map();
  for (const node of members) counts.set(label(node.t), (counts.get(label(node.t)) || 0) + 1);
  const order = [...counts].sort((a, b) => TELLING.test(b[0]) - TELLING.test(a[0]) || b[1] - a[1]);
  const named = order.slice(0, 3).map(([name, count]) => name.split(".").pop() + (count > 1 ? " ×" + count : ""));
  return members.length + " operators\n" + named.join(", ") + (order.length > 3 ? ", …" : "");
}

function elements(side) {
  const nodes = graph()[side].nodes;
  const inside = (at) => nodes[at].l === MODEL.layer;
  const key = (at) => (!MODEL.expand && nodes[at].f >= 0 ? "f" + nodes[at].f : "n" + at);
  const boxes = new Map(), edges = new Map();
  const put = (at, outside) => {
    const id = (outside ? "o" : "") + key(at);
    if (!boxes.has(id)) boxes.set(id, { members: [], outside });
    boxes.get(id).members.push(nodes[at]);
    return id;
  };
  const join = (from, to) => { if (from !== to) edges.set(from + ">" + to, { source: from, target: to }); };
  nodes.forEach((node, at) => {
    if (!inside(at)) return;
    const own = put(at, false);
    for (const from of node.i) {
      if (inside(from)) join(key(from), own);
      else if (nodes[from].l >= 0) join(put(from, true), own);
    }
  });
  // What reads a value of this layer from behind it shows where the layer goes on.
  nodes.forEach((node, at) => {
    if (inside(at)) return;
    for (const from of node.i) if (inside(from) && node.l > MODEL.layer) join(key(from), put(at, true));
  });
  const found = [];
  for (const [id, box] of boxes) {
    const first = box.members[0], folded = box.members.length > 1;
    const text = box.outside ? (first.l < MODEL.layer ? "from " : "to ") + graph().layers[first.l]
      : folded && !COLLECTIVES.has(first.r) ? boxLabel(box.members) : label(first.t) + (first.v ? "\n" + first.v : "");
    const classes = [box.outside ? "outside" : first.s];
    if (!box.outside && COLLECTIVES.has(first.r)) classes.push("collective");
    else if (folded) classes.push("box");
    if (box.members.some((node) => node.n === MODEL.node)) classes.push("chosen");
    found.push({ data: { id, text, names: box.members.map((node) => node.n) }, classes: classes.join(" ") });
  }
  for (const [id, data] of edges) found.push({ data: { id, ...data } });
  return found;
}

function style() {
  const rule = (selector, css) => ({ selector, style: css });
  return [
    rule("node", {
      label: "data(text)", "text-wrap": "wrap", "text-max-width": 230, "font-size": 12, color: colour("text"),
      "text-valign": "center", shape: "round-rectangle", width: 236, height: 40,
      "border-width": 1, "border-color": colour("soft"), "background-color": colour("full"),
    }),
    ...["full", "shard", "partial", "gathered", "input"].map((name) => rule("." + name, { "background-color": colour(name) })),
    rule(".box", { "border-style": "dashed", height: 50 }),
    rule(".collective", { shape: "hexagon", width: 270, "border-width": 3, "border-color": colour("collective"), "font-weight": "bold" }),
    rule(".outside", { "background-opacity": 0, "border-style": "dotted", color: colour("soft"), height: 26 }),
    rule(".chosen, :selected", { "border-width": 4, "border-color": colour("focus") }),
    rule("edge", {
      width: 1.5, "line-color": colour("soft"), "target-arrow-color": colour("soft"),
      "target-arrow-shape": "triangle", "curve-style": "bezier",
    }),
  ];
}

function draw(side) {
  if (drawn[side]) drawn[side].destroy();
  const made = cytoscape({
    container: byId(side), elements: elements(side), style: style(), minZoom: 0.05, maxZoom: 2.5,
    layout: { name: "dagre", rankDir: "TB", nodeSep: 26, rankSep: 26, fit: true, padding: 12 },
  });
  made.on("tap", "node", (event) => choose(side, event.target.data("names")));
  byId("count-" + side).textContent = "(" + graph()[side].nodes.filter((node) => node.l === MODEL.layer).length + " operators)";
  drawn[side] = made;
}

function choose(side, names) {
  const nodes = graph()[side].nodes;
  const at = nodes.findIndex((node) => node.n === names[0]);
  const node = nodes[at], list = make("dl");
  const say = (term, text) => { if (text) list.append(make("dt", term), make("dd", text)); };
  const few = (all) => all.slice(0, 12).join(", ") + (all.length > 12 ? ", and " + (all.length - 12) + " more" : "");
  say("node, " + side, "%" + node.n);
  say("calls", node.t);
  say("value", node.v && node.v + ", " + bytes(node.b));
  say("state", STATES[node.s]);
  say("reads", few(node.i.map((from) => "%" + nodes[from].n)));
  say("read by", few(nodes.filter((other) => other.i.includes(at)).map((other) => "%" + other.n)));
  if (names.length > 1) say("in this box", few(names.map((name) => "%" + name)));
  const site = DATA.sites.find((each) => each.node === (graph().path ? graph().path + "." : "") + node.n);
  if (site) say("outcome", outcome(site));
  byId("detail").replaceChildren(list);
  MODEL.node = node.n;
  writeAddress();
}

const outcome = (site) => site.rewritten ? "rewritten by " + site.rule
  : "left: " + site.reason + (site.nearest ? " (nearest: " + site.nearest + ")" : "");
