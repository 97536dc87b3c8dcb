// Where the numbers come from: server-sent events, or, where those are not to be had, the JSON endpoints once a second.

const POLL_MS = 1000;
const TRY_AGAIN_MS = 30000;
const ANSWER_MS = 4000;
const SILENT_MS = 4000;

const ENDPOINTS = {
  overview: "/api/overview",
  stores: "/api/stores",
  workers: "/api/workers",
  rateLimiter: "/api/rate-limiter/stats",
  alerts: "/api/alerts",
  jobs: "/api/jobs?limit=20",
};
const OPTIONAL = new Set(["alerts", "jobs"]);

const list = (value) => (Array.isArray(value) ? value : value?.items ?? null);

// The same shape from both ways: {overview, stores, workers, providers, limitedBy, alerts, jobs}; null where it is not told.
function snapshot(raw) {
  return {
    overview: raw.overview,
    stores: list(raw.stores) ?? [],
    workers: list(raw.workers) ?? [],
    providers: raw.rateLimiter?.rateLimiter ?? raw.rateLimiter ?? {},
    limitedBy: raw.rateLimiter?.limitedBy ?? [],
    alerts: list(raw.alerts),
    jobs: list(raw.jobs),
  };
}

export async function read(path, options = {}) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(ANSWER_MS), ...options });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const said = [answer.status, body.title, body.detail].filter(Boolean).join(" ");
  throw Object.assign(new Error(said), { status: answer.status });
}

export class Feed {
  #heard; #failed; #source = null; #timer = null; #absent = new Set(); #heardAt = 0;

  constructor({ heard, failed }) {
    this.#heard = heard;
    this.#failed = failed;
  }

  // `?poll` in the address leaves the stream out: for a proxy that holds streams back, and for a picture of the page,
  // which is taken when nothing is on its way any more.
  start() {
    if (new URLSearchParams(location.search).has("poll")) return this.#poll();
    this.#listen();
    return setInterval(() => this.#watch(), POLL_MS);
  }

  #listen() {
    this.#heardAt = Date.now();
    this.#source = new EventSource("/api/events");
    this.#source.addEventListener("snapshot", (event) => {
      this.#heardAt = Date.now();
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#tell(JSON.parse(event.data), "live");
    });
    this.#source.addEventListener("error", () => this.#poll());
  }

  // A stream that is open and says nothing is no better than one that is closed.
  #watch() {
    if (Date.now() - this.#heardAt > SILENT_MS) this.#poll();
    if (this.#source.readyState === EventSource.CLOSED && Date.now() - this.#heardAt > TRY_AGAIN_MS) this.#listen();
  }

  #poll() {
    this.#timer ??= setTimeout(() => this.#ask(), 0);
  }

  async #ask() {
    const asked = this.#timer;
    try {
      const names = Object.keys(ENDPOINTS).filter((name) => !this.#absent.has(name));
      const answers = await Promise.all(names.map((name) => this.#answer(name)));
      if (this.#timer !== asked) return; // the stream is back
      this.#tell(Object.fromEntries(names.map((name, index) => [name, answers[index]])), "polling");
    } catch (error) {
      if (this.#timer !== asked) return;
      this.#failed(error.name === "TimeoutError" ? "It does not answer in time." : error.status ? `The metrics service answered ${error.message}.` : "Nobody answers.");
    }
    this.#timer = setTimeout(() => this.#ask(), POLL_MS);
  }

  async #answer(name) {
    try {
      return await read(ENDPOINTS[name]);
    } catch (error) {
      if (error.status !== 404 || !OPTIONAL.has(name)) throw error;
      this.#absent.add(name);
      return null;
    }
  }

  #tell(raw, way) {
    this.#heard(snapshot(raw), way);
  }
}
