// Fairness by store: who waits, who is served, and each one's part; a store that weighs more than one says so.

import { bar, byId, empty, fill, keyed, row, text } from "./dom.js";
import { money, number, percent, plural, seconds } from "./format.js";

const SHOWN = 200;

const COLUMNS = [
  { text: (store) => (store.weight === 1 ? store.store : `${store.store} ×${store.weight}`), title: (store) => store.store },
  { text: (store) => number(store.queued) },
  { text: (store) => number(store.running) },
  { paint: (cell, { share, ofLargest }) => bar(cell, ofLargest, percent(share)), title: (store) => `${money(store.costUsd)} of all that was spent` },
  { text: (store) => seconds(store.waitSeconds.p50), class: "spare" },
  { text: (store) => seconds(store.waitSeconds.p95) },
  { text: (store) => number(store.done), class: "spare" },
  { text: (store) => number(store.failed), class: "spare" },
];

function fairness(window) {
  if (!window) return "no contest in the last minute";
  const light = window.lightSlowdown === null ? "" : ` · light stores wait ×${window.lightSlowdown.toFixed(2)}`;
  if (window.contenders < 2) return `no contest in the last minute${light}`;
  return `Jain ${window.jain.toFixed(3)} among ${plural(window.contenders, "store")} · largest gap ${money(window.largestGapUsd)}${light}`;
}

export function showStores(stores, window) {
  const largest = Math.max(...stores.map((store) => store.costShare)) || 1;
  const rows = stores.slice(0, SHOWN).map((store) => ({ ...store, share: 100 * store.costShare, ofLargest: 100 * store.costShare / largest }));
  keyed(byId("stores"), rows, (store) => store.store, () => row(COLUMNS), (tr, store) => fill(tr, COLUMNS, store));
  text(byId("fairness"), stores.length ? fairness(window) : "");
  empty("stores", stores.length ? "" : "No store has asked for anything yet.");
}
