// One job's life as a list: when, what, for how long, and what of that was waiting.

import { attribute, byId, element, keyed, size, text } from "./dom.js";
import { between, seconds } from "./format.js";

const WORDS = { queued: "Asked for", admitted: "Admitted", forwarded: "Left the queue", started: "Claimed", retry: "To be tried again" };
const QUEUEING = new Set(["queued", "admitted", "forwarded", "started"]);
const SIDE_BY_SIDE = new Set(["article", "image"]); // both begin when the outline is there
const GOES_ON = { PENDING: "Waiting", PROCESSING: "Being written" };

// Each event closes the stretch that began with the one before; the last of a job that goes on is open. In seconds. Pure.
function stretches(job, now) {
  let before = job.createdAt, fork = job.createdAt;
  const closed = job.events.map((event) => {
    const began = SIDE_BY_SIDE.has(event.step) ? fork : before;
    before = event.at;
    if (!SIDE_BY_SIDE.has(event.step)) fork = event.at;
    return { ...stretch(job, began, event.at), limit: event.limitWaitSeconds ?? 0, what: label(event, job), note: note(event), tone: tone(event) };
  });
  const what = GOES_ON[job.status];
  if (!what) return closed;
  return [...closed, { ...stretch(job, before, now), limit: 0, what, note: "so far", tone: job.status === "PENDING" ? "queue" : "" }];
}

function stretch(job, began, ended) {
  const from = between(job.createdAt, began), took = Math.max(0, between(began, ended));
  return { from, took, offset: from + took };
}

function label(event, job) {
  if (event.kind === "step-done") return `Step ${event.step ?? ""}`.trim();
  if (event.kind === "ended") return job.status === "DONE" ? "Done" : `Ended: ${job.status}`;
  return WORDS[event.kind] ?? event.kind;
}

function note(event) {
  const parts = [];
  if (event.attempt > 1) parts.push(`try ${event.attempt}`);
  if (event.worker) parts.push(`on ${event.worker}`);
  if (event.limitWaitSeconds >= 0.05) parts.push(`${seconds(event.limitWaitSeconds)} of it waiting for a provider's limit`);
  if (event.error) parts.push(event.error);
  return parts.join(" · ");
}

function tone(event) {
  if (event.error) return "bad";
  return QUEUEING.has(event.kind) ? "queue" : "";
}

function make() {
  return element("li", {},
    element("span", { class: "at" }), element("span", { class: "what" }),
    element("span", { class: "span", "aria-hidden": "true" }, element("i"), element("i", { class: "limit" })),
    element("span", { class: "took" }), element("span", { class: "note" }));
}

function update(line, stretch, whole) {
  const [at, what, track, took, remark] = line.children;
  const [all, limit] = track.children;
  text(at, `+${seconds(stretch.offset)}`);
  text(what, stretch.what);
  text(took, stretch.took >= 0.05 ? seconds(stretch.took) : "");
  text(remark, stretch.note);
  attribute(all, "class", stretch.tone);
  all.hidden = !stretch.took;
  limit.hidden = !stretch.limit;
  remark.hidden = !stretch.note;
  for (const piece of [all, limit]) size(piece, "left", 100 * stretch.from / whole);
  size(all, "width", 100 * stretch.took / whole);
  size(limit, "width", 100 * Math.min(stretch.limit, stretch.took) / whole);
}

export function showTimeline(job) {
  const lines = (job ? stretches(job, new Date().toISOString()) : []).map((stretch, index) => ({ ...stretch, index }));
  const whole = lines.at(-1)?.offset || 1;
  keyed(byId("timeline"), lines, (stretch) => stretch.index, make, (line, stretch) => update(line, stretch, whole));
}
