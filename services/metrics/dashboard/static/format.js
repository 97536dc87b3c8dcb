// Formats numbers and times for people. Pure.

const missing = (value) => value === null || value === undefined;

export const number = (value) => (missing(value) ? "–" : value.toLocaleString("en"));

export function rate(value) {
  if (missing(value)) return "–";
  return value.toLocaleString("en", { maximumFractionDigits: value < 100 ? 1 : 0 });
}

export function compact(value) {
  if (missing(value)) return "–";
  return value < 10000
    ? number(Math.round(value))
    : value.toLocaleString("en", { notation: "compact", maximumFractionDigits: 1 });
}

export function seconds(value) {
  if (missing(value)) return "–";
  if (value < 120) return `${value.toFixed(value < 10 ? 1 : 0)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
}

export function money(value) {
  if (missing(value)) return "–";
  const digits = { minimumFractionDigits: 2, maximumFractionDigits: value < 10 ? 4 : 2 };
  return `$${value.toLocaleString("en", digits)}`;
}

export const percent = (value, digits = 1) => (missing(value) ? "–" : `${value.toFixed(digits)} %`);

export const clock = (value) => new Date(value).toLocaleTimeString("en-GB");

// A time of another day includes its date.
export function moment(value) {
  const then = new Date(value);
  const today = then.toDateString() === new Date().toDateString();
  if (today) return clock(value);
  const day = then.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return `${day} ${clock(value).slice(0, 5)}`;
}

export const between = (from, to) => (Date.parse(to) - Date.parse(from)) / 1000;

export const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

// Formats [0, 1, 2, 5] as "0–2, 5": a worker owns many partitions.
export function ranges(numbers) {
  const runs = [];
  for (const value of [...numbers].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && value === last[1] + 1) last[1] = value;
    else runs.push([value, value]);
  }
  return runs.map(([from, to]) => (from === to ? `${from}` : `${from}–${to}`)).join(", ") || "–";
}
