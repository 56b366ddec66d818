"use strict";
// Works on what the page already shows; every text goes through textContent, none through HTML.
(() => {
  const find = (id) => document.getElementById(id);
  const svg = (name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const percent = (share) => `${+(100 * share).toFixed(2)}%`;

  // -- the tooltip ---------------------------------------------------------------------------------
  const tip = find("tip");
  let told = null; // what the tooltip belongs to
  const hide = () => { tip.hidden = true; };
  const show = (mark, lines) => {
    told = mark;
    tip.replaceChildren(...lines.map((line, number) => {
      const part = document.createElement(number ? "div" : "b");
      part.textContent = line;
      return part;
    }));
    tip.hidden = false;
    place();
  };
  const place = () => {
    if (tip.hidden) return;
    const at = told.getBoundingClientRect();
    const left = Math.min(at.x + at.width / 2 + 14, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const below = at.bottom + 8;
    const top = below + tip.offsetHeight > innerHeight ? at.top - tip.offsetHeight - 8 : below;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  document.addEventListener("scroll", place, { capture: true, passive: true });

  // -- groups of marks: one stop of the tab key each, arrow keys from mark to mark --------------------
  for (const group of document.querySelectorAll("g.tips")) {
    const lines = new Map();
    for (const mark of group.children) {
      const title = mark.querySelector("title");
      lines.set(mark, title.textContent.split("\n").map((line) => line.trim()).filter(Boolean));
      mark.setAttribute("aria-label", lines.get(mark).join("; "));
      mark.setAttribute("tabindex", "-1");
      title.remove(); // else the browser shows it a second time
      mark.addEventListener("pointerenter", () => show(mark, lines.get(mark)));
      mark.addEventListener("pointerleave", hide);
      mark.addEventListener("focus", () => { stop(mark); show(mark, lines.get(mark)); });
      mark.addEventListener("blur", hide);
      mark.addEventListener("click", () => pick(mark));
    }
    const seen = () => [...group.children]
      .filter((mark) => mark.getAttribute("display") !== "none")
      .sort((a, b) => parseFloat(a.getAttribute("x")) - parseFloat(b.getAttribute("x")));
    const stop = (mark) => {
      for (const other of group.children) other.setAttribute("tabindex", other === mark ? "0" : "-1");
    };
    group.firstStop = () => { const [first] = seen(); if (first) stop(first); };
    group.firstStop();
    group.addEventListener("keydown", (event) => {
      const marks = seen();
      const at = marks.indexOf(event.target);
      const ways = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 };
      if (event.key in ways) {
        event.preventDefault();
        marks[Math.min(Math.max(ways[event.key], 0), marks.length - 1)].focus({ preventScroll: true });
      } else if (event.key === "Enter") {
        pick(event.target);
      }
    });
  }

  // A mark that is picked shows its row in the table of trials.
  const pick = (mark) => {
    const row = find(`trial-${mark.dataset.trial}`);
    if (!row || row.hidden) return;
    for (const other of document.querySelectorAll("tr.picked")) other.classList.remove("picked");
    row.classList.add("picked");
    row.scrollIntoView({ block: "center" });
  };

  // -- the plot's axes -------------------------------------------------------------------------------
  const redraw = (data) => {
    const numbers = [+find("plot-x").value, +find("plot-y").value];
    const [x, y] = numbers.map((number) => data.axes[number]);
    const across = (at, text, label) => [svg("line", { x1: percent(at), x2: percent(at), y1: 0, y2: "100%" }),
      svg("text", { x: percent(at), ...label }, text)];
    const upright = (at, text, label) => [svg("line", { x1: 0, x2: "100%", y1: percent(1 - at), y2: percent(1 - at) }),
      svg("text", { y: percent(1 - at), ...label }, text)];
    const grid = svg("g", { class: "grid" });
    for (const [at, text] of x.ticks) grid.append(...across(at, text, { y: "100%", dy: "1.5em", "text-anchor": "middle" }));
    for (const [at, text] of y.ticks) grid.append(...upright(at, text, { x: -8, dy: ".35em", "text-anchor": "end" }));
    find("plot-grid").replaceChildren(grid);
    find("plot-limits").replaceChildren(
      ...x.limits.flatMap(([at, text]) => across(at, text, at < 0.5 ? { y: 0, dx: 4, dy: "1em", "text-anchor": "start" } : { y: 0, dx: -4, dy: "1em", "text-anchor": "end" })),
      ...y.limits.flatMap(([at, text]) => upright(at, text, { x: 4, dy: "-.4em" })));
    for (const mark of find("plot-marks").children) {
      const [left, up] = [x.places[mark.dataset.trial], y.places[mark.dataset.trial]];
      if (left === undefined || up === undefined) {
        mark.setAttribute("display", "none");
      } else {
        mark.removeAttribute("display");
        mark.setAttribute("x", percent(left));
        mark.setAttribute("y", percent(1 - up));
      }
    }
    const front = data.fronts[[...numbers].sort((a, b) => a - b).join(",")] || [];
    const places = front.map((trial) => [x.places[trial], 1 - y.places[trial]]).sort((a, b) => a[0] - b[0]);
    find("plot-front").setAttribute("points", places.map((at) => at.map((share) => Math.round(1000 * share)).join(",")).join(" "));
    for (const [id, axis] of [["plot-x-title", x], ["plot-y-title", y]]) {
      find(id).textContent = axis.title + (axis.better ? `, ${axis.better} is better` : "");
    }
    find("plot-marks").firstStop();
    hide();
  };
  if (find("plot-data")) {
    const data = JSON.parse(find("plot-data").textContent);
    for (const id of ["plot-x", "plot-y"]) find(id).addEventListener("change", () => redraw(data));
    find("plot-controls").hidden = false;
  }

  // -- curves: the nearest point is read out ------------------------------------------------------------
  for (const chart of document.querySelectorAll("svg.curve")) {
    const [x, y] = [chart.dataset.x, chart.dataset.y].map((ends) => ends.split(" ").map(Number));
    const points = [...chart.querySelectorAll("polyline")].flatMap((line) =>
      [...line.points].map((point) => ({ name: line.dataset.name, left: point.x / 1000, down: point.y / 1000 })));
    points.sort((a, b) => a.left - b.left);
    const cursor = chart.querySelector(".cursor");
    let at = 0;
    const read = (index) => {
      at = Math.min(Math.max(index, 0), points.length - 1);
      const { name, left, down } = points[at];
      cursor.setAttribute("cx", percent(left));
      cursor.setAttribute("cy", percent(down));
      cursor.removeAttribute("display");
      const value = (ends, share) => +(ends[0] + share * (ends[1] - ends[0])).toPrecision(3);
      show(cursor, [`${name} ${value(y, 1 - down)}`, `at ${Math.round(x[0] + left * (x[1] - x[0]))}`]);
    };
    const leave = () => { cursor.setAttribute("display", "none"); hide(); };
    chart.addEventListener("pointermove", (event) => {
      const box = chart.getBoundingClientRect();
      const [left, down] = [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
      const far = (point) => Math.hypot((point.left - left) * box.width, 0.2 * (point.down - down) * box.height);
      read(points.reduce((best, point, index) => (far(point) < far(points[best]) ? index : best), 0));
    });
    chart.addEventListener("pointerleave", leave);
    chart.addEventListener("focus", () => read(at));
    chart.addEventListener("blur", leave);
    chart.addEventListener("keydown", (event) => {
      const ways = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: points.length - 1 };
      if (event.key in ways) { event.preventDefault(); read(ways[event.key]); }
    });
  }

  // -- the table of trials -----------------------------------------------------------------------------
  const table = find("trials");
  if (table) {
    const rows = [...table.tBodies[0].rows];
    const heads = [...table.tHead.rows[0].cells];
    const keyOf = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.sort === undefined ? cell.textContent.trim() : +cell.dataset.sort;
    };
    const isMissing = (key) => key === "" || key === "–";
    const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const order = rows.map((row) => [keyOf(row, column), row]);
      order.sort(([a], [b]) => isMissing(a) - isMissing(b) || (isMissing(a) ? 0 : (down ? -1 : 1) * compare(a, b)));
      table.tBodies[0].append(...order.map(([, row]) => row)); // what is missing stays last both ways
    }));
    const filter = () => {
      const words = find("trial-text").value.toLowerCase().split(/\s+/).filter(Boolean);
      const state = find("trial-state").value;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = Boolean(state && row.dataset.state !== state) || !words.every((word) => text.includes(word));
      }
      find("trial-count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown`;
    };
    find("trial-text").addEventListener("input", filter);
    find("trial-state").addEventListener("change", filter);
    find("trial-controls").hidden = false;
    filter();
  }
})();
