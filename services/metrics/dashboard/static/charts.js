// Two lines over the last hour, drawn by uPlot (a plain script, hence a global): a point a minute for the time before
// the page was opened, as the service tells it, then one a second.

import { attribute, byId, text } from "./dom.js";
import { clock, compact, rate } from "./format.js";
import { BAND, FAIR } from "./now.js";

const SPAN_S = 3660; // an hour, and the minute that runs
const GAP_S = 90; // without news for so long (a laptop that slept), and the past is taken from the service again

// Colours are read when drawn, by way of a probe: the palette's are light-dark() pairs, which only a property resolves.
const probe = document.createElement("i");
probe.hidden = true;
document.body.append(probe);
function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

class Trend {
  #box; #now; #name; #show; #times = []; #values = []; #plot = null; #beside;

  constructor(id, name, show, beside) {
    this.#box = byId(id);
    this.#now = byId(`${id}-now`);
    this.#name = name;
    this.#show = show;
    this.#beside = beside;
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#box);
  }

  // `past`: pairs of a time and a value.
  add(at, value, past) {
    if (value === null || value === undefined) return;
    const since = at - this.#times.at(-1);
    if (!(since >= 0 && since <= GAP_S)) this.#begin(past.filter(([time]) => time < at), at);
    const place = since === 0 ? this.#times.length - 1 : this.#times.length;
    this.#times[place] = at;
    this.#values[place] = value;
    this.#forget(at - SPAN_S);
    const data = [this.#times, this.#values];
    if (this.#plot) this.#plot.setData(data);
    else if (globalThis.uPlot) this.#plot = new globalThis.uPlot(this.#options(), data, this.#box);
    else text(this.#box, "The chart library is not served.");
    this.#say(this.#values.length - 1);
  }

  #begin(past, at) {
    const points = past.length ? past : [[at - 60, null]]; // a minute to the left of the first, so that time has a scale
    this.#times = points.map(([time]) => time);
    this.#values = points.map(([, value]) => value);
  }

  #forget(before) {
    const gone = this.#times.findIndex((time) => time >= before);
    this.#times.splice(0, gone);
    this.#values.splice(0, gone);
  }

  redraw() {
    this.#plot?.redraw(false);
  }

  #say(index) {
    const last = this.#values.length - 1, top = Math.max(...this.#values);
    const when = index === last ? "now" : clock(this.#times[index] * 1000);
    text(this.#now, `${when} ${this.#show(this.#values[index])} · highest ${this.#show(top)}`);
    attribute(this.#box, "aria-label", `${this.#name}: now ${this.#show(this.#values[last])}, highest ${this.#show(top)} since ${clock(this.#times[0] * 1000)}`);
  }

  #size = () => ({ width: this.#box.clientWidth, height: this.#box.clientHeight });

  #options() {
    const axis = {
      stroke: () => colour("--quiet"), font: "11px sans-serif", ticks: { show: false },
      grid: { stroke: () => colour("--line"), width: 1 },
    };
    return {
      ...this.#size(),
      padding: [8, 28, 0, 0],
      legend: { show: false },
      cursor: { y: false, points: { size: 7 }, drag: { x: false, y: false } },
      scales: {
        y: { range: (plot, low, high) => [0, Math.max(high * 1.15, 5)] },
      },
      series: [{}, { stroke: () => colour("--accent"), width: 2, fill: () => colour("--accent-soft"), points: { size: 6, fill: () => colour("--accent"), filter: (plot) => [plot.data[0].length - 1] } }],
      axes: [
        { ...axis, values: (plot, at, axis, space, step) => at.map((value) => clock(value * 1000).slice(0, step < 60 ? 8 : 5)), incrs: [15, 30, 60, 120, 300, 600, 1800], space: 80, size: 24, grid: { show: false } },
        { ...axis, values: (plot, at) => at.map(compact), size: 40, space: 30, incrs: [1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10000, 25000, 50000] },
      ],
      hooks: {
        ...this.#beside,
        setCursor: [(plot) => this.#say(plot.cursor.idx ?? this.#values.length - 1)],
      },
    };
  }
}

let workers = 0;

// The band that operators expect, behind the line, and its name, over the grid.
function band(plot) {
  const { ctx, bbox: { left, width } } = plot, [from, to] = edges(plot);
  ctx.fillStyle = colour("--raised");
  ctx.fillRect(left, from, width, to - from);
}

function bandName(plot) {
  const [from, to] = edges(plot);
  if (to > from) caption(plot, "expected", plot.bbox.left, to, "--raised");
}

function edges(plot) {
  const { top, height } = plot.bbox;
  return [BAND[1], BAND[0]].map((each) => Math.max(top, Math.min(top + height, plot.valToPos(each * workers, "y", true))));
}

// Where the alerts begin, once the numbers come near.
function thresholds(plot) {
  const { ctx, bbox: { left, top, width } } = plot;
  for (const [index, value] of FAIR.queue.entries()) {
    const at = plot.valToPos(value, "y", true);
    if (at < top) continue;
    ctx.strokeStyle = colour(index ? "--bad" : "--warn");
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.lineWidth = devicePixelRatio;
    ctx.beginPath();
    ctx.moveTo(left, at);
    ctx.lineTo(left + width, at);
    ctx.stroke();
    ctx.setLineDash([]);
    caption(plot, index ? "critical" : "warning", left, at, "--panel");
  }
}

// On a plate of the ground's colour, so that no line of the grid goes through it.
function caption({ ctx, bbox }, words, left, bottom, ground) {
  if (bottom - bbox.top < 18 * devicePixelRatio) return;
  ctx.font = `${11 * devicePixelRatio}px sans-serif`;
  ctx.fillStyle = colour(ground);
  ctx.fillRect(left + 4 * devicePixelRatio, bottom - 16 * devicePixelRatio, ctx.measureText(words).width + 4 * devicePixelRatio, 15 * devicePixelRatio);
  ctx.fillStyle = colour("--quiet");
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.fillText(words, left + 6 * devicePixelRatio, bottom - 4 * devicePixelRatio);
}

const trends = {
  rate: new Trend("rate", "Done a minute", rate, { drawClear: [band], drawAxes: [bandName] }),
  pending: new Trend("pending", "Pending", compact, { drawAxes: [thresholds] }),
};

// What is told of each minute stands at its end.
function past(history, name) {
  const from = Date.parse(history?.from) / 1000;
  return (history?.[name] ?? []).map((value, index) => [from + history.stepSeconds * (index + 1), value]);
}

// As the number of now is: the mean of five minutes.
const smoothed = (points) => points.map(([at], index) => {
  const latest = points.slice(Math.max(0, index - 4), index + 1);
  return [at, latest.reduce((sum, [, value]) => sum + value, 0) / latest.length];
});

export function showTrends(overview) {
  workers = overview.workers;
  const at = Math.round(Date.parse(overview.at) / 1000);
  trends.rate.add(at, overview.donePerMinute, smoothed(past(overview.history, "done")));
  trends.pending.add(at, overview.pending, past(overview.history, "pending"));
}

export function redraw() {
  for (const trend of Object.values(trends)) trend.redraw();
}
