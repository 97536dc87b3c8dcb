// The banner that names each provider that is a stand-in.

import { byId, setText } from "./dom.js";

const BANNERS = {
  openai: "A stand-in replaces OpenAI: texts are samples, and their costs are not real.",
  replicate:
    "A stand-in replaces Replicate: images are drawn by a program, and their costs are not real.",
};
// Workers of an older release do not name them.
const UNNAMED = "Stand-ins are in use: some posts are samples, and some costs are not real.";

export function showStandins({ standins, standinProviders }) {
  const banners = (standinProviders ?? []).map((name) => BANNERS[name]).filter(Boolean);
  byId("standins").hidden = !standins;
  setText(byId("standins"), banners.join(" ") || UNNAMED);
}
