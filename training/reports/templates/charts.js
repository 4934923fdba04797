"use strict";
// Draws each figure from the JSON beside it with Observable Plot, as wide as the screen is. A function of `kinds` returns
// Plot's options and `points`, whose titles are shown by mouse, by touch and by the arrow keys.

const HEAT = [1 / 2, 1 / 1.5, 1 / 1.25, 1 / 1.1, 1.1, 1.25, 1.5, 2];
const compact = new Intl.NumberFormat("en", {notation: "compact", maximumSignificantDigits: 3}).format;
const plain = new Intl.NumberFormat("en", {maximumSignificantDigits: 4}).format;
const dayOf = new Intl.DateTimeFormat("en", {day: "numeric", month: "short", timeZone: "UTC"}).format;
const factor = x => `× ${Math.exp(x).toFixed(2)}`;
const letters = name => [...new Intl.Segmenter().segment(name)].map(one => one.segment);
const isolated = parts => `\u2068${parts.join("")}\u2069`;  // a name may run from right to left
const pen = document.createElement("canvas").getContext("2d");
pen.font = "12px system-ui, sans-serif";
const wide = texts => Math.ceil(Math.max(...texts.map(text => pen.measureText(text).width)));

// To so many pixels, in the middle, since names of one kind often begin alike.
function cut(name, room) {
  const all = letters(name);
  let shown = isolated(all);
  for (let most = Math.min(all.length, 40); wide([shown]) > room && most > 3; most -= 1) {
    shown = isolated([...all.slice(0, Math.floor((most - 1) / 2)), "…", ...all.slice(-Math.ceil((most - 1) / 2))]);
  }
  return shown;
}

// A tip: a whole name, in lines that fit, and what is said of it.
function title(name, ...lines) {
  const all = letters(name);
  const parts = Array.from({length: Math.ceil(all.length / 32)}, (_, part) => isolated(all.slice(part * 32, part * 32 + 32)));
  return [...parts, ...lines].join("\n");
}

// A row for each name, which stands at the left.
function named(names, width, row = 24) {
  const shown = names.map(name => cut(name, Math.min(180, width * 0.36)));
  return {
    marginLeft: wide(shown) + 12, marginTop: 4, marginBottom: 40, height: names.length * row + 44,
    y: {type: "band", domain: names.map((_, place) => place), label: null, tickSize: 0, tickFormat: place => shown[place], padding: 0.25},
  };
}

// Both axes of a plot that compares like with like are the same.
function logarithmic(values) {
  const [low, high] = [Math.min(...values) * 0.9, Math.max(...values) * 1.1];
  const steps = high / low > 300 ? [1] : [1, 2, 5];
  const ticks = Array.from({length: 40}, (_, power) => power - 12).flatMap(power => steps.map(step => step * 10 ** power));
  return {type: "log", domain: [low, high], ticks: ticks.filter(tick => tick >= low && tick <= high)};
}

