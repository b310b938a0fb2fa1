"use strict";
// The page's data, and what is chosen of it. The choice is kept behind the # of the address.
const DATA = JSON.parse(document.getElementById("data").textContent);
const STATES = {
  full: "whole on every rank",
  shard: "this rank's rows",
  partial: "this rank's part of a sum",
  gathered: "gathered: whole again",
  input: "input or weight",
};
// view: "layer" shows the pictures alone, for a document.
const MODEL = { graph: 0, layer: 0, expand: false, node: "", theme: "", view: "" };

const graph = () => DATA.graphs[MODEL.graph];
const byId = (id) => document.getElementById(id);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

function make(tag, text, properties) {
  const made = Object.assign(document.createElement(tag), properties || {});
  if (text !== undefined) made.textContent = text;
  return made;
}

function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (count >= 1024 && at < units.length - 1) { count /= 1024; at += 1; }
  return (at ? count.toFixed(count < 10 ? 2 : 1) : count) + " " + units[at];
}

function readAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name, limit) => {
    const value = Number(asked.get(name));
    return Number.isInteger(value) && value >= 0 && value < limit ? value : 0;
  };
  MODEL.graph = number("graph", DATA.graphs.length);
  MODEL.layer = asked.has("layer") ? number("layer", graph().layers.length) : interesting();
  MODEL.expand = asked.get("expand") === "1";
  MODEL.node = asked.get("node") || "";
  MODEL.theme = asked.get("theme") || "";
  MODEL.view = asked.get("view") || "";
}

function writeAddress() {
  const kept = new URLSearchParams({ graph: MODEL.graph, layer: MODEL.layer });
  if (MODEL.expand) kept.set("expand", "1");
  if (MODEL.node) kept.set("node", MODEL.node);
  if (MODEL.view) kept.set("view", MODEL.view);
  if (MODEL.theme) kept.set("theme", MODEL.theme);
  history.replaceState(null, "", "#" + kept);
}

// The first layer that has both collectives of a site within it, or the first.
function interesting() {
  const nodes = graph().after.nodes;
  const count = new Map();
  for (const node of nodes) {
    if (node.r === "reduce_scatter" || node.r === "all_gather") count.set(node.l, (count.get(node.l) || 0) + 1);
  }
  const most = Math.max(0, ...count.values());
  return Math.max(0, graph().layers.findIndex((_, layer) => most && count.get(layer) === most));
}
