// Generated texts: those of a step side by side, run beside run, or of all steps.

const sampling = { view: null, step: null };

function showSamples(runs) {
  const telling = runs.filter(run => run.samples.length && !settings.hidden.has(run.name));
  byId("samples-section").hidden = !runs.some(run => run.samples.length);
  const steps = [...new Set(telling.flatMap(run => run.samples.map(sample => sample.step)))].sort((a, b) => a - b);
  // How a text of one run changes is seen at once; several runs are compared step by step.
  const view = sampling.view ?? (telling.length > 1 ? "one" : "all");
  byId("samples-view").value = view;
  byId("samples-at").hidden = view === "all" || steps.length < 2;
  showSlider(steps);
  fill("samples", ...(view === "all" ? allSteps(telling, steps) : [row(telling, chosen(steps))]));
}

// The step that was chosen, or the nearest one before it that is still there; the last one until then.
function chosen(steps) {
  return sampling.step == null ? steps.at(-1) : steps.findLast(step => step <= sampling.step) ?? steps[0];
}

function showSlider(steps) {
  const slider = byId("sample-step"), step = chosen(steps);
  slider.max = Math.max(0, steps.length - 1);
  slider.value = steps.indexOf(step);
  slider.steps = steps;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  byId("sample-shown").textContent = step ?? "";
}

// Of one run the steps stand beside each other, of several the runs do.
function allSteps(runs, steps) {
  if (runs.length === 1) return [element("div", { class: "cards" }, ...runs[0].samples.map(sample => card(runs[0], sample)))];
  return steps.map(step => row(runs.filter(run => run.samples.some(sample => sample.step === step)), step));
}

function row(runs, step) {
  return element("div", { class: "cards" }, ...runs.map(run => card(run, run.samples.findLast(sample => sample.step <= step))));
}

function card(run, sample) {
  const heading = owner(run.name, run.color, sample ? `step ${sample.step}` : "no sample by then");
  return element("div", {}, heading, ...(sample ? [element("pre", {}, ...words(run.prompt, sample.text))] : []));
}

// What the model was given stands out from what it wrote.
function words(prompt, text) {
  return prompt && text.startsWith(prompt) ? [element("b", {}, prompt), text.slice(prompt.length)] : [text];
}

function listenToSamples(redraw) {
  byId("samples-view").addEventListener("change", event => { sampling.view = event.target.value; redraw(); });
  byId("sample-step").addEventListener("input", event => {
    const { steps, value } = event.target;
    // At the end it follows a run that goes on.
    sampling.step = Number(value) === steps.length - 1 ? null : steps[value];
    redraw();
  });
}
