// Dark or light: the system's choice until a person makes one. `theme.js` reads it before the first paint.

import { attribute, byId, text } from "./dom.js";
import { redraw } from "./charts.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

function show() {
  text(byId("theme"), isDark() ? "Light" : "Dark");
  attribute(byId("theme"), "aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  redraw();
}

export function setUpSwitch() {
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}
