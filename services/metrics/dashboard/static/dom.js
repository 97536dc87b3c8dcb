// The few ways in which the page changes: in place, and only what differs. No markup ever comes from data.

export const byId = (id) => document.getElementById(id);

// element("td", { class: "text", title }, "text", child, …)
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) attribute(made, name, value);
  made.append(...children);
  return made;
}

export function attribute(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

// A length in percent, set through the object model: the page's policy forbids inline styles in markup.
export const size = (node, name, share) => node.style.setProperty(name, `${Math.max(0, Math.min(100, share)).toFixed(2)}%`);

// Children of `parent` for `items`: each made once by its key, updated in place, and moved only when the order changes.
// `held`: the order stays, and nothing comes or goes, because a person is about to click.
export function keyed(parent, items, key, make, update, { held = false } = {}) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  let position = 0;
  for (const item of items) {
    const name = String(key(item));
    let child = known.get(name);
    known.delete(name);
    if (!child && held) continue;
    if (!child) {
      child = make(item);
      child.dataset.key = name;
    }
    update(child, item);
    if (!held && parent.children[position] !== child) parent.insertBefore(child, parent.children[position] ?? null);
    position += 1;
  }
  if (held) return;
  for (const gone of known.values()) gone.remove();
  if (focused?.isConnected && document.activeElement !== focused) focused.focus({ preventScroll: true });
}

// A table's row of texts: the first cell names the row. Columns: {text(item), class, title(item)}.
export function row(columns) {
  return element("tr", {}, ...columns.map((column, index) =>
    element(index ? "td" : "th", { scope: index ? null : "row", class: column.class })));
}

export function fill(tr, columns, item) {
  columns.forEach((column, index) => {
    const cell = tr.children[index];
    if (column.paint) column.paint(cell, item);
    else text(cell, column.text(item));
    if (column.title) attribute(cell, "title", column.title(item));
  });
}

// A bar with a text behind it, made once in a cell.
export function bar(cell, share, label, tone = "") {
  if (!cell.firstElementChild) cell.append(element("span", { class: "bar", "aria-hidden": "true" }, element("i")), element("span"));
  const [track, shown] = cell.children;
  attribute(track, "class", `bar ${tone}`.trim());
  size(track.firstElementChild, "width", share);
  text(shown, label);
}

export function empty(name, message) {
  const line = document.querySelector(`[data-of="${name}"]`);
  line.hidden = !message;
  if (message) text(line, message);
}
