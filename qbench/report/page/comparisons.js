// Pairs of runs: which is better, and is it more than chance?

const MOST_PAIRS = 40; // drawn in one figure; the table has them all

function outcomeOf(pair) {
  return pair.low > 0 ? "first better" : pair.high < 0 ? "second better" : "undecided";
}

function buildComparisons() {
  const box = byId("comparisons-list");
  const questions = distinct(data.comparisons.map((pair) => pair.question));
  if (!questions.length) {
    box.append(el("p", { class: "missing" }, "No two runs differ in just one of the ways that are compared here: "
      + "k-means and linear at equal bits, fine-tuned and post-training, pruned, quantized and both."));
  }
  for (const question of questions) {
    box.append(el("h2", {}, question));
    const pairs = data.comparisons.filter((pair) => pair.question === question);
    for (const network of distinct(pairs.map(networkOf))) {
      box.append(comparisonFigure(question, network, pairs.filter((pair) => networkOf(pair) === network)));
    }
  }
}

function comparisonFigure(question, network, pairs) {
  const all = pairs.map((pair) => {
    const shown = signed(pair.difference_points, 2) + " "
      + interval(pair.low, pair.high, (value) => signed(value, 2));
    return { ...pair, name: pair.label, shown, outcome: outcomeOf(pair) };
  });
  const bases = distinct(all.map((pair) => pair.basis));
  const counts = ["first better", "undecided", "second better"]
    .map((outcome) => all.filter((pair) => pair.outcome === outcome).length + " " + outcome).join(", ");
  const rows = all.map((pair) => [
    pair.name, signed(pair.difference_points, 2), interval(pair.low, pair.high, (value) => signed(value, 2)),
    present(pair.p_value) ? pValue(pair.p_value) : "", pair.outcome, pair.basis,
    el("span", {}, el("a", { href: "#run/" + pair.a }, "first"), " ", el("a", { href: "#run/" + pair.b }, "second")),
  ]);
  const made = figure({
    title: network, sub: counts + ". Significance: " + bases.join("; ") + ".", chart: "differences",
    name: "comparison_" + question.replaceAll(/\W+/g, "_") + "_" + network.replaceAll(/\W+/g, "_"),
    values: {
      description: network + ", " + question + ": " + counts, pairs: all.slice(0, MOST_PAIRS),
      height: 34 * Math.min(all.length, MOST_PAIRS), label_limit: window.innerWidth < 600 ? 150 : 320,
    },
    table: {
      columns: [["first − second"], ["difference, points", true], ["95 % interval", true], ["p", true], ["outcome"],
        ["basis"], ["runs"]],
      rows,
    },
  });
  made.querySelector("details").open = all.length <= 12;
  return made;
}

function pValue(value) {
  return value < 0.001 ? "< 0.001" : fixed(value, 3);
}
