// The page: which photos and models there are, and what is shown of them.

import { ApiError, loadModels } from "./api.js";
import { encodeColoured, encodeCutOut, encodeJson, encodeMask, encodeOverlay, save } from "./export.js";
import { drawContactSheet, drawThumbnail, formatShare, listShares } from "./gallery.js";
import { build, fillLegend, LETTERS } from "./legend.js";
import { buildLayer, buildRows, count, measureDifference, turn } from "./mask.js";
import { openPhoto } from "./photo.js";
import { decodeAnswer } from "./png.js";
import { Queue } from "./queue.js";
import { Viewer } from "./viewer.js";

const CANCELLED = "You have cancelled this photo. The server may still finish it; its answer is not waited for.";
const get = (id) => document.getElementById(id);

// A photo of `photo.js` has also `results`, by the model's name: {bytes, orientation, seconds, counts, thumbnail} and
// for the photo that is shown `mask`, upright; or {error}, a sentence.
const state = { models: [], limits: {}, photos: [], current: null, rows: [], hidden: new Set(), showing: 0 };

const viewer = new Viewer([get("canvas-a"), get("canvas-b")], { onRead: showReading, onZoom: showZoom });
const queue = new Queue({ findNext, onAnswer: keepAnswer, onError: keepError, onProgress: showProgress });

// The photos and their masks.

/** The models that are looked at: one, or two side by side. */
function getChosen() {
  const names = [get("model").value, get("compare")?.value];
  return [...new Set(names)].map((name) => state.models.find((model) => model.name === name)).filter(Boolean);
}

/** Its title; of two that are looked at, with a letter before it. */
function nameModel(model) {
  const chosen = getChosen();
  return chosen.length > 1 ? `${LETTERS[chosen.indexOf(model)]}: ${model.title}` : (model?.title ?? "");
}

async function addPhotos(files) {
  const errors = [];
  showErrors(errors);
  let isFirst = true;
  for (const file of files) {
    try {
      const photo = await openPhoto(file, file.name, state.limits);
      state.photos.push({ ...photo, results: new Map() });
    } catch (error) {
      errors.push(error.message);
      showErrors(errors);
      continue;
    }
    if (isFirst) select(state.photos.at(-1));
    isFirst = false;
    showGallery();
    queue.run();
  }
}

async function addExample(address) {
  const response = await fetch(address).catch(() => null);
  if (!response?.ok) return showErrors(["The example photo cannot be loaded. Check that the server still runs, then try again."]);
  const number = Number(address.split("/").at(-1)) + 1;
  await addPhotos([new File([await response.blob()], `Example ${number}`)]);
}

function findNext() {
  for (const photo of [state.current, ...state.photos]) {
    const model = photo && getChosen().find(({ name }) => !photo.results.has(name));
    if (model) return { photo, model };
  }
  return null;
}

async function keepAnswer({ photo, model }, answer) {
  const mask = await decode(answer);
  const result = { ...answer, counts: count(mask), thumbnail: drawThumbnail(photo, mask, model) };
  photo.results.set(model.name, result);
  if (photo === state.current) {
    result.mask = mask;
    const shares = listShares(result.counts, model.classes).map(([one, share]) => `${one.name} ${formatShare(share)}`);
    get("announcement").textContent = `${model.title} has computed ${photo.name}: ${shares.join(", ")}.`;
    await show();
  }
  showGallery();
}

async function decode({ bytes, orientation }) {
  return turn(await decodeAnswer(bytes), orientation);
}

function keepError({ photo, model }, error) {
  const text = error instanceof ApiError ? error.message : `The mask of ${photo.name} cannot be shown: ${error.message}. Try again.`;
  photo.results.set(model.name, { error: text });
  showPhotoErrors();
  showGallery();
}

function cancel() {
  queue.cancel();
  for (let job = findNext(); job; job = findNext()) job.photo.results.set(job.model.name, { error: CANCELLED });
  showPhotoErrors();
  showGallery();
}

