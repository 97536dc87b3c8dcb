// The page's one module: reads the JSON endpoints every second and writes text nodes. No markup comes from data.

const EVERY_MS = 1000;
const STALE_MS = 5000;
const BAND = [20, 40]; // blogs a minute and worker that operators expect

let heardAt = 0;

function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 120) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

const number = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
const money = (value) => `$${value.toFixed(value < 10 ? 4 : 2)}`;

function tile(name, value, note, className) {
  const box = document.createElement("div");
  const shown = element("dd", value, className);
  if (note) shown.append(element("small", note));
  box.append(element("dt", name), shown);
  return box;
}

function lightNote({ contenders, lightSlowdown }) {
  const slow = lightSlowdown === null ? "" : `, light stores ×${lightSlowdown.toFixed(2)}`;
  return `Jain, ${contenders} contend${slow}`;
}

function showNow(overview) {
  const { pending, workers, donePerMinute, failedPercent, fairness } = overview;
  const queue = pending > 5000 ? "bad" : pending > 1000 ? "warn" : "";
  const slow = pending > 0 && donePerMinute < 5 * Math.max(workers, 1) ? "warn" : "";
  const failing = failedPercent > 20 ? "bad" : failedPercent > 5 ? "warn" : "good";
  document.getElementById("now").replaceChildren(
    tile("pending", number(pending), `${number(overview.storesWaiting)} stores wait`, queue),
    tile("oldest wait", seconds(overview.oldestWaitSeconds), `p95 of all ${seconds(overview.waitSeconds.p95)}`),
    tile("in flight", number(overview.inFlight), `${number(workers)} workers`, workers ? "" : "bad"),
    tile("fairness", fairness ? fairness.jain.toFixed(3) : "–", fairness ? lightNote(fairness) : "of the last minute"),
    tile("done a minute", number(donePerMinute), `expected ${BAND.join("–")} a worker`, slow),
    tile("done", number(overview.jobs.DONE), `${number(overview.doneLastHour)} in the last hour`),
    tile("failed", `${failedPercent} %`, `${number(overview.jobs.FAILED)} in all`, failing),
    tile("cost", money(overview.costUsd), `${number(overview.usage.inputTokens + overview.usage.outputTokens)} tokens`),
  );
  document.getElementById("standins").hidden = !overview.standins;
}

function showLimits(providers) {
  const rows = [];
  for (const [provider, models] of Object.entries(providers)) {
    for (const [model, resources] of Object.entries(models)) {
      for (const [resource, state] of Object.entries(resources)) {
        const row = document.createElement("div");
        row.className = "limit";
        const name = element("span", `${provider} ${resource}`);
        name.title = model;
        const bar = document.createElement("progress");
        bar.max = 100;
        bar.value = state.usagePercent;
        bar.setAttribute("aria-label", `${provider} ${resource}: ${state.usagePercent} percent used`);
        const cooling = state.coolingUntil ? ", cooling down" : "";
        const text = `${number(Math.round(state.usedLastMinute))} of ${number(state.limitPerMinute)}, ${state.queued} wait${cooling}`;
        row.append(name, bar, element("span", text));
        rows.push(row);
      }
    }
  }
  if (rows.length) document.getElementById("limits").replaceChildren(...rows);
}

function showRows(id, items, cells) {
  if (!items.length) return;
  const rows = items.map((item) => {
    const row = document.createElement("tr");
    row.append(...cells(item).map((text) => element("td", text)));
    return row;
  });
  document.getElementById(id).replaceChildren(...rows);
}

const storeCells = (store) => [
  store.store, number(store.queued), number(store.running), number(store.done), number(store.failed),
  seconds(store.waitSeconds.p50), seconds(store.waitSeconds.p95),
  number(store.usage.inputTokens + store.usage.outputTokens), money(store.costUsd), `${(store.costShare * 100).toFixed(1)} %`,
];

const workerCells = (worker) => [
  worker.worker, worker.alive ? `${seconds(worker.heardSecondsAgo)} ago` : "gone", number(worker.running),
  worker.draining ? "draining" : number(worker.slots), worker.partitions.join(" ") || "–",
];

async function read(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(4000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

async function refresh() {
  try {
    const [overview, limiter, stores, workers] = await Promise.all(
      ["/api/overview", "/api/rate-limiter/stats", "/api/stores", "/api/workers"].map(read),
    );
    showNow(overview);
    showLimits(limiter.rateLimiter);
    showRows("stores", stores.items.slice(0, 100), storeCells);
    showRows("workers", workers.items, workerCells);
    heardAt = Date.now();
  } catch {
    // Said by the line below, which also covers a server that answers slowly.
  }
  const age = Date.now() - heardAt;
  const line = document.getElementById("freshness");
  const stale = age > STALE_MS;
  line.classList.toggle("stale", stale && heardAt > 0);
  const text = heardAt === 0 ? "loading…" : stale ? `no answer for ${Math.round(age / 1000)} s: numbers are old` : "live";
  if (line.textContent !== text) line.textContent = text;
  setTimeout(refresh, EVERY_MS);
}

refresh();
