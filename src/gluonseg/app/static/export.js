// What can be downloaded, in full resolution.

import { describeMask, paint, turnBack } from "./mask.js";
import { readStrips } from "./photo.js";
import { encodePng, GREY, INDEXED, RGB, RGBA } from "./png.js";

/** Let the browser save a blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  [link.href, link.download] = [URL.createObjectURL(blob), name];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Grey PNG of the class ids, on the photo's stored pixels. */
export function encodeMask(mask, orientation) {
  const { width, height, ids } = turnBack(mask, orientation);
  return encodePng(width, height, GREY, [ids]);
}

/** The mask as the server's JSON, on the photo's stored pixels. */
export function encodeJson(mask, orientation, classes) {
  const text = JSON.stringify(describeMask(turnBack(mask, orientation), classes));
  return new Blob([text, "\n"], { type: "application/json" });
}

/** PNG of each class in its colour, and in black where it has none. */
export function encodeColoured({ width, height, ids }, classes) {
  const palette = new Uint8Array(3 * 256);
  for (const { id, colour } of classes) palette.set(splitColour(colour ?? "#000000"), 3 * id);
  return encodePng(width, height, INDEXED, [ids], palette);
}

const splitColour = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

/** PNG of the photo with a layer over it, as it is looked at. */
export function encodeOverlay(photo, layer, outlines) {
  const thick = Math.max(1, Math.round(Math.max(photo.width, photo.height) / 1500));
  async function* blend() {
    for await (const { top, height, pixels } of readStrips(photo)) {
      const overlay = new Uint8Array(pixels.length);
      paint(
        new Uint32Array(overlay.buffer),
        photo.width,
        height,
        layer,
        { left: 0, top, step: 1 },
        { outlines, thick },
      );
      const mixed = new Uint8Array((pixels.length / 4) * 3);
      for (let from = 0, to = 0; from < pixels.length; from += 4) {
        const opacity = overlay[from + 3] / 255;
        for (let band = from; band < from + 3; band++) {
          mixed[to++] = Math.round(pixels[band] + (overlay[band] - pixels[band]) * opacity);
        }
      }
      yield mixed;
    }
  }
  return encodePng(photo.width, photo.height, RGB, blend());
}

/** PNG of the photo's pixels of one class, transparent elsewhere. */
export function encodeCutOut(photo, { ids }, id) {
  async function* cut() {
    for await (const { top, pixels } of readStrips(photo)) {
      const words = new Uint32Array(pixels.buffer);
      const first = top * photo.width;
      for (let i = 0; i < words.length; i++) if (ids[first + i] !== id) words[i] = 0;
      yield new Uint8Array(pixels.buffer);
    }
  }
  return encodePng(photo.width, photo.height, RGBA, cut());
}
