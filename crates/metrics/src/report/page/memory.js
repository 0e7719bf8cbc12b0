// What memory was for, stacked: of one run at a time.

const PURPOSES = [
  line("activations_bytes", "activations, loss, work space", { color: "#54a24b" }),
  line("gradients_bytes", "gradients", { color: "#ee9a3b" }),
  line("optimizer_bytes", "optimizer state", { color: "#9664aa" }),
  line("weights_bytes", "weights", { color: "#4c78a8" }),
  line("other_bytes", "all else", { color: "#8b949e" }),
];
const STACK = {
  title: "Memory of the device by purpose", unit: "bytes", format: bytes, binary: true, optional: true, lines: PURPOSES,
  marks: ["oom_backoff", "resume"],
  note: "Measured. The top is the most that was in use at once in the step; of that, activations are what all others leave.",
};

class StackChart extends Chart {
  constructor(parent, settings) {
    super(STACK, parent, settings);
    this.button.remove();
    this.select = element("select", { "aria-label": "Run whose memory is shown" });
    this.select.addEventListener("change", () => { this.wanted = this.select.value; this.show(this.runs); });
    this.controls.prepend(this.select);
    this.card.append(element("p", { class: "note" }, STACK.note));
  }

  show(runs) {
    this.runs = runs;
    const telling = this.telling();
    this.select.replaceChildren(...telling.map(run => element("option", { value: run.name }, run.name)));
    this.select.hidden = telling.length < 2;
    if (this.run()) this.select.value = this.run().name;
    super.show(runs);
  }

  telling() {
    return super.shownRuns().filter(run => column(run, "weights_bytes"));
  }

  run() {
    const telling = this.telling();
    return telling.find(run => run.name === this.wanted) ?? telling[0];
  }

  shownRuns() {
    return this.run() ? [this.run()] : [];
  }

  // Each line is the sum of what is beneath it and its own.
  assemble() {
    const run = this.run();
    if (!run) return { data: [[], []], series: [] };
    const x = abscissa(run, "weights_bytes", this.settings.over), order = rising(x);
    let sum = order.map(() => 0);
    const parts = PURPOSES.toReversed().map(part => {
      const values = order.map(index => column(run, part.column)?.[index] ?? null);
      sum = sum.map((below, index) => below == null || values[index] == null ? null : below + values[index]);
      return { sum, series: { run, part, values, name: part.label, color: part.color, fill: `${part.color}b0`, which: part.column, alone: x.length === 1 } };
    }).toReversed();
    return { data: [order.map(index => x[index]), ...parts.map(part => part.sum)], series: parts.map(part => part.series) };
  }

  ordinate() {
    return { range: (_, __, max) => [0, max == null ? 1 : 1.05 * max] };
  }

  kinds() {
    return [];
  }

  heading() {
    return `${this.spec.title}: ${this.run().name}`;
  }

  colors() {
    return this.series.map(one => [one.name, one.color]);
  }

  showKey() {
    if (!this.series.length) { super.showKey(); return; }
    this.key.replaceChildren(...this.colors().map(([name, color]) => element("span", {}, element("i", { style: `background:${color}` }), `${name} `)));
  }
}
