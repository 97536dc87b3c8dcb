// The list of recent jobs. A row opens its job's dialog.

import { attribute, byId, element, empty, fill, keyed, row, text } from "./dom.js";
import { money, seconds } from "./format.js";
import { openJob } from "./job.js";

const TONES = { DONE: "good", FAILED: "bad", REJECTED: "bad" };
const HELD_MS = 4000;

let touchedAt = 0;

function link(cell, item) {
  if (cell.firstElementChild) return;
  const button = element("button", { type: "button", class: "job-link", title: item.job, "aria-label": `Job ${item.job}` }, short(item.job));
  button.addEventListener("click", () => openJob(item.job));
  cell.append(button);
}

// Ids begin with their time, so their ends tell them apart.
const short = (job) => (job.length > 12 ? `…${job.slice(-8)}` : job);

function pill(cell, item) {
  if (!cell.firstElementChild) cell.append(element("span"));
  attribute(cell.firstElementChild, "class", `pill ${TONES[item.status] ?? ""}`.trim());
  text(cell.firstElementChild, item.status);
}

const COLUMNS = [
  { paint: link },
  { text: (item) => item.store, title: (item) => item.store, class: "text clip" },
  { paint: pill, class: "text", title: (item) => item.error },
  { text: (item) => String(item.attempt ?? "–"), class: "spare" },
  { text: (item) => seconds(item.waitSeconds) },
  { text: (item) => money(item.costUsd), class: "spare" },
];

export function showJobs(jobs) {
  const body = byId("jobs");
  const held = Date.now() - touchedAt < HELD_MS && body.children.length > 0;
  keyed(body, jobs ?? [], (item) => item.job, () => row(COLUMNS), (tr, item) => fill(tr, COLUMNS, item), { held });
  byId("jobs-held").hidden = !held;
  empty("jobs", jobs === null ? "This service lists no jobs." : jobs.length ? "" : "No job has been asked for yet.");
}

// Rows must not move away from under a pointer, or a reader: whoever touches the list makes it hold still for a moment.
export function setUpJobs() {
  for (const touch of ["pointermove", "pointerdown", "keydown", "focusin"]) {
    byId("jobs").addEventListener(touch, () => { touchedAt = Date.now(); });
  }
}