function retry() {
  for (const { results } of state.photos) for (const [name, { error }] of results) if (error) results.delete(name);
  showErrors([]);
  showGallery();
  queue.run();
}

function clear() {
  queue.cancel();
  for (const { url } of state.photos) URL.revokeObjectURL(url);
  [state.photos, state.current] = [[], null];
  viewer.setPhoto(null);
  document.body.classList.remove("has-photo");
  get("result").hidden = true;
  showErrors([]);
  showGallery();
  get("photo").focus();
}

// What is shown.

function select(photo) {
  for (const { results } of state.photos) for (const result of results.values()) delete result.mask; // large masks add up
  state.current = photo;
  document.body.classList.add("has-photo");
  get("result").hidden = false;
  get("controls").hidden = true;
  get("photo-title").textContent = photo.name;
  for (const canvas of document.querySelectorAll("canvas[tabindex]")) canvas.parentElement.style.aspectRatio = `${photo.width} / ${photo.height}`;
  viewer.setPhoto(photo);
  return show();
}

/** Show the masks that there are of the current photo; whoever asks later wins. */
async function show() {
  const turnOf = ++state.showing;
  const [photo, models] = [state.current, getChosen()];
  const results = models.map(({ name }) => photo.results.get(name));
  for (const result of results) if (result?.bytes) result.mask ??= await decode(result);
  if (turnOf !== state.showing) return;
  showPhotoErrors();
  get("pane-b").hidden = models.length < 2;
  get("panes").classList.toggle("two", models.length > 1);
  ["a", "b"].forEach((pane, which) => (get(`title-${pane}`).textContent = nameModel(models[which])));
  const isReady = results.every((result) => result?.mask);
  get("controls").hidden = !isReady;
  showFacts(photo, results);
  if (!isReady) return viewer.setLayers([]);
  state.rows = buildRows(models);
  const masks = models.map((_, which) => ({ counts: results[which].counts, total: photo.width * photo.height }));
  fillLegend(get("legend"), get("absent"), state.rows, masks, state.hidden, showLayers);
  showDifference(results);
  get("download-state").textContent = "";
  showDownloads(models);
}

function showFacts(photo, results) {
  const facts = [`${photo.width} × ${photo.height} pixels`];
  const seconds = results.map((result) => result?.seconds?.toFixed(1)).filter(Boolean);
  if (seconds.length) facts.push(`sent, computed and received in ${seconds.join(" and ")} s`);
  if (photo.isConverted) facts.push("converted to PNG before it was sent");
  get("photo-facts").textContent = facts.join(", ");
  get("orientation-note").hidden = !results.some((result) => result?.orientation > 1);
}

/** A layer for each model, as the controls say. */
function buildLayers() {
  const isShown = (row) => !state.hidden.has(row.key);
  const opacity = get("opacity").value / 100;
  return getChosen().map(({ name }, which) => buildLayer(state.current.results.get(name).mask, state.rows, which, isShown, opacity));
}

function showLayers() {
  const isTwo = getChosen().length > 1;
  get("opacity").disabled = get("style-outlines").checked;
  get("opacity-value").textContent = `${get("opacity").value} %`;
  get("swipe-choice").hidden = isTwo;
  get("swipe").hidden = isTwo || !get("swipe-on").checked;
  const marksDifferences = isTwo && !get("differences-choice").hidden && get("differences").checked;
  viewer.setSwipe(get("swipe").hidden ? null : get("swipe").value / 100);
  viewer.setLayers(buildLayers(), { outlines: get("style-outlines").checked, marksDifferences });
}

function showDifference(results) {
  const isTwo = results.length > 1;
  const areComparable = isTwo && state.rows.some(({ ids }) => !ids.includes(null));
  get("difference").hidden = !isTwo;
  get("differences-choice").hidden = !areComparable;
  if (areComparable) {
    const share = measureDifference(...buildLayers());
    get("difference").textContent = `The models differ in ${formatShare(share)} of the pixels. Classes are the same where their names are.`;
  } else if (isTwo) {
    get("difference").textContent = "The models have no class name in common, so their masks cannot be compared.";
  }
  showLayers();
}

