// The page: photos are added, computed one after another, and downloaded.

import { ApiError } from "./api.js";
import { encodeColoured, encodeCutOut, encodeJson, encodeMask, encodeOverlay, save } from "./export.js";
import { drawContactSheet, drawThumbnail, formatShare, listShares } from "./gallery.js";
import { count } from "./mask.js";
import { openPhoto } from "./photo.js";
import { Queue } from "./queue.js";
import {
  buildLayers,
  decode,
  getDownloadModel,
  select,
  show,
  showCutOutClasses,
  showErrors,
  showLayers,
  showPhotoErrors,
  viewer,
} from "./show.js";
import { build, get, getChosen, state } from "./state.js";

const CANCELLED = "You have cancelled this photo. The server may still finish it; its answer is not waited for.";
const queue = new Queue({ findNext, onAnswer: keepAnswer, onError: keepError, onProgress: showProgress });

let round = 0; // raised when the user cancels: photos that were to be opened before are left out
let isMakingFile = false;

// The photos and their masks.

async function addPhotos(files) {
  const [mine, errors] = [round, []];
  showErrors(errors);
  let isFirst = true;
  for (const file of files) {
    try {
      const photo = await openPhoto(file, file.name, state.limits);
      if (mine !== round) return URL.revokeObjectURL(photo.url);
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
  if (!response?.ok)
    return showErrors(["The example photo cannot be loaded. Check that the server still runs, then try again."]);
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

function keepError({ photo, model }, error) {
  const text =
    error instanceof ApiError
      ? error.message
      : `The mask of ${photo.name} cannot be shown: ${error.message}. Try again.`;
  photo.results.set(model.name, { error: text });
  showPhotoErrors();
  showGallery();
}

function cancel() {
  round++;
  queue.cancel();
  for (let job = findNext(); job; job = findNext()) job.photo.results.set(job.model.name, { error: CANCELLED });
  showPhotoErrors();
  showGallery();
  get(get("error").hidden ? "rest" : "retry").focus();
}

function retry() {
  for (const { results } of state.photos) for (const [name, { error }] of results) if (error) results.delete(name);
  showErrors([]);
  showGallery();
  queue.run();
  get("cancel").focus();
}

function remove() {
  if (state.photos.length === 1) return clear();
  const index = state.photos.indexOf(state.current);
  URL.revokeObjectURL(state.current.url);
  state.photos.splice(index, 1);
  select(state.photos[Math.min(index, state.photos.length - 1)]);
  showGallery();
}

function clear() {
  round++;
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

function showProgress(text, share) {
  const isNews = get("progress").hidden !== (text === null);
  const number = state.photos.length > 1 ? `${countComputed()} of ${state.photos.length} photos are done. ` : "";
  get("progress").hidden = text === null;
  if (isNews)
    get("announcement").textContent = text === null ? `${get("announcement").textContent} ${number}` : number + text;
  if (text === null) return;
  get("progress-text").textContent = `${number}${text}`;
  if (share === null) get("progress-bar").removeAttribute("value");
  else get("progress-bar").value = share;
}

function countComputed() {
  return state.photos.filter(({ results }) => getChosen().every(({ name }) => results.get(name)?.bytes)).length;
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
    if (!list.children[index])
      list.append(build("li", {}, build("button", { type: "button", onclick: () => selectFromGallery(index) })));
    fillThumbnail(list.children[index].firstChild, photo, photo.results.get(model.name), model);
  });
}

function selectFromGallery(index) {
  select(state.photos[index]);
  showGallery();
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
  save(
    await drawContactSheet(
      entries.filter(({ thumbnail }) => thumbnail),
      model,
    ),
    `${model.name}-contact-sheet.png`,
  );
}

// Downloads.

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
  const part = kind === "cut-out" ? `cut-out-${model.classes.find((one) => one.id === id).name}` : kind;
  const stem = `${photo.name.replace(/\.\w+$/, "")}-${model.name}-${part}`.replace(/[^\p{L}\p{N}._-]+/gu, "-");
  if (isMakingFile) return;
  isMakingFile = true;
  get("download-state").textContent = "The file is being made …";
  try {
    save(await encode(), `${stem}.${kind === "json" ? "json" : "png"}`);
    get("download-state").textContent = "The file is ready.";
  } catch (error) {
    get("download-state").textContent = `The file cannot be made: ${error.message}. Try a smaller photo.`;
  } finally {
    isMakingFile = false;
  }
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
  document.addEventListener(
    "dragleave",
    (event) => event.relatedTarget || document.body.classList.remove("is-dropping"),
  );
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("is-dropping");
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    addPhotos([...event.dataTransfer.files]);
  });
  for (const button of document.querySelectorAll("[data-example]"))
    button.addEventListener("click", () => addExample(button.dataset.example));
  for (const button of document.querySelectorAll("[data-download]"))
    button.addEventListener("click", () => download(button.dataset.download));
  for (const id of ["model", "compare"]) on(id, "change", changeModels);
  for (const id of ["opacity", "swipe"]) on(id, "input", showLayers);
  for (const id of ["style-colours", "style-outlines", "swipe-on", "differences"]) on(id, "change", showLayers);
  on("form", "submit", (event) => event.preventDefault());
  on("cancel", "click", cancel);
  for (const id of ["retry", "rest"]) on(id, "click", retry);
  on("clear", "click", clear);
  on("remove", "click", remove);
  on("cut-out-class", "change", () => (state.cutOut = get("cut-out-class").selectedOptions[0].text));
  on("contact-sheet", "click", downloadContactSheet);
  on("download-model", "change", showCutOutClasses);
  on("zoom-in", "click", () => viewer.zoom(1.5));
  on("zoom-out", "click", () => viewer.zoom(1 / 1.5));
  on("zoom-fit", "click", () => viewer.fit());
}

function start() {
  document.documentElement.classList.add("has-script");
  Object.assign(get("photo"), { multiple: true, accept: "image/*", required: false });
  get("retry").hidden = true;
  Object.assign(state, JSON.parse(get("form").dataset.description));
  listen();
  changeModels();
}

start();
