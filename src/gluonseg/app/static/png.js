// Reads and writes PNG files without a canvas: exact in every browser, at any size, and a grey PNG stays grey.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
export const GREY = 0;
export const RGB = 2;
export const INDEXED = 3;
export const RGBA = 6;
const SAMPLES = { [GREY]: 1, [RGB]: 3, [INDEXED]: 1, [RGBA]: 4 };

/**
 * Read the server's answer, an RGB PNG: red is the class id, green its probability from 0 to 255.
 * Gives {width, height, ids: Uint8Array, confidence: Uint8Array}, row by row.
 */
export async function decodeAnswer(bytes) {
  const view = new DataView(bytes);
  const parts = [];
  let width, height;
  for (let at = SIGNATURE.length; at < bytes.byteLength; at += 12 + view.getUint32(at)) {
    const type = view.getUint32(at + 4);
    if (type === 0x49484452) [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)]; // IHDR
    if (type === 0x49444154) parts.push(new Uint8Array(bytes, at + 8, view.getUint32(at))); // IDAT
  }
  const ids = new Uint8Array(width * height);
  const confidence = new Uint8Array(width * height);
  let row = 0;
  let line = new Uint8Array(1 + 3 * width);
  let above = new Uint8Array(1 + 3 * width);
  let filled = 0;
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    for (let from = 0; from < value.length && row < height;) {
      const part = value.subarray(from, from + line.length - filled);
      line.set(part, filled);
      from += part.length;
      filled += part.length;
      if (filled < line.length) continue;
      undoFilter(line, above);
      for (let x = 0, at = row * width; x < width; x++, at++) {
        ids[at] = line[1 + 3 * x];
        confidence[at] = line[2 + 3 * x];
      }
      [line, above, filled] = [above, line, 0];
      row++;
    }
  }
  return { width, height, ids, confidence };
}

/** PNG filters of a line of RGB; its first byte says which. */
function undoFilter(line, above) {
  const filter = line[0];
  for (let i = 1; filter && i < line.length; i++) {
    const left = i > 3 ? line[i - 3] : 0;
    if (filter === 1) line[i] += left;
    else if (filter === 2) line[i] += above[i];
    else if (filter === 3) line[i] += (left + above[i]) >> 1;
    else line[i] += choosePaeth(left, above[i], i > 3 ? above[i - 3] : 0);
  }
}

function choosePaeth(left, above, corner) {
  const [a, b, c] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  return a <= b && a <= c ? left : b <= c ? above : corner;
}

/**
 * Write a PNG of 8 bits. `strips` is an iterable (async or not) of Uint8Array, each some whole rows of samples;
 * `palette` is a Uint8Array of red, green, blue for INDEXED.
 */
export async function encodePng(width, height, type, strips, palette = null) {
  const header = new Uint8Array(13);
  new DataView(header.buffer).setUint32(0, width);
  new DataView(header.buffer).setUint32(4, height);
  header.set([8, type], 8);
  const stream = new CompressionStream("deflate");
  const packed = new Response(stream.readable).arrayBuffer();
  const writer = stream.writable.getWriter();
  const size = width * SAMPLES[type];
  let above = new Uint8Array(size);
  for await (const strip of strips) {
    const lines = new Uint8Array((strip.length / size) * (size + 1));
    for (let from = 0, to = 0; from < strip.length; from += size, to += size + 1) {
      lines[to] = 2; // each row is written as the difference from the one above it
      for (let i = 0; i < size; i++) lines[to + 1 + i] = strip[from + i] - above[i];
      above = strip.subarray(from, from + size);
    }
    await writer.write(lines);
  }
  await writer.close();
  const parts = [buildChunk("IHDR", header), ...(palette ? [buildChunk("PLTE", palette)] : [])];
  parts.push(buildChunk("IDAT", new Uint8Array(await packed)), buildChunk("IEND", new Uint8Array()));
  return new Blob([new Uint8Array(SIGNATURE), ...parts.flat()], { type: "image/png" });
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** Length and name, data, and checksum of a chunk, as three arrays of bytes. */
function buildChunk(name, data) {
  const head = new Uint8Array(8);
  const tail = new Uint8Array(4);
  new DataView(head.buffer).setUint32(0, data.length);
  head.set(new TextEncoder().encode(name), 4);
  let crc = 0xffffffff;
  for (const bytes of [head.subarray(4), data]) {
    for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  }
  new DataView(tail.buffer).setUint32(0, ~crc >>> 0);
  return [head, data, tail];
}