function showDownloads(models) {
  get("download-choice").hidden = models.length < 2;
  fillSelect(get("download-model"), models.map((model) => [model.name, nameModel(model)]));
  showCutOutClasses();
}

function showCutOutClasses() {
  const model = getDownloadModel();
  const found = listShares(state.current.results.get(model.name).counts, model.classes).map(([one]) => one);
  const [coloured, others] = [found.filter(({ colour }) => colour), found.filter(({ colour }) => !colour)];
  fillSelect(get("cut-out-class"), [...coloured, ...others].map(({ id, name }) => [id, name]));
}

function fillSelect(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, text]) => build("option", { value }, text)));
  if (choices.some(([value]) => String(value) === before)) select.value = before;
}

function showReading(point, isByKey) {
  const readout = get("readout");
  readout.ariaLive = isByKey ? "polite" : "off"; // a mouse would never let a screen reader finish
  const at = point && point.y * state.current.width + point.x;
  const models = point ? getChosen() : [];
  const readings = models.flatMap(({ name, classes }, which) => {
    const mask = state.current.results.get(name)?.mask;
    if (!mask) return [];
    const found = classes.find(({ id }) => id === mask.ids[at])?.name ?? `class ${mask.ids[at]}`;
    return `${models.length > 1 ? `${LETTERS[which]}: ` : ""}${found} ${Math.round(mask.confidence[at] / 2.55)} %`;
  });
  readout.textContent = readings.length ? `${readings.join(" · ")} (pixel ${point.x}, ${point.y})` : "";
}

function showZoom(scale) {
  get("zoom-level").textContent = `${Math.round(scale * window.devicePixelRatio * 100)} %`;
  get("zoom-out").disabled = get("zoom-fit").disabled = viewer.isFitted;
}

function showProgress(text, share) {
  get("progress").hidden = text === null;
  if (text === null) return;
  const number = state.photos.length > 1 ? `${countComputed()} of ${state.photos.length} photos are done. ` : "";
  get("progress-text").textContent = `${number}${text}`;
  if (share === null) get("progress-bar").removeAttribute("value");
  else get("progress-bar").value = share;
}

function countComputed() {
  return state.photos.filter(({ results }) => getChosen().every(({ name }) => results.get(name)?.bytes)).length;
}

function showErrors(texts, canRetry = false) {
  get("error").hidden = !texts.length;
  get("error-text").textContent = texts.join(" ");
  get("retry").hidden = !canRetry;
}

function showPhotoErrors() {
  const errors = getChosen().map(({ name }) => state.current?.results.get(name)?.error).filter(Boolean);
  if (errors.length || !get("retry").hidden) showErrors([...new Set(errors)], true);
}

// The gallery.

function showGallery() {
  get("gallery").hidden = state.photos.length < 2;
  if (get("gallery").hidden) return;
  const [model] = getChosen();
  get("contact-sheet").disabled = !state.photos.some(({ results }) => results.get(model.name)?.thumbnail);
  get("rest").hidden = !state.photos.some(({ results }) => [...results.values()].some(({ error }) => error));
  const list = get("thumbnails");
  while (list.children.length > state.photos.length) list.lastChild.remove();
  state.photos.forEach((photo, index) => {
    if (!list.children[index]) list.append(build("li", {}, build("button", { type: "button", onclick: () => select(state.photos[index]).then(showGallery) })));
    fillThumbnail(list.children[index].firstChild, photo, photo.results.get(model.name), model);
  });
}

function fillThumbnail(button, photo, result, model) {
  button.setAttribute("aria-pressed", String(photo === state.current));
  photo.bare ??= drawThumbnail(photo);
  const picture = result?.thumbnail ?? photo.bare;
  const shares = result?.counts ? listShares(result.counts, model.classes) : [];
  const [largest, share] = shares.find(([{ colour }]) => colour) ?? shares[0] ?? [];
  const text = largest ? `${largest.name} ${formatShare(share)}` : result ? "not computed" : "waits";
  if (button.firstChild !== picture) button.replaceChildren(picture, build("span", {}, photo.name), build("small", {}));
  button.lastChild.textContent = text;
}

