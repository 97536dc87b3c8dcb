// The list of recent jobs. A row opens its job's dialog.

import {
  byId,
  createRow,
  element,
  fillRow,
  setAttribute,
  setText,
  showEmptyNote,
  updateList,
} from "./dom.js";
import { money, seconds } from "./format.js";
import { openJob } from "./job.js";

const TONES = { DONE: "good", FAILED: "bad" };
const HOLD_MS = 4000;

let touchedAt = 0;

function renderLink(cell, item) {
  if (cell.firstElementChild) return;
  const button = element(
    "button",
    { type: "button", class: "job-link", title: item.job, "aria-label": `Job ${item.job}` },
    short(item.job),
  );
  button.addEventListener("click", () => openJob(item.job));
  cell.append(button);
}

// Ids begin with a time, so only their ends differ.
const short = (job) => (job.length > 12 ? `…${job.slice(-8)}` : job);

function renderStatus(cell, item) {
  if (!cell.firstElementChild) cell.append(element("span"));
  setAttribute(cell.firstElementChild, "class", `pill ${TONES[item.status] ?? ""}`.trim());
  setText(cell.firstElementChild, item.status);
}

const COLUMNS = [
  { render: renderLink },
  { text: (item) => item.store, title: (item) => item.store, class: "text clip" },
  { render: renderStatus, class: "text", title: (item) => item.error },
  { text: (item) => String(item.attempt ?? "–"), class: "spare" },
  { text: (item) => seconds(item.waitSeconds) },
  { text: (item) => money(item.costUsd), class: "spare" },
];

export function showJobs(jobs) {
  const body = byId("jobs");
  const held = Date.now() - touchedAt < HOLD_MS && body.children.length > 0;
  updateList(
    body,
    jobs ?? [],
    (item) => item.job,
    () => createRow(COLUMNS),
    (tr, item) => fillRow(tr, COLUMNS, item),
    { held },
  );
  byId("jobs-held").hidden = !held;
  showEmptyNote(
    "jobs",
    jobs === null
      ? "This service lists no jobs."
      : jobs.length
        ? ""
        : "No job has been requested yet.",
  );
}

// Keeps the rows in place for a moment after the list was touched, so that they do not move under
// the pointer.
export function setUpJobs() {
  for (const touch of ["pointermove", "pointerdown", "keydown", "focusin"]) {
    byId("jobs").addEventListener(touch, () => {
      touchedAt = Date.now();
    });
  }
}
