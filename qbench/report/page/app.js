// Which section is shown, and in which colours.

const SECTIONS = { overview: buildOverview, pareto: buildPareto, comparisons: buildComparisons, run: buildRunForm };
const built = new Set();

function route() {
  const [name, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
  if (name === "main") return byId("main").focus();
  const section = name in SECTIONS ? name : "overview";
  for (const one of Object.keys(SECTIONS)) byId("view-" + one).hidden = one !== section;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === "#" + section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (!built.has(section)) {
    built.add(section);
    SECTIONS[section]();
  }
  if (section === "run") showRun(rest.join("/") || runs[0].run_id);
}

// Going to a section moves the focus there too, so that a screen reader says where one is.
function go() {
  route();
  window.scrollTo({ top: 0, behavior: "instant" });
  const heading = document.querySelector("main section:not([hidden]) h1");
  if (location.hash !== "#main") heading.focus({ preventScroll: true });
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(dark));
  redrawFigures();
}

const preferred = matchMedia("(prefers-color-scheme: dark)");
setTheme(preferred.matches);
preferred.addEventListener("change", (event) => setTheme(event.matches));
byId("theme").addEventListener("click", () => setTheme(!isDark()));
window.addEventListener("hashchange", go);
// The overview needs no charts and is shown at once; other sections wait for the libraries below this script.
if (/^#(pareto|comparisons|run)/.test(location.hash)) document.addEventListener("DOMContentLoaded", route);
else route();
