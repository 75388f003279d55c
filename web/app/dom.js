// Elements without markup in strings: whatever a server says is only ever text.

const fill = (node, props, children) => {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  const shown = children.flat(Infinity).filter((c) => c !== undefined && c !== null && c !== false);
  node.append(...shown);
  return node;
};

/** An HTML element: `h("p", {class: "quiet"}, "text", child)`; `onclick` and such are listeners. */
export const h = (name, props = {}, ...children) => fill(document.createElement(name), props, children);

/** An SVG element, the same way. */
export const s = (name, props = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", name), props, children);

/** Puts these in place of what an element held, unless it shows the same already: a reader is not disturbed. */
export const show = (node, ...children) => {
  const fresh = h("div", {}, ...children);
  if (fresh.innerHTML !== node.innerHTML) node.replaceChildren(...fresh.childNodes);
};

/** A list of terms; those without a value are left out. */
export const terms = (pairs) =>
  h("dl", {}, pairs.filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([term, value]) => [h("dt", {}, term), h("dd", {}, value)]));

/** A picture that scrolls by itself where it is too wide. */
export const wide = (label, picture) =>
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, picture);

/** A table that scrolls by itself where it is too wide; `number` columns stand to the right. */
export const table = (caption, heads, rows) =>
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, heads.map((head) =>
        h("th", { scope: "col", class: head.number && "number" }, head.name ?? head)))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, n) =>
        h("td", { class: heads[n].number ? "number" : heads[n].wide && "wide" }, cell)))))));
