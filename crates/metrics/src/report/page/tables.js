// The tables below the charts. All text goes in as text, never as markup.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Rows of a label and one value a run.
function table(runs, rows) {
  const names = runs.map(run => element("th", { scope: "col" }, run.name));
  const head = element("tr", {}, element("th", { scope: "col" }, ""), ...names);
  const body = rows.map(([label, ...values]) =>
    element("tr", {}, element("th", { scope: "row" }, label), ...values.map(value => element("td", {}, value))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

const byId = id => document.getElementById(id);

function fill(id, ...children) {
  byId(id).replaceChildren(...children);
}

function showTables({ runs, tables }) {
  fill("results", table(runs, tables.results));
  byId("evaluation-section").hidden = !tables.evaluations.length;
  fill("evaluation", table(runs, tables.evaluations));
  fill("setup", table(runs, tables.setup));
  fill("settings", table(runs, tables.settings));
  const differ = tables.settings.filter(([, ...values]) => new Set(values).size > 1);
  byId("differences-section").hidden = runs.length < 2;
  fill("differences", differ.length ? table(runs, differ) : element("p", {}, "None: all runs have the same settings."));
  showEvents(runs);
  showOperations(runs);
  showSamples(runs);
}

// Checkpoints and skipped updates can be many: those of the end tell enough.
const MOST = 200;

function showEvents(runs) {
  const rows = runs.flatMap(run => run.marks.map(mark => [run, mark]));
  const first = Math.max(0, rows.length - MOST);
  const hidden = rows.slice(0, first).reduce((sum, [, mark]) => sum + 1 + mark.more, 0);
  const cells = rows.slice(first).map(([run, mark]) => element("tr", {},
    element("td", {}, run.name), element("td", {}, String(mark.step)), element("td", {}, MARKS[mark.kind][1]), element("td", {}, what(mark))));
  const head = element("tr", {}, ...["run", "step", "event", "what"].map(name => element("th", { scope: "col" }, name)));
  const shown = cells.length ? element("table", {}, element("thead", {}, head), element("tbody", {}, ...cells)) : element("p", {}, "None.");
  fill("happened", shown, ...(hidden ? [element("p", {}, `${hidden} earlier ones are left out here; the charts mark them.`)] : []));
}

// A mark's text, and how many others it stands for.
function what(mark) {
  return mark.more ? `${mark.text} (and ${mark.more} more shortly before)` : mark.text;
}

// What takes longest in a step of each run that says so.
function showOperations(runs) {
  const telling = runs.filter(run => run.operations?.operations.length);
  byId("operations-section").hidden = !telling.length;
  fill("operations", ...telling.map(operationsOf));
}

const milliseconds = seconds => `${Number((1e3 * seconds).toPrecision(3))} ms`;

function operationsOf({ name, color, operations: { steps, seconds, operations } }) {
  const row = (operation, time, calls) => {
    const share = seconds > 0 ? 100 * time / seconds : 0;
    return element("tr", {}, element("th", { scope: "row" }, operation), element("td", {}, calls && short(calls)),
      element("td", {}, milliseconds(time)),
      element("td", { class: "share", style: `--share:${Math.min(100, share)}%;--color:${color}` }, `${share.toFixed(1)} %`));
  };
  const head = element("tr", {}, ...["operation", "calls", "time", "share"].map(title => element("th", { scope: "col" }, title)));
  const rest = seconds - operations.reduce((sum, [, time]) => sum + time, 0);
  const body = operations.map(([operation, time, calls]) => row(operation, time, calls));
  if (rest > 0) body.push(row("all else", rest, ""));
  return element("div", {}, owner(name, color, `${milliseconds(seconds)} a step, mean of ${steps} steps`),
    element("div", { class: "wide" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))));
}

// Whose something is, and what.
function owner(name, color, what) {
  return element("h3", { style: `--color:${color}` }, element("span", {}, name), ` ${what}`);
}