const kinds = {
  lines(of, width) {
    const days = of.x === "day";
    const at = x => days ? new Date(x) : x;
    const points = of.series.filter(one => !one.dashed).flatMap(one => one.points.map(([x, y]) => ({
      x: at(x), y, colour: `var(--${one.colour})`,
      title: title(one.name, days ? x : `${of.x.split(" (")[0]} ${plain(x)}`, `${of.y.split(" (")[0]} ${plain(y)}`),
    })));
    const marks = (of.marks ?? []).map(([x, words]) => ({x: at(x), y: Math.max(...points.map(one => one.y)), title: `${x}\n${words}`}));
    const dates = of.series[0].points.map(([x]) => x);
    const every = Math.ceil(62 * dates.length / (width - 60));
    const axis = of.log ? logarithmic(of.series.flatMap(one => one.points.flat())) : {zero: true, nice: true};
    return {
      points: [...marks, ...points], nearest: days ? Plot.pointerX : Plot.pointer,
      height: of.low ? 200 : 330, marginLeft: 54, marginTop: 28, marginBottom: 40,
      x: {label: of.x, ticks: width / 90, ...(days ? {type: "utc", ticks: dates.filter((_, day) => day % every === 0).map(at), tickFormat: dayOf} : {...axis, grid: true, tickFormat: compact})},
      y: {label: of.y, ticks: 5, ...axis, grid: true, tickFormat: compact},
      marks: [
        Plot.ruleX(marks, {x: "x", stroke: "var(--c1)", strokeWidth: 2, strokeDasharray: "2 3"}),
        ...of.series.map(one => Plot.line(one.points, {x: ([x]) => at(x), y: "1", stroke: `var(--${one.colour})`, strokeWidth: 1.8, strokeDasharray: one.dashed ? "5 4" : ""})),
        Plot.dot(points, {x: "x", y: "y", fill: "colour", r: points.length > 80 ? 1.8 : 2.8}),
      ],
    };
  },

  heat(of, width) {
    const frame = named(of.rows, width);
    const every = Math.ceil(62 * of.columns.length / (width - frame.marginLeft));
    const columns = of.columns.map((_, column) => column);
    const points = of.cells.map(([y, x, predicted, realised]) => {
      // Without revenue there is no ratio, and without a past nothing was predicted.
      const ratio = predicted > 0 && realised > 0 ? predicted / realised : null;
      const fill = ratio === null ? "var(--paper)" : `var(--h${HEAT.filter(bound => ratio >= bound).length})`;
      const words = ratio === null ? [] : [`ratio ${ratio.toFixed(2)}, log ratio ${Math.log(ratio).toFixed(2)}`];
      return {x, y, fill, stroke: ratio === null ? "var(--line)" : fill, title: title(of.rows[y], of.columns[x], `predicted ${plain(predicted)}`, `realised ${plain(realised)}`, ...words)};
    });
    return {
      points, ...frame, height: frame.height - 10, marginBottom: 30, marginRight: 14,
      width: Math.min(width, frame.marginLeft + of.columns.length * 60 + 20),
      x: {type: "band", domain: columns, padding: 0, label: null, tickSize: 0, ticks: columns.filter(day => day % every === 0), tickFormat: day => dayOf(new Date(of.columns[day]))},
      y: {...frame.y, padding: 0},
      marks: [Plot.cell(points, {x: "x", y: "y", fill: "fill", stroke: "stroke", inset: 0.5, rx: 1.5})],
    };
  },

  // From zero or, where they are ratios, to both sides of 1 on a logarithmic scale: less is blue, more is orange.
  bars(of, width) {
    const frame = named(of.bars.map(one => one.name), width);
    const put = of.ratio ? Math.log : x => x;
    const all = of.bars.map((one, y) => {
      const x = put(one.value);
      return {...one, y, x, end: of.ratio ? x : Math.max(x, one.second ?? 0, one.mark ?? 0), fill: !of.ratio || x < -5e-4 ? "var(--c0)" : x < 5e-4 ? "var(--muted)" : "var(--c1)", title: title(one.name, one.title ?? one.text)};
    });
    const most = Math.max(Math.log(1.05), ...all.map(one => Math.abs(one.x))) * (1 + 100 / Math.max(width - frame.marginLeft, 150));
    const two = all.filter(one => one.second !== undefined);
    return {
      points: all.map(one => ({...one, x: one.end})), nearest: Plot.pointerY, ...frame,
      marginRight: of.ratio ? 8 : wide(all.map(one => one.text)) + 12,
      x: {label: of.x, grid: true, ticks: width / 110, ...(of.ratio ? {domain: [-most, most], tickFormat: x => Math.exp(x).toFixed(2)} : {zero: true, percent: of.x.includes("%"), tickFormat: compact})},
      marks: [
        Plot.ruleX([0], {stroke: "var(--line)"}),
        Plot.barX(all, {x1: 0, x2: "x", y: "y", fill: "fill", insetBottom: two.length ? 7 : 0, rx: 1}),
        Plot.barX(two, {x1: 0, x2: "second", y: "y", fill: "var(--c0)", fillOpacity: 0.55, insetTop: 13}),
        Plot.tickX(two.filter(one => one.mark !== null), {x: "mark", y: "y", stroke: "var(--c1)", strokeWidth: 3, inset: -2}),
        Plot.text(all.filter(one => one.end >= 0), {x: "end", y: "y", text: "text", textAnchor: "start", dx: 6}),
        Plot.text(all.filter(one => one.end < 0), {x: "end", y: "y", text: "text", textAnchor: "end", dx: -6}),
      ],
    };
  },

  // Each row's dots along x, beside each other where they are dense.
  swarm(of, width) {
    const frame = named(of.rows.map(one => one.name), width, 30);
    const most = 1.03 * Math.max(0.01, ...of.rows.flatMap(one => one.dots.map(([x]) => Math.abs(x))));
    const room = width - frame.marginLeft - 58;
    const column = 6 * most / room;  // three pixels
    const ticks = (room < 300 ? [-0.95, 0, 0.95] : [-0.9, -0.45, 0, 0.45, 0.9]).map(share => share * most);
    const points = of.rows.flatMap((one, row) => {
      const taken = new Map();
      return one.dots.map(([x, rank]) => {
        const place = Math.round(x / column), before = taken.get(place) ?? 0;
        taken.set(place, before + 1);
        const off = Math.min(0.44, Math.ceil(before / 2) * 0.085) * (before % 2 ? 1 : -1);
        const value = rank === null ? "not known" : ["low", "rather low", "middling", "rather high", "high"][Math.min(4, Math.floor(rank * 5))];
        return {x, y: row + off, known: rank !== null, colour: rank === null ? "var(--muted)" : `var(--s${Math.min(4, Math.floor(rank * 5))})`, title: title(one.name, factor(x), `value ${value}`)};
      });
    });
    return {
      points, ...frame, marginRight: 58,
      x: {label: of.x, domain: [-most, most], grid: true, ticks, tickFormat: factor},
      y: {...frame.y, type: "linear", domain: [of.rows.length - 0.5, -0.5], ticks: frame.y.domain},
      marks: [
        Plot.dot(points.filter(one => one.known), {x: "x", y: "y", fill: "colour", r: 1.9}),
        Plot.dot(points.filter(one => !one.known), {x: "x", y: "y", stroke: "colour", r: 1.7, strokeWidth: 1}),
        Plot.text(of.rows, {x: most, y: (_, row) => row, text: "text", textAnchor: "start", dx: 8}),
      ],
    };
  },
};

