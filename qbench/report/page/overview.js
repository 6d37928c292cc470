// The overview: every run as a row.

const two = (value) => fixed(value, 2);
const MARKS = { ok: "✓ ok", warning: "! warning", failed: "✕ failed", skipped: "– skipped" };
const batches = distinct(runs.map((run) => run.batch_size));

function measured(key, title, unit, show, more = {}) {
  return { key, title, unit, number: true, value: (run) => run[key], cell: (run) => show(run[key]), ...more };
}

// Of the baseline a difference to itself says nothing.
const notBaseline = (show) => (run) => (run.isBaseline ? "" : show(run));

const COLUMNS = [
  {
    key: "method", title: "method", header: true, value: settingOf, sub: (run) => run.variant,
    cell: (run) => [
      el("a", { href: "#run/" + run.run_id }, run.method), run.isBaseline ? el("span", { class: "tag" }, "baseline") : "",
    ].filter(Boolean).flatMap((node, index) => (index ? [" ", node] : [node])),
  },
  { key: "bits", title: "bits", value: (run) => run.bits, cell: (run) => run.bits || "" },
  { key: "dataset", title: "data set", value: (run) => run.dataset, cell: (run) => run.dataset, varied: true },
  { key: "model", title: "model", value: (run) => run.model, cell: (run) => run.model, varied: true },
  { key: "seed", title: "seed", number: true, value: (run) => run.seed, cell: (run) => String(run.seed), varied: true },
  {
    key: "runtime", title: "runtime", value: (run) => run.runtime, varied: true, cell: (run) => run.runtime,
    sub: (run) => run.runtime_chosen,
  },
  {
    key: "status", title: "status", value: (run) => ["failed", "warning", "skipped", "ok"].indexOf(run.state),
    number: false, kind: "state", sub: (run) => (run.state === "warning" ? run.notes : ""),
    cell: (run) => el("span", { class: "status " + run.state }, MARKS[run.state] || run.state),
  },
  measured("top1_percent", "top-1", "% [95 %]", two,
    { sub: (run) => interval(run.top1_low_percent, run.top1_high_percent, two) }),
  measured("delta_points", "Δ", "points [95 %]", (value) => signed(value, 2), {
    value: (run) => (run.isBaseline ? null : run.delta_points),
    cell: notBaseline((run) => signed(run.delta_points, 2)),
    sub: notBaseline((run) => interval(run.delta_low_points, run.delta_high_points, (value) => signed(value, 2))),
  }),
  measured("size_bytes", "size", "kB", (value) => (present(value) ? fixed(value / 1000, 1) : "")),
  measured("compression_ratio", "ratio", "×", two),
  measured("bits_per_weight", "stored", "bits/weight", two),
  measured("latency_ms_median", "latency", batches.length === 1 ? "ms, batch " + batches[0] : "ms",
    (value) => significant(value, 4)),
  measured("latency_ratio", "speed-up", "× [95 %]", two, {
    value: (run) => (run.isBaseline ? null : run.latency_ratio),
    cell: notBaseline((run) => two(run.latency_ratio)),
    sub: notBaseline((run) => interval(run.latency_ratio_low, run.latency_ratio_high, two)),
  }),
  { key: "latency_kind", title: "kernel", value: (run) => run.latency_kind, cell: (run) => run.latency_kind || "" },
  measured("energy_modelled_uJ", "energy", "µJ, modelled", (value) => significant(value, 4)),
  measured("energy_measured_J", "energy", "J, measured", (value) => significant(value, 3)),
  { key: "n_test", title: "images", number: true, varied: true, value: (run) => run.n_test,
    cell: (run) => fixed(run.n_test, 0) },
];

// A column that says the same (or nothing) in every row is left out.
function shownColumns() {
  return COLUMNS.filter((column) => {
    const values = distinct(runs.map(column.value)).filter((value) => value !== "");
    return column.varied ? values.length > 1 : values.length > 0;
  });
}

const FILTERS = [
  ["dataset", "Data set", (run) => run.dataset],
  ["model", "Model", (run) => run.model],
  ["method", "Method", (run) => run.method],
  ["bits", "Bits", (run) => run.bits],
  ["kernel", "Kernel", (run) => run.latency_kind],
  ["status", "Status", (run) => run.state],
];

function searchText(run) {
  const words = [run.dataset, run.model, settingOf(run), run.runtime, run.latency_kind, run.state, run.notes, run.run_id];
  return words.filter(Boolean).join(" ").toLowerCase();
}

function buildOverview() {
  const table = new RunTable(byId("overview-box"), shownColumns(), "Runs: accuracy, size, latency and energy");
  const texts = new Map(runs.map((run) => [run, searchText(run)]));
  const form = byId("filters");
  let visible = runs;
  const apply = () => {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = FILTERS.filter(([name]) => form.elements[name] && form.elements[name].value !== "");
    visible = runs.filter((run) => words.every((word) => texts.get(run).includes(word))
      && wanted.every(([name, , of]) => of(run) === form.elements[name].value));
    byId("count").textContent = visible.length === runs.length ? count(runs.length, "run")
      : visible.length + " of " + count(runs.length, "run");
    table.show(visible);
  };
  form.append(el("label", { class: "wide" }, "Search",
    el("input", { type: "search", name: "text", placeholder: "kmeans w4 cifar10", autocomplete: "off", oninput: apply })));
  for (const [name, label, of] of FILTERS) {
    const values = distinct(runs.map(of)).filter((value) => value !== "");
    values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    if (values.length < 2) continue;
    form.append(selectField(label, name, [["", "all"], ...values.map((value) => [value, value])], apply));
  }
  form.append(el("button", { type: "reset", class: "quiet" }, "Clear"));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  byId("csv").addEventListener("click", () => {
    saveFile("results.csv", toCsv(data.table.columns, table.rows.map((run) => run.row)), "text/csv");
  });
  byId("note").textContent = data.note.replaceAll("*", "");
  byId("summary").textContent = summary();
  apply();
}

function count(number, noun) {
  return number + " " + noun + (number === 1 ? "" : "s");
}

function summary() {
  const states = { failed: 0, skipped: 0, warning: 0 };
  for (const run of runs) if (run.state in states) states[run.state] += 1;
  // what all runs share has no column, so it is named here
  const named = (noun, values) => (values.length === 1 ? noun + " " + values[0] : count(values.length, noun));
  const parts = [
    count(runs.length, "run"), named("data set", distinct(runs.map((run) => run.dataset))),
    named("network", distinct(runs.map((run) => run.model))),
  ];
  if (states.failed) parts.push(states.failed + " failed");
  if (states.skipped) parts.push(states.skipped + " skipped");
  if (states.warning) parts.push(states.warning + " with a warning");
  return parts.join(" · ");
}
