/* Power over time: one picture whose numbers are in the data block of the page. */
(() => {
  "use strict";
  const block = document.getElementById("data");
  const holder = document.getElementById("chart");
  if (!block || !holder) return;
  // The browser lays the page out now, which it must at any rate: told apart from drawing.
  performance.mark("mlmeter-layout-start");
  holder.hidden = false;
  const firstWidth = holder.clientWidth;
  performance.measure("mlmeter-layout", "mlmeter-layout-start");
  performance.mark("mlmeter-draw-start");

  const HEIGHT = 300, LANE = 17, LANES_GAP = 8, PRINT_WIDTH = 660;
  // Colours are told apart without colour vision, too; dashes tell the seventh from the first.
  const DASHES = [[], [8, 3], [2, 3], [10, 3, 2, 3]], LINES = 6;
  // Seconds, then parts of minutes and hours.
  const STEPS = [];
  for (let power = -6; power < 1; power++) for (const one of [1, 2, 5]) STEPS.push(one * 10 ** power);
  STEPS.push(10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000);

  const data = JSON.parse(block.textContent);
  const unstep = (steps) => {
    let tick = 0;
    return steps.map((step) => ((tick += step) / data.ticks) * data.seconds);
  };
  const domains = data.domains.map((domain, number) => ({
    ...domain,
    edges: unstep(domain.times),
    colour: `--line-${number % LINES}`,
    dash: DASHES[Math.floor(number / LINES) % DASHES.length],
  }));
  const lanes = data.lanes.map((lane) => ({ ...lane, edges: unstep(lane.steps) }));
  const someCounted = domains.some((domain) => domain.counted);

  let colours = {};
  const readColours = () => {
    const style = getComputedStyle(document.documentElement);
    const names = ["ink", "muted", "rule", "paper", "lane", ...Array.from({ length: LINES }, (_, k) => `line-${k}`)];
    colours = Object.fromEntries(names.map((name) => [`--${name}`, style.getPropertyValue(`--${name}`).trim()]));
  };
  readColours();

  /* Numbers */
  const digits = (value, count) => Number(value.toPrecision(count)).toLocaleString("en", { maximumSignificantDigits: count });
  const watts = (value) => {
    if (value === null || value === undefined) return "–";
    const [factor, unit] = value >= 1e6 ? [1e6, "MW"] : value >= 1e4 ? [1e3, "kW"] : value > 0 && value < 0.1 ? [1e-3, "mW"] : [1, "W"];
    return `${digits(value / factor, 4)} ${unit}`;
  };
  const two = (value) => String(value).padStart(2, "0");
  // A time since the start, as exact as `step`.
  const clock = (seconds, step) => {
    if (data.seconds < 120) return `${Number(seconds.toPrecision(6))} s`;
    const places = step >= 1 ? 0 : Math.min(3, Math.ceil(-Math.log10(step)));
    const whole = Math.floor(seconds + 0.5 * 10 ** -places);
    const part = places ? Math.max(seconds - whole, 0).toFixed(places).slice(1) : "";
    const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60);
    if (step >= 60 && data.seconds <= 7200) return `${minutes} min`;
    if (step >= 60) return `${hours}:${two(minutes % 60)} h`;
    return hours && data.seconds > 7200 ? `${hours}:${two(minutes % 60)}:${two(whole % 60)}${part}` : `${minutes}:${two(whole % 60)}${part}`;
  };
  // The stretch of edges that a time is in, -1 outside.
  const stretchAt = (edges, time) => {
    let low = 0, high = edges.length - 1;
    if (time < edges[0] || time > edges[high]) return -1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (edges[middle] <= time) low = middle; else high = middle;
    }
    return low;
  };

  /* What a screen can show: the means of equal spans of the view, and the least and the most in each. */
  const METERED = 0.5, SPAN_PIXELS = 2;
  const spans = (domain, xs) => {
    const { edges, watts } = domain, low = domain.low || watts, high = domain.high || watts;
    const mean = [], least = [], most = [];
    let k = Math.max(stretchAt(edges, xs[0]), 0);
    for (let span = 0; span + 1 < xs.length; span++) {
      const from = xs[span], to = xs[span + 1];
      let joules = 0, seconds = 0, smallest = null, largest = null;
      while (k < watts.length && edges[k + 1] <= from) k++;
      for (let at = k; at < watts.length && edges[at] < to; at++) {
        if (watts[at] === null) continue;
        const here = Math.min(to, edges[at + 1]) - Math.max(from, edges[at]);
        if (here <= 0) continue;
        joules += watts[at] * here;
        seconds += here;
        if (smallest === null || low[at] < smallest) smallest = low[at];
        if (largest === null || high[at] > largest) largest = high[at];
      }
      const metered = seconds >= METERED * (to - from);
      mean.push(metered ? joules / seconds : null);
      least.push(metered ? smallest : null);
      most.push(metered ? largest : null);
    }
    // A value holds from the instant before it, so the first one stands at both.
    return [mean, most, least].map((values) => [values[0], ...values]);
  };
  const view = (from, to, pixels) => {
    const count = Math.max(Math.round(pixels / SPAN_PIXELS), 2);
    const xs = Array.from({ length: count + 1 }, (_, k) => (k === count ? to : from + ((to - from) * k) / count));
    return [xs, ...domains.flatMap((domain) => spans(domain, xs))];
  };
  const stepped = uPlot.paths.stepped({ align: -1 });
  const series = [{}], bands = [];
  domains.forEach((domain) => {
    const shown = domain.counted || !someCounted, first = series.length;
    domain.series = [first, first + 1, first + 2];
    const line = { show: shown, paths: stepped, points: { show: false } };
    series.push({ ...line, stroke: () => colours[domain.colour], width: 1.5, dash: domain.dash }, line, { ...line });
    bands.push({ series: [first + 1, first + 2], fill: () => `${colours[domain.colour]}40` });
  });

  /* Lanes: when windows were open, above the picture. */
  const drawLanes = (u) => {
    const ctx = u.ctx, ratio = uPlot.pxRatio, { left, top, width } = u.bbox;
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, 0, width, top);
    ctx.clip();
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.font = `${11 * ratio}px system-ui, sans-serif`;
    lanes.forEach((lane, number) => {
      const y = top - (LANES_GAP + (lanes.length - number) * LANE) * ratio;
      const height = (LANE - 3) * ratio;
      ctx.fillStyle = colours["--lane"];
      for (let k = 0; k < lane.edges.length; k += 2) {
        const from = u.valToPos(lane.edges[k], "x", true);
        const to = u.valToPos(lane.edges[k + 1], "x", true);
        if (to < left || from > left + width) continue;
        ctx.fillRect(from, y, Math.max(to - from - ratio / 2, ratio), height);
      }
      // Isolated, so that a name that is written from right to left turns nothing else round.
      const text = `\u2068${lane.name}\u2069 · \u2068${lane.phase}\u2069`;
      ctx.lineWidth = 3 * ratio;
      ctx.lineJoin = "round";
      ctx.strokeStyle = colours["--paper"];
      ctx.globalAlpha = 0.75;
      ctx.strokeText(text, left + 6 * ratio, y + height / 2);
      ctx.globalAlpha = 1;
      ctx.fillStyle = colours["--ink"];
      ctx.fillText(text, left + 6 * ratio, y + height / 2);
    });
    ctx.restore();
  };

  /* What stands beside the picture */
  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const swatch = (domain) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const put = (node, attributes) => Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    put(svg, { width: 26, height: 8, "aria-hidden": "true" });
    put(line, { x1: 0, x2: 26, y1: 4, y2: 4, stroke: `var(${domain.colour})`, "stroke-width": 2.5, "stroke-dasharray": domain.dash.join(" ") });
    svg.append(line);
    return svg;
  };
  const legend = element("ul", { className: "legend" });
  legend.setAttribute("aria-label", "Domains shown in the picture");
  domains.forEach((domain) => {
    domain.now = element("span", { className: "now" });
    const box = element("input", { type: "checkbox", checked: domain.counted || !someCounted });
    box.addEventListener("change", () => plot.batch(() => domain.series.forEach((index) => plot.setSeries(index, { show: box.checked }))));
    legend.append(element("li", {}, element("label", {}, box, swatch(domain), element("bdi", { textContent: domain.name }), domain.now)));
  });
  const moment = element("p", { className: "moment" });
  const spoken = element("p", { className: "hidden" });
  spoken.setAttribute("aria-live", "polite");
  const button = (text, label, act) => {
    const made = element("button", { type: "button", textContent: text });
    made.setAttribute("aria-label", label);
    made.addEventListener("click", act);
    return made;
  };
  const buttons = element("div", { className: "zoom" });

  const tell = (time) => {
    domains.forEach((domain) => {
      const stretch = time === null ? -1 : stretchAt(domain.edges, time);
      domain.now.textContent = time === null ? `mean ${watts(domain.mean)}` : watts(domain.watts[stretch]);
    });
    const open = time === null ? [] : lanes.filter((lane) => {
      const piece = stretchAt(lane.edges, time);
      return piece >= 0 && piece % 2 === 0;
    });
    const names = open.map((lane) => lane.name).join(", ");
    moment.textContent = time === null ? "Drag to zoom, or use the keys + − 0 and the arrows." : `at ${clock(time, data.seconds / 1000)}${names ? `: ${names}` : ""}`;
  };

  /* Zoom */
  const zoom = (factor) => {
    const { min, max } = plot.scales.x;
    const at = plot.cursor.left >= 0 ? plot.posToVal(plot.cursor.left, "x") : (min + max) / 2;
    const width = Math.min((max - min) * factor, data.seconds);
    const from = Math.min(Math.max(at - ((at - min) / (max - min)) * width, 0), data.seconds - width);
    show(from, from + width);
  };
  const show = (from, to) => plot.batch(() => {
    plot.setData(view(from, to, plot.over.clientWidth), false);
    plot.setScale("x", { min: from, max: to });
  });
  const showAll = () => show(0, data.seconds);
  const less = button("−", "Zoom out", () => zoom(2));
  const all = button("all", "Show the whole session", showAll);
  buttons.append(button("+", "Zoom in", () => zoom(0.5)), less, all);
  const showZoom = (u) => {
    less.disabled = all.disabled = u.scales.x.max - u.scales.x.min >= data.seconds * (1 - 1e-9);
  };

  /* The picture */
  const frame = element("div", { className: "plot", tabIndex: 0 });
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Power over time. Arrow keys move the cursor, plus and minus zoom, 0 shows all. The tables below have the numbers.");
  holder.append(frame, element("div", { className: "controls" }, legend, buttons), moment, spoken);

  const axis = { stroke: () => colours["--muted"], grid: { stroke: () => colours["--rule"], width: 1 }, ticks: { stroke: () => colours["--rule"], width: 1, size: 4 }, font: "12px system-ui, sans-serif" };
  let drawn = false;
  const plot = new uPlot({
    width: firstWidth,
    height: HEIGHT + lanes.length * LANE,
    padding: [lanes.length ? lanes.length * LANE + LANES_GAP + 6 : 12, 26, 0, 0],
    legend: { show: false },
    cursor: {
      y: false,
      points: { show: false },
      drag: { x: true, y: false, setScale: false },
      bind: { dblclick: () => showAll },
    },
    scales: {
      x: { time: false, range: (u, low, high) => [low, high] },
      y: { range: (u, low, high) => [0, (high || 1) * 1.06] },
    },
    axes: [
      { ...axis, incrs: STEPS, space: 70, size: 34, values: (u, splits, index, space, step) => splits.map((split) => clock(split, step)) },
      { ...axis, size: 62, values: (u, splits) => splits.map(watts) },
    ],
    series,
    bands,
    hooks: {
      draw: [(u) => {
        drawLanes(u);
        if (drawn) return;
        drawn = true;
        performance.measure("mlmeter-draw", "mlmeter-draw-start");
      }],
      setCursor: [(u) => tell(u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null)],
      setScale: [(u, key) => { if (key === "x") showZoom(u); }],
      setSelect: [(u) => {
        const { left, width } = u.select;
        if (width < 4) return;
        u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        show(u.posToVal(left, "x"), u.posToVal(left + width, "x"));
      }],
    },
  }, view(0, data.seconds, firstWidth), frame);
  frame.querySelectorAll("canvas").forEach((canvas) => canvas.setAttribute("aria-hidden", "true"));
  tell(null);

  /* Keys */
  const move = (step) => {
    const width = plot.over.clientWidth;
    const left = plot.cursor.left >= 0 ? plot.cursor.left + step : width / 2;
    plot.setCursor({ left: Math.min(Math.max(left, 0), width - 1), top: 0 });
    const values = domains.filter((domain) => plot.series[domain.series[0]].show).map((domain) => `${domain.name} ${domain.now.textContent}`);
    spoken.textContent = `${moment.textContent}; ${values.join(", ")}`;
  };
  frame.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 50 : 8;
    const act = {
      ArrowLeft: () => move(-far),
      ArrowRight: () => move(far),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
      0: showAll,
      Escape: () => plot.setCursor({ left: -10, top: -10 }),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  /* Sizes, themes, paper */
  const fit = (width) => {
    const { min, max } = plot.scales.x;
    plot.setSize({ width, height: HEIGHT + lanes.length * LANE });
    show(min, max);
  };
  const recolour = () => {
    readColours();
    plot.redraw(false);
  };
  let printing = false;
  new ResizeObserver(() => {
    if (!printing && holder.clientWidth > 0 && holder.clientWidth !== plot.width) fit(holder.clientWidth);
  }).observe(holder);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  const folded = () => document.querySelectorAll("details:not([open])");
  let opened = [];
  addEventListener("beforeprint", () => {
    printing = true;
    opened = [...folded()];
    opened.forEach((details) => { details.open = true; });
    document.documentElement.classList.add("printing");
    fit(PRINT_WIDTH);
    recolour();
  });
  addEventListener("afterprint", () => {
    printing = false;
    opened.forEach((details) => { details.open = false; });
    document.documentElement.classList.remove("printing");
    fit(holder.clientWidth);
    recolour();
  });
})();
