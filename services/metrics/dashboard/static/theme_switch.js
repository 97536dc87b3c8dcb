// The switch between dark and light; the system's setting until it is used. `theme.js` applies it
// before the first paint.

import { byId, setAttribute, setText } from "./dom.js";
import { redraw } from "./charts.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const isDark = () =>
  (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";

function updateButton() {
  setText(byId("theme"), isDark() ? "Light" : "Dark");
  setAttribute(byId("theme"), "aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  redraw();
}

export function setUpThemeSwitch() {
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    updateButton();
  });
  system.addEventListener("change", updateButton);
  updateButton();
}
