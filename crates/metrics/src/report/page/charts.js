// The charts: what each shows, and how uPlot draws it.

const COLORS = ["#4c78a8", "#e45756", "#54a24b", "#ee9a3b", "#9664aa", "#3ca0a0", "#d66ba0", "#9d755d"];
const MARKS = {
  skipped: ["#e45756", "update skipped"],
  oom_backoff: ["#e45756", "out of memory"],
  fallback: ["#ee9a3b", "fallback"],
  resume: ["#3ca0a0", "resumed"],
  checkpoint: ["#54a24b", "checkpoint"],
  end: ["#8b949e", "end"],
};

const short = value => {
  if (value == null) return "";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace(/\.?0*e\+?/, "e");
  return String(Number(value.toPrecision(4)));
};
const bytes = value => {
  if (value == null) return "";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (Math.abs(value) >= 1024 && unit < units.length - 1) { value /= 1024; unit++; }
  return `${Number(value.toPrecision(4))} ${units[unit]}`;
};

// A line of a chart: a name for its kind (when a chart has several), its values, over which column, and how it looks.
const line = (column, label = "", look = {}) => ({ column, label, ...look });
const CHARTS = [
  { title: "Cross-entropy, nats per token", unit: "nats per token", lines: [line("ce", "training"), line("eval.loss", "evaluation", { points: true })], marks: ["oom_backoff", "resume"] },
  { title: "Perplexity", unit: "perplexity", log: true, lines: [line("perplexity", "training"), line("eval.perplexity", "evaluation", { points: true })] },
  { title: "Bits per byte, evaluation", unit: "bits per byte", optional: true, lines: [line("eval.bits_per_byte", "", { points: true })] },
  { title: "Learning rate", unit: "learning rate", lines: [line("learning_rate", "", { exact: true })] },
  { title: "Gradient norm, before clipping", unit: "norm", lines: [line("grad_norm")], marks: ["skipped"] },
  { title: "Loss scale and skipped updates", unit: "loss scale", lines: [line("loss_scale", "", { exact: true })], marks: ["skipped"] },
  { title: "Tokens per second", unit: "tokens per second", lines: [line("tokens_per_second")], marks: ["oom_backoff", "fallback", "resume"] },
  { title: "Segments per sequence", unit: "segments", lines: [line("segments")] },
  {
    title: "Memory of the device", unit: "bytes", format: bytes, binary: true, marks: Object.keys(MARKS).filter(kind => kind !== "skipped"),
    lines: [line("peak_bytes", "peak", { exact: true }), line("in_use_bytes", "after the step", { exact: true, dash: [5, 4] })],
  },
];

// Exponential moving average, corrected for its start; gaps stay gaps.
function smooth(values, weight) {
  if (!weight) return values;
  let sum = 0, power = 1;
  return values.map(value => {
    if (value == null) return null;
    sum = weight * sum + (1 - weight) * value;
    power *= weight;
    return sum / (1 - power);
  });
}

// One of what charts are over, and many.
const UNITS = { step: ["step", "steps"], tokens_seen: ["tokens", "tokens"], seconds_trained: ["hours", "hours"] };
const onAxis = (value, over) => over === "seconds_trained" ? value / 3600 : value;
function abscissa(run, name, over) {
  const columns = name.startsWith("eval.") ? run.evals : run.columns;
  return (columns[over] ?? []).map(value => onAxis(value, over));
}

function column(run, name) {
  if (name === "perplexity") return run.columns.ce?.map(perplexity);
  return name.startsWith("eval.") ? run.evals[name.slice(5)] : run.columns[name];
}

// Beyond the largest number there is nothing to draw.
function perplexity(ce) {
  const value = ce == null ? null : Math.exp(ce);
  return Number.isFinite(value) ? value : null;
}

// Rows whose abscissa goes on.
const rising = x => x.map((_, index) => index).filter(index => index === 0 || x[index] > x[index - 1]);

// What uPlot takes: x, then one array a series, on the union of all x; and what each series is.
function assemble(spec, runs, settings, log) {
  const tables = [], series = [];
  for (const [which, part] of spec.lines.entries()) {
    for (const run of runs) {
      if (settings.hidden.has(run.name)) continue;
      const raw = column(run, part.column) ?? [];
      const x = abscissa(run, part.column, settings.over);
      if (!x.length || raw.every(value => value == null)) continue;
      const shown = part.points || part.exact ? raw : smooth(raw, settings.smoothing);
      // A logarithm has no place for what is not positive.
      const keep = shown.map(value => log && !(value > 0) ? null : value);
      const order = rising(x);
      tables.push([order.map(index => x[index]), order.map(index => keep[index])]);
      // A run of one step is a point, since a line needs two.
      const alone = raw.filter(value => value != null).length === 1;
      const name = spec.lines.length > 1 && part.label ? `${run.name}, ${part.label}` : run.name;
      series.push({ run, part, which, alone, name, color: run.color });
    }
  }
  return { data: tables.length ? uPlot.join(tables) : [[], []], series };
}

const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

