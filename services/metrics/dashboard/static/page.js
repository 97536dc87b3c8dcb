// Wires the feed to the parts of the page, and says how old the numbers are.

import { showAlerts } from "./alerts.js";
import { showTrends } from "./charts.js";
import { attribute, byId, text } from "./dom.js";
import { Feed } from "./feed.js";
import { clock } from "./format.js";
import { showHealth } from "./health.js";
import { setUpJob } from "./job.js";
import { setUpJobs, showJobs } from "./jobs.js";
import { showLimits } from "./limits.js";
import { showNow } from "./now.js";
import { showStores } from "./stores.js";
import { setUpSwitch } from "./switch.js";
import { showWorkers } from "./workers.js";

const STALE_MS = 5000;
const SAID = { live: "Live", polling: "Live, polled", stale: "Stale", error: "No connection", loading: "Loading…" };

const PARTS = [
  ({ alerts }) => showAlerts(alerts),
  ({ overview, limitedBy }) => showNow(overview, limitedBy),
  ({ overview }) => showHealth(overview),
  ({ overview }) => showTrends(overview),
  ({ stores, overview }) => showStores(stores, overview.fairness),
  ({ providers }) => showLimits(providers),
  ({ workers }) => showWorkers(workers),
  ({ jobs }) => showJobs(jobs),
  ({ overview }) => { byId("standins").hidden = !overview.standins; },
  ({ alerts }) => { document.title = alerts?.length ? `(${alerts.length}) blogstream` : "blogstream"; },
];

let heardAt = 0;
let way = "loading";
let trouble = "";

function heard(snapshot, by) {
  heardAt = Date.now();
  way = by;
  trouble = "";
  for (const show of PARTS) {
    try {
      show(snapshot);
    } catch (error) {
      console.error(error); // what one part cannot read must not hide the others
    }
  }
  byId("main").setAttribute("aria-busy", "false");
  freshness();
}

function failed(why) {
  trouble = why;
  freshness();
}

function freshness() {
  const age = Date.now() - heardAt;
  const stale = heardAt > 0 && age > STALE_MS;
  const state = stale ? "stale" : heardAt ? way : trouble ? "error" : "loading";
  attribute(document.body, "data-state", state);
  text(byId("feed"), SAID[state]);
  text(byId("feed-age"), stale ? `${Math.round(age / 1000)} s old` : "");
  const banner = byId("trouble");
  banner.hidden = !(stale || state === "error");
  if (stale) text(banner, `No numbers since ${clock(heardAt)}: those below are old. ${trouble}`.trim());
  else if (state === "error") text(banner, `The metrics service cannot be read, and is asked again every second. ${trouble}`);
}

setUpSwitch();
setUpJob();
setUpJobs();
showNow(null, []);
new Feed({ heard, failed }).start();
setInterval(freshness, 500);
