// One or two panes that show the same part of a photo, each with the mask of a model: zoom, pan, swipe, and reading.

import { paint } from "./mask.js";
import { reduce } from "./photo.js";

const MOST_ENLARGED = 40; // CSS pixels for one pixel of the photo
const CRISP_FROM = 3; // screen pixels for one pixel of the photo; less enlarged, the photo is smoothed
const TAP = 6; // CSS pixels that a finger may move in a tap

export class Viewer {
  /**
   * `canvases` are one or two elements; `onRead(point, isByKey)` is told the pixel {x, y} that is read, or null, and
   * `onZoom(scale)` the number of CSS pixels that a pixel of the photo takes.
   */
  constructor(canvases, { onRead, onZoom }) {
    this.panes = canvases.map((canvas) => ({ canvas, context: canvas.getContext("2d"), layer: null, overlay: null }));
    Object.assign(this, { onRead, onZoom, photo: null, swipe: null, look: {}, cursor: null, pointers: new Map() });
    this.view = { x: 0, y: 0, scale: 1 }; // the photo's place in the middle of a pane, and CSS pixels for its pixel
    this.isFitted = true;
    for (const pane of this.panes) this.listen(pane);
    new ResizeObserver(() => (this.isFitted ? this.fit() : this.move(0, 0))).observe(canvases[0]);
  }

  /** Show another photo; its layers follow with `setLayers`. */
  setPhoto(photo) {
    this.photo = photo;
    this.reduced = photo && reduce(photo);
    this.read(null);
    this.setLayers([]);
    this.fit();
  }

  /** One layer of `mask.js` for each pane; `look` is {outlines, marksDifferences}. */
  setLayers(layers, look = this.look) {
    this.look = look;
    this.panes.forEach((pane, index) => (pane.layer = layers[index] ?? null));
    this.redraw();
  }

  /** From which share of the width on the mask is shown: 0 to 1, or null for everywhere without a line. */
  setSwipe(share) {
    this.swipe = share;
    this.redraw();
  }

  get size() {
    const { clientWidth, clientHeight } = this.panes[0].canvas;
    return { width: clientWidth, height: clientHeight };
  }

  get fittedScale() {
    return Math.min(this.size.width / this.photo.width, this.size.height / this.photo.height);
  }

  fit() {
    if (!this.photo) return;
    this.view = { x: this.photo.width / 2, y: this.photo.height / 2, scale: this.fittedScale };
    this.move(0, 0);
  }

  /** Zoom by a factor; the place (x, y) of the pane, in CSS pixels, stays where it is. */
  zoom(factor, x = this.size.width / 2, y = this.size.height / 2) {
    if (!this.photo) return;
    const { view, fittedScale, size } = this;
    const scale = Math.min(Math.max(view.scale * factor, fittedScale), Math.max(MOST_ENLARGED, fittedScale));
    view.x += (x - size.width / 2) * (1 / view.scale - 1 / scale);
    view.y += (y - size.height / 2) * (1 / view.scale - 1 / scale);
    view.scale = scale;
    this.move(0, 0);
  }

  /** Move the photo by CSS pixels; it fills the pane, or is in its middle. */
  move(right, down) {
    if (!this.photo) return;
    const { view, photo, size } = this;
    const keep = (place, length, room) =>
      room >= length ? length / 2 : Math.min(Math.max(place, room / 2), length - room / 2);
    view.x = keep(view.x - right / view.scale, photo.width, size.width / view.scale);
    view.y = keep(view.y - down / view.scale, photo.height, size.height / view.scale);
    this.isFitted = view.scale <= this.fittedScale * 1.0001;
    // At its whole size a finger that moves down scrolls the page, as over any other photo.
    for (const { canvas } of this.panes) {
      canvas.style.touchAction = this.isFitted ? "pan-y" : "none";
      canvas.style.cursor = this.isFitted ? "crosshair" : "grab";
    }
    this.onZoom(view.scale);
    this.redraw();
  }

