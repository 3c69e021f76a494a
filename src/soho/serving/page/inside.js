// What stands below "Look inside": words over the picture, and the codes of its cells with their patches.

import { cellAt, drawCodes, drawMap } from "./draw.js";
import { ask, element, percent } from "./parts.js";

async function opened(blob) {
  const picture = new Image();
  picture.src = URL.createObjectURL(blob);
  await picture.decode();
  return picture;
}

const WHOLE = "whole text";
const KINDS = { attention: "attention", gradient: "gradient × attention" };

function chips(names, pressed, choose) {
  const all = names.map((name, number) => {
    const chip = element("button", { type: "button", className: "chip", textContent: name });
    chip.addEventListener("click", () => {
      all.forEach((one) => one.setAttribute("aria-pressed", String(one === chip)));
      choose(number);
    });
    chip.setAttribute("aria-pressed", String(number === pressed));
    return chip;
  });
  return element("div", { className: "row" }, ...all);
}

// Returns an element with one canvas a picture; a word and a kind of map are chosen above them.
export async function showMaps(reply, blobs) {
  const pictures = await Promise.all(reply.pictures.map((_, side) => opened(blobs[side])));
  const canvases = pictures.map(() => element("canvas"));
  const words = [WHOLE, ...reply.pictures[0].words.map((one) => one.word)];
  const caption = element("p", { className: "note" });
  const state = { word: 0, kind: "attention" };

  const draw = () => {
    const shares = reply.pictures.map((maps, side) => {
      const one = state.word ? maps.words[state.word - 1] : maps.whole;
      drawMap(canvases[side], pictures[side], maps, one[state.kind]);
      canvases[side].setAttribute("role", "img");
      canvases[side].setAttribute("aria-label", `${KINDS[state.kind]} of ${words[state.word]}`);
      return percent(one.share);
    });
    const layer = state.word ? reply.layer : reply.whole_layer;
    const most = Math.max(...reply.pictures.flatMap((maps) =>
      (state.word ? maps.words[state.word - 1] : maps.whole)[state.kind].flat()));
    const empty = most > 0 ? "" : " This map is zero everywhere.";
    caption.textContent = state.kind === "attention"
      ? `${shares.join(" and ")} of its attention goes to the picture${shares.length > 1 ? "s" : ""}, the rest to the ` +
        `text; layer ${layer} of ${reply.layers}.${empty}`
      : `What of its attention speaks for “${reply.target}” (${percent(reply.probability)}); ` +
        `layer ${layer} of ${reply.layers}.${empty}`;
  };
  const wordRow = chips(words, state.word, (number) => { state.word = number; draw(); });
  const kindRow = chips(Object.values(KINDS), 0, (number) => { state.kind = Object.keys(KINDS)[number]; draw(); });
  wordRow.classList.add("words");
  const two = canvases.length > 1 ? " two" : "";
  draw();
  return element(
    "div", { className: "look" },
    element(
      "div", {},
      element("h2", { textContent: `Output: ${reply.target}, ${percent(reply.probability)}` }),
      wordRow, element("div", { className: `maps${two}` }, ...canvases), kindRow, caption,
      ...reply.notes.map((note) => element("p", { className: "note", textContent: note })),
    ),
  );
}

// Returns an element with the picture's codes; a click on a cell shows what else has its code.
export async function showCodes(reply, blob, needsIndex) {
  const picture = await opened(blob);
  const canvas = element("canvas");
  const about = element("div");
  let chosen;
  const choose = async (cell) => {
    const code = reply.codes[cell[0]]?.[cell[1]];
    if (code === undefined || code < 0) return;
    chosen = cell;
    drawCodes(canvas, picture, reply, cell);
    about.replaceChildren(...(await patches(code, needsIndex)));
  };
  const pick = (cell) => choose(cell).catch((error) => { about.textContent = error.message; });
  canvas.addEventListener("click", (event) => pick(cellAt(canvas, event, reply.read_size)));
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  canvas.tabIndex = 0;
  canvas.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step || !chosen) return;
    event.preventDefault();
    pick([chosen[0] + step[0], chosen[1] + step[1]]);
  });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `codes of the cells: ${reply.codes.map((row) => row.join(" ")).join(", ")}`);
  const shown = element(
    "div", { className: "codes" },
    element("h2", { textContent: `Codes of its cells, of ${reply.size.toLocaleString("en")}` }),
    canvas,
    element("p", { className: "note", textContent: "Choose a cell to see what else has its code." }),
    about,
    ...reply.notes.map((note) => element("p", { className: "note", textContent: note })),
  );
  const middle = [Math.floor((reply.codes.length - 1) / 2), Math.floor((reply.codes[0].length - 1) / 2)];
  // Numbers are as large as the canvas is shown, which is known once it stands on the page.
  requestAnimationFrame(() => requestAnimationFrame(() => pick(middle)));
  return shown;
}

async function patches(code, needsIndex) {
  if (needsIndex) return [element("p", { className: "note", textContent: needsIndex.replaceAll("`", "") })];
  const reply = await ask(`api/codes/${code}`);
  const unfinished = reply.read < reply.total ? `, ${reply.read} of ${reply.total} read so far` : "";
  const said = reply.images
    ? `Code ${code}: ${reply.hits} cells in ${reply.images} of ${reply.total} pictures of the index${unfinished}`
    : `Code ${code}: in none of ${reply.total} pictures of the index${unfinished}`;
  const shown = reply.patches.map((src) => element("img", { src, alt: `a patch with code ${code}` }));
  return [element("p", { textContent: said }), element("div", { className: "patches" }, ...shown)];
}
