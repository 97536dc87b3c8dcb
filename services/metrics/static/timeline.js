// One job's life as a list: when, what, for how long, and what of that was waiting.

import { byId, element, size, text } from "./dom.js";
import { between, seconds } from "./format.js";

const WORDS = {
  queued: "Asked for", admitted: "Admitted", forwarded: "Left the queue", started: "Claimed", "step-done": "Step", retry: "To be tried again", ended: "Ended",
};

// Each event closes the stretch that began with the one before. Pure: [{at, what, note, from, took, limit, tone}], in seconds.
export function stretches(job) {
  let before = job.createdAt;
  return job.events.map((event) => {
    const from = between(job.createdAt, before), took = Math.max(0, between(before, event.at));
    before = event.at;
    const limit = Math.min(took, event.limitWaitSeconds ?? 0);
    return { ...event, offset: between(job.createdAt, event.at), from, took, limit, what: label(event, job), note: note(event, limit), tone: tone(event) };
  });
}

function label(event, job) {
  if (event.kind === "step-done") return `Step ${event.step ?? ""}`.trim();
  if (event.kind === "ended") return job.status === "DONE" ? "Done" : `Ended: ${job.status}`;
  return WORDS[event.kind] ?? event.kind;
}

function note(event, limit) {
  const parts = [];
  if (event.attempt > 1) parts.push(`try ${event.attempt}`);
  if (event.worker) parts.push(`on ${event.worker}`);
  if (limit >= 0.05) parts.push(`${seconds(limit)} of it waiting for a provider's limit`);
  if (event.error) parts.push(event.error);
  return parts.join(" · ");
}

function tone(event) {
  if (event.error) return "bad";
  return ["admitted", "forwarded", "started", "queued"].includes(event.kind) ? "queue" : "";
}

function piece(className, from, took, whole) {
  const made = element("i", { class: className });
  size(made, "left", 100 * from / whole);
  size(made, "width", 100 * took / whole);
  return made;
}

function line(stretch, whole) {
  const track = element("span", { class: "span", "aria-hidden": "true" });
  if (stretch.took) track.append(piece(stretch.tone, stretch.from, stretch.took, whole));
  if (stretch.limit) track.append(piece("limit", stretch.from, stretch.limit, whole));
  const made = element("li", {},
    element("span", { class: "at" }, `+${seconds(stretch.offset)}`), element("span", { class: "what" }, stretch.what),
    track, element("span", { class: "took" }, stretch.took >= 0.05 ? seconds(stretch.took) : ""));
  if (stretch.note) made.append(element("span", { class: "note" }, stretch.note));
  return made;
}

export function showTimeline(job) {
  const list = byId("timeline");
  if (!job) return list.replaceChildren();
  const all = stretches(job);
  const whole = all.at(-1)?.offset || 1;
  const lines = all.map((stretch) => line(stretch, whole));
  if (list.textContent !== lines.map((made) => made.textContent).join("")) list.replaceChildren(...lines);
}
