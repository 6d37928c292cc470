// Tables: one that sorts and grows as it is scrolled, for runs; a plain one for everything else.

const CHUNK = 100; // rows that are built at once

// columns: {key, title, unit, number, value(run), cell(run) -> nodes, sub(run), header}
class RunTable {
  constructor(box, columns, caption) {
    this.box = box;
    this.columns = columns;
    this.sort = { column: null, direction: 1 };
    this.rows = [];
    this.shown = 0;
    this.body = el("tbody");
    this.headings = columns.map((column) => this.heading(column));
    this.more = el("div", { class: "more" }, el("button", { type: "button", onclick: () => this.grow(Infinity) }, ""));
    this.table = el("table", {}, el("caption", { class: "hide" }, caption), el("thead", {}, el("tr", {}, this.headings)),
      this.body);
    box.append(this.table, this.more);
    box.addEventListener("scroll", () => {
      if (box.scrollTop + 2 * box.clientHeight > box.scrollHeight) this.grow(CHUNK);
    }, { passive: true });
  }

  heading(column) {
    const unit = column.unit ? el("span", { class: "unit" }, column.unit) : null;
    const button = el("button", { type: "button", onclick: () => this.sortBy(column) }, el("span", { class: "title" }, column.title), " ", unit);
    return el("th", { scope: "col", class: column.number ? "number" : null }, button);
  }

  sortBy(column) {
    const again = this.sort.column === column;
    this.sort = { column, direction: again ? -this.sort.direction : 1 };
    this.columns.forEach((one, index) => {
      const state = one === column ? (this.sort.direction > 0 ? "ascending" : "descending") : null;
      if (state) this.headings[index].setAttribute("aria-sort", state);
      else this.headings[index].removeAttribute("aria-sort");
    });
    this.show(this.rows);
  }

  // Missing values stand last in both directions.
  show(rows) {
    const { column, direction } = this.sort;
    this.rows = [...rows].sort((a, b) => a.order - b.order);
    if (column) {
      const of = new Map(rows.map((run) => [run, column.value(run)]));
      const missing = (value) => !present(value) || value === "";
      this.rows.sort((a, b) => {
        const [x, y] = [of.get(a), of.get(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        const order = column.number ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
        return direction * order;
      });
    }
    this.body.replaceChildren();
    this.table.setAttribute("aria-rowcount", this.rows.length + 1);
    this.shown = 0;
    this.box.scrollTop = 0;
    this.grow(CHUNK);
  }

  grow(count) {
    const next = this.rows.slice(this.shown, this.shown + count);
    if (next.length) this.body.append(...next.map((run, index) => this.line(run, this.shown + index + 2)));
    this.shown += next.length;
    const left = this.rows.length - this.shown;
    this.more.hidden = left === 0;
    this.more.firstChild.textContent = "Show " + left + " more";
  }

  line(run, place) {
    const cut = run.status === "ok" ? this.columns.length : this.columns.findIndex((column) => column.key === "status") + 1;
    const cells = this.columns.slice(0, cut).map((column) => {
      const sub = column.sub ? column.sub(run) : "";
      const content = [column.cell(run), sub ? el("span", { class: "sub" }, sub) : null];
      const kind = [column.number ? "number" : "", column.kind || ""].join(" ").trim() || null;
      return column.header ? el("th", { scope: "row", class: kind }, content) : el("td", { class: kind }, content);
    });
    if (cut < this.columns.length) { // nothing was measured: the reason takes the place of the figures
      cells.push(el("td", { colspan: this.columns.length - cut, class: "reason " + run.state + "-text" }, run.notes));
    }
    return el("tr", { class: run.isBaseline ? "baseline" : null, "aria-rowindex": place }, cells);
  }
}

// columns: [title, number?]; rows: arrays of text or nodes, of which the first is the row's heading
function plainTable(caption, columns, rows) {
  const head = columns.map(([title, number]) => el("th", { scope: "col", class: number ? "number" : null }, title));
  const body = rows.map((row) => el("tr", {}, row.map((cell, index) => {
    const kind = columns[index][1] ? "number" : null;
    return index ? el("td", { class: kind }, cell) : el("th", { scope: "row", class: kind }, cell);
  })));
  const table = el("table", {}, el("caption", { class: "hide" }, caption), el("thead", {}, el("tr", {}, head)),
    el("tbody", {}, body));
  return el("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: "0" }, table);
}
