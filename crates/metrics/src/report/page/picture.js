// A chart as a picture to share: what the page shows of it, larger, with its title, legend and axes.

// Drawn as a card of this size would be on a screen of two pixels a unit, whatever the screen at hand has.
const PICTURE = { width: 800, height: 380, pixels: 2, margin: 16 };

async function picture(chart) {
  const { width, height, pixels, margin } = PICTURE, zoom = pixels / devicePixelRatio;
  const options = { ...chart.options({ width: width * zoom, height: height * zoom }, zoom), cursor: { show: false } };
  options.hooks = { draw: options.hooks.draw };
  const plot = new uPlot(options, chart.plot.data, element("div"));
  const { min, max } = chart.plot.scales.x;
  if (min != null) plot.setScale("x", { min, max });
  // uPlot draws when the script that asks for it is done.
  await new Promise(drawn => setTimeout(drawn));
  const canvas = compose(chart, plot.ctx.canvas, margin, pixels);
  plot.destroy();
  return canvas;
}

// Everything in units of the card.
function compose(chart, drawn, margin, pixels) {
  const canvas = element("canvas"), ctx = canvas.getContext("2d"), left = margin + 14;
  const [width, height] = [drawn.width / pixels, drawn.height / pixels];
  const font = (size, weight = "") => `${weight} ${size}px system-ui, sans-serif`;
  ctx.font = font(13);
  const rows = legend(ctx, chart, width);
  const top = margin + 26 + 20 * rows.length;
  canvas.width = Math.round((left + width + margin) * pixels);
  canvas.height = Math.round((top + height + 18 + margin) * pixels);
  ctx.scale(pixels, pixels);
  ctx.fillStyle = css("--page");
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  ctx.drawImage(drawn, left, top, width, height);
  ctx.textBaseline = "top";
  ctx.fillStyle = css("--ink");
  ctx.font = font(17, "600");
  ctx.fillText(chart.heading(), left, margin, width);
  ctx.font = font(13);
  rows.forEach((row, index) => row.forEach(one => drawKey(ctx, one, left, margin + 26 + 20 * index)));
  ctx.fillStyle = css("--faint");
  ctx.textAlign = "center";
  ctx.fillText(UNITS[chart.settings.over][1], left + 72 + (width - 72) / 2, top + height + 2);
  ctx.translate(margin, top + height / 2);
  ctx.rotate(-Math.PI / 2);
  ctx.fillText(chart.spec.unit, 0, -6);
  return canvas;
}

// Keys of colors and kinds of lines, in rows that are no wider than the plot.
function legend(ctx, chart, width) {
  const rows = [[]];
  let x = 0;
  for (const [name, color] of [...chart.colors(), ...chart.kinds().map(kind => [kind, null])]) {
    const text = name.length > 60 ? `${name.slice(0, 59)}…` : name;
    const wide = ctx.measureText(text).width + (color ? 18 : 0);
    if (x > 0 && x + wide > width) { rows.push([]); x = 0; }
    rows.at(-1).push({ text, color, x, most: width });
    x += wide + 16;
  }
  return rows;
}

function drawKey(ctx, { text, color, x, most }, left, y) {
  if (color) {
    ctx.fillStyle = color;
    ctx.fillRect(left + x, y + 2, 11, 11);
  }
  ctx.fillStyle = css(color ? "--ink" : "--faint");
  ctx.fillText(text, left + x + (color ? 18 : 0), y, most);
}

// Says run and chart, in what every system takes for a name.
function pictureName(chart) {
  const runs = chart.shownRuns().filter(run => chart.series.some(one => one.run === run));
  const whose = runs.length === 1 ? runs[0].name : `${runs.length} runs`;
  return `${whose} ${chart.spec.title}`.replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/^[-.]+|[-.]+$/g, "").slice(0, 120) + ".png";
}

async function savePicture(chart) {
  const canvas = await picture(chart);
  canvas.toBlob(blob => {
    const link = element("a", { href: URL.createObjectURL(blob), download: pictureName(chart) });
    link.click();
    // The browser reads it after the click.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
}
