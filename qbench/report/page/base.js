// The records, and small helpers to build elements. Text goes in as text, never as markup.

const data = JSON.parse(document.getElementById("data").textContent);
const columnIndex = Object.fromEntries(data.table.columns.map((name, index) => [name, index]));

// Each run is one object: its row of the CSV by column name, its label of bits, the command that repeats it, and its
// place in the usual order.
const runs = data.table.rows.map((row, order) => {
  const run = { row, order, bits: data.table.bits[order], command: data.table.commands[order] };
  for (const name of data.table.columns) run[name] = row[columnIndex[name]];
  run.isBaseline = run.method === "fp32";
  run.state = run.status === "ok" && run.warning ? "warning" : run.status;
  run.notes = run.status === "ok" ? run.warning : run.error;
  return run;
});
const runById = new Map(runs.map((run) => [run.run_id, run]));

// What only the page of one run needs is read when that page is opened.
function detailOf(id) {
  return JSON.parse(document.getElementById("run-" + id).textContent);
}

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const byId = (id) => document.getElementById(id);
const present = (value) => value !== null && value !== undefined;

function fixed(value, digits) {
  if (!present(value)) return "";
  return value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

// A number with about this many significant digits, for columns that span many orders of magnitude.
function significant(value, digits = 3) {
  if (!present(value)) return "";
  if (value === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(value)));
  return size < -4 ? value.toExponential(digits - 1) : fixed(value, Math.max(0, digits - 1 - size));
}

function signed(value, digits) {
  if (!present(value)) return "";
  const text = fixed(Math.abs(value), digits);
  return (value < 0 ? "−" : "+") + text;
}

function interval(low, high, show) {
  return present(low) && present(high) ? "[" + show(low) + ", " + show(high) + "]" : "";
}

function settingOf(run) {
  return [run.method, run.variant, run.bits].filter(Boolean).join(" ");
}

function nameOf(run) {
  const seeds = new Set(runs.map((one) => one.seed)).size > 1 ? "seed " + run.seed : "";
  const place = run.runtime === "torch" ? "" : "on " + run.runtime;
  return [settingOf(run), place, seeds].filter(Boolean).join(", ");
}

const networkOf = (one) => one.model + " on " + one.dataset;
const distinct = (values) => [...new Set(values.filter(present))];

// "$name" in a chart's template stands for a value; qbench/report/figures.py fills the same templates for files.
function filled(template, values) {
  if (typeof template === "string" && template.startsWith("$")) {
    if (!(template.slice(1) in values)) throw new Error("no value for " + template);
    return values[template.slice(1)];
  }
  if (Array.isArray(template)) return template.map((inner) => filled(inner, values));
  if (template === null || typeof template !== "object") return template;
  return Object.fromEntries(
    Object.entries(template).map(([key, inner]) => [key, key === "$schema" ? inner : filled(inner, values)]),
  );
}

function saveFile(name, content, type) {
  const href = URL.createObjectURL(new Blob([content], { type }));
  const link = el("a", { href, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(href), 1000);
}

function csvCell(value) {
  if (!present(value)) return "";
  const text = value === true ? "True" : value === false ? "False" : String(value);
  return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

function toCsv(columns, rows) {
  return [columns, ...rows].map((row) => row.map(csvCell).join(",")).join("\n") + "\n";
}

function selectField(label, name, options, onchange) {
  const select = el("select", { name, onchange }, options.map(([value, text]) => el("option", { value }, text)));
  return el("label", {}, label, select);
}

function command(text) {
  const pre = el("pre", {}, el("code", {}, text));
  const button = el("button", { type: "button", class: "tiny" }, "Copy");
  button.addEventListener("click", async () => {
    const range = document.createRange();
    range.selectNodeContents(pre);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    const done = navigator.clipboard ? await navigator.clipboard.writeText(text).then(() => true, () => false)
      : document.execCommand("copy");
    button.textContent = done ? "Copied" : "Selected";
  });
  return el("div", { class: "command" }, pre, button);
}
