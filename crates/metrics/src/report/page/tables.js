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

function fill(id, ...children) {
  document.getElementById(id).replaceChildren(...children);
}

function showTables({ runs, tables }) {
  fill("results", table(runs, tables.results));
  fill("setup", table(runs, tables.setup));
  fill("settings", table(runs, tables.settings));
  const differ = tables.settings.filter(([, ...values]) => new Set(values).size > 1);
  document.getElementById("differences-section").hidden = runs.length < 2;
  fill("differences", differ.length ? table(runs, differ) : element("p", {}, "None: all runs have the same settings."));
  showEvents(runs);
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

function showSamples(runs) {
  const with_text = runs.filter(run => run.samples.length);
  document.getElementById("samples-section").hidden = !with_text.length;
  fill("samples", ...with_text.flatMap(run => run.samples.map(({ step, text }) =>
    element("div", {}, `${run.name}, step ${step}`, element("pre", {}, text)))));
}
