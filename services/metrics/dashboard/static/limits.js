// What each provider's limits have left: a gauge a resource, and below, who has which part of it.

import { attribute, byId, element, empty, fill, keyed, row, size, text } from "./dom.js";
import { compact, percent, plural, ranges, rate, seconds } from "./format.js";

function models(providers) {
  return Object.entries(providers).flatMap(([provider, byModel]) =>
    Object.entries(byModel).map(([model, byResource]) => ({ provider, model, resources: Object.entries(byResource) })));
}

function state(resources) {
  const all = resources.map(([, limit]) => limit);
  if (all.some((limit) => limit.circuitOpen)) return ["bad", "Circuit open"];
  const cooling = all.map((limit) => limit.coolingUntil).filter(Boolean).sort().at(-1);
  if (cooling) return ["warn", `Cooling down, ${seconds(Math.max(0, (Date.parse(cooling) - Date.now()) / 1000))}`];
  const unowned = Math.max(...all.map((limit) => limit.unownedPartitions?.length ?? 0));
  if (unowned) return ["warn", `${plural(unowned, "partition")} of nobody`];
  const binding = resources.find(([, limit]) => limit.binds);
  if (binding) return ["busy", `Calls wait for ${binding[0]}`];
  return all.some((limit) => limit.level < 0) ? ["warn", "In debt"] : ["good", "OK"];
}

function note(limit) {
  const waits = limit.queued && limit.binds !== false ? ` · ${plural(limit.queued, "call")} waiting, up to ${seconds(limit.longestWaitS)}` : "";
  const left = limit.level < 0 ? `${compact(-limit.level)} of debt` : `${compact(limit.level)} to spend now`;
  return `${compact(limit.usedLastMinute)} of ${compact(limit.limitPerMinute)} · ${left}${waits}`;
}

function makeGauge([resource]) {
  return element("div", { class: "gauge" }, element("span", {}, resource),
    element("span", { class: "bar", role: "meter", "aria-valuemin": 0, "aria-valuemax": 100 }, element("i")),
    element("span", { class: "percent" }), element("span", { class: "note" }));
}

// A limit that is used up to the brim is what we want in a flood; more than all of it is what must not be.
function updateGauge(gauge, [resource, limit], label) {
  const [, track, percentage, line] = gauge.children;
  const used = Math.round(limit.usagePercent);
  attribute(track, "class", used > 100 ? "bar bad" : "bar");
  attribute(track, "aria-label", `${label} ${resource} used`);
  attribute(track, "aria-valuenow", Math.min(100, used));
  attribute(track, "aria-valuetext", `${used} percent`);
  size(track.firstElementChild, "width", limit.usagePercent);
  text(percentage, percent(limit.usagePercent, 0));
  text(line, note(limit));
}

// A part is a partition where the service tells of those, else a worker's.
const partsOf = (limit) => (limit.byPartition ?? limit.byWorker ?? []).map((part) => ({
  ...part, name: part.partition === undefined ? ranges(part.partitions) : String(part.partition),
}));

const PARTS = [
  { text: (part) => part.name },
  { text: (part) => part.worker ?? "–", class: "text" },
  { text: (part) => compact(part.usedLastMinute) },
  { text: (part) => compact(part.sharePerMinute) },
  { text: (part) => rate(part.level) },
];
const HEADS = ["Partition", "Worker", "Used", "Of", "Left now"];

function makeModel({ provider, model }) {
  const head = element("tr", {}, ...HEADS.map((name, index) => element("th", { scope: "col", class: index === 1 ? "text" : null }, name)));
  const table = element("table", {}, element("thead", {}, head), element("tbody"));
  return element("article", { class: "provider" },
    element("h3", {}, provider, element("small", {}, model), element("span", { class: "state" })),
    element("div", { class: "gauges" }),
    element("div", { class: "strip", "aria-hidden": "true" }),
    element("details", { class: "parts" }, element("summary"),
      element("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": `Partitions of ${provider} ${model}` }, table)));
}

function updateModel(box, { provider, resources }) {
  const [tone, word] = state(resources);
  const shown = box.querySelector(".state");
  attribute(shown, "class", `state ${tone}`);
  text(shown, word);
  keyed(box.querySelector(".gauges"), resources, ([resource]) => resource, makeGauge, (gauge, item) => updateGauge(gauge, item, provider));
  const [resource, limit] = tightest(resources);
  const parts = partsOf(limit);
  text(box.querySelector("summary"), `${resource} by partition`);
  showStrip(box.querySelector(".strip"), parts);
  keyed(box.querySelector("tbody"), parts, (part) => part.name + part.worker, () => row(PARTS), (tr, part) => fill(tr, PARTS, part));
  box.querySelector(".parts").hidden = !parts.length;
}

// What holds the others up: the resource that calls wait for, else the one that is used most.
const tightest = (resources) => resources.find(([, limit]) => limit.binds)
  ?? resources.reduce((most, other) => (other[1].usagePercent > most[1].usagePercent ? other : most));

function showStrip(strip, parts) {
  strip.hidden = parts.length < 2;
  keyed(strip, parts, (part) => part.name, () => element("i", {}, element("b")), (column, part) => {
    const used = part.sharePerMinute ? 100 * part.usedLastMinute / part.sharePerMinute : 0;
    attribute(column, "title", `${part.name}: ${percent(used, 0)} of its share`);
    size(column.firstElementChild, "height", used);
  });
}

export function showLimits(providers) {
  const items = models(providers);
  keyed(byId("limits"), items, ({ provider, model }) => `${provider} ${model}`, makeModel, updateModel);
  empty("limits", items.length ? "" : "No worker has reported yet.");
}