class Chart {
  constructor(spec, parent, settings) {
    Object.assign(this, { spec, settings, log: !!spec.log, plot: null });
    this.card = parent.appendChild(element("div", { class: "chart" }));
    this.button = element("button", { type: "button", "aria-pressed": String(this.log), "aria-label": `Logarithmic axis: ${spec.title}` }, "log");
    this.button.addEventListener("click", () => {
      this.log = !this.log;
      this.button.setAttribute("aria-pressed", String(this.log));
      this.show(this.runs);
    });
    this.saver = element("button", { type: "button", "aria-label": `Save as PNG: ${spec.title}`, title: "Save as PNG" }, "PNG");
    this.saver.addEventListener("click", () => savePicture(this));
    this.controls = element("span", { class: "buttons" }, this.button, this.saver);
    this.card.append(element("h2", {}, element("span", {}, spec.title), this.controls));
    this.key = this.card.appendChild(element("p", { class: "key" }));
    this.place = this.card.appendChild(element("div", { role: "img", "aria-label": spec.title }));
    this.tip = this.card.appendChild(element("div", { class: "tip" }));
  }

  // Draw the runs; what was zoomed to stays, unless the axis is another.
  show(runs) {
    this.runs = runs;
    const { data, series } = this.assemble(runs);
    // What no run has is no chart; of runs that are only hidden it is an empty one.
    this.card.hidden = !!this.spec.optional && !runs.some(run => this.spec.lines.some(part => column(run, part.column)));
    const zoom = this.plot && this.over === this.settings.over && this.zoomed();
    // What makes the same lines of newer data: the plot stays, and with it what the mouse is at.
    const lines = JSON.stringify([this.log, this.settings.over, series.map(one => [one.run.name, one.which, one.alone])]);
    const same = this.plot && this.lines === lines;
    Object.assign(this, { series, lines, over: this.settings.over, marks: this.visibleMarks() });
    this.saver.disabled = !series.length;
    this.showKey();
    if (same) {
      this.plot.setData(data, !zoom);
    } else {
      this.plot?.destroy();
      this.plot = new uPlot(this.options(), data, this.place);
    }
    this.extent = data[0].length ? [data[0][0], data[0].at(-1)] : null;
    if (zoom) this.plot.setScale("x", zoom);
  }

  assemble(runs) {
    return assemble(this.spec, runs, this.settings, this.log);
  }

  // What the kinds of lines are, where there are several.
  kinds() {
    const kinds = new Set(this.series.map(one => one.part.label));
    return kinds.size < 2 ? [] : [...kinds].map(kind => `${{ evaluation: "●", "after the step": "┄" }[kind] ?? "─"} ${kind}`);
  }

  // What a picture of it is called.
  heading() {
    return this.spec.title;
  }

  // What the colors are.
  colors() {
    return [...new Map(this.series.map(one => [one.run.name, one.color]))];
  }

  showKey() {
    this.key.textContent = this.series.length ? this.kinds().join("   ") : "nothing to show";
  }

  zoomed() {
    const { min, max } = this.plot.scales.x;
    if (!this.extent || min == null) return null;
    return min > this.extent[0] || max < this.extent[1] ? { min, max } : null;
  }

  reset() {
    if (this.extent) this.plot.setData(this.plot.data, true);
  }

  size() {
    return { width: Math.max(160, this.card.clientWidth - 18), height: 240 };
  }

  // What uPlot takes to draw: as large as the card, or so much larger.
  options(size = this.size(), zoom = 1) {
    const format = this.spec.format ?? short;
    const ink = () => css("--faint"), grid = { stroke: () => css("--grid"), width: zoom };
    const axis = extra => ({ stroke: ink, grid, ticks: { ...grid, size: 8 * zoom }, gap: 4 * zoom, font: `${12 * zoom}px system-ui, sans-serif`, ...extra });
    const binary = [20, 30, 40].flatMap(power => [1, 2, 5, 10, 20, 50, 100, 200, 500].map(step => step * 2 ** power));
    return {
      ...size,
      legend: { show: false },
      cursor: { sync: { key: "aios", scales: ["x", null] }, drag: { x: true, y: false, dist: 4 }, points: { size: 7 } },
      scales: { x: { time: false }, y: this.log ? { distr: 3, range: (_, min, max) => min == null ? [null, null] : uPlot.rangeLog(min, max, 10, false) } : this.ordinate() },
      axes: [
        axis({ values: (_, ticks) => ticks.map(short), space: 60 * zoom, size: 30 * zoom }),
        axis({ values: (_, ticks) => ticks.map(format), space: 30 * zoom, size: 72 * zoom, ...(this.spec.binary && !this.log ? { incrs: [2 ** 10, 2 ** 12, 2 ** 14, 2 ** 16, 2 ** 18, ...binary] } : {}) }),
      ],
      series: [{}, ...this.series.map(one => ({
        label: one.name,
        stroke: one.color,
        fill: one.fill,
        width: one.part.points ? 0 : 1.5 * zoom,
        dash: one.part.dash?.map(length => length * zoom),
        spanGaps: !one.fill,
        points: one.part.points ? { show: true, size: 7 * zoom, fill: one.color } : { show: one.alone },
      }))],
      bands: this.series.slice(1).flatMap((one, index) => one.fill ? [{ series: [index + 1, index + 2] }] : []),
      hooks: { draw: [plot => this.drawMarks(plot, zoom)], setCursor: [plot => this.point(plot)], ready: [plot => touch(plot)] },
    };
  }

