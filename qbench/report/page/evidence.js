// Sections of a run's page that rest on what is stored beside the record, and its config.

function weightsSection(run, detail, id) {
  const heading = el("h2", {}, "Weights and levels");
  const weights = detail.details && detail.details.weights;
  if (!weights || !weights.length) return [heading, notRecorded("The histograms of the weights")];
  const place = el("div");
  const draw = (index) => {
    forgetFigures(place);
    place.append(histogramFigure(weights[index], id));
  };
  const form = el("form", { class: "filters", "aria-label": "Choose a layer" }, selectField("Layer", "layer",
    weights.map((layer, index) => [String(index), layer.layer]), (event) => draw(Number(event.target.value))));
  form.addEventListener("submit", (event) => event.preventDefault());
  draw(0);
  return [heading, form, place];
}

function histogramFigure(layer, id) {
  const counts = data.shared[layer.counts];
  const width = (layer.high - layer.low) / counts.length;
  const bins = counts.map((count, index) => ({
    low: layer.low + index * width, high: layer.low + (index + 1) * width, centre: layer.low + (index + 0.5) * width,
    count, stored: layer.stored_counts[index],
  }));
  const levels = layer.levels || [];
  const flat = [{ centre: layer.low, stored: 0 }, { centre: layer.high, stored: 0 }]; // where levels say it better
  const of = present(layer.channel) ? " of output channel " + layer.channel + " (each has its own)" : "";
  const sub = levels.length ? "bars: float weights; lines: the " + count(levels.length, "level") + of
    : "bars: float weights; outline: as stored";
  return figure({
    title: "Weights of " + layer.layer, sub, chart: "histogram", name: id + "_" + layer.layer + "_weights",
    values: {
      description: "Histogram of the weights of " + layer.layer + " from " + layer.low + " to " + layer.high + ", "
        + count(levels.length, "level"),
      bins, stored: levels.length && !present(layer.channel) ? flat : bins, levels: levels.map((level) => ({ level })),
      level_width: levels.length > 32 ? 0.5 : 1.2,
    },
    table: {
      columns: [["from", true], ["to", true], ["float weights", true], ["stored weights", true]],
      rows: bins.map((bin) => [significant(bin.low, 4), significant(bin.high, 4), fixed(bin.count, 0), fixed(bin.stored, 0)]),
    },
  });
}

function trainingSection(run, detail, id) {
  const trainings = [["float baseline", data.shared[detail.history]],
    ...((detail.details && detail.details.fine_tuning) || []).map((history, index, all) =>
      ["fine-tuning" + (all.length > 1 ? " " + (index + 1) : ""), history])].filter(([, history]) => history.length);
  const heading = el("h2", {}, "Training");
  if (!trainings.length) return [heading, notRecorded("The training")];
  const curve = (title, yTitle, fields, name) => {
    const points = trainings.flatMap(([series, history]) => fields.flatMap(([field, label]) => history
      .filter((epoch) => present(epoch[field]))
      .map((epoch) => ({ series: series + label, epoch: epoch.epoch + 1, value: epoch[field] }))));
    const last = Math.max(...points.map((point) => point.epoch));
    const step = Math.ceil(last / 12);
    const epochs = Array.from({ length: Math.floor((last - 1) / step) + 1 }, (_, index) => 1 + index * step);
    const rows = points.map((point) => [point.series, String(point.epoch), fixed(point.value, 4)]);
    return figure({
      title, chart: "curves", name: id + "_" + name, values: { description: title, points, y_title: yTitle, epochs },
      table: { columns: [["of"], ["epoch", true], [yTitle, true]], rows },
    });
  };
  return [heading, el("div", { class: "grid" },
    curve("Loss", "loss, nats", [["train_loss", ", training"], ["validation_loss", ", validation"]], "loss"),
    curve("Validation accuracy", "top-1, %", [["validation_top1_percent", ""]], "accuracy"))];
}

