// The providers' rate limits: a gauge for each resource, and below it the share of each partition.

import {
  byId,
  createRow,
  element,
  fillRow,
  setAttribute,
  setLength,
  setText,
  showEmptyNote,
  updateList,
} from "./dom.js";
import { compact, percent, plural, ranges, rate, seconds } from "./format.js";

function listModels(providers) {
  return Object.entries(providers).flatMap(([provider, byModel]) =>
    Object.entries(byModel).map(([model, byResource]) => ({
      provider,
      model,
      resources: Object.entries(byResource),
    })),
  );
}

function describeState(resources) {
  const all = resources.map(([, limit]) => limit);
  if (all.some((limit) => limit.circuitOpen)) return ["bad", "Circuit open"];
  const cooling = all
    .map((limit) => limit.coolingUntil)
    .filter(Boolean)
    .sort()
    .at(-1);
  if (cooling)
    return [
      "warn",
      `Cooling down, ${seconds(Math.max(0, (Date.parse(cooling) - Date.now()) / 1000))}`,
    ];
  const unowned = Math.max(...all.map((limit) => limit.unownedPartitions?.length ?? 0));
  if (unowned) return ["warn", `${plural(unowned, "partition")} without a worker`];
  const binding = resources.find(([, limit]) => limit.binds);
  if (binding) return ["busy", `Calls wait for ${binding[0]}`];
  return all.some((limit) => limit.level < 0) ? ["warn", "In debt"] : ["good", "OK"];
}

function describeLimit(limit) {
  const waits =
    limit.queued && limit.binds !== false
      ? ` · ${plural(limit.queued, "call")} waiting, up to ${seconds(limit.longestWaitS)}`
      : "";
  const left =
    limit.level < 0 ? `${compact(-limit.level)} of debt` : `${compact(limit.level)} to spend now`;
  return `${compact(limit.usedLastMinute)} of ${compact(limit.limitPerMinute)} · ${left}${waits}`;
}

function createGauge([resource]) {
  return element(
    "div",
    { class: "gauge" },
    element("span", {}, resource),
    element(
      "span",
      { class: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100 },
      element("i"),
    ),
    element("span", { class: "percent" }),
    element("span", { class: "note" }),
  );
}

// Full use of a limit is fine under load; only use above the limit is bad.
function updateGauge(gauge, [resource, limit], label) {
  const [, track, percentage, line] = gauge.children;
  const used = Math.round(limit.usagePercent);
  setAttribute(track, "class", used > 100 ? "bar bad" : "bar");
  setAttribute(track, "aria-label", `${label} ${resource} used`);
  setAttribute(track, "aria-valuenow", Math.min(100, used));
  setAttribute(track, "aria-valuetext", `${used} percent`);
  setLength(track.firstElementChild, "width", limit.usagePercent);
  setText(percentage, percent(limit.usagePercent, 0));
  setText(line, describeLimit(limit));
}

// Lists the shares by partition, or by worker when the service reports no partitions.
const sharesOf = (limit) =>
  (limit.byPartition ?? limit.byWorker ?? []).map((part) => ({
    ...part,
    name: part.partition === undefined ? ranges(part.partitions) : String(part.partition),
  }));

const SHARE_COLUMNS = [
  { text: (part) => part.name },
  { text: (part) => part.worker ?? "–", class: "text" },
  { text: (part) => compact(part.usedLastMinute) },
  { text: (part) => compact(part.sharePerMinute) },
  { text: (part) => rate(part.level) },
];
const HEADS = ["Partition", "Worker", "Used", "Of", "Left now"];

function createModel({ provider, model }) {
  const head = element(
    "tr",
    {},
    ...HEADS.map((name, index) =>
      element("th", { scope: "col", class: index === 1 ? "text" : null }, name),
    ),
  );
  const table = element("table", {}, element("thead", {}, head), element("tbody"));
  return element(
    "article",
    { class: "provider" },
    element("h3", {}, provider, element("small", {}, model), element("span", { class: "state" })),
    element("div", { class: "gauges" }),
    element("div", { class: "strip", "aria-hidden": "true" }),
    element(
      "details",
      { class: "parts" },
      element("summary"),
      element(
        "div",
        {
          class: "scroll",
          tabindex: 0,
          role: "group",
          "aria-label": `Partitions of ${provider} ${model}`,
        },
        table,
      ),
    ),
  );
}

function updateModel(box, { provider, resources }) {
  const [tone, word] = describeState(resources);
  const shown = box.querySelector(".state");
  setAttribute(shown, "class", `state ${tone}`);
  setText(shown, word);
  updateList(
    box.querySelector(".gauges"),
    resources,
    ([resource]) => resource,
    createGauge,
    (gauge, item) => updateGauge(gauge, item, provider),
  );
  const [resource, limit] = tightest(resources);
  const parts = sharesOf(limit);
  setText(box.querySelector("summary"), `${resource} by partition`);
  showStrip(box.querySelector(".strip"), parts);
  updateList(
    box.querySelector("tbody"),
    parts,
    (part) => part.name + part.worker,
    () => createRow(SHARE_COLUMNS),
    (tr, part) => fillRow(tr, SHARE_COLUMNS, part),
  );
  box.querySelector(".parts").hidden = !parts.length;
}

// Returns the resource that calls wait for, else the most used one.
const tightest = (resources) =>
  resources.find(([, limit]) => limit.binds) ??
  resources.reduce((most, other) => (other[1].usagePercent > most[1].usagePercent ? other : most));

function showStrip(strip, parts) {
  strip.hidden = parts.length < 2;
  updateList(
    strip,
    parts,
    (part) => part.name,
    () => element("i", {}, element("b")),
    (column, part) => {
      const used = part.sharePerMinute ? (100 * part.usedLastMinute) / part.sharePerMinute : 0;
      setAttribute(column, "title", `${part.name}: ${percent(used, 0)} of its share`);
      setLength(column.firstElementChild, "height", used);
    },
  );
}

export function showLimits(providers) {
  const items = listModels(providers);
  updateList(
    byId("limits"),
    items,
    ({ provider, model }) => `${provider} ${model}`,
    createModel,
    updateModel,
  );
  showEmptyNote("limits", items.length ? "" : "No worker has reported yet.");
}