function draw(place, of) {
  const {points, nearest = Plot.pointer, ...options} = kinds[of.kind](of, place.clientWidth);
  const shown = {x: "x", y: "y", maxRadius: 60};
  const drawn = Plot.plot({
    width: place.clientWidth, style: {background: "none", fontSize: "12px", overflow: "visible"}, color: {type: "identity"}, ...options,
    marks: [...options.marks, Plot.dot(points, nearest({...shown, r: 5, stroke: "var(--ink)"})), Plot.tip(points, nearest({...shown, title: "title"}))],
  });
  place.replaceChildren(drawn);
  let at = -1;
  place.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    event.preventDefault();
    at = (Math.max(at, step < 0 ? 0 : -1) + step + points.length) % points.length;
    const [left, top] = ["x", "y"].map(name => drawn.scale(name)).map((scale, y) => scale.apply(points[at]["xy"[y]]) + (scale.bandwidth ?? 0) / 2);
    const box = drawn.getBoundingClientRect(), scale = box.width / drawn.viewBox.baseVal.width;
    drawn.dispatchEvent(new PointerEvent("pointermove", {pointerType: "touch", clientX: box.left + left * scale, clientY: box.top + top * scale}));
  };
}

for (const figure of document.querySelectorAll("figure")) {
  const place = figure.querySelector(".plot");
  const of = JSON.parse(figure.querySelector("script").textContent);
  let width = 0;
  const fit = () => {
    if (place.clientWidth !== width) draw(place, of, width = place.clientWidth);
  };
  fit();
  new ResizeObserver(fit).observe(place);
}