function confusionSection(run, detail, id) {
  const heading = el("h2", {}, "What was confused");
  const own = detail.details;
  if (!own || !own.confusion) return [heading, notRecorded("The confusion matrix")];
  const size = own.confusion.length;
  const names = own.classes.length === size ? own.classes : own.confusion.map((row, index) => "class " + index);
  const cells = own.confusion.flatMap((row, label) => row.map((count, predicted) =>
    ({ label: names[label], predicted: names[predicted], count, right: label === predicted })));
  const most = Math.max(1, ...cells.map((cell) => cell.count));
  const worst = cells.filter((cell) => !cell.right && cell.count).sort((a, b) => b.count - a.count).slice(0, 5)
    .map((cell) => cell.label + " seen as " + cell.predicted + " " + cell.count).join(", ");
  const strong = "datum.count > " + Math.sqrt(most);
  const sub = "test images by label and prediction" + (worst ? "; most often " + worst : "");
  return [heading, figure({
    title: "Confusion matrix", sub, chart: "confusion", name: id + "_confusion",
    values: {
      description: "Confusion matrix. Most often " + (worst || "nothing was confused"), cells,
      step: size > 40 ? 9 : size > 20 ? 16 : 34, text_filter: size > 20 ? "false" : "datum.count > 0", dark_cell: strong,
      themed: (dark) => ({ text_on_dark: dark ? "#0e1319" : "#ffffff", text_on_light: dark ? "#e4e8ee" : "#1f2630" }),
    },
    table: {
      columns: [["label"], ...names.map((name) => [name, true])],
      rows: own.confusion.map((row, label) => [names[label], ...row.map((count) => fixed(count, 0))]),
    },
  })];
}

function integersSection(run, detail) {
  const heading = el("h2", {}, "Against the integer reference");
  if (!present(run.agreement_integer_percent)) {
    return [heading, el("p", { class: "missing" }, "Not compared: the run has no integer form, or nobody asked "
      + "(measure.agreement=always).")];
  }
  const text = "The same class on " + two(run.agreement_integer_percent) + " % of images; "
    + two(run.identical_logits_percent) + " % of logits equal bit for bit; largest difference of a logit "
    + (present(run.largest_logit_difference) ? significant(run.largest_logit_difference) : "not finite") + "."
    + (detail.sums_rounded_once.length ? " " + count(detail.sums_rounded_once.length, "sum") + " of two values rounded once by "
      + "this engine, and twice by the reference." : "");
  const found = detail.details && detail.details.disagreements;
  const nodes = [heading, el("p", {}, text)];
  if (!found) nodes.push(notRecorded("Which images"));
  if (found && found.shown.length) {
    const name = (index) => (index < 0 ? "none (NaN)" : detail.details.classes[index] || "class " + index);
    const more = found.count > found.shown.length ? ", the first " + found.shown.length : "";
    nodes.push(el("p", {}, count(found.count, "image") + " of " + fixed(found.n_test, 0) + " differ" + more + ":"),
      plainTable("Images on which run and integer reference disagree",
        [["image", true], ["label"], ["this run"], ["integer reference"]],
        found.shown.map(([image, ...classes]) => [String(image), ...classes.map(name)])));
  }
  return nodes;
}

// Nested mappings as dotted keys.
function flattened(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[prefix, value]];
  const inner = Object.entries(value);
  return inner.length ? inner.flatMap(([key, one]) => flattened(one, prefix ? prefix + "." + key : key)) : [[prefix, "{}"]];
}

function keyList(value) {
  const text = (one) => (typeof one === "string" ? one : JSON.stringify(one));
  const shown = (one) => (Array.isArray(one) ? one.map(text).join(", ") || "[]" : text(one));
  return el("dl", { class: "keys" }, flattened(value).map(([key, one]) =>
    el("div", {}, el("dt", {}, key), el("dd", {}, shown(one)))));
}

function configSection(detail) {
  const order = ["train", "quantize", "choose", "reference", "score", "profile"];
  const stages = Object.entries(detail.stage_keys)
    .sort(([a], [b]) => order.indexOf(a.split(":")[0]) - order.indexOf(b.split(":")[0]));
  const lists = [["Config", detail.config], ["Environment", data.shared[detail.environment]], ["Memory", detail.memory]];
  return [
    el("h2", {}, "Plan"),
    stages.length ? plainTable("Stages of the run and their content keys", [["stage"], ["of"], ["key"]],
      stages.map(([name, key]) => {
        const [stage, ...subject] = name.split(":");
        return [stage, subject.join(":"), el("code", {}, key)];
      })) : notRecorded("The plan"),
    ...lists.flatMap(([title, value]) => [el("h2", {}, title),
      value && Object.keys(value).length ? keyList(value) : notRecorded(title)]),
  ];
}
