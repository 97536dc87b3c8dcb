// Workers and their heartbeat: one that is silent, or drains, is named as such.

import { attribute, bar, byId, empty, fill, keyed, row, text } from "./dom.js";
import { plural, ranges, seconds } from "./format.js";

function heartbeat(cell, worker) {
  const [tone, word] = worker.alive ? ["good", `${seconds(worker.heardSecondsAgo)} ago`] : ["bad", `gone ${seconds(worker.heardSecondsAgo)}`];
  attribute(cell, "class", worker.alive ? "" : `toned ${tone}`);
  text(cell, word);
}

function slots(cell, worker) {
  if (worker.draining) bar(cell, 100, `drains ${worker.running}`, "warn");
  else bar(cell, worker.slots ? 100 * worker.running / worker.slots : 0, `${worker.running} of ${worker.slots}`);
}

const COLUMNS = [
  { text: (worker) => worker.worker, title: (worker) => worker.worker },
  { paint: heartbeat },
  { paint: slots },
  { text: (worker) => ranges(worker.partitions), class: "spare" },
];

export function showWorkers(workers) {
  keyed(byId("workers"), workers, (worker) => worker.worker, () => row(COLUMNS), (tr, worker) => fill(tr, COLUMNS, worker));
  const alive = workers.filter((worker) => worker.alive);
  const sum = (name) => alive.reduce((total, worker) => total + worker[name], 0);
  text(byId("workers-sum"), workers.length ? `${alive.length} alive · ${sum("running")} of ${plural(sum("slots"), "slot")} in use` : "");
  empty("workers", workers.length ? "" : "No worker is heard: nothing is being written. Start one with ./blogstream run generator.");
}
