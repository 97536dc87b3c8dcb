// Two charts of the last hour, drawn by uPlot (a plain script, hence a global). The time before the
// page was opened comes from the service with one point a minute; then one point a second is added.

import { byId, setAttribute, setText } from "./dom.js";
import { clock, compact, rate } from "./format.js";
import { BAND, THRESHOLDS } from "./tiles.js";

const SPAN_S = 3660; // an hour and the current minute
// After a longer gap (as after a laptop's sleep) the service's history is used again.
const GAP_S = 90;

// Colours are read at drawing time through a probe element: only a property resolves the palette's
// light-dark() pairs.
const probe = document.createElement("i");
probe.hidden = true;
document.body.append(probe);
function colour(name) {
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

class Trend {
  #box;
  #now;
  #name;
  #format;
  #times = [];
  #values = [];
  #plot = null;
  #hooks;

  constructor(id, name, format, hooks) {
    this.#box = byId(id);
    this.#now = byId(`${id}-now`);
    this.#name = name;
    this.#format = format;
    this.#hooks = hooks;
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#box);
  }

  // Adds a point. `past` has pairs of time and value for the time before the first point.
  addPoint(at, value, past) {
    if (value === null || value === undefined) return;
    const since = at - this.#times.at(-1);
    if (!(since >= 0 && since <= GAP_S))
      this.#restart(
        past.filter(([time]) => time < at),
        at,
      );
    const index = since === 0 ? this.#times.length - 1 : this.#times.length;
    this.#times[index] = at;
    this.#values[index] = value;
    this.#dropBefore(at - SPAN_S);
    const data = [this.#times, this.#values];
    if (this.#plot) this.#plot.setData(data);
    else if (globalThis.uPlot) this.#plot = new globalThis.uPlot(this.#options(), data, this.#box);
    else setText(this.#box, "The chart library is not served.");
    this.#showValue(this.#values.length - 1);
  }

  #restart(past, at) {
    // An empty minute before the first point gives the time axis a scale.
    const points = past.length ? past : [[at - 60, null]];
    this.#times = points.map(([time]) => time);
    this.#values = points.map(([, value]) => value);
  }

  #dropBefore(before) {
    const count = this.#times.findIndex((time) => time >= before);
    this.#times.splice(0, count);
    this.#values.splice(0, count);
  }

  redraw() {
    this.#plot?.redraw(false);
  }

  #showValue(index) {
    const last = this.#values.length - 1,
      top = Math.max(...this.#values);
    const when = index === last ? "now" : clock(this.#times[index] * 1000);
    setText(
      this.#now,
      `${when} ${this.#format(this.#values[index])} · highest ${this.#format(top)}`,
    );
    setAttribute(
      this.#box,
      "aria-label",
      `${this.#name}: now ${this.#format(this.#values[last])}, highest ${this.#format(top)}` +
        ` since ${clock(this.#times[0] * 1000)}`,
    );
  }

  #size = () => ({ width: this.#box.clientWidth, height: this.#box.clientHeight });

  #options() {
    const axis = {
      stroke: () => colour("--quiet"),
      font: "11px sans-serif",
      ticks: { show: false },
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
      series: [
        {},
        {
          stroke: () => colour("--accent"),
          width: 2,
          fill: () => colour("--accent-soft"),
          points: {
            size: 6,
            fill: () => colour("--accent"),
            filter: (plot) => [plot.data[0].length - 1],
          },
        },
      ],
      axes: [
        {
          ...axis,
          values: (plot, at, axis, space, step) =>
            at.map((value) => clock(value * 1000).slice(0, step < 60 ? 8 : 5)),
          incrs: [15, 30, 60, 120, 300, 600, 1800],
          space: 80,
          size: 24,
          grid: { show: false },
        },
        {
          ...axis,
          values: (plot, at) => at.map(compact),
          size: 40,
          space: 30,
          incrs: [
            1, 2, 5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000, 2500, 5000, 10000, 25000,
            50000,
          ],
        },
      ],
      hooks: {
        ...this.#hooks,
        setCursor: [(plot) => this.#showValue(plot.cursor.idx ?? this.#values.length - 1)],
      },
    };
  }
}

let workers = 0;

// Draws the expected band behind the line, and its name above the grid.
function drawBand(plot) {
  const {
      ctx,
      bbox: { left, width },
    } = plot,
    [from, to] = bandEdges(plot);
  ctx.fillStyle = colour("--raised");
  ctx.fillRect(left, from, width, to - from);
}

function drawBandName(plot) {
  const [from, to] = bandEdges(plot);
  if (to > from) drawCaption(plot, "expected", plot.bbox.left, to, "--raised");
}

function bandEdges(plot) {
  const { top, height } = plot.bbox;
  return [BAND[1], BAND[0]].map((each) =>
    Math.max(top, Math.min(top + height, plot.valToPos(each * workers, "y", true))),
  );
}

// Draws the alert thresholds that are within the scale.
function drawThresholds(plot) {
  const {
    ctx,
    bbox: { left, top, width },
  } = plot;
  for (const [index, value] of THRESHOLDS.queue.entries()) {
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
    drawCaption(plot, index ? "critical" : "warning", left, at, "--panel");
  }
}

// Draws a caption on a filled rectangle, so that no grid line crosses it.
function drawCaption({ ctx, bbox }, words, left, bottom, ground) {
  if (bottom - bbox.top < 18 * devicePixelRatio) return;
  ctx.font = `${11 * devicePixelRatio}px sans-serif`;
  ctx.fillStyle = colour(ground);
  ctx.fillRect(
    left + 4 * devicePixelRatio,
    bottom - 16 * devicePixelRatio,
    ctx.measureText(words).width + 4 * devicePixelRatio,
    15 * devicePixelRatio,
  );
  ctx.fillStyle = colour("--quiet");
  ctx.textAlign = "left";
  ctx.textBaseline = "alphabetic";
  ctx.fillText(words, left + 6 * devicePixelRatio, bottom - 4 * devicePixelRatio);
}

const trends = {
  rate: new Trend("rate", "Done a minute", rate, {
    drawClear: [drawBand],
    drawAxes: [drawBandName],
  }),
  pending: new Trend("pending", "Pending", compact, { drawAxes: [drawThresholds] }),
};

// Returns the history as points at the end of each minute.
function historyPoints(history, name) {
  const from = Date.parse(history?.from) / 1000;
  return (history?.[name] ?? []).map((value, index) => [
    from + history.stepSeconds * (index + 1),
    value,
  ]);
}

// Averages five minutes, as the current rate does.
const smooth = (points) =>
  points.map(([at], index) => {
    const latest = points.slice(Math.max(0, index - 4), index + 1);
    return [at, latest.reduce((sum, [, value]) => sum + value, 0) / latest.length];
  });

export function showTrends(overview) {
  workers = overview.workers;
  const at = Math.round(Date.parse(overview.at) / 1000);
  trends.rate.addPoint(at, overview.donePerMinute, smooth(historyPoints(overview.history, "done")));
  trends.pending.addPoint(at, overview.pending, historyPoints(overview.history, "pending"));
}

export function redraw() {
  for (const trend of Object.values(trends)) trend.redraw();
}
