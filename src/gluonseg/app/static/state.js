// What the modules of the page share: the photos, the models, and which of them are looked at.

// A photo is one of `photo.js` with `results`, by the model's name: {bytes, orientation, seconds, counts, thumbnail} and,
// for the photo that is shown, `mask`, upright; or {error}, a sentence. `rows` and `hidden` are those of the legend,
// `cutOut` is the name of the class that the user has chosen to cut out. `models` and `limits` are as in the API.
export const state = { models: [], limits: {}, photos: [], current: null, rows: [], hidden: new Set(), cutOut: null };

export const LETTERS = ["A", "B"]; // of two models side by side

export const get = (id) => document.getElementById(id);

/** An element with properties and children. */
export function build(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** The models that are looked at: one, or two side by side. */
export function getChosen() {
  const names = [get("model").value, get("compare")?.value];
  return [...new Set(names)].map((name) => state.models.find((model) => model.name === name)).filter(Boolean);
}

/** A model's title; of two that are looked at, with a letter before it. */
export function nameModel(model) {
  const chosen = getChosen();
  return chosen.length > 1 ? `${LETTERS[chosen.indexOf(model)]}: ${model.title}` : (model?.title ?? "");
}
