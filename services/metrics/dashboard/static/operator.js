// Retry and cancel, with the operator's key: kept for this tab alone, and sent nowhere else.

import { attribute, byId, text } from "./dom.js";
import { read } from "./feed.js";

const KEPT = "operator-key";

export function setUpKey() {
  const field = byId("operator-key");
  field.value = sessionStorage.getItem(KEPT) ?? "";
  field.addEventListener("change", () => sessionStorage.setItem(KEPT, field.value.trim()));
}

function say(tone, words) {
  attribute(byId("answer"), "class", tone);
  text(byId("answer"), words);
}

export async function act(job, verb) {
  const key = byId("operator-key").value.trim();
  if (!key) {
    say("bad", "Type an operator key first: ./blogstream keys create --operator NAME makes one.");
    return byId("operator-key").focus();
  }
  say("", verb === "retry" ? "Asking for a retry…" : "Asking to cancel…");
  try {
    const answer = await read(`/api/jobs/${encodeURIComponent(job)}/${verb}`, { method: "POST", headers: { Authorization: `Bearer ${key}` } });
    say("good", `${verb === "retry" ? "It is tried again" : "It is cancelled"}${answer.status ? `: ${answer.status}` : ""}.`);
  } catch (error) {
    say("bad", error.status ? `Refused: ${error.message}` : "Nobody answers: nothing was changed, or it is not known.");
  }
}
