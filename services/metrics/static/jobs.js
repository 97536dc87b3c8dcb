// Recent jobs, and the dialog of one: its timeline, and what an operator may do with it.

import { attribute, byId, element, empty, fill, keyed, row, text } from "./dom.js";
import { read } from "./feed.js";
import { money, seconds } from "./format.js";
import { act, setUpKey } from "./operator.js";
import { showTimeline } from "./timeline.js";

const TONES = { DONE: "good", FAILED: "bad", REJECTED: "bad", PROCESSING: "", PENDING: "", CANCELLED: "" };
const MAY_RETRY = new Set(["FAILED", "CANCELLED"]);
const MAY_CANCEL = new Set(["PENDING", "PROCESSING"]);

let open = null; // {job, seen}: the job of the dialog, and the last that the list said of it

function link(cell, item) {
  if (!cell.firstElementChild) {
    const button = element("button", { type: "button", class: "job-link", title: item.job, "aria-label": `Job ${item.job}` }, short(item.job));
    button.addEventListener("click", () => show(item.job));
    cell.append(button);
  }
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
  const held = body.matches(":hover, :focus-within") && body.children.length > 0;
  keyed(body, jobs ?? [], (item) => item.job, () => row(COLUMNS), (tr, item) => fill(tr, COLUMNS, item), { held });
  empty("jobs", jobs === null ? "This service lists no jobs." : jobs.length ? "" : "No job has been asked for yet.");
  const seen = JSON.stringify(jobs?.find((item) => item.job === open?.job) ?? null);
  if (open && seen !== open.seen) {
    open.seen = seen;
    load();
  }
}

async function show(job) {
  open = { job, seen: null };
  text(byId("answer"), "");
  text(byId("job-title"), `Job ${job}`);
  showTimeline(null);
  text(byId("job-facts"), "");
  byId("job-error").hidden = true;
  empty("timeline", "Loading…");
  may(null);
  if (!byId("job").open) byId("job").showModal();
  await load();
}

async function load() {
  const asked = open.job;
  try {
    const job = await read(`/api/jobs/${encodeURIComponent(asked)}/timeline`);
    if (open?.job === asked) showOne(job);
  } catch (error) {
    if (open?.job === asked) empty("timeline", error.status === 404 ? "No such job is known here." : `It cannot be read: ${error.message}.`);
  }
}

function showOne(job) {
  const facts = { Store: job.store, Status: job.status, Try: String(job.attempt), Wait: seconds(job.waitSeconds), Cost: money(job.costUsd) };
  keyed(byId("job-facts"), Object.entries(facts), ([name]) => name,
    ([name]) => element("b", {}, element("span", {}, name), ""), (fact, [, value]) => {
      if (fact.lastChild.data !== value) fact.lastChild.data = value;
    });
  byId("job-error").hidden = !job.error;
  text(byId("job-error"), job.error ?? "");
  showTimeline(job);
  empty("timeline", job.events.length ? "" : "Nothing has happened to it yet.");
  may(job.status);
}

function may(status) {
  byId("retry").disabled = !MAY_RETRY.has(status);
  byId("cancel").disabled = !MAY_CANCEL.has(status);
}

async function ask(verb) {
  may(null);
  await act(open.job, verb);
  if (open) await load();
}

export function setUpJob() {
  setUpKey();
  byId("job-close").addEventListener("click", () => byId("job").close());
  byId("job").addEventListener("close", () => { open = null; });
  byId("retry").addEventListener("click", () => ask("retry"));
  byId("cancel").addEventListener("click", () => ask("cancel"));
  byId("act").addEventListener("submit", (event) => event.preventDefault());
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    show(byId("find-id").value.trim());
  });
}
