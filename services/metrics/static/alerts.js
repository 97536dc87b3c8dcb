// Alerts in force, worst first, at the top: the first thing that a person who was woken needs.

import { byId, element, keyed, text } from "./dom.js";
import { moment, rate } from "./format.js";

const LEVELS = { critical: ["bad", "Critical"], warning: ["warn", "Warning"] };

function make(alert) {
  const [tone, word] = LEVELS[alert.severity] ?? LEVELS.warning;
  return element("li", { class: `alert ${tone}` },
    element("span", { class: "level" }, word),
    element("span", { class: "what" }, element("b", {}, alert.name), element("span")),
    element("span", { class: "since" }));
}

function update(line, alert) {
  const limit = alert.threshold === null || alert.threshold === undefined ? "" : ` · limit ${rate(alert.threshold)}`;
  text(line.querySelector(".what").lastElementChild, `${alert.summary}${limit}`);
  text(line.querySelector(".since"), alert.since ? `since ${moment(alert.since)}` : "");
}

const said = (alerts) => (alerts.length ? `${alerts.length} in force, worst first` : "None in force");

export function showAlerts(alerts) {
  keyed(byId("alerts"), alerts ?? [], (alert) => `${alert.name} ${alert.severity}`, make, update);
  const calm = byId("no-alerts");
  calm.className = !alerts ? "calm unknown" : alerts.length ? "calm some" : "calm";
  text(calm, alerts ? said(alerts) : "This service does not judge alerts: read the numbers below.");
}
