// The active alerts at the top of the page, worst first.

import { byId, element, setText, updateList } from "./dom.js";
import { moment, rate, seconds } from "./format.js";

const LEVELS = { critical: ["bad", "Critical"], warning: ["warn", "Warning"] };

function createAlert(alert) {
  const [tone, word] = LEVELS[alert.severity] ?? LEVELS.warning;
  return element(
    "li",
    { class: `alert ${tone}` },
    element("span", { class: "level" }, word),
    element("span", { class: "what" }, element("b", {}, alert.name), element("span")),
    element("span", { class: "since" }),
    element("span", { class: "means" }),
  );
}

const UNITS = { seconds, percent: (value) => `${rate(value)} %` };

// Shows the threshold unless it is zero.
function thresholdNote({ threshold, unit }) {
  return threshold ? ` · limit ${(UNITS[unit] ?? rate)(threshold)}` : "";
}

const durationNote = (time) =>
  `since ${moment(time)}, ${seconds(Math.max(0, (Date.now() - Date.parse(time)) / 1000))}`;

function updateAlert(line, alert) {
  setText(line.querySelector(".what").lastElementChild, `${alert.summary}${thresholdNote(alert)}`);
  setText(line.querySelector(".since"), alert.since ? durationNote(alert.since) : "");
  setText(line.querySelector(".means"), [...(alert.causes ?? []), alert.means ?? ""].join(" "));
}

const summarize = (alerts) =>
  alerts.length ? `${alerts.length} active, worst first` : "No active alerts";

export function showAlerts(alerts) {
  updateList(
    byId("alerts"),
    alerts ?? [],
    (alert) => `${alert.name} ${alert.severity}`,
    createAlert,
    updateAlert,
  );
  const calm = byId("no-alerts");
  calm.className = !alerts ? "calm unknown" : alerts.length ? "calm some" : "calm";
  setText(
    calm,
    alerts ? summarize(alerts) : "This service does not evaluate alerts: check the numbers below.",
  );
}
