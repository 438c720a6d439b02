// Shows the current photo with its masks, and what the controls beside it say.

import { formatShare, listShares } from "./gallery.js";
import { fillLegend } from "./legend.js";
import { buildLayer, buildRows, measureDifference, turn } from "./mask.js";
import { decodeAnswer } from "./png.js";
import { build, get, getChosen, LETTERS, nameModel, state } from "./state.js";
import { Viewer } from "./viewer.js";

export const viewer = new Viewer([get("canvas-a"), get("canvas-b")], { onRead: showReading, onZoom: showZoom });
let latestShow = 0;

/** The mask of a server's answer, upright. */
export async function decode({ bytes, orientation }) {
  return turn(await decodeAnswer(bytes), orientation);
}

/** Show a photo; its masks follow when they are there. */
export function select(photo) {
  for (const { results } of state.photos) for (const result of results.values()) delete result.mask; // large masks add up
  state.current = photo;
  document.body.classList.add("has-photo");
  get("result").hidden = false;
  get("photo-title").textContent = photo.name;
  for (const canvas of document.querySelectorAll("canvas[tabindex]"))
    canvas.parentElement.style.aspectRatio = `${photo.width} / ${photo.height}`;
  viewer.setPhoto(photo);
  return show();
}

/** Show the masks that there are of the current photo; whoever asks later wins. */
export async function show() {
  const number = ++latestShow;
  const [photo, models] = [state.current, getChosen()];
  const results = models.map(({ name }) => photo.results.get(name));
  const isReady = () => results.every((result) => result?.mask);
  get("controls").hidden = !isReady();
  for (const result of results) if (result?.bytes) result.mask ??= await decode(result);
  if (number !== latestShow) return;
  showPhotoErrors();
  get("pane-b").hidden = models.length < 2;
  get("panes").classList.toggle("two", models.length > 1);
  ["a", "b"].forEach((pane, which) => (get(`title-${pane}`).textContent = nameModel(models[which])));
  get("controls").hidden = !isReady();
  showFacts(photo, results);
  if (!isReady()) return viewer.setLayers([]);
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
export function buildLayers() {
  const isShown = (row) => !state.hidden.has(row.key);
  const opacity = get("opacity").value / 100;
  return getChosen().map(({ name }, which) =>
    buildLayer(state.current.results.get(name).mask, state.rows, which, isShown, opacity),
  );
}

export function showLayers() {
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
    get("difference").textContent =
      `The models differ in ${formatShare(share)} of the pixels. Classes are the same where their names are.`;
  } else if (isTwo) {
    get("difference").textContent = "The models have no class name in common, so their masks cannot be compared.";
  }
  showLayers();
}

function showDownloads(models) {
  get("download-choice").hidden = models.length < 2;
  fillSelect(
    get("download-model"),
    models.map((model) => [model.name, nameModel(model)]),
  );
  showCutOutClasses();
}

export function showCutOutClasses() {
  const model = getDownloadModel();
  const found = listShares(state.current.results.get(model.name).counts, model.classes).map(([one]) => one);
  const [coloured, others] = [found.filter(({ colour }) => colour), found.filter(({ colour }) => !colour)];
  const wanted = found.find(({ name }) => name === state.cutOut);
  fillSelect(
    get("cut-out-class"),
    [...coloured, ...others].map(({ id, name }) => [id, name]),
    String(wanted?.id),
  );
}

function fillSelect(select, choices, wanted = select.value) {
  select.replaceChildren(...choices.map(([value, text]) => build("option", { value }, text)));
  if (choices.some(([value]) => String(value) === wanted)) select.value = wanted;
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
}

export function showErrors(texts, canRetry = false) {
  get("error").hidden = !texts.length;
  get("error-text").textContent = texts.join(" ");
  get("retry").hidden = !canRetry;
}

export function showPhotoErrors() {
  const errors = getChosen()
    .map(({ name }) => state.current?.results.get(name)?.error)
    .filter(Boolean);
  if (errors.length || !get("retry").hidden) showErrors([...new Set(errors)], true);
}

export function getDownloadModel() {
  const chosen = getChosen();
  return chosen.find(({ name }) => name === get("download-model").value) ?? chosen[0];
}
