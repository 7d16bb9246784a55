// What a reader can do on a page: sort tables, filter methods, see intervals, step through samples.
"use strict";
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // ---- tables: a button in every head; empty cells stay last, equal ones keep their order
  const sort = (table, column) => {
    const head = table.tHead.rows[0].cells[column];
    const now = head.getAttribute("aria-sort");
    const first = head.dataset.better === "higher" ? "descending" : "ascending";
    const next = !now ? first : now === "ascending" ? "descending" : "ascending";
    all("th", table).forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", next);
    const sign = next === "ascending" ? 1 : -1;
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, cell: row.cells[column] }));
    const numeric = rows.some(({ cell }) => "key" in cell.dataset);
    const value = (cell) => (!numeric ? cell.textContent : "key" in cell.dataset ? Number(cell.dataset.key) : null);
    rows.sort((a, b) => {
      const [x, y] = [value(a.cell), value(b.cell)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (numeric ? x - y : x.localeCompare(y, "en", { numeric: true }));
    });
    body.append(...rows.map(({ row }) => row));
    anchor(table);
  };

  for (const table of all("table.sortable")) {
    all("th", table).forEach((th, column) => {
      if (!th.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      button.addEventListener("click", () => sort(table, column));
      th.append(button);
    });
  }

  // ---- intervals: the tab key reaches one cell of a table, the arrow keys move between cells
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);

  let told = null;
  const tell = (cell) => {
    told = cell;
    tip.textContent = cell.dataset.tip;
    tip.hidden = false;
    const at = cell.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = at.top - tip.offsetHeight - 6;
    tip.style.left = `${scrollX + Math.max(8, Math.min(at.left, room))}px`;
    tip.style.top = `${scrollY + (above > 0 ? above : at.bottom + 6)}px`;
  };
  const hush = () => {
    told = null;
    tip.hidden = true;
  };
  const shown = (table) => [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const anchor = (table) => {
    const cells = all("td[data-tip]", table);
    const visible = cells.filter((cell) => !cell.parentElement.hidden);
    cells.forEach((cell) => (cell.tabIndex = cell === visible[0] ? 0 : -1));
  };
  const beside = (cell, key) => {
    const row = cell.parentElement;
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const cells = [...row.cells].filter((other) => other.dataset.tip);
      return cells[cells.indexOf(cell) + (key === "ArrowLeft" ? -1 : 1)];
    }
    const rows = shown(row.closest("table")).filter((other) => other.cells[cell.cellIndex].dataset.tip);
    const other = rows[rows.indexOf(row) + (key === "ArrowUp" ? -1 : 1)];
    return other && other.cells[cell.cellIndex];
  };

  for (const cell of all("td[title]")) {
    cell.dataset.tip = cell.title;
    cell.removeAttribute("title");
    cell.setAttribute("aria-describedby", "tip");
    cell.addEventListener("pointerenter", () => tell(cell));
    cell.addEventListener("pointerleave", hush);
    cell.addEventListener("focus", () => tell(cell));
    cell.addEventListener("blur", hush);
    cell.addEventListener("keydown", (event) => {
      if (!event.key.startsWith("Arrow")) return;
      event.preventDefault();
      const other = beside(cell, event.key);
      if (!other) return;
      cell.tabIndex = -1;
      other.tabIndex = 0;
      other.focus();
    });
  }
  all("table.sortable").forEach(anchor);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hush());
  document.addEventListener("scroll", () => told && tell(told), true);

  // ---- teacher access: hides the rows and samples of methods whose access is not ticked
  for (const filter of all(".filter")) {
    const group = filter.closest(".group");
    const boxes = all("input", filter);
    const apply = () => {
      const wanted = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
      for (const one of all("[data-access]", group)) one.hidden = !wanted.has(one.dataset.access);
      const tables = all("table", group);
      tables.forEach(anchor);
      const methods = [...(tables.find((table) => table.querySelector("tr[data-access]"))?.tBodies[0].rows ?? [])];
      const left = methods.filter((row) => !row.hidden).length;
      const note = `${left} of ${methods.length} methods shown; ranks are among all of them`;
      filter.querySelector("output").textContent = left < methods.length ? note : "";
    };
    boxes.forEach((box) => box.addEventListener("change", apply));
    filter.hidden = false;
    apply(); // a browser may remember what was ticked
  }

  // ---- samples: one at a time
  for (const samples of all(".samples")) {
    const each = all(".sample", samples);
    if (!each.length) continue;
    const [back, forth] = all(".turn button", samples);
    let at = 0;
    const turn = (to) => {
      at = (to + each.length) % each.length;
      each.forEach((sample, k) => (sample.hidden = k !== at));
      samples.querySelector(".turn output").textContent = `${at + 1} of ${each.length}`;
    };
    const keys = { ArrowLeft: () => at - 1, ArrowRight: () => at + 1, Home: () => 0, End: () => each.length - 1 };
    back.addEventListener("click", () => turn(at - 1));
    forth.addEventListener("click", () => turn(at + 1));
    samples.addEventListener("keydown", (event) => {
      if (!(event.key in keys) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      turn(keys[event.key]());
    });
    samples.querySelector(".turn").hidden = false;
    turn(0);
  }
})();
