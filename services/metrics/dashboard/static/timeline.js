// One job's timeline: the time of each event, the step before it, its duration, and the part spent
// waiting.

import { byId, element, setAttribute, setLength, setText, updateList } from "./dom.js";
import { between, seconds } from "./format.js";

const LABELS = {
  queued: "Requested",
  admitted: "Admitted",
  forwarded: "Left the queue",
  started: "Claimed",
  retry: "Waits for a retry",
};
const QUEUEING = new Set(["queued", "admitted", "forwarded", "started"]);
const SIDE_BY_SIDE = new Set(["article", "image"]); // both begin after the outline
const UNFINISHED = { PENDING: "Waiting", PROCESSING: "Being written" };

// Returns one span per event, from the event before it; an unfinished job has an open last one. In
// seconds. Pure.
function listSpans(job, now) {
  let before = job.createdAt,
    fork = job.createdAt;
  const closed = job.events.map((event) => {
    const began = SIDE_BY_SIDE.has(event.step) ? fork : before;
    before = event.at;
    if (!SIDE_BY_SIDE.has(event.step)) fork = event.at;
    return {
      ...createSpan(job, began, event.at),
      limit: event.limitWaitSeconds ?? 0,
      title: label(event, job),
      note: note(event),
      tone: tone(event),
    };
  });
  const title = UNFINISHED[job.status];
  if (!title) return closed;
  return [
    ...closed,
    {
      ...createSpan(job, before, now),
      limit: 0,
      title,
      note: "so far",
      tone: job.status === "PENDING" ? "queue" : "",
    },
  ];
}

function createSpan(job, began, ended) {
  const from = between(job.createdAt, began),
    took = Math.max(0, between(began, ended));
  return { from, took, offset: from + took };
}

function label(event, job) {
  if (event.kind === "step-done") return `Step ${event.step ?? ""}`.trim();
  if (event.kind === "ended") return job.status === "DONE" ? "Done" : `Ended: ${job.status}`;
  return LABELS[event.kind] ?? event.kind;
}

function note(event) {
  const parts = [];
  if (event.attempt > 1) parts.push(`attempt ${event.attempt}`);
  if (event.worker) parts.push(`on ${event.worker}`);
  if (event.limitWaitSeconds >= 0.05)
    parts.push(`${seconds(event.limitWaitSeconds)} of it waiting for a provider's limit`);
  if (event.error) parts.push(event.error);
  return parts.join(" · ");
}

function tone(event) {
  if (event.error) return "bad";
  return QUEUEING.has(event.kind) ? "queue" : "";
}

function createLine() {
  return element(
    "li",
    {},
    element("span", { class: "at" }),
    element("span", { class: "what" }),
    element(
      "span",
      { class: "span", "aria-hidden": "true" },
      element("i"),
      element("i", { class: "limit" }),
    ),
    element("span", { class: "took" }),
    element("span", { class: "note" }),
  );
}

function updateLine(line, span, total) {
  const [at, title, track, took, remark] = line.children;
  const [all, limit] = track.children;
  setText(at, `+${seconds(span.offset)}`);
  setText(title, span.title);
  setText(took, span.took >= 0.05 ? seconds(span.took) : "");
  setText(remark, span.note);
  setAttribute(all, "class", span.tone);
  all.hidden = !span.took;
  limit.hidden = !span.limit;
  remark.hidden = !span.note;
  for (const piece of [all, limit]) setLength(piece, "left", (100 * span.from) / total);
  setLength(all, "width", (100 * span.took) / total);
  setLength(limit, "width", (100 * Math.min(span.limit, span.took)) / total);
}

export function showTimeline(job) {
  const lines = (job ? listSpans(job, new Date().toISOString()) : []).map((span, index) => ({
    ...span,
    index,
  }));
  const total = lines.at(-1)?.offset || 1;
  updateList(
    byId("timeline"),
    lines,
    (span) => span.index,
    createLine,
    (line, span) => updateLine(line, span, total),
  );
}
