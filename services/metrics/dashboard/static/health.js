// Further numbers below the tiles, coloured when abnormal. Values that the service does not send
// are left out.

import { byId, element, setText, updateList } from "./dom.js";
import { compact, money, number, seconds } from "./format.js";

const SILENT_S = 5;

const shouldBeZero = (name, count) => ({
  name,
  value: number(count),
  tone: count > 0 ? "warn" : "",
});

function schedulerFact(reportAge) {
  if (reportAge === null) return { name: "Scheduler", value: "no report yet", tone: "bad" };
  return {
    name: "Scheduler",
    value: reportAge > SILENT_S ? `silent for ${seconds(reportAge)}` : "alive",
    tone: reportAge > SILENT_S ? "bad" : "",
  };
}

function lagFact(stages) {
  const [stage, records] = Object.entries(stages).reduce(
    (most, other) => (other[1] > most[1] ? other : most),
    ["", 0],
  );
  return { name: "Lag", value: records ? `${compact(records)} (${stage})` : "0", tone: "" };
}

function driftFact({ jobs, costUsd }) {
  const none = !jobs && !costUsd;
  return {
    name: "Drift from PostgreSQL",
    value: none ? "0" : `${number(jobs)} jobs, ${money(costUsd)}`,
    tone: none ? "" : "bad",
  };
}

function incompleteFact({ missing, uncountedPartitions }) {
  const parts = [
    missing.length && `no answer from ${missing.join(", ")}`,
    uncountedPartitions.length && `partitions ${uncountedPartitions.join(", ")} uncounted`,
  ];
  return { name: "Numbers incomplete", value: parts.filter(Boolean).join("; "), tone: "bad" };
}

function listFacts(overview) {
  const { usage, deadLetters, malformedEvents, inDoubtCalls } = overview;
  const known = (value) => value !== undefined && value !== null;
  return [
    overview.metrics?.complete === false && incompleteFact(overview.metrics),
    schedulerFact(overview.schedulerHeardSecondsAgo),
    known(deadLetters) && shouldBeZero("Dead letters", deadLetters),
    known(inDoubtCalls) && { name: "Calls in doubt", value: number(inDoubtCalls), tone: "" },
    known(malformedEvents) && shouldBeZero("Malformed events", malformedEvents),
    known(overview.drift) && driftFact(overview.drift),
    known(overview.lag) && lagFact(overview.lag),
    { name: "Done in all", value: number(overview.jobs.DONE), tone: "" },
    {
      name: "Spent",
      value:
        `${money(overview.costUsd)} on ${compact(usage.inputTokens + usage.outputTokens)} tokens` +
        ` and ${compact(usage.images)} images`,
      tone: "",
    },
  ].filter(Boolean);
}

const createFact = (fact) => element("div", {}, element("dt", {}, fact.name), element("dd"));

function updateFact(pair, fact) {
  pair.className = fact.tone;
  setText(pair.lastElementChild, fact.value);
}

export function showHealth(overview) {
  updateList(byId("health"), listFacts(overview), (fact) => fact.name, createFact, updateFact);
}