  /** Read the pixel at a point of the photo, or none; `pane` is the one that the mouse is over. */
  read(point, { isByKey = false, pane = null } = {}) {
    const isInside = point && point.x >= 0 && point.y >= 0 && point.x < this.photo.width && point.y < this.photo.height;
    this.cursor = isInside ? { x: Math.floor(point.x), y: Math.floor(point.y), pane } : null;
    this.onRead(this.cursor, isByKey);
    this.redraw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      for (const pane of this.panes) if (pane.canvas.clientWidth) this.draw(pane);
    });
  }

  draw(pane) {
    const { canvas, context, layer } = pane;
    const ratio = window.devicePixelRatio;
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    context.clearRect(0, 0, width, height);
    if (!this.photo) return;
    const scale = this.view.scale * ratio;
    const corner = { left: this.view.x - width / 2 / scale, top: this.view.y - height / 2 / scale, step: 1 / scale };
    this.drawPhoto(context, width, height, corner);
    const from = this.swipe === null ? 0 : Math.round(this.swipe * width);
    if (layer && from < width) {
      const overlay = this.paintOverlay(pane, width, height, corner, ratio);
      context.drawImage(overlay, from, 0, width - from, height, from, 0, width - from, height);
    }
    if (this.swipe !== null) drawCased(context, ratio, [[from, 0, from, height]]);
    if (this.cursor && this.cursor.pane !== pane) this.drawCursor(context, corner, scale, ratio);
  }

  drawPhoto(context, width, height, { left, top, step }) {
    const { photo, reduced } = this;
    const [x, y] = [Math.max(0, left), Math.max(0, top)];
    const [endX, endY] = [Math.min(photo.width, left + width * step), Math.min(photo.height, top + height * step)];
    const shrink = reduced.width / photo.width;
    const [source, factor] = 1 / step <= shrink || shrink === 1 ? [reduced, shrink] : [photo.image, 1];
    context.imageSmoothingEnabled = 1 / step < CRISP_FROM;
    context.imageSmoothingQuality = "medium";
    const part = [x, y, endX - x, endY - y].map((length) => length * factor);
    context.drawImage(source, ...part, (x - left) / step, (y - top) / step, (endX - x) / step, (endY - y) / step);
  }

  /** The mask in colours, as a canvas as large as the pane: only what is seen is painted, whatever the photo's size. */
  paintOverlay(pane, width, height, corner, ratio) {
    if (pane.overlay?.canvas.width !== width || pane.overlay.canvas.height !== height) {
      pane.overlay = new OffscreenCanvas(width, height).getContext("2d");
      pane.image = pane.overlay.createImageData(width, height);
    }
    const pixels = new Uint32Array(pane.image.data.buffer).fill(0);
    const other = this.panes.find((one) => one !== pane)?.layer;
    const look = {
      outlines: this.look.outlines,
      other: this.look.marksDifferences && other,
      thick: Math.round(2 * ratio),
    };
    paint(pixels, width, height, pane.layer, corner, look);
    pane.overlay.putImageData(pane.image, 0, 0);
    return pane.overlay.canvas;
  }

  drawCursor(context, { left, top, step }, scale, ratio) {
    const [x, y] = [(this.cursor.x + 0.5 - left) / step, (this.cursor.y + 0.5 - top) / step];
    const [gap, end] = [Math.max(scale / 2, 4 * ratio), Math.max(scale / 2, 4 * ratio) + 10 * ratio];
    drawCased(context, ratio, [
      [x - end, y, x - gap, y],
      [x + gap, y, x + end, y],
      [x, y - end, x, y - gap],
      [x, y + gap, x, y + end],
    ]);
  }

  listen(pane) {
    const { canvas } = pane;
    const locate = (event) => {
      const box = canvas.getBoundingClientRect();
      return { x: event.clientX - box.left, y: event.clientY - box.top };
    };
    const readAt = (place, options) => {
      if (!this.photo) return;
      const { view, size } = this;
      const toPhoto = (at, middle, centre) => centre + (at - middle / 2) / view.scale;
      this.read({ x: toPhoto(place.x, size.width, view.x), y: toPhoto(place.y, size.height, view.y) }, options);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, locate(event));
      this.travel = this.pointers.size === 1 ? 0 : Infinity;
    });
    canvas.addEventListener("pointermove", (event) => {
      const place = locate(event);
      const before = this.pointers.get(event.pointerId);
      const isDrag = before && !(this.isFitted && this.pointers.size === 1);
      if (before) {
        this.travel += Math.hypot(place.x - before.x, place.y - before.y);
        this.drag(event.pointerId, before, place);
      }
      if (!isDrag) readAt(place, { pane: event.pointerType === "mouse" ? pane : null });
    });
    const release = (event) => {
      const place = this.pointers.get(event.pointerId);
      this.pointers.delete(event.pointerId);
      if (place && event.type === "pointerup" && this.travel < TAP) {
        readAt(place, { pane: event.pointerType === "mouse" ? pane : null });
      }
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", () => this.cursor?.pane === pane && this.read(null));
    canvas.addEventListener("wheel", (event) => {
      if (this.isFitted && event.deltaY > 0) return; // nothing to shrink: the page scrolls
      event.preventDefault();
      const place = locate(event);
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), place.x, place.y);
    });
    canvas.addEventListener("keydown", (event) => this.handleKey(event));
  }

  /** One pointer drags the photo; of two, the one that moves also zooms about the other. */
  drag(id, before, place) {
    this.pointers.set(id, place);
    if (this.pointers.size === 1) return this.move(place.x - before.x, place.y - before.y);
    const [, other] = [...this.pointers].find(([key]) => key !== id);
    const measure = (one) => Math.max(10, Math.hypot(one.x - other.x, one.y - other.y));
    this.zoom(measure(place) / measure(before), other.x, other.y);
  }

  handleKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.photo) return;
    const actions = {
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      0: () => this.fit(),
      Escape: () => this.read(null),
    };
    const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[
      event.key
    ] ?? [0, 0];
    if (right || down) this.step(right, down, event.shiftKey ? 10 : 1);
    else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  }

  /** Move the pixel that is read, by a few CSS pixels but at least by one of the photo; the photo follows. */
  step(right, down, times) {
    const { view, photo, size } = this;
    const length = Math.max(1, Math.round(4 / view.scale)) * times;
    const start = this.cursor ?? { x: view.x - right * length, y: view.y - down * length };
    const keep = (place, end) => Math.min(Math.max(place, 0), end - 1);
    const point = { x: keep(start.x + right * length, photo.width), y: keep(start.y + down * length, photo.height) };
    this.read(point, { isByKey: true });
    const getExcess = (place, centre, room) =>
      Math.sign(place - centre) * Math.max(0, Math.abs(place - centre) * view.scale - room / 2 + 20);
    this.move(-getExcess(point.x, view.x, size.width), -getExcess(point.y, view.y, size.height));
  }
}

/** Dark lines in light ones, [x, y, x, y]: seen on every photo. */
function drawCased(context, ratio, lines) {
  const path = new Path2D();
  for (const [x, y, endX, endY] of lines) {
    path.moveTo(x, y);
    path.lineTo(endX, endY);
  }
  for (const [colour, width] of [
    ["white", 4],
    ["#111", 1.5],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = width * ratio;
    context.stroke(path);
  }
}
