// What is seldom looked at, beside the five numbers: in colour when it is not what it should be. Only what the service tells is shown.

import { byId, element, keyed, text } from "./dom.js";
import { compact, money, number, seconds } from "./format.js";

const SILENT_S = 5;

const nought = (name, count) => ({ name, value: number(count), tone: count > 0 ? "warn" : "" });

function scheduler(heard) {
  if (heard === null) return { name: "Scheduler", value: "not heard yet", tone: "bad" };
  return { name: "Scheduler", value: heard > SILENT_S ? `silent for ${seconds(heard)}` : "heard", tone: heard > SILENT_S ? "bad" : "" };
}

function lag(stages) {
  const [stage, records] = Object.entries(stages).reduce((most, other) => (other[1] > most[1] ? other : most), ["", 0]);
  return { name: "Lag", value: records ? `${compact(records)} (${stage})` : "0", tone: "" };
}

function drift({ jobs, costUsd }) {
  const none = !jobs && !costUsd;
  return { name: "Drift from PostgreSQL", value: none ? "0" : `${number(jobs)} jobs, ${money(costUsd)}`, tone: none ? "" : "bad" };
}

function incomplete({ missing, uncountedPartitions }) {
  const parts = [missing.length && `no answer from ${missing.join(", ")}`, uncountedPartitions.length && `partitions ${uncountedPartitions.join(", ")} uncounted`];
  return { name: "Numbers incomplete", value: parts.filter(Boolean).join("; "), tone: "bad" };
}

function facts(overview) {
  const { usage, deadLetters, malformedEvents, inDoubtCalls } = overview;
  const known = (value) => value !== undefined && value !== null;
  return [
    overview.metrics?.complete === false && incomplete(overview.metrics),
    scheduler(overview.schedulerHeardSecondsAgo),
    known(deadLetters) && nought("Dead letters", deadLetters),
    known(inDoubtCalls) && { name: "Calls in doubt", value: number(inDoubtCalls), tone: "" },
    known(malformedEvents) && nought("Malformed events", malformedEvents),
    known(overview.drift) && drift(overview.drift),
    known(overview.lag) && lag(overview.lag),
    { name: "Done in all", value: number(overview.jobs.DONE), tone: "" },
    { name: "Spent", value: `${money(overview.costUsd)} on ${compact(usage.inputTokens + usage.outputTokens)} tokens and ${compact(usage.images)} images`, tone: "" },
  ].filter(Boolean);
}

const make = (fact) => element("div", {}, element("dt", {}, fact.name), element("dd"));

function update(pair, fact) {
  pair.className = fact.tone;
  text(pair.lastElementChild, fact.value);
}

export function showHealth(overview) {
  keyed(byId("health"), facts(overview), (fact) => fact.name, make, update);
}
