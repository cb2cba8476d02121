"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const boxes = [...document.querySelectorAll("#runs input")];
  const hidden = new Set();
  const progress = document.getElementById("progress");

  // a point goes when all of its runs are hidden
  const isShown = (runs) => runs.some((run) => !hidden.has(run));

  // best_trade_offs of the runs that are shown: no other one has both a smaller x and a larger y
  function frontOf(figure) {
    const points = figure.data.filter(({ meta }) => meta.kind === "points" && isShown(meta.runs[0]))
      .map(({ x, y }) => [x[0], y[0]]).filter((point) => !point.includes(null));
    points.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    const best = [];
    for (const point of points) if (!best.length || point[1] > best.at(-1)[1]) best.push(point);
    return { visible: best.length > 1, x: best.map(([x]) => x), y: best.map(([, y]) => y) };
  }

  function shownData(figure) {
    const axis = Math.min(progress.selectedIndex, figure.axes.length - 1);
    return figure.data.map((trace) => {
      const { runs, x } = trace.meta;
      if (trace.meta.kind === "front") return { ...trace, ...frontOf(figure) };
      const shown = { ...trace, x: x[Math.max(axis, 0)] };
      if (runs.length === 1) return { ...shown, visible: isShown(runs[0]) };
      return { ...shown, connectgaps: true, y: trace.y.map((y, i) => (isShown(runs[i]) ? y : null)) };
    });
  }

  function shownLayout(figure) {
    const axis = Math.max(0, Math.min(progress.selectedIndex, figure.axes.length - 1));
    const title = { ...figure.layout.xaxis.title, text: figure.axes[axis] };
    // what was zoomed into stays so until the axis is another one
    return { ...figure.layout, uirevision: axis, xaxis: { ...figure.layout.xaxis, title } };
  }

  function draw() {
    const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]];
    const config = {
      displaylogo: false, responsive: true, modeBarButtons: buttons, toImageButtonOptions: { format: "svg" },
    };
    for (const figure of figures) {
      const canvas = document.querySelector(`#plot-${figure.key} .canvas`);
      Plotly.react(canvas, shownData(figure), shownLayout(figure), config);
    }
  }

  function hideRuns() {
    hidden.clear();
    for (const box of boxes) if (!box.checked) hidden.add(Number(box.dataset.run));
    for (const part of document.querySelectorAll("[data-runs]")) {
      part.hidden = !isShown(part.dataset.runs.split(" ").map(Number));
    }
    if (window.Plotly) draw();
  }

  function check(isChecked) {
    for (const box of boxes) box.checked = isChecked;
    hideRuns();
  }

  // storage is refused to pages of some browsers' files; the theme is then not remembered
  function remembered() {
    try { return localStorage.getItem("orpo-lightning-theme") || "system"; } catch { return "system"; }
  }

  function setTheme(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("orpo-lightning-theme", theme); } catch { /* not remembered */ }
  }

  function sortBy(header) {
    const body = header.closest("table").tBodies[0];
    const isUp = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const value = (row) => row.cells[header.cellIndex].dataset.value ?? row.cells[header.cellIndex].textContent;
    const compare = (a, b) => value(a).localeCompare(value(b), "en", { numeric: false });
    const order = header.classList.contains("number")
      // what was not measured comes last
      ? (a, b) => (value(a) === "") - (value(b) === "") || (isUp ? 1 : -1) * (Number(value(a)) - Number(value(b)))
      : (a, b) => (isUp ? 1 : -1) * compare(a, b);
    body.append(...[...body.rows].sort(order));
  }

  async function loadLibrary() {
    const packed = atob(document.getElementById("library").textContent);
    const bytes = Uint8Array.from(packed, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  async function start() {
    const theme = document.getElementById("theme");
    theme.value = remembered();
    setTheme(theme.value);
    theme.addEventListener("change", () => setTheme(theme.value));
    for (const box of boxes) box.addEventListener("change", hideRuns);
    document.getElementById("all").addEventListener("click", () => check(true));
    document.getElementById("none").addEventListener("click", () => check(false));
    for (const button of document.querySelectorAll("thead button")) {
      button.addEventListener("click", () => sortBy(button.closest("th")));
    }
    if (window.innerWidth <= 900 && boxes.length > 3) document.getElementById("runs").open = false;
    const axes = [...new Set(figures.filter((figure) => figure.axes.length > 1).flatMap((figure) => figure.axes))];
    progress.append(...axes.map((axis) => new Option(axis.replace(/ \(.*/, ""))));
    progress.addEventListener("change", draw);
    // paper cannot be opened
    const closed = new Set();
    window.addEventListener("beforeprint", () => {
      for (const each of document.querySelectorAll("details:not([open])")) { closed.add(each); each.open = true; }
    });
    window.addEventListener("afterprint", () => {
      for (const each of closed) each.open = false;
      closed.clear();
    });
    if (!figures.length) return;
    await loadLibrary();
    draw();
    const canvases = () => document.querySelectorAll(".canvas");
    // two columns of an A4 page
    window.addEventListener("beforeprint", () => {
      for (const each of canvases()) Plotly.relayout(each, { autosize: false, width: 336, height: 200 });
    });
    window.addEventListener("afterprint", () => {
      for (const each of canvases()) Plotly.relayout(each, { autosize: true, width: null, height: null });
    });
  }

  start().catch((error) => {
    const failure = document.getElementById("failure");
    failure.textContent = `The plots cannot be drawn by this browser; it has to be one of 2023 or later. (${error})`;
    failure.hidden = false;
  }).finally(() => { document.documentElement.dataset.ready = "yes"; });
})();
