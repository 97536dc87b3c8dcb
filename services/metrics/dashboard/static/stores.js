// The table of stores: queue, running jobs and cost share of each; weights other than one are
// shown.

import { byId, createRow, fillRow, setText, showBar, showEmptyNote, updateList } from "./dom.js";
import { money, number, percent, plural, seconds } from "./format.js";

const SHOWN = 200;

const COLUMNS = [
  {
    text: (store) => (store.weight === 1 ? store.store : `${store.store} ×${store.weight}`),
    title: (store) => store.store,
  },
  { text: (store) => number(store.queued) },
  { text: (store) => number(store.running) },
  {
    render: (cell, { share, ofLargest }) => showBar(cell, ofLargest, percent(share)),
    title: (store) => `${money(store.costUsd)} of the total cost`,
  },
  { text: (store) => seconds(store.waitSeconds.p50), class: "spare" },
  { text: (store) => seconds(store.waitSeconds.p95) },
  { text: (store) => number(store.done), class: "spare" },
  { text: (store) => number(store.failed), class: "spare" },
];

function describeFairness(window) {
  if (!window) return "no competing accounts in the last minute";
  const light =
    window.lightSlowdown === null ? "" : ` · light stores wait ×${window.lightSlowdown.toFixed(2)}`;
  if (window.contenders < 2) return `no competing accounts in the last minute${light}`;
  const jain = `Jain ${window.jain.toFixed(3)} among ${plural(window.contenders, "account")}`;
  return `${jain} · largest gap ${money(window.largestGapUsd)}${light}`;
}

export function showStores(stores, window) {
  const largest = Math.max(...stores.map((store) => store.costShare)) || 1;
  const rows = stores.slice(0, SHOWN).map((store) => ({
    ...store,
    share: 100 * store.costShare,
    ofLargest: (100 * store.costShare) / largest,
  }));
  updateList(
    byId("stores"),
    rows,
    (store) => store.store,
    () => createRow(COLUMNS),
    (tr, store) => fillRow(tr, COLUMNS, store),
  );
  setText(byId("fairness"), stores.length ? describeFairness(window) : "");
  showEmptyNote("stores", stores.length ? "" : "No store has requested anything yet.");
}
