// Charts: a template filled, drawn by Vega, with its data as a table and as files.

const themes = data.charts.theme;
const ONLY_ERRORS = 1; // of what Vega logs
const LEGEND_KEY_PIXELS = 140;
const FIXED_WIDTH = ["confusion", "sensitivity"];
const drawn = new Set(); // what is on the page now, to be drawn again in other colours

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

function merged(base, changes) {
  if (Array.isArray(changes) || changes === null || typeof changes !== "object") return changes;
  const found = { ...base };
  for (const [key, value] of Object.entries(changes)) found[key] = key in found ? merged(found[key], value) : value;
  return found;
}

const chartConfig = (dark) => (dark ? merged(themes.light, themes.dark) : themes.light);

// As many keys side by side as there is room for; a legend that is too wide would be cut off.
function legendFitting(config, pixels) {
  const columns = Math.max(1, Math.min(config.legend.columns, Math.floor(pixels / LEGEND_KEY_PIXELS)));
  return { ...config, legend: { ...config.legend, columns } };
}

// A figure: caption, chart, buttons that save it, and its data as a table ({columns, rows}) for those who cannot see it.
function figure({ title, sub, chart, values, name, table, onclick }) {
  const place = el("div", {});
  // a chart of fixed cells may be wider than a phone; then its box scrolls, and must be reached by keyboard
  const fixedWidth = FIXED_WIDTH.includes(chart);
  const reached = fixedWidth ? { tabindex: "0", role: "region", "aria-label": "Chart: " + title } : {};
  const box = el("div", { class: "chart", ...reached }, place);
  const tools = el("div", { class: "tools" });
  if (table) {
    tools.append(el("details", {}, el("summary", {}, "Data of this chart"), plainTable(title, table.columns, table.rows)));
  }
  for (const [label, format] of [["SVG", "svg"], ["PNG", "png"]]) {
    const save = () => saveChart(chart, values, name, format);
    tools.append(el("button", { type: "button", class: "tiny", onclick: save, "aria-label": label + " of " + title }, label));
  }
  const made = el("figure", {}, el("figcaption", {}, title, sub ? el("span", { class: "sub" }, sub) : null), box, tools);
  drawn.add({ place, chart, values, onclick, made });
  requestAnimationFrame(() => drawOne([...drawn].find((one) => one.place === place)));
  return made;
}

async function drawOne(item) {
  if (!item || !item.place.isConnected) return;
  const values = typeof item.values.themed === "function" ? { ...item.values, ...item.values.themed(isDark()) } : item.values;
  const spec = filled(data.charts[item.chart], { width: "container", title: null, ...values });
  const options = {
    actions: false, renderer: "svg", config: legendFitting(chartConfig(isDark()), item.place.clientWidth), defaultStyle: false,
    logLevel: ONLY_ERRORS,
    tooltip: { theme: isDark() ? "dark" : "light" },
  };
  if (item.view) item.view.finalize();
  const result = await window.vegaEmbed(item.place, spec, options);
  item.view = result.view;
  // one image with one description, not a hundred marks; the data is in the table below
  item.place.setAttribute("role", "img");
  item.place.setAttribute("aria-label", values.description);
  item.place.removeAttribute("aria-roledescription");
  if (item.onclick) result.view.addEventListener("click", (event, mark) => mark && mark.datum && item.onclick(mark.datum));
}

// For a file: on white, of a fixed width, whatever the page looks like now.
async function saveChart(chart, values, name, format) {
  const themed = typeof values.themed === "function" ? values.themed(false) : {};
  const spec = filled(data.charts[chart], { width: 560, title: null, ...values, ...themed });
  const box = el("div");
  const config = { ...chartConfig(false), background: "white" };
  const options = { actions: false, renderer: "svg", config, defaultStyle: false, logLevel: ONLY_ERRORS };
  const { view } = await window.vegaEmbed(box, spec, options);
  if (format === "svg") return saveFile(name + ".svg", await view.toSVG(), "image/svg+xml");
  const image = await view.toImageURL("png", 3);
  const bytes = Uint8Array.from(atob(image.split(",")[1]), (letter) => letter.charCodeAt(0));
  return saveFile(name + ".png", bytes, "image/png");
}

function forgetFigures(parent) {
  for (const item of drawn) {
    if (!parent.contains(item.made)) continue;
    if (item.view) item.view.finalize();
    drawn.delete(item);
  }
  parent.replaceChildren();
}

function redrawFigures() {
  for (const item of drawn) drawOne(item);
}

function barFigure(title, yTitle, xTitle, bars, name, sub) {
  const description = title + ": " + bars.map((bar) => bar.name + " " + bar.shown).join(", ");
  const table = { columns: [[yTitle], [xTitle, true]], rows: bars.map((bar) => [bar.name, bar.shown]) };
  const values = { description, bars, height: 16 * bars.length, x_title: xTitle, y_title: yTitle };
  return figure({ title, sub, chart: "bars", name, table, values });
}
