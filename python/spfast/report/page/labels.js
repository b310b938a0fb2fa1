"use strict";
// What a box says, in lines that it can hold, and how large it is for them.
const SHORT = /\.(default|Tensor|Scalar|dim|int|Tensor_Scalar|overload)$/;
const label = (target) => target.replace(SHORT, "").replace(/^_c10d_functional\./, "");
const COLLECTIVES = new Set(["all_reduce", "reduce_scatter", "all_gather"]);
const FONT = { size: 12, family: "Helvetica, Arial, sans-serif" };
const LINE = 14;
// More lines than these end with an ellipsis: what a click shows has all.
const MOST_LINES = 6;
const ruler = document.createElement("canvas").getContext("2d");

// A hexagon's sides take of its width: its text is narrower, and the box higher than the text.
const BOX = { wide: 236, text: 220, part: 1, margin: 12 };
const HEXAGON = { wide: 270, text: 170, part: 0.72, margin: 4 };

// The operators that a box holds, the most telling first.
const TELLING = /mm|attention|conv|norm|silu|gelu|softmax|quant|embedding|moe/;
function boxLabel(members) {
  const counts = new Map();
  for (const node of members) counts.set(label(node.t), (counts.get(label(node.t)) || 0) + 1);
  const order = [...counts].sort((a, b) => TELLING.test(b[0]) - TELLING.test(a[0]) || b[1] - a[1]);
  const named = order.slice(0, 3).map(([name, count]) => name.split(".").pop() + (count > 1 ? "\u00a0×" + count : ""));
  return members.length + " operators\n" + named.join(", ") + (order.length > 3 ? ",\u00a0…" : "");
}

// Cuts a text between words; a word that no line holds behind its dots and underscores, or anywhere.
function cut(text, fits) {
  const made = [];
  let line = "";
  const add = (part, cutFurther) => {
    if (fits((line + part).trimEnd())) { line += part; return; }
    if (fits(part.trimEnd()) || !cutFurther) { if (line) made.push(line.trimEnd()); line = part; }
    else cutFurther(part);
  };
  const anywhere = (part) => { for (const character of part) add(character); };
  const inName = (word) => { for (const part of word.match(/[^._]*[._]+|[^._]+/g)) add(part, anywhere); };
  for (const word of text.match(/[^ ]* */g)) if (word) add(word, inName);
  return [...made, line.trimEnd()];
}

function fitted(text, isCollective) {
  const box = isCollective ? HEXAGON : BOX;
  ruler.font = (isCollective ? "bold " : "") + FONT.size + "px " + FONT.family;
  let lines = text.split("\n").flatMap((line) => cut(line, (part) => ruler.measureText(part).width <= box.text));
  if (lines.length > MOST_LINES) lines = [...lines.slice(0, MOST_LINES - 1), "…"];
  return { text: lines.join("\n"), wide: box.wide, high: Math.ceil(lines.length * LINE / box.part) + box.margin };
}
