"use strict";
// The collectives in order, and the memory, as plain SVG.
const SVG = "http://www.w3.org/2000/svg";
function shape(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
const canvas = (height) => shape("svg", { viewBox: "0 0 720 " + height, role: "img" });
const WIDE = 640, LEFT = 66;

function timeline() {
  const box = canvas(190);
  const colours = { all_reduce: "collective", reduce_scatter: "partial", all_gather: "gathered" };
  const most = Math.max(1, ...["before", "after"].flatMap((side) => graph()[side].collectives.map((each) => each.bytes)));
  ["before", "after"].forEach((side, row) => {
    const all = graph()[side].collectives, nodes = graph()[side].nodes, bottom = 80 + 92 * row;
    const sum = all.reduce((total, each) => total + each.bytes, 0);
    box.append(shape("text", { x: 6, y: bottom - 30 }, side), shape("text", { x: 6, y: bottom - 14 }, bytes(sum)));
    box.append(shape("line", { x1: LEFT, x2: LEFT + WIDE, y1: bottom, y2: bottom, stroke: colour("line") }));
    const step = WIDE / Math.max(1, nodes.length), width = Math.max(0.8, Math.min(6, WIDE / Math.max(1, all.length) - 0.6));
    for (const each of all) {
      const tall = Math.max(2, 66 * Math.sqrt(each.bytes / most)), node = nodes[each.at];
      const bar = shape("rect", { x: LEFT + each.at * step, y: bottom - tall, width, height: tall, fill: colour(colours[each.role]), class: "bar" });
      bar.append(shape("title", {}, "%" + node.n + ": " + each.role + ", " + bytes(each.bytes) + ", " + (graph().layers[node.l] || "")));
      bar.addEventListener("click", () => show({ layer: Math.max(0, node.l), node: node.n }));
      box.append(bar);
    }
  });
  const told = Object.entries(colours).map(([role, name], at) => [
    shape("rect", { x: LEFT + at * 120, y: 3, width: 9, height: 9, fill: colour(name) }),
    shape("text", { x: LEFT + 13 + at * 120, y: 12 }, role),
  ]);
  box.append(...told.flat());
  byId("timeline").replaceChildren(box, make("small", "A bar is as high as the square root of its bytes. A ring sends (ranks − 1)/ranks of what is shown: the whole value for a reduce_scatter or an all_gather, twice that for an all_reduce."));
}

function memory() {
  const box = canvas(190), most = Math.max(1, graph().before.peak, graph().after.peak);
  [["before", "collective"], ["after", "focus"]].forEach(([side, name], row) => {
    const live = graph()[side].live, step = WIDE / Math.max(1, live.length - 1);
    const points = live.map((value, at) => (LEFT + at * step).toFixed(1) + "," + (178 - 150 * value / most).toFixed(1));
    box.append(shape("polyline", { points: points.join(" "), fill: "none", stroke: colour(name), "stroke-width": 1.6 }));
    box.append(
      shape("rect", { x: LEFT + row * 190, y: 3, width: 9, height: 9, fill: colour(name) }),
      shape("text", { x: LEFT + 13 + row * 190, y: 12 }, side + ": peak " + bytes(graph()[side].peak)),
    );
  });
  box.append(shape("line", { x1: LEFT, x2: LEFT + WIDE, y1: 178, y2: 178, stroke: colour("line") }), shape("text", { x: 6, y: 34 }, bytes(most)), shape("text", { x: 6, y: 180 }, "0"));
  byId("memory").replaceChildren(box, make("small", "Computed from the graph: what would live if every operator ran by itself. A compiler fuses, so a device shows less."));
}
