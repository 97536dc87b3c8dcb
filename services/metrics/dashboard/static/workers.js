// The table of workers with heartbeat and slots; silent and draining workers are marked.

import {
  byId,
  createRow,
  fillRow,
  setAttribute,
  setText,
  showBar,
  showEmptyNote,
  updateList,
} from "./dom.js";
import { plural, ranges, seconds } from "./format.js";

function renderHeartbeat(cell, worker) {
  const [tone, word] = worker.alive
    ? ["good", `${seconds(worker.heardSecondsAgo)} ago`]
    : ["bad", `gone ${seconds(worker.heardSecondsAgo)}`];
  setAttribute(cell, "class", worker.alive ? "" : `toned ${tone}`);
  setText(cell, word);
}

function renderSlots(cell, worker) {
  if (worker.draining) showBar(cell, 100, `drains ${worker.running}`, "warn");
  else
    showBar(
      cell,
      worker.slots ? (100 * worker.running) / worker.slots : 0,
      `${worker.running} of ${worker.slots}`,
    );
}

const COLUMNS = [
  { text: (worker) => worker.worker, title: (worker) => worker.worker },
  { render: renderHeartbeat },
  { render: renderSlots },
  { text: (worker) => ranges(worker.partitions), class: "spare" },
];

export function showWorkers(workers) {
  updateList(
    byId("workers"),
    workers,
    (worker) => worker.worker,
    () => createRow(COLUMNS),
    (tr, worker) => fillRow(tr, COLUMNS, worker),
  );
  const alive = workers.filter((worker) => worker.alive);
  const sum = (name) => alive.reduce((total, worker) => total + worker[name], 0);
  setText(
    byId("workers-sum"),
    workers.length
      ? `${alive.length} alive · ${sum("running")} of ${plural(sum("slots"), "slot")} in use`
      : "",
  );
  showEmptyNote(
    "workers",
    workers.length
      ? ""
      : "No worker reports, so no posts are written. Start one with ./blogstream run generator.",
  );
}
