// The dialog of one job: its timeline, and what an operator may do with it. Read again while the job goes on.

import { byId, element, empty, keyed, text } from "./dom.js";
import { read } from "./feed.js";
import { money, seconds } from "./format.js";
import { act, setUpKey } from "./operator.js";
import { showTimeline } from "./timeline.js";

const EVERY_MS = 2000;
const MAY_RETRY = new Set(["FAILED", "CANCELLED"]);
const MAY_CANCEL = new Set(["PENDING", "PROCESSING"]);

let open = null; // {job, status}: what the dialog shows; null when it is closed

export async function openJob(job) {
  open = { job, status: null };
  text(byId("answer"), "");
  text(byId("job-title"), `Job ${job}`);
  text(byId("job-facts"), "");
  byId("job-error").hidden = true;
  showTimeline(null);
  empty("timeline", "Loading…");
  allow(null);
  if (!byId("job").open) byId("job").showModal();
  await load();
}

async function load() {
  const asked = open;
  try {
    const job = await read(`/api/jobs/${encodeURIComponent(asked.job)}/timeline`);
    if (open === asked) show(job);
  } catch (error) {
    if (open === asked) empty("timeline", error.status === 404 ? "No such job is known here." : `It cannot be read: ${error.message}.`);
  }
}

function show(job) {
  open.status = job.status;
  const facts = { Store: job.store, Status: job.status, Try: String(job.attempt), Wait: seconds(job.waitSeconds), Cost: money(job.costUsd) };
  keyed(byId("job-facts"), Object.entries(facts), ([name]) => name,
    ([name]) => element("span", {}, `${name} `, element("b")), (fact, [, value]) => text(fact.lastChild, value));
  byId("job-error").hidden = !job.error;
  text(byId("job-error"), job.error ?? "");
  showTimeline(job);
  empty("timeline", job.events.length ? "" : "Nothing has happened to it yet.");
  allow(job.status);
}

function allow(status) {
  byId("retry").disabled = !MAY_RETRY.has(status);
  byId("cancel").disabled = !MAY_CANCEL.has(status);
}

async function ask(verb) {
  const { job, status } = open;
  allow(null);
  await act(job, verb);
  if (open?.job !== job) return;
  allow(status);
  await load();
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
    openJob(byId("find-id").value.trim());
  });
  setInterval(() => { if (MAY_CANCEL.has(open?.status)) load(); }, EVERY_MS);
}