  ordinate() {
    return {};
  }

  visibleMarks() {
    if (!this.settings.events || !this.spec.marks) return [];
    return this.shownRuns().flatMap(run => run.marks.filter(mark => this.spec.marks.includes(mark.kind))
      .map(mark => ({ ...mark, run, x: onAxis(mark[this.settings.over], this.settings.over) })));
  }

  shownRuns() {
    return this.runs.filter(run => !this.settings.hidden.has(run.name));
  }

  drawMarks(plot, zoom) {
    const { ctx, bbox } = plot, { min, max } = plot.scales.x, pixel = devicePixelRatio * zoom;
    ctx.save();
    for (const mark of this.marks) {
      if (min == null || mark.x < min || mark.x > max) continue;
      const x = Math.round(plot.valToPos(mark.x, "x", true));
      // The line says whose it is, the flag on it what; of checkpoints there are too many for lines.
      if (mark.kind !== "checkpoint") {
        ctx.strokeStyle = mark.run.color;
        ctx.lineWidth = pixel;
        ctx.setLineDash([3 * pixel, 3 * pixel]);
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
      }
      ctx.fillStyle = MARKS[mark.kind][0];
      const half = 4 * pixel;
      ctx.beginPath();
      ctx.moveTo(x - half, bbox.top);
      ctx.lineTo(x + half, bbox.top);
      ctx.lineTo(x, bbox.top + 1.6 * half);
      ctx.fill();
    }
    ctx.restore();
  }

  // The box beside the cursor: values of each line, and events that the cursor is on.
  point(plot) {
    const { left, top, idx } = plot.cursor;
    const mine = plot.over.matches(":hover") || plot.touched;
    if (!mine || idx == null || left < 0) { this.tip.style.display = "none"; return; }
    const format = this.spec.format ?? short;
    const rows = [element("div", {}, `${UNITS[this.settings.over][0]} ${short(plot.data[0][idx])}`)];
    this.series.forEach((one, index) => {
      // Thinned runs have points of their own, so that near is what the eye takes for it.
      const near = away => one.part.points ? !away : Math.abs(away) <= 3 || Math.abs(plot.valToPos(plot.data[0][idx + away], "x") - left) <= 6;
      const value = nearest(one.values ?? plot.data[index + 1], idx, near);
      if (value == null) return;
      rows.push(element("div", {}, element("i", { style: `background:${one.color}` }), `${format(value)}  ${one.name}`));
    });
    for (const mark of this.marks.filter(mark => Math.abs(plot.valToPos(mark.x, "x") - left) <= 6).slice(0, 5)) {
      rows.push(element("div", { class: "mark" }, `${MARKS[mark.kind][1]}: ${what(mark)}`));
    }
    this.tip.replaceChildren(...rows);
    this.tip.style.display = "block";
    const box = this.place.getBoundingClientRect(), card = this.card.getBoundingClientRect(), over = plot.over.getBoundingClientRect();
    const x = over.left - card.left + left, room = card.width - this.tip.offsetWidth - 4;
    const beside = x + 14 > room ? x - this.tip.offsetWidth - 14 : x + 14;
    this.tip.style.left = `${Math.max(4, beside)}px`;
    this.tip.style.top = `${box.top - card.top + Math.min(top, box.height / 2) + 8}px`;
  }
}

// The value at an index, or the nearest one within reach.
function nearest(values, index, near) {
  for (let away = 0; ; away++) {
    const sides = [-away, away].filter(side => index + side >= 0 && index + side < values.length && near(side));
    if (!sides.length) return null;
    for (const side of sides) if (values[index + side] != null) return values[index + side];
  }
}

// uPlot listens to a mouse: a finger that moves sideways is one.
function touch(plot) {
  const send = (type, event) => {
    const { clientX, clientY } = event.changedTouches[0];
    const target = type === "mouseup" ? document : plot.over;
    // uPlot passes over a mouse that has not moved.
    target.dispatchEvent(new MouseEvent(type, { clientX, clientY, movementX: 1, bubbles: true, button: 0 }));
  };
  plot.over.addEventListener("touchstart", event => {
    plot.touched = true;
    send("mouseenter", event); send("mousemove", event); send("mousedown", event);
  }, { passive: true });
  plot.over.addEventListener("touchmove", event => send("mousemove", event), { passive: true });
  for (const end of ["touchend", "touchcancel"]) {
    plot.over.addEventListener(end, event => send("mouseup", event), { passive: true });
  }
  // A touch elsewhere puts the box away.
  document.addEventListener("touchstart", event => { plot.touched = plot.over.contains(event.target); }, { passive: true });
}
