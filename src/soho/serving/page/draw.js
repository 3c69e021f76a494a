// Pictures with what a model sees in them: maps of words, and the codes of cells.

const STRIDE = 64; // pixels of the picture as the model reads it, per cell
const REST = 0.12; // of the picture that shines through where a map is zero
const FADED = "236, 233, 226";

// Fits a canvas to a picture and draws it; returns the context and the size of a cell on the canvas.
function prepare(canvas, picture, readSize) {
  const scale = Math.min(1040 / Math.max(picture.naturalWidth, picture.naturalHeight), 6);
  canvas.width = Math.round(picture.naturalWidth * scale);
  canvas.height = Math.round(picture.naturalHeight * scale);
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  return { context, across: (STRIDE * canvas.width) / readSize[0], down: (STRIDE * canvas.height) / readSize[1] };
}

// The largest cell keeps its colours, the others fade as they are smaller; nothing is smoothed.
export function drawMap(canvas, picture, maps, values) {
  const { context, across, down } = prepare(canvas, picture, maps.read_size);
  const most = Math.max(...values.flat(), 0);
  values.forEach((row, i) =>
    row.forEach((value, j) => {
      const share = most > 0 && maps.valid[i][j] ? value / most : 0;
      context.fillStyle = `rgba(${FADED}, ${(1 - REST) * (1 - share)})`;
      // Whole pixels, so that no seam is left between two cells.
      const [left, top] = [Math.round(j * across), Math.round(i * down)];
      context.fillRect(left, top, Math.round((j + 1) * across) - left, Math.round((i + 1) * down) - top);
    }),
  );
}

// A grid over the picture with the index of every cell; `chosen` is [row, column] or null.
export function drawCodes(canvas, picture, reply, chosen) {
  const { context, across, down } = prepare(canvas, picture, reply.read_size);
  const shown = (canvas.clientWidth || canvas.width) / canvas.width;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const size = Math.min(across / 3, down / 2, 15 / shown);
  context.font = `600 ${size}px system-ui, sans-serif`;
  reply.codes.forEach((row, i) =>
    row.forEach((code, j) => {
      if (code < 0) return;
      context.lineWidth = 1 / shown;
      context.strokeStyle = "rgba(255, 255, 255, .75)";
      context.strokeRect(j * across, i * down, across, down);
      const [x, y] = [(j + 0.5) * across, (i + 0.5) * down];
      // A cell at the border may be cut; its number stands where it can be seen.
      const place = [Math.min(x, canvas.width - size * 1.3), Math.min(y, canvas.height - size * 0.8)];
      if (size * shown < 7) return;
      context.lineWidth = 3 / shown;
      context.strokeStyle = "rgba(20, 20, 18, .75)";
      context.strokeText(String(code), ...place);
      context.fillStyle = "#fff";
      context.fillText(String(code), ...place);
    }),
  );
  if (chosen) {
    context.lineWidth = 4 / shown;
    context.strokeStyle = "#ffd34d";
    context.strokeRect(chosen[1] * across, chosen[0] * down, across, down);
  }
}

// Which cell an event on a canvas is in, as [row, column].
export function cellAt(canvas, event, readSize) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor(((event.clientX - box.left) / box.width) * (readSize[0] / STRIDE));
  const row = Math.floor(((event.clientY - box.top) / box.height) * (readSize[1] / STRIDE));
  return [row, column];
}
