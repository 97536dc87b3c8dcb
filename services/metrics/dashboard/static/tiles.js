// The five tiles at the top, each with a rating in words beside its colour.

import { byId, element, setLength, setText, updateList } from "./dom.js";
import { number, plural, rate, seconds } from "./format.js";

export const BAND = [20, 40]; // posts a minute expected of a worker
// The thresholds of the corresponding alerts, in seconds, percent and posts.
export const THRESHOLDS = {
  queue: [1000, 5000],
  failedPercent: [5, 20],
  leastPerMinute: 5,
  backlogAge: 300,
  oldestWait: [1800, 7200],
};

const OK = ["", "OK"],
  NONE = ["", ""];

function ratingAbove(value, [warning, critical]) {
  if (value > critical) return ["bad", "Critical"];
  return value > warning ? ["warn", "High"] : OK;
}

// The rate covers five minutes, so it says nothing about a younger backlog.
function throughputRating(overview, least) {
  if (!overview.pending) return ["", overview.inFlight ? "OK" : "Idle"];
  if (overview.donePerMinute >= least) return OK;
  if (overview.oldestWaitSeconds < THRESHOLDS.backlogAge) return ["", "Starting"];
  return overview.donePerMinute < THRESHOLDS.leastPerMinute
    ? ["bad", "Critical"]
    : ["warn", "Slow"];
}

function workersRating(overview) {
  if (!overview.workers) return ["bad", "No worker"];
  return overview.inFlight ? ["", "Busy"] : ["", "Idle"];
}

function expectedRate(low, high, workers) {
  if (!workers) return `${low}–${high} a worker expected`;
  return `${low * workers}–${high * workers} expected of ${plural(workers, "worker")}`;
}

const waitNote = ({ p50, p95 }) =>
  p50 === null ? "nothing has waited yet" : `p50 ${seconds(p50)}, p95 ${seconds(p95)}`;

function failureNote({ failedLastHour, doneLastHour }) {
  const ended = failedLastHour + doneLastHour;
  return ended
    ? `${number(failedLastHour)} of ${number(ended)} in the last hour`
    : "none ended in the last hour";
}

// Names the limits that slow the workers down.
function bottleneckNote(limitedBy) {
  const causes = limitedBy.map(({ provider, by }) =>
    by === "unavailable" || by === "cooling down"
      ? `${provider} ${by}`
      : `limited by ${provider} ${by}`,
  );
  return causes.length ? ` · ${[...new Set(causes)].join(", ")}` : "";
}

function describeTiles(overview, limitedBy) {
  const { pending, workers, donePerMinute } = overview;
  const [low, high] = BAND;
  return [
    {
      name: "Pending",
      value: number(pending),
      rating: pending === null ? NONE : ratingAbove(pending, THRESHOLDS.queue),
      note: `${plural(overview.storesWaiting ?? 0, "store")} waiting`,
      lead: true,
    },
    {
      name: "Oldest wait",
      value: seconds(overview.oldestWaitSeconds),
      rating: pending ? ratingAbove(overview.oldestWaitSeconds, THRESHOLDS.oldestWait) : NONE,
      note: waitNote(overview.waitSeconds),
    },
    {
      name: "Done a minute",
      value: rate(donePerMinute),
      rating: throughputRating(overview, low * workers),
      note: expectedRate(low, high, workers),
      band: { value: donePerMinute, low: low * workers, high: high * workers },
    },
    {
      name: "Failed",
      value: `${rate(overview.failedPercent)} %`,
      rating: ratingAbove(overview.failedPercent, THRESHOLDS.failedPercent),
      note: failureNote(overview),
    },
    {
      name: "In flight",
      value: number(overview.inFlight),
      rating: workersRating(overview),
      note: `${plural(workers, "worker")}${bottleneckNote(limitedBy)}`,
    },
  ];
}

function createTile(tile) {
  const box = element(
    "div",
    { class: "tile" },
    element("dt", {}, element("span", {}, tile.name), element("span", { class: "rating" })),
    element("dd", { class: "value" }),
  );
  if (tile.band)
    box.append(element("dd", { class: "band", "aria-hidden": "true" }, element("i"), element("b")));
  box.append(element("dd", { class: "note" }));
  return box;
}

function updateTile(box, tile) {
  const [tone, word] = tile.rating;
  box.className = `tile ${tone} ${tile.lead ? "lead" : ""} ${tile.skeleton ? "skeleton" : ""}`;
  setText(box.querySelector(".rating"), word);
  const value = box.querySelector(".value");
  value.className = `value ${tone}`;
  setText(value, tile.value);
  setText(box.querySelector(".note"), tile.note);
  if (!tile.band) return;
  const { low, high, value: now } = tile.band;
  const full = Math.max(high * 1.5, now) || 1;
  const [zone, mark] = box.querySelector(".band").children;
  setLength(zone, "left", (100 * low) / full);
  setLength(zone, "width", (100 * (high - low)) / full);
  setLength(mark, "left", Math.min(98, (100 * now) / full));
}

const SKELETON = ["Pending", "Oldest wait", "Done a minute", "Failed", "In flight"].map((name) => ({
  name,
  value: "–",
  rating: NONE,
  note: "",
  skeleton: true,
  lead: name === "Pending",
  band: name === "Done a minute" ? { value: 0, low: 0, high: 0 } : undefined,
}));

export function showTiles(overview, limitedBy) {
  updateList(
    byId("now"),
    overview ? describeTiles(overview, limitedBy) : SKELETON,
    (tile) => tile.name,
    createTile,
    updateTile,
  );
}
