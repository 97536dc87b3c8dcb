// The dialog of one job: its timeline and the operator's actions. Reloaded while the job is
// unfinished.

import { byId, element, setText, showEmptyNote, updateList } from "./dom.js";
import { fetchJson } from "./snapshots.js";
import { money, seconds } from "./format.js";
import { requestAction, setUpKey } from "./operator.js";
import { showTimeline } from "./timeline.js";

const RELOAD_MS = 2000;
const MAY_RETRY = new Set(["FAILED", "CANCELLED"]);
const MAY_CANCEL = new Set(["PENDING", "PROCESSING"]);

let open = null; // {job, status} of the shown job; null while the dialog is closed

export async function openJob(job) {
  open = { job, status: null };
  setText(byId("answer"), "");
  setText(byId("job-title"), `Job ${job}`);
  setText(byId("job-facts"), "");
  byId("job-error").hidden = true;
  showTimeline(null);
  showEmptyNote("timeline", "Loading…");
  enableActions(null);
  if (!byId("job").open) byId("job").showModal();
  await load();
}

async function load() {
  const requested = open;
  try {
    const job = await fetchJson(`/api/jobs/${encodeURIComponent(requested.job)}/timeline`);
    if (open === requested) show(job);
  } catch (error) {
    if (open === requested)
      showEmptyNote(
        "timeline",
        error.status === 404
          ? "No such job is known here."
          : `The job cannot be loaded: ${error.message}.`,
      );
  }
}

function show(job) {
  open.status = job.status;
  const facts = {
    Store: job.store,
    Status: job.status,
    Attempt: String(job.attempt),
    Wait: seconds(job.waitSeconds),
    Cost: money(job.costUsd),
  };
  updateList(
    byId("job-facts"),
    Object.entries(facts),
    ([name]) => name,
    ([name]) => element("span", {}, `${name} `, element("b")),
    (fact, [, value]) => setText(fact.lastChild, value),
  );
  byId("job-error").hidden = !job.error;
  setText(byId("job-error"), job.error ?? "");
  showTimeline(job);
  showEmptyNote("timeline", job.events.length ? "" : "No events yet.");
  enableActions(job.status);
}

function enableActions(status) {
  byId("retry").disabled = !MAY_RETRY.has(status);
  byId("cancel").disabled = !MAY_CANCEL.has(status);
}

async function runAction(verb) {
  const { job, status } = open;
  enableActions(null);
  await requestAction(job, verb);
  if (open?.job !== job) return;
  enableActions(status);
  await load();
}

export function setUpJob() {
  setUpKey();
  byId("job-close").addEventListener("click", () => byId("job").close());
  byId("job").addEventListener("close", () => {
    open = null;
  });
  byId("retry").addEventListener("click", () => runAction("retry"));
  byId("cancel").addEventListener("click", () => runAction("cancel"));
  byId("act").addEventListener("submit", (event) => event.preventDefault());
  byId("find").addEventListener("submit", (event) => {
    event.preventDefault();
    openJob(byId("find-id").value.trim());
  });
  setInterval(() => {
    if (MAY_CANCEL.has(open?.status)) load();
  }, RELOAD_MS);
}
