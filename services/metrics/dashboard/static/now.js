// The five numbers, each with a verdict in words beside its colour.

import { byId, element, keyed, size, text } from "./dom.js";
import { number, plural, rate, seconds } from "./format.js";

export const BAND = [20, 40]; // blogs a minute that operators expect of a worker
// The thresholds of the alerts of the same names; seconds, percent, blogs.
export const FAIR = { queue: [1000, 5000], failedPercent: [5, 20], leastPerMinute: 5, backlogAge: 300, oldestWait: [1800, 7200] };

const OK = ["", "OK"], NONE = ["", ""];

function above(value, [warning, critical]) {
  if (value > critical) return ["bad", "Critical"];
  return value > warning ? ["warn", "High"] : OK;
}

// The rate is of five minutes: about a backlog that is younger it says nothing yet.
function pace(overview, least) {
  if (!overview.pending) return ["", overview.inFlight ? "OK" : "Idle"];
  if (overview.donePerMinute >= least) return OK;
  if (overview.oldestWaitSeconds < FAIR.backlogAge) return ["", "Starting"];
  return overview.donePerMinute < FAIR.leastPerMinute ? ["bad", "Critical"] : ["warn", "Slow"];
}

function crew(overview) {
  if (!overview.workers) return ["bad", "No worker"];
  return overview.inFlight ? ["", "Busy"] : ["", "Idle"];
}

function expectation(low, high, workers) {
  if (!workers) return `${low}–${high} a worker expected`;
  return `${low * workers}–${high * workers} expected of ${plural(workers, "worker")}`;
}

const waits = ({ p50, p95 }) => (p50 === null ? "nothing has waited yet" : `p50 ${seconds(p50)}, p95 ${seconds(p95)}`);

function failures({ failedLastHour, doneLastHour }) {
  const ended = failedLastHour + doneLastHour;
  return ended ? `${number(failedLastHour)} of ${number(ended)} in the last hour` : "none ended in the last hour";
}

// What keeps the workers from going faster.
function brake(limitedBy) {
  const words = limitedBy.map(({ provider, by }) => (by === "unavailable" || by === "cooling down" ? `${provider} ${by}` : `limited by ${provider} ${by}`));
  return words.length ? ` · ${[...new Set(words)].join(", ")}` : "";
}

function tiles(overview, limitedBy) {
  const { pending, workers, donePerMinute } = overview;
  const [low, high] = BAND;
  return [
    { name: "Pending", value: number(pending), verdict: pending === null ? NONE : above(pending, FAIR.queue),
      note: `${plural(overview.storesWaiting ?? 0, "store")} waiting`, lead: true },
    { name: "Oldest wait", value: seconds(overview.oldestWaitSeconds), verdict: pending ? above(overview.oldestWaitSeconds, FAIR.oldestWait) : NONE,
      note: waits(overview.waitSeconds) },
    { name: "Done a minute", value: rate(donePerMinute), verdict: pace(overview, low * workers),
      note: expectation(low, high, workers), band: { value: donePerMinute, low: low * workers, high: high * workers } },
    { name: "Failed", value: `${rate(overview.failedPercent)} %`, verdict: above(overview.failedPercent, FAIR.failedPercent),
      note: failures(overview) },
    { name: "In flight", value: number(overview.inFlight), verdict: crew(overview), note: `${plural(workers, "worker")}${brake(limitedBy)}` },
  ];
}

function make(tile) {
  const box = element("div", { class: "tile" },
    element("dt", {}, element("span", {}, tile.name), element("span", { class: "verdict" })),
    element("dd", { class: "value" }));
  if (tile.band) box.append(element("dd", { class: "band", "aria-hidden": "true" }, element("i"), element("b")));
  box.append(element("dd", { class: "note" }));
  return box;
}

function update(box, tile) {
  const [tone, word] = tile.verdict;
  box.className = `tile ${tone} ${tile.lead ? "lead" : ""} ${tile.skeleton ? "skeleton" : ""}`;
  text(box.querySelector(".verdict"), word);
  const value = box.querySelector(".value");
  value.className = `value ${tone}`;
  text(value, tile.value);
  text(box.querySelector(".note"), tile.note);
  if (!tile.band) return;
  const { low, high, value: now } = tile.band;
  const full = Math.max(high * 1.5, now) || 1;
  const [zone, mark] = box.querySelector(".band").children;
  size(zone, "left", 100 * low / full);
  size(zone, "width", 100 * (high - low) / full);
  size(mark, "left", Math.min(98, 100 * now / full));
}

const SKELETON = ["Pending", "Oldest wait", "Done a minute", "Failed", "In flight"].map((name) => ({
  name, value: "–", verdict: NONE, note: "", skeleton: true, lead: name === "Pending",
  band: name === "Done a minute" ? { value: 0, low: 0, high: 0 } : undefined,
}));

export function showNow(overview, limitedBy) {
  keyed(byId("now"), overview ? tiles(overview, limitedBy) : SKELETON, (tile) => tile.name, make, update);
}
