// Accuracy against size, latency and energy: one figure per front of the chosen network.

function buildPareto() {
  const form = byId("pareto-form");
  const networks = distinct(data.fronts.map(networkOf));
  const metrics = data.metrics.filter((metric) => data.fronts.some((front) => front.metric === metric.name));
  if (!networks.length) {
    byId("pareto-figures").append(el("p", { class: "missing" }, "No run has both an accuracy and a size."));
    return;
  }
  const draw = () => drawPareto(form.elements.network.value, form.elements.metric.value, form.elements.zoom.checked);
  form.append(
    selectField("Network", "network", networks.map((name) => [name, name]), draw),
    selectField("Against", "metric", [["", "all"], ...metrics.map((m) => [m.name, m.name])], draw),
    el("label", { class: "check" }, el("input", { type: "checkbox", name: "zoom", onchange: draw }), "Zoom to the front"),
  );
  form.addEventListener("submit", (event) => event.preventDefault());
  draw();
}

function drawPareto(network, metric, zoomed) {
  const box = byId("pareto-figures");
  forgetFigures(box);
  const chosen = data.fronts.filter((front) => networkOf(front) === network && (!metric || front.metric === metric));
  box.append(el("div", { class: "grid" }, chosen.map((front) => paretoFigure(front, zoomed))));
  if (!metric && !chosen.some((front) => front.metric === "latency")) {
    box.append(el("p", { class: "missing" }, "No latency of float or integer kernels was recorded for this network."));
  }
}

// With zoom, the axis ends a little below the front; what lies lower is drawn on the edge.
function accuracyScale(front, zoomed) {
  const best = front.points.filter((point) => point.on_front).map((point) => point.top1_percent);
  const [low, high] = [Math.min(...best), Math.max(...best)];
  const margin = Math.max(0.5, 0.15 * (high - low));
  const scale = { zero: false, padding: 10 };
  return zoomed ? { ...scale, domain: [low - margin, Math.min(100, high + margin)], clamp: true, nice: false } : scale;
}

function paretoFigure(front, zoomed) {
  const metric = data.metrics.find((one) => one.name === front.metric);
  const points = front.points.map((point) => ({ ...point, command: runById.get(point.run).command || "not recorded" }));
  const best = points.filter((point) => point.on_front);
  const title = "Top-1 accuracy against " + metric.title.split(",")[0];
  const description = title + " of " + networkOf(front) + ". On the front: "
    + best.map((point) => point.setting + " " + point.accuracy + " % at " + point.cost).join("; ");
  const rows = [...points].sort((a, b) => b.on_front - a.on_front).map((point) => [
    el("a", { href: "#run/" + point.run }, point.setting), point.place, point.accuracy, point.cost,
    el("code", {}, point.command),
  ]);
  return figure({
    title, sub: front.conditions, chart: "pareto",
    name: ["pareto", front.metric, front.dataset, front.model].join("_"),
    values: { description, points, x_title: metric.title, y_scale: accuracyScale(front, zoomed) },
    table: {
      columns: [["setting"], ["front"], ["top-1, % [95 %]", true], [metric.title, true], ["repeat with"]], rows,
    },
    onclick: (point) => { if (point.run) location.hash = "#run/" + point.run; },
  });
}
