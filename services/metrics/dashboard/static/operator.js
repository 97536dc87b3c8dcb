// Retry and cancel with the operator's key, which is kept for this tab and sent nowhere else.

import { byId, setAttribute, setText } from "./dom.js";
import { fetchJson } from "./snapshots.js";

const STORAGE_KEY = "operator-key";

export function setUpKey() {
  const field = byId("operator-key");
  field.value = sessionStorage.getItem(STORAGE_KEY) ?? "";
  field.addEventListener("change", () => sessionStorage.setItem(STORAGE_KEY, field.value.trim()));
}

function showAnswer(tone, words) {
  setAttribute(byId("answer"), "class", tone);
  setText(byId("answer"), words);
}

export async function requestAction(job, verb) {
  const key = byId("operator-key").value.trim();
  if (!key) {
    showAnswer(
      "bad",
      "Type an operator key first: ./blogstream keys create --operator NAME makes one.",
    );
    return byId("operator-key").focus();
  }
  showAnswer("", verb === "retry" ? "Requesting a retry…" : "Requesting the cancel…");
  try {
    const answer = await fetchJson(`/api/jobs/${encodeURIComponent(job)}/${verb}`, {
      method: "POST",
      headers: { Authorization: `Bearer ${key}` },
    });
    showAnswer(
      "good",
      `The job is ${verb === "retry" ? "retried" : "cancelled"}` +
        `${answer.status ? `: ${answer.status}` : ""}.`,
    );
  } catch (error) {
    showAnswer(
      "bad",
      error.status
        ? `Refused: ${error.message}`
        : "No answer: it is unknown whether the job has changed.",
    );
  }
}
