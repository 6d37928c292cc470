// The page of one run, built when it is opened.

const PARTS = ["codes", "codebooks", "scales", "floats", "masks", "container"];

function buildRunForm() {
  const groups = distinct(runs.map(networkOf)).map((network) => el("optgroup", { label: network },
    runs.filter((run) => networkOf(run) === network).map((run) => el("option", { value: run.run_id }, nameOf(run)))));
  const select = el("select", { name: "run", onchange: () => { location.hash = "#run/" + select.value; } }, groups);
  byId("run-form").append(el("label", { class: "wide" }, "Run", select));
  byId("run-form").addEventListener("submit", (event) => event.preventDefault());
}

function showRun(id) {
  const run = runById.get(id);
  const box = byId("run-content");
  forgetFigures(box);
  byId("run-title").textContent = run ? settingOf(run) : "Runs";
  if (!run) {
    box.append(el("p", { class: "notice bad" }, "There is no run " + id + " in this report."));
    return;
  }
  byId("run-form").elements.run.value = id;
  const detail = detailOf(id);
  box.append(
    el("p", { class: "lead" }, networkOf(run) + ", seed " + run.seed + ", run " + run.run_id),
    run.notes ? el("p", { class: "notice" + (run.state === "failed" ? " bad" : "") }, run.state + ": " + run.notes
      + (run.traceback ? " (traceback: " + run.traceback + ")" : "")) : "",
    runFacts(run),
    el("h2", {}, "Repeat it"),
    run.command ? command(run.command) : notRecorded("The command"),
  );
  const sections = run.status === "ok"
    ? [bytesSection, layersSection, sensitivitySection, weightsSection, trainingSection, confusionSection,
      integersSection, latencySection]
    : [];
  for (const section of sections) box.append(...section(run, detail, id).filter(Boolean));
  box.append(...configSection(detail));
}

function notRecorded(what) {
  return el("p", { class: "missing" }, what + ": not recorded.");
}

function runFacts(run) {
  const points = (value) => signed(value, 2);
  const facts = [
    ["top-1, %", two(run.top1_percent), interval(run.top1_low_percent, run.top1_high_percent, two)],
    ["Δ to the baseline, points", run.isBaseline ? "" : points(run.delta_points),
      interval(run.delta_low_points, run.delta_high_points, points)],
    ["p of no difference", run.isBaseline || !present(run.delta_p_value) ? "" : pValue(run.delta_p_value), "McNemar, exact"],
    ["size, kB", present(run.size_bytes) ? fixed(run.size_bytes / 1000, 1) : "", run.isBaseline ? "" : two(run.compression_ratio) + " × smaller"],
    ["bits per weight", two(run.bits_per_weight), ""],
    ["SQNR, dB", fixed(run.sqnr_db, 1), "of all layer weights"],
    ["latency, ms", significant(run.latency_ms_median, 4), "batch " + run.batch_size + ", " + run.latency_kind + " kernels"],
    ["speed-up, ×", run.isBaseline ? "" : two(run.latency_ratio), interval(run.latency_ratio_low, run.latency_ratio_high, two)],
    ["energy, µJ, modelled", significant(run.energy_modelled_uJ, 4), run.energy_model],
    ["sparsity, %", fixed(run.sparsity_percent, 1), "of the layers' weights"],
    ["agrees with the baseline, %", run.isBaseline ? "" : two(run.agreement_percent), "of " + fixed(run.n_test, 0) + " images"],
  ].filter(([, value]) => value);
  return el("dl", { class: "facts" }, facts.map(([title, value, sub]) => el("div", {}, el("dt", {}, title),
    el("dd", {}, value, sub ? el("span", { class: "sub" }, sub) : null))));
}

function bytesSection(run, detail, id) {
  if (!present(run.size_bytes)) return [];
  const parts = PARTS.filter((part) => run[part + "_bytes"]).map((part) => {
    const bytes = run[part + "_bytes"];
    return { name: part, value: bytes, shown: fixed(bytes, 0) + " (" + fixed((100 * bytes) / run.size_bytes, 1) + " %)" };
  });
  const saved = present(run.fixed_width_bytes) && run.fixed_width_bytes > run.size_bytes
    ? ", " + fixed(run.fixed_width_bytes, 0) + " without entropy coding" : "";
  const sub = fixed(run.size_bytes, 0) + " bytes" + saved + "; values at their own width would take "
    + fixed(run.theoretical_bytes, 0);
  return [el("h2", {}, "Where the bytes went"), barFigure("Bytes of the file", "part", "bytes", parts, id + "_bytes", sub)];
}

