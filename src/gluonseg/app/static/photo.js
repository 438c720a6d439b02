// Photos as the browser decodes them: upright by their EXIF, of any format that it knows.

import { encodePng, RGB } from "./png.js";

const REDUCED_SIDE = 2048;
const STRIP_PIXELS = 2 ** 20;

/**
 * Open a file as a photo: {name, url, image, width, height, blob, isConverted}.
 *
 * `blob` is what to send: the file if it is a JPEG or a PNG, else the photo converted to PNG.
 * Throws an Error with a sentence when the browser cannot decode it, or it is over `limits`.
 */
export async function openPhoto(file, name, limits) {
  const url = URL.createObjectURL(file);
  try {
    const image = await loadImage(url, name);
    const { naturalWidth: width, naturalHeight: height } = image;
    const photo = { name, url, image, width, height, blob: file, isConverted: !(await isJpegOrPng(file)) };
    const megapixels = (width * height) / 1e6;
    if (megapixels > limits.max_megapixels) {
      throw new Error(
        `${name} has ${format(megapixels)} megapixels, and the server takes at most ${format(limits.max_megapixels)}. Make it smaller, or choose another one.`,
      );
    }
    if (photo.isConverted) photo.blob = await convert(photo);
    const size = photo.blob.size / 2 ** 20;
    if (size > limits.max_mb) {
      throw new Error(
        `${name} takes ${format(size)} MB${photo.isConverted ? " as a PNG" : ""}, and the server takes at most ${format(limits.max_mb)} MB. Save it as a JPEG, make it smaller, or choose another one.`,
      );
    }
    return photo;
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
}

const format = (number) => String(Math.round(number * 10) / 10);

async function loadImage(url, name) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    throw new Error(`${name} is not a photo that this browser can show. Choose a JPEG or PNG file.`);
  }
  return image;
}

async function isJpegOrPng(file) {
  const start = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const code = start.reduce((sum, byte) => sum * 256 + byte, 0);
  return code >>> 8 === 0xffd8ff || code === 0x89504e47;
}

function convert(photo) {
  async function* readRgb() {
    for await (const { pixels } of readStrips(photo)) {
      const rgb = new Uint8Array((pixels.length / 4) * 3);
      for (let from = 0, to = 0; from < pixels.length; from++) if (from % 4 < 3) rgb[to++] = pixels[from];
      yield rgb;
    }
  }
  return encodePng(photo.width, photo.height, RGB, readRgb());
}

/** The photo's pixels in strips of whole rows, {top, height, pixels: red, green, blue, alpha}: no canvas is large. */
export async function* readStrips({ image, width, height }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = Math.min(height, Math.ceil(STRIP_PIXELS / width));
  const context = canvas.getContext("2d", { willReadFrequently: true, alpha: false });
  for (let top = 0; top < height; top += canvas.height) {
    const rows = Math.min(canvas.height, height - top);
    context.fillStyle = "white";
    context.fillRect(0, 0, width, rows);
    context.drawImage(image, 0, top, width, rows, 0, 0, width, rows);
    yield { top, height: rows, pixels: context.getImageData(0, 0, width, rows).data };
    await new Promise((resolve) => setTimeout(resolve)); // the page stays responsive
  }
}

/** A copy of at most 2048 pixels a side: the whole photo is drawn from it faster and smoother. */
export function reduce({ image, width, height }) {
  const factor = Math.min(1, REDUCED_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [Math.ceil(width * factor), Math.ceil(height * factor)];
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}
