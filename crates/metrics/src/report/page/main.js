// State of the page, its controls, and the refreshing of a page that is served during training.

const settings = { smoothing: 0, over: "step", events: true, hidden: new Set() };
const charts = CHARTS.map(spec => new Chart(spec, byId("charts"), settings));
charts.push(new StackChart(byId("charts"), settings));
let report = JSON.parse(byId("data").textContent);

function drawCharts() {
  for (const chart of charts) chart.show(report.runs);
}

// Of many moves of the slider in a moment only the last is drawn.
let drawing;
function drawSoon() {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(drawCharts);
}

let shownRuns;
function show() {
  report.runs.forEach((run, index) => { run.color = COLORS[index % COLORS.length]; });
  const names = JSON.stringify(report.runs.map(run => run.name));
  if (names !== shownRuns) showRuns();
  shownRuns = names;
  drawCharts();
  showTables(report);
  say(report.status);
  byId("thinned").textContent = report.thinned ?? "";
  byId("thinned").hidden = !report.thinned;
  // For tests: how many charts show something.
  document.documentElement.dataset.charts = charts.filter(chart => chart.series.length).length;
}

// Screen readers read what is set, so it is set only when it is new.
function say(status) {
  if (byId("status").textContent !== status) byId("status").textContent = status;
}

function showRuns() {
  fill("runs", ...report.runs.map(run => {
    const button = element("button", { type: "button", class: "run", "aria-pressed": String(!settings.hidden.has(run.name)), style: `--color:${run.color}`, title: run.path }, run.name);
    button.addEventListener("click", () => {
      settings.hidden.has(run.name) ? settings.hidden.delete(run.name) : settings.hidden.add(run.name);
      button.setAttribute("aria-pressed", String(!settings.hidden.has(run.name)));
      drawCharts();
      showSamples(report.runs);
    });
    return button;
  }));
}

byId("smoothing").addEventListener("input", event => {
  settings.smoothing = Number(event.target.value);
  byId("smoothed").textContent = settings.smoothing;
  drawSoon();
});
byId("over").addEventListener("change", event => { settings.over = event.target.value; drawCharts(); });
listenToSamples(() => showSamples(report.runs));
byId("events").addEventListener("change", event => { settings.events = event.target.checked; drawCharts(); });
byId("reset").addEventListener("click", () => charts.forEach(chart => chart.reset()));
byId("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  drawCharts();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCharts);
let resizing;
addEventListener("resize", () => {
  clearTimeout(resizing);
  resizing = setTimeout(() => charts.forEach(chart => chart.plot.setSize(chart.size())), 100);
});

// A page that `aios report --watch` serves asks for news; the answer is empty while nothing has changed.
async function refresh() {
  const begun = performance.now();
  try {
    const answer = await fetch(`data.json?have=${encodeURIComponent(report.stamp)}`, { cache: "no-store" });
    if (answer.status === 200) { report = await answer.json(); show(); }
    else say(answer.status === 204 ? report.status : await answer.text());
  } catch {
    say("The server has gone: this is the last that it sent.");
  }
  return performance.now() - begun;
}

// What takes long to read and draw is looked at more rarely: the training beside it comes first.
async function follow() {
  const spent = document.hidden ? 0 : await refresh();
  setTimeout(follow, Math.max(report.watch * 1000, 20 * spent));
}

show();
if (report.watch) setTimeout(follow, report.watch * 1000);