function layersSection(run, detail, id) {
  const layers = detail.layers;
  if (!layers.layer) return [el("h2", {}, "Layers"), notRecorded("The layers")];
  const bars = (values, show) => layers.layer.map((name, index) => ({ name, value: values[index], shown: show(values[index]) }));
  const charts = [["bits", layers.weight_bits, (value) => fixed(value, 0), "bits"],
    ["bytes", layers.bytes, (value) => fixed(value, 0), "bytes"],
    ["SQNR, dB", layers.sqnr_db, (value) => fixed(value, 1), "sqnr"]];
  const figures = charts.filter(([, values]) => values && values.some(present))
    .map(([title, values, show, name]) => barFigure(title + " per layer", "layer", title, bars(values, show), id + "_" + name));
  const chosen = chosenSensitivity(detail);
  const columns = [["layer"], ["op"], ["shape"], ["encoding"], ["weight bits", true], ["act. bits", true], ["bytes", true],
    ["MACs", true], ["BOPs", true], ["energy, µJ", true], ["SQNR, dB", true], ...(chosen ? [["sensitivity", true]] : [])];
  const whole = (values, index) => (values ? fixed(values[index], 0) : "");
  const rows = layers.layer.map((name, index) => [
    name, layers.op[index], layers.shape[index].join("×"), layers.encoding[index], whole(layers.weight_bits, index),
    whole(layers.act_bits, index), whole(layers.bytes, index), whole(layers.macs, index), whole(layers.bops, index),
    layers.energy_modelled_uJ ? significant(layers.energy_modelled_uJ[index]) : "", fixed(layers.sqnr_db[index], 1),
    ...(chosen ? [significant(chosen.get(name))] : []),
  ]);
  return [el("h2", {}, "Layers"), plainTable("Layers of the run", columns, rows),
    el("div", { class: "grid narrow spaced" }, figures)];
}

function chosenSensitivity(detail) {
  if (!detail.sensitivity) return null;
  return new Map(detail.sensitivity.cells.filter((cell) => cell.chosen).map((cell) => [cell.layer, cell.sensitivity]));
}

function sensitivitySection(run, detail, id) {
  if (!detail.sensitivity) return [];
  const { cells } = detail.sensitivity;
  return [figure({
    title: "Sensitivity of each layer to each option", sub: "dots: what each layer got", chart: "sensitivity",
    name: id + "_sensitivity",
    values: { description: "Sensitivity of " + detail.sensitivity.layers.length + " layers", ...detail.sensitivity },
    table: {
      columns: [["layer"], ["option"], ["sensitivity", true], ["bytes", true], ["chosen"]],
      rows: cells.map((cell) => [cell.layer, cell.option, significant(cell.sensitivity), fixed(cell.bytes, 0),
        cell.chosen ? "yes" : ""]),
    },
  })];
}

function latencySection(run, detail) {
  if (!detail.latency.length) return [el("h2", {}, "Latency"), notRecorded("The latency")];
  const rows = detail.latency.map((one) => [
    String(one.batch_size), one.runtime || run.runtime, one.candidate_kind, significant(one.candidate_ms_median, 4),
    significant(one.candidate_ms_iqr, 3), significant(one.baseline_ms_median, 4), two(one.ratio),
    interval(one.ratio_low, one.ratio_high, two), two(one.same_runtime_ratio),
    interval(one.same_runtime_ratio_low, one.same_runtime_ratio_high, two), String(one.rounds), one.converged ? "yes" : "no", String(one.threads),
  ]);
  const columns = [["batch size", true], ["runtime"], ["kernel"], ["median, ms", true], ["IQR, ms", true],
    ["baseline, ms", true], ["speed-up, ×", true], ["95 %", true], ["speed-up over float there, ×", true],
    ["95 %", true], ["rounds", true], ["converged"], ["threads", true]];
  return [el("h2", {}, "Latency"), plainTable("Latency by batch size", columns, rows)];
}
