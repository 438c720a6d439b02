// Several photos: their thumbnails with overlays, and all of them on one sheet.

import { buildLayer, buildRows, paint } from "./mask.js";
import { reduce } from "./photo.js";

const SIDE = 400; // of a thumbnail, in pixels
const CELL = { width: 300, picture: 225, text: 56, gap: 20 };
const FONT = "system-ui, sans-serif";

/** A canvas with a photo and its mask in the model's colours; without a mask, the photo alone. */
export function drawThumbnail(photo, mask, model) {
  const factor = Math.min(1, SIDE / Math.max(photo.width, photo.height));
  const canvas = document.createElement("canvas");
  const [width, height] = [
    Math.max(1, Math.round(photo.width * factor)),
    Math.max(1, Math.round(photo.height * factor)),
  ];
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(reduce(photo), 0, 0, width, height);
  if (!mask) return canvas;
  const image = context.createImageData(width, height);
  const layer = buildLayer(mask, buildRows([model]), 0, () => true, 0.5);
  const corner = { left: 0, top: 0, step: photo.width / width };
  paint(new Uint32Array(image.data.buffer), width, height, layer, corner, { thick: 1 });
  const overlay = new OffscreenCanvas(width, height);
  overlay.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(overlay, 0, 0);
  return canvas;
}

/** The classes of a mask by their share, largest first: [[class, share 0 to 1]]; absent ones are left out. */
export function listShares(counts, classes) {
  const total = counts.reduce((sum, number) => sum + number, 0);
  const shares = classes.map((one) => [one, counts[one.id] / total]);
  return shares.filter(([, share]) => share).sort(([, a], [, b]) => b - a);
}

/** 0.1234 as "12.3 %"; what is there is never written as 0. */
export function formatShare(share) {
  if (share && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

/** PNG of `entries` [{name, thumbnail, counts}] in rows, with the names, the largest classes and the legend. */
export function drawContactSheet(entries, model) {
  const columns = Math.min(4, entries.length);
  const rows = Math.ceil(entries.length / columns);
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d");
  canvas.width = CELL.gap + columns * (CELL.width + CELL.gap);
  const coloured = model.classes.filter(({ colour }) => colour);
  const legend = placeLegend(context, coloured, canvas.width - 2 * CELL.gap);
  canvas.height = 70 + legend.height + rows * (CELL.picture + CELL.text + CELL.gap);
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  write(context, model.title, CELL.gap, 40, canvas.width - 2 * CELL.gap, `600 22px ${FONT}`, "#1c2024");
  for (const { colour, name, x, y } of legend.places) {
    context.fillStyle = colour;
    context.fillRect(CELL.gap + x, 62 + y, 14, 14);
    write(context, name, CELL.gap + x + 20, 74 + y, CELL.width, `14px ${FONT}`, "#1c2024");
  }
  entries.forEach(({ name, thumbnail, counts }, index) => {
    const x = CELL.gap + (index % columns) * (CELL.width + CELL.gap);
    const y = 70 + legend.height + Math.floor(index / columns) * (CELL.picture + CELL.text + CELL.gap);
    const factor = Math.min(CELL.width / thumbnail.width, CELL.picture / thumbnail.height);
    const [width, height] = [thumbnail.width * factor, thumbnail.height * factor];
    context.imageSmoothingQuality = "high";
    context.drawImage(thumbnail, x, y + CELL.picture - height, width, height);
    const shares = listShares(counts, model.classes)
      .slice(0, 3)
      .map(([one, share]) => `${one.name} ${Math.round(100 * share)} %`);
    write(context, name, x, y + CELL.picture + 22, CELL.width, `600 15px ${FONT}`, "#1c2024");
    write(context, shares.join(", "), x, y + CELL.picture + 42, CELL.width, `13px ${FONT}`, "#59626b");
  });
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function placeLegend(context, classes, room) {
  context.font = `14px ${FONT}`;
  let [x, y] = [0, 0];
  const places = classes.map(({ name, colour }) => {
    const width = 40 + context.measureText(name).width;
    if (x && x + width > room) [x, y] = [0, y + 24];
    x += width;
    return { name, colour, x: x - width, y };
  });
  return { places, height: places.length ? y + 24 : 0 };
}

/** Text on one line, cut where it is wider than `room`. */
function write(context, text, x, y, room, font, colour) {
  [context.font, context.fillStyle] = [font, colour];
  let shown = text;
  while (shown.length > 1 && context.measureText(shown).width > room) shown = `${shown.slice(0, -2)}…`;
  context.fillText(shown, x, y);
}
