// Pure functions on masks: {width, height, ids: Uint8Array, confidence: Uint8Array}, and on rows of the legend.

/** Mask as the photo is shown by its EXIF orientation, 1 to 8; the same mask for 1. */
export function turn(mask, orientation) {
  const { width: w, height: h } = mask;
  // Where the first pixel shown lies in the stored ones, and how far apart neighbours in a row and in a column are.
  const [first, right, down] = {
    2: [w - 1, -1, w],
    3: [w * h - 1, -1, -w],
    4: [(h - 1) * w, 1, -w],
    5: [0, w, 1],
    6: [(h - 1) * w, -w, 1],
    7: [w * h - 1, -w, -1],
    8: [w - 1, w, -1],
  }[orientation] ?? [0, 1, w];
  if (right === 1 && down === w) return mask;
  const [width, height] = orientation > 4 ? [h, w] : [w, h];
  const turnPlane = (plane) => {
    const turned = new Uint8Array(plane.length);
    for (let y = 0, to = 0; y < height; y++) {
      for (let x = 0, from = first + y * down; x < width; x++, from += right) turned[to++] = plane[from];
    }
    return turned;
  };
  return { width, height, ids: turnPlane(mask.ids), confidence: turnPlane(mask.confidence) };
}

/** The mask as it is stored, of one that `turn` has turned upright. */
export function turnBack(mask, orientation) {
  return turn(mask, { 6: 8, 8: 6 }[orientation] ?? orientation);
}

/** Number of pixels of each class id, 256 of them. */
export function count(mask) {
  const counts = new Uint32Array(256);
  for (let i = 0; i < mask.ids.length; i++) counts[mask.ids[i]]++;
  return counts;
}

/**
 * The rows of the legend of one or two models: {name, colour, ids}, ids being [class id or null] for each model.
 * Classes of the same name share a row, and so the colour of the first model.
 */
export function buildRows(models) {
  const rows = [];
  models.forEach((model, which) => {
    for (const { id, name, colour } of model.classes) {
      const key = name.trim().toLowerCase();
      let row = rows.find((one) => one.key === key && one.ids[which] === null);
      if (!row) rows.push((row = { key, name, colour, ids: models.map(() => null) }));
      row.ids[which] = id;
    }
  });
  return rows;
}

const BARE = "#e0e0c0"; // of a class without a colour, when it is shown alone

/**
 * What `paint` needs of model number `which`: its mask, and for each class id its colour (as ImageData has it, 0 where
 * nothing is painted) in `tints`, mixed by `opacity`, and in `lines`, opaque; `rows` is its row in the legend.
 */
export function buildLayer(mask, legend, which, isShown, opacity) {
  const layer = {
    ...mask,
    tints: new Uint32Array(256),
    lines: new Uint32Array(256),
    rows: new Uint16Array(256).fill(9999),
  };
  const shown = legend.filter(isShown);
  legend.forEach((row, index) => {
    const id = row.ids[which];
    if (id === null) return;
    layer.rows[id] = index;
    const colour = row.colour ?? (shown.length === 1 && legend.length > 1 ? BARE : null);
    if (!colour || !isShown(row)) return;
    layer.tints[id] = parseColour(colour, opacity);
    layer.lines[id] = parseColour(colour, 1);
  });
  return layer;
}

function parseColour(text, opacity) {
  const rgb = parseInt(text.slice(1), 16);
  return ((Math.round(opacity * 255) << 24) | ((rgb & 255) << 16) | (rgb & 0xff00) | (rgb >> 16)) >>> 0;
}

/** Share of the pixels, 0 to 1, in which two layers have another row of the legend. */
export function measureDifference(a, b) {
  let different = 0;
  for (let i = 0; i < a.ids.length; i++) different += a.rows[a.ids[i]] !== b.rows[b.ids[i]];
  return different / a.ids.length;
}

/**
 * Paint a layer into `pixels`, a Uint32Array of `width` x `height` that is all 0.
 *
 * `left` and `top` are where its corner lies in the photo, `step` is how many pixels of the photo one of its takes.
 * With `outlines` only lines of 2 x `thick` pixels are painted; where layer `other` differs, stripes are.
 */
export function paint(pixels, width, height, layer, { left, top, step }, { outlines, other, thick }) {
  const [columns, firstX, endX] = findPlaces(width, left, step, layer.width, thick);
  const [lines, firstY, endY] = findPlaces(height, top, step, layer.height, thick);
  const { ids } = layer;
  const colours = outlines ? layer.lines : layer.tints;
  for (let y = firstY; y < endY; y++) {
    const here = lines[y + thick] * layer.width;
    const above = lines[y] * layer.width;
    const below = lines[y + 2 * thick] * layer.width;
    for (let x = firstX; x < endX; x++) {
      const column = columns[x + thick];
      const id = ids[here + column];
      let colour = colours[id];
      if (outlines) {
        let beside = 0;
        for (const at of [above + column, below + column, here + columns[x], here + columns[x + 2 * thick]]) {
          if (colours[ids[at]] !== colour) beside = colour || colours[ids[at]];
        }
        colour = beside;
      }
      if (other && layer.rows[id] !== other.rows[other.ids[here + column]]) {
        const stripe = Math.floor((x + y) / thick) % 4;
        if (stripe < 2) colour = stripe ? 0xff000000 : 0xffffffff;
      }
      pixels[y * width + x] = colour;
    }
  }
}

/** The places in the photo of pixels -margin to count + margin, kept inside it, and the range that lies inside. */
function findPlaces(total, start, step, size, margin) {
  const places = new Int32Array(total + 2 * margin);
  for (let i = 0; i < places.length; i++) {
    places[i] = Math.min(Math.max(Math.floor(start + (i - margin + 0.5) * step), 0), size - 1);
  }
  const first = Math.max(0, Math.ceil(-start / step - 0.5));
  return [places, first, Math.min(total, Math.ceil((size - start) / step - 0.5))];
}

/** What the server's JSON says of a mask: size, share of each class, and runs of [class id, length]. */
export function describeMask(mask, classes) {
  const counts = count(mask);
  const runs = [];
  const { ids } = mask;
  for (let from = 0, to = 0; from < ids.length; from = to) {
    while (to < ids.length && ids[to] === ids[from]) to++;
    runs.push([ids[from], to - from]);
  }
  const shares = classes.map(({ id, name }) => ({
    id,
    name,
    share: Math.round((counts[id] / ids.length) * 1e6) / 1e6,
  }));
  return { width: mask.width, height: mask.height, classes: shares, mask: { order: "row-major", runs } };
}
