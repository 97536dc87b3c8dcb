// The source of snapshots: server-sent events, or polling of the JSON endpoints once a second when
// events fail.

const POLL_MS = 1000;
const RECONNECT_MS = 30000;
const TIMEOUT_MS = 4000;
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

const itemsOf = (value) => (Array.isArray(value) ? value : (value?.items ?? null));

// Converts both sources to {overview, stores, workers, providers, limitedBy, alerts, jobs}; null
// for missing lists.
function normalize(raw) {
  return {
    overview: raw.overview,
    stores: itemsOf(raw.stores) ?? [],
    workers: itemsOf(raw.workers) ?? [],
    providers: raw.rateLimiter?.rateLimiter ?? raw.rateLimiter ?? {},
    limitedBy: raw.rateLimiter?.limitedBy ?? [],
    alerts: itemsOf(raw.alerts),
    jobs: itemsOf(raw.jobs),
  };
}

export async function fetchJson(path, options = {}) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  const body = await answer.json().catch(() => ({}));
  if (answer.ok) return body;
  const message = [answer.status, body.title, body.detail].filter(Boolean).join(" ");
  throw Object.assign(new Error(message), { status: answer.status });
}

export class SnapshotSource {
  #onSnapshot;
  #onFailure;
  #source = null;
  #timer = null;
  #absent = new Set();
  #receivedAt = 0;

  constructor({ onSnapshot, onFailure }) {
    this.#onSnapshot = onSnapshot;
    this.#onFailure = onFailure;
  }

  // `?poll` in the address disables the stream: for proxies that buffer streams, and for
  // screenshots, which wait until no request is open.
  start() {
    if (new URLSearchParams(location.search).has("poll")) return this.#startPolling();
    this.#openStream();
    return setInterval(() => this.#checkStream(), POLL_MS);
  }

  #openStream() {
    this.#receivedAt = Date.now();
    this.#source = new EventSource("/api/events");
    this.#source.addEventListener("snapshot", (event) => {
      this.#receivedAt = Date.now();
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#deliver(JSON.parse(event.data), "live");
    });
    this.#source.addEventListener("error", () => this.#startPolling());
  }

  // Starts polling when the open stream is silent, and reconnects a closed one.
  #checkStream() {
    if (Date.now() - this.#receivedAt > SILENT_MS) this.#startPolling();
    if (
      this.#source.readyState === EventSource.CLOSED &&
      Date.now() - this.#receivedAt > RECONNECT_MS
    )
      this.#openStream();
  }

  #startPolling() {
    this.#timer ??= setTimeout(() => this.#poll(), 0);
  }

  async #poll() {
    const timer = this.#timer;
    try {
      const names = Object.keys(ENDPOINTS).filter((name) => !this.#absent.has(name));
      const answers = await Promise.all(names.map((name) => this.#fetchEndpoint(name)));
      if (this.#timer !== timer) return; // the stream is back
      this.#deliver(
        Object.fromEntries(names.map((name, index) => [name, answers[index]])),
        "polling",
      );
    } catch (error) {
      if (this.#timer !== timer) return;
      this.#onFailure(
        error.name === "TimeoutError"
          ? "The metrics service does not answer in time."
          : error.status
            ? `The metrics service answered ${error.message}.`
            : "The metrics service does not answer.",
      );
    }
    this.#timer = setTimeout(() => this.#poll(), POLL_MS);
  }

  async #fetchEndpoint(name) {
    try {
      return await fetchJson(ENDPOINTS[name]);
    } catch (error) {
      if (error.status !== 404 || !OPTIONAL.has(name)) throw error;
      this.#absent.add(name);
      return null;
    }
  }

  #deliver(raw, mode) {
    this.#onSnapshot(normalize(raw), mode);
  }
}
