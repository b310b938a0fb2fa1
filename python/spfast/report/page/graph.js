"use strict";
// One layer as a graph, drawn by Cytoscape.js and laid out by dagre.
const drawn = { before: null, after: null };

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
    const classes = [box.outside ? "outside" : first.s], isCollective = !box.outside && COLLECTIVES.has(first.r);
    if (isCollective) classes.push("collective");
    else if (folded) classes.push("box");
    if (box.members.some((node) => node.n === MODEL.node)) classes.push("chosen");
    found.push({ data: { id, ...fitted(text, isCollective), names: box.members.map((node) => node.n) }, classes: classes.join(" ") });
  }
  for (const [id, data] of edges) found.push({ data: { id, ...data } });
  return found;
}

function style() {
  const rule = (selector, css) => ({ selector, style: css });
  return [
    rule("node", {
      label: "data(text)", "text-wrap": "wrap", "font-size": FONT.size, "font-family": FONT.family, "line-height": LINE / FONT.size,
      "text-valign": "center", shape: "round-rectangle", width: "data(wide)", height: "data(high)", color: colour("text"),
      "border-width": 1, "border-color": colour("soft"), "background-color": colour("full"),
    }),
    ...["full", "shard", "partial", "gathered", "input"].map((name) => rule("." + name, { "background-color": colour(name) })),
    rule(".box", { "border-style": "dashed" }),
    rule(".collective", { shape: "hexagon", "border-width": 3, "border-color": colour("collective"), "font-weight": "bold" }),
    rule(".outside", { "background-opacity": 0, "border-style": "dotted", color: colour("soft") }),
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
