// Connects the snapshots with the sections of the page, and shows how old the numbers are.

import { showAlerts } from "./alerts.js";
import { showTrends } from "./charts.js";
import { byId, setAttribute, setText } from "./dom.js";
import { SnapshotSource } from "./snapshots.js";
import { clock } from "./format.js";
import { showHealth } from "./health.js";
import { setUpJob } from "./job.js";
import { setUpJobs, showJobs } from "./jobs.js";
import { showLimits } from "./limits.js";
import { showStandins } from "./standins.js";
import { showTiles } from "./tiles.js";
import { showStores } from "./stores.js";
import { setUpThemeSwitch } from "./theme_switch.js";
import { showWorkers } from "./workers.js";

const STALE_MS = 5000;
const LABELS = {
  live: "Live",
  polling: "Live, polled",
  stale: "Stale",
  error: "No connection",
  loading: "Loading…",
};

const SECTIONS = [
  ({ alerts }) => showAlerts(alerts),
  ({ overview, limitedBy }) => showTiles(overview, limitedBy),
  ({ overview }) => showHealth(overview),
  ({ overview }) => showTrends(overview),
  ({ stores, overview }) => showStores(stores, overview.fairness),
  ({ providers }) => showLimits(providers),
  ({ workers }) => showWorkers(workers),
  ({ jobs }) => showJobs(jobs),
  ({ overview }) => showStandins(overview),
  ({ alerts }) => {
    document.title = alerts?.length ? `(${alerts.length}) blogstream` : "blogstream";
  },
];

let receivedAt = 0;
let mode = "loading";
let failure = "";

function onSnapshot(snapshot, by) {
  receivedAt = Date.now();
  mode = by;
  failure = "";
  for (const show of SECTIONS) {
    try {
      show(snapshot);
    } catch (error) {
      console.error(error); // an error in one section must not hide the others
    }
  }
  byId("main").setAttribute("aria-busy", "false");
  showFreshness();
}

function onFailure(message) {
  failure = message;
  showFreshness();
}

function showFreshness() {
  const age = Date.now() - receivedAt;
  const stale = receivedAt > 0 && age > STALE_MS;
  const state = stale ? "stale" : receivedAt ? mode : failure ? "error" : "loading";
  setAttribute(document.body, "data-state", state);
  setText(byId("feed"), LABELS[state]);
  setText(byId("feed-age"), stale ? `${Math.round(age / 1000)} s old` : "");
  const banner = byId("trouble");
  banner.hidden = !(stale || state === "error");
  if (stale)
    setText(
      banner,
      `No numbers since ${clock(receivedAt)}: the numbers below are old. ${failure}`.trim(),
    );
  else if (state === "error")
    setText(
      banner,
      `The metrics service cannot be reached; it is tried again every second. ${failure}`,
    );
}

setUpThemeSwitch();
setUpJob();
setUpJobs();
showTiles(null, []);
new SnapshotSource({ onSnapshot, onFailure }).start();
setInterval(showFreshness, 500);