async function downloadContactSheet() {
  const [model] = getChosen();
  const entries = state.photos.map(({ name, results }) => ({ name, ...results.get(model.name) }));
  save(await drawContactSheet(entries.filter(({ thumbnail }) => thumbnail), model), `${model.name}-contact-sheet.png`);
}

// Downloads.

function getDownloadModel() {
  const chosen = getChosen();
  return chosen.find(({ name }) => name === get("download-model").value) ?? chosen[0];
}

async function download(kind) {
  const [photo, model] = [state.current, getDownloadModel()];
  const { mask, orientation } = photo.results.get(model.name);
  const id = Number(get("cut-out-class").value);
  const layer = () => buildLayers()[getChosen().indexOf(model)];
  const encode = {
    mask: () => encodeMask(mask, orientation),
    coloured: () => encodeColoured(mask, model.classes),
    overlay: () => encodeOverlay(photo, layer(), get("style-outlines").checked),
    json: () => encodeJson(mask, orientation, model.classes),
    "cut-out": () => encodeCutOut(photo, mask, id),
  }[kind];
  const part = kind === "cut-out" ? model.classes.find((one) => one.id === id).name : kind;
  const stem = `${photo.name.replace(/\.\w+$/, "")}-${model.name}-${part}`.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  get("download-state").textContent = "The file is being made …";
  save(await encode(), `${stem}.${kind === "json" ? "json" : "png"}`);
  get("download-state").textContent = "The file is ready.";
}

// The controls.

function changeModels() {
  const { value } = get("model");
  get("card").href = `/models/${value}`;
  for (const group of document.querySelectorAll("[data-examples]")) group.hidden = group.dataset.examples !== value;
  for (const option of get("compare")?.options ?? []) option.disabled = option.value === value;
  if (get("compare")?.value === value) get("compare").value = "";
  if (!state.current) return;
  showErrors([]);
  show();
  showGallery();
  queue.run();
}

function listen() {
  const on = (id, event, action) => get(id)?.addEventListener(event, action);
  for (const chooser of [get("photo"), get("camera")]) {
    chooser.addEventListener("change", () => {
      const files = [...chooser.files];
      chooser.value = ""; // so that the same file can be chosen again
      addPhotos(files);
    });
  }
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    addPhotos([...event.clipboardData.files]);
  });
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("is-dropping");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("is-dropping"));
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("is-dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    addPhotos([...event.dataTransfer.files]);
  });
  for (const button of document.querySelectorAll("[data-example]")) button.addEventListener("click", () => addExample(button.dataset.example));
  for (const button of document.querySelectorAll("[data-download]")) button.addEventListener("click", () => download(button.dataset.download));
  for (const id of ["model", "compare"]) on(id, "change", changeModels);
  for (const id of ["opacity", "swipe"]) on(id, "input", showLayers);
  for (const id of ["style-colours", "style-outlines", "swipe-on", "differences"]) on(id, "change", showLayers);
  on("form", "submit", (event) => event.preventDefault());
  on("cancel", "click", cancel);
  for (const id of ["retry", "rest"]) on(id, "click", retry);
  on("clear", "click", clear);
  on("contact-sheet", "click", downloadContactSheet);
  on("download-model", "change", showCutOutClasses);
  on("zoom-in", "click", () => viewer.zoom(1.5));
  on("zoom-out", "click", () => viewer.zoom(1 / 1.5));
  on("zoom-fit", "click", () => viewer.fit());
}

async function start() {
  document.documentElement.classList.add("has-script");
  Object.assign(get("photo"), { multiple: true, accept: "image/*", required: false });
  get("retry").hidden = true;
  try {
    Object.assign(state, await loadModels());
  } catch (error) {
    return showErrors([error.message]);
  }
  listen();
  changeModels();
}

start();
