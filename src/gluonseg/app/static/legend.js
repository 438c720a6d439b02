// The table of the classes: names, colours and shares; each can be hidden, or shown alone.

import { formatShare } from "./gallery.js";
import { build, LETTERS } from "./state.js";

/**
 * Fill `table` with the rows of `mask.js` that the masks have, the most frequent first, and `rest` with the others.
 *
 * `masks` are {counts, total}, numbers of pixels, one for each model. `hidden` is the set of keys that are not shown; it is changed here,
 * and `onChange` told.
 */
export function fillLegend(table, rest, rows, masks, hidden, onChange) {
  const shares = rows.map((row) =>
    masks.map(({ counts, total }, which) => (row.ids[which] === null ? null : counts[row.ids[which]] / total)),
  );
  const order = rows.map((_, index) => index).filter((index) => shares[index].some((share) => share));
  order.sort((a, b) => Math.max(...shares[b]) - Math.max(...shares[a]));
  const refresh = () => {
    for (const box of table.querySelectorAll("[data-show]")) box.checked = !hidden.has(box.dataset.show);
    for (const button of table.querySelectorAll("[data-only]")) {
      button.setAttribute("aria-pressed", String(isAlone(button.dataset.only)));
    }
    onChange();
  };
  const isAlone = (key) => hidden.size > 0 && rows.every((row) => hidden.has(row.key) !== (row.key === key));
  const toggle = ({ key }) => {
    if (!hidden.delete(key)) hidden.add(key);
    refresh();
  };
  const toggleAlone = ({ key }) => {
    const wasAlone = isAlone(key);
    hidden.clear();
    if (!wasAlone) for (const row of rows) if (row.key !== key) hidden.add(row.key);
    refresh();
  };
  const head = build(
    "tr",
    {},
    build("th", { scope: "col" }, "Class"),
    ...masks.map((_, which) =>
      build("th", { scope: "col", className: "number" }, masks.length > 1 ? LETTERS[which] : "Share"),
    ),
    build("td"),
  );
  table.tHead.replaceChildren(head);
  table.tBodies[0].replaceChildren(
    ...order.map((index) => {
      const row = rows[index];
      const box = build("input", { type: "checkbox", onchange: () => toggle(row) });
      const only = build(
        "button",
        { type: "button", ariaLabel: `Only ${row.name}`, onclick: () => toggleAlone(row) },
        "Only",
      );
      [box.dataset.show, only.dataset.only] = [row.key, row.key];
      const name = build("label", {}, box, buildSwatch(row.colour), build("span", {}, row.name));
      const numbers = shares[index].map((share) =>
        build("td", { className: "number" }, share === null ? "–" : formatShare(share)),
      );
      return build("tr", {}, build("th", { scope: "row" }, name), ...numbers, build("td", {}, only));
    }),
  );
  const absent = rows.filter((_, index) => !order.includes(index)).map(({ name }) => name);
  rest.hidden = !absent.length;
  rest.textContent = `Not found: ${absent.join(", ")}.`;
  refresh();
}

function buildSwatch(colour) {
  const swatch = build("span", { className: colour ? "swatch" : "swatch bare" });
  if (colour) swatch.style.background = colour;
  return swatch;
}
