// Helpers that change the page in place, and only where it differs. Data never becomes markup.

export const byId = (id) => document.getElementById(id);

// element("td", { class: "text", title }, "text", child, …)
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(node, name, value);
  node.append(...children);
  return node;
}

export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function setText(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// Sets a length in percent through the object model: the page's security policy forbids inline
// styles in markup.
export const setLength = (node, name, share) =>
  node.style.setProperty(name, `${Math.max(0, Math.min(100, share)).toFixed(2)}%`);

// Shows `items` as children of `parent`: each is created once by its key, updated in place, and
// moved only when the order changes. `held` keeps the order and all children, because a person may
// be about to click.
export function updateList(parent, items, key, create, update, { held = false } = {}) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let position = 0;
  for (const item of items) {
    const name = String(key(item));
    let child = known.get(name);
    known.delete(name);
    if (!child && held) continue;
    if (!child) {
      child = create(item);
      child.dataset.key = name;
    }
    update(child, item);
    if (!held && parent.children[position] !== child)
      parent.insertBefore(child, parent.children[position] ?? null);
    position += 1;
  }
  if (held) return;
  for (const removed of known.values()) removed.remove();
  if (focused?.isConnected && document.activeElement !== focused)
    focused.focus({ preventScroll: true });
}

// Creates a table row; its first cell is the row header. Columns: {text(item) or render(cell,
// item), class, title(item)}.
export function createRow(columns) {
  return element(
    "tr",
    {},
    ...columns.map((column, index) =>
      element(index ? "td" : "th", { scope: index ? null : "row", class: column.class }),
    ),
  );
}

export function fillRow(tr, columns, item) {
  columns.forEach((column, index) => {
    const cell = tr.children[index];
    if (column.render) column.render(cell, item);
    else setText(cell, column.text(item));
    if (column.title) setAttribute(cell, "title", column.title(item));
  });
}

// Shows a bar with a text behind it in a cell.
export function showBar(cell, share, label, tone = "") {
  if (!cell.firstElementChild)
    cell.append(
      element("span", { class: "bar", "aria-hidden": "true" }, element("i")),
      element("span"),
    );
  const [track, shown] = cell.children;
  setAttribute(track, "class", `bar ${tone}`.trim());
  setLength(track.firstElementChild, "width", share);
  setText(shown, label);
}

export function showEmptyNote(name, message) {
  const line = document.querySelector(`[data-of="${name}"]`);
  line.hidden = !message;
  if (message) setText(line, message);
}
