// Alerts in force, worst first, at the top: the first thing that a person who was woken needs.

import { byId, element, keyed, text } from "./dom.js";
import { moment, rate, seconds } from "./format.js";

const LEVELS = { critical: ["bad", "Critical"], warning: ["warn", "Warning"] };

function make(alert) {
  const [tone, word] = LEVELS[alert.severity] ?? LEVELS.warning;
  return element("li", { class: `alert ${tone}` },
    element("span", { class: "level" }, word),
    element("span", { class: "what" }, element("b", {}, alert.name), element("span")),
    element("span", { class: "since" }), element("span", { class: "means" }));
}

const UNITS = { seconds, percent: (value) => `${rate(value)} %` };

// None is worth a word where any at all is too many.
function limit({ threshold, unit }) {
  return threshold ? ` · limit ${(UNITS[unit] ?? rate)(threshold)}` : "";
}

const since = (time) => `since ${moment(time)}, ${seconds(Math.max(0, (Date.now() - Date.parse(time)) / 1000))}`;

function update(line, alert) {
  text(line.querySelector(".what").lastElementChild, `${alert.summary}${limit(alert)}`);
  text(line.querySelector(".since"), alert.since ? since(alert.since) : "");
  text(line.querySelector(".means"), alert.means ?? "");
}

const said = (alerts) => (alerts.length ? `${alerts.length} in force, worst first` : "None in force");

export function showAlerts(alerts) {
  keyed(byId("alerts"), alerts ?? [], (alert) => `${alert.name} ${alert.severity}`, make, update);
  const calm = byId("no-alerts");
  calm.className = !alerts ? "calm unknown" : alerts.length ? "calm some" : "calm";
  text(calm, alerts ? said(alerts) : "This service does not judge alerts: read the numbers below.");
}
