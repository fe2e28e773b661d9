"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const studies = JSON.parse($("data").textContent);
  const runs = studies.flatMap((study) => study.runs);
  for (const run of runs) run.id = `${run.study}/${run.run}`;
  const SHAPES = ["circle", "square", "diamond", "up", "down", "hex", "cross"];
  // from small to large; light and dark differ in lightness only, and shapes say the same as colours
  const RAMP = { light: ["#2f5fc4", "#7a4fb8", "#b5478f", "#cf5640", "#c77700"], dark: ["#7ea6ff", "#b493f5", "#e585c3", "#ff8d78", "#ffb84d"] };

  // ------------------------------------------------------------------ numbers as people read them
  const SI = [[1e24, "Y"], [1e21, "Z"], [1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const trim = (v, digits = 3) => String(Number(v.toPrecision(digits)));
  const si = (v) => { for (const [size, letter] of SI) if (Math.abs(v) >= size * 0.9995) return trim(v / size) + letter; return trim(v); };
  const pct = (v) => (v === null || v === undefined ? "–" : trim(100 * v, v < 0.1 ? 2 : 3) + "%");
  const plus = (v, s) => `${(100 * v).toFixed(1)} ± ${(100 * s).toFixed(1)}%`;
  const esc = (s) => String(s).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
  const imagesName = (n) => (n ? si(n) : "all new");
  const unique = (list) => [...new Set(list)];
  const least = (list) => list.reduce((a, b) => Math.min(a, b), Infinity);
  const most = (list) => list.reduce((a, b) => Math.max(a, b), -Infinity);

  // ------------------------------------------------------------------ what can be varied
  const AXES = {
    compute: { label: "training compute (FLOPs)", of: (r) => r.compute },
    seen: { label: "images seen", of: (r) => r.seen },
    unique: { label: "unique images", of: (r) => r.unique },
    forward: { label: "model size (forward FLOPs an image)", of: (r) => r.forward },
    parameters: { label: "parameters", of: (r) => r.parameters },
    steps: { label: "steps", of: (r) => r.steps },
    recipe: { label: "recipe", of: (r) => rank("recipe", r), names: true },
  };
  const GROUPS = {
    model: { label: "model", of: (r) => r.model, name: (v) => v, order: (a, b) => weight(a) - weight(b) },
    images: { label: "unique images", of: (r) => r.images, name: imagesName, order: (a, b) => (a || Infinity) - (b || Infinity) },
    recipe: { label: "recipe", of: (r) => r.recipe, name: (v) => v || "base", order: (a, b) => (a < b ? -1 : 1) },
    steps: { label: "steps", of: (r) => r.steps, name: (v) => si(v), order: (a, b) => a - b },
    seed: { label: "seed", of: (r) => r.seed, name: (v) => v, order: (a, b) => a - b },
    study: { label: "study", of: (r) => r.study, name: (v) => studies[v].title, order: (a, b) => a - b },
  };
  const weights = new Map(runs.map((r) => [r.model, r.forward]));
  const weight = (model) => weights.get(model) || 0;
  const values = {};
  for (const [key, group] of Object.entries(GROUPS)) values[key] = unique(runs.map(group.of)).sort(group.order);
  const rank = (key, run) => values[key].indexOf(GROUPS[key].of(run));
  const tasks = [...new Map(studies.flatMap((s) => s.tasks).map((t) => [t.key, t.name]))];

  const state = {
    task: tasks.length ? tasks[0][0] : null, x: "compute", colour: "model", off: {}, on: null,
    show: { "log x": true, "log y": true, law: true, frontier: true, floors: true, forecast: true },
    sort: "compute", down: false, all: false,
  };
  for (const key of Object.keys(GROUPS)) state.off[key] = new Set();

  // what is compared decides what is seen first: sizes across compute, or recipes side by side
  const first = (keys, varied) => keys.find(varied) || keys[0];
  const differ = (list) => most(list) > 1.3 * least(list);
  state.x = first(Object.keys(AXES), (key) => (AXES[key].names ? values[key].length > 1 : differ(runs.map(AXES[key].of))));
  state.colour = first(["model", "recipe", "images", "steps", "seed", "study"], (key) => values[key].length > 1);
  const shaped = first(["model", "recipe", "images"], (key) => values[key].length > 1);

  const dark = () => getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (document.documentElement.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  const mix = (a, b, t) => "#" + [1, 3, 5].map((i) => Math.round(parseInt(a.slice(i, i + 2), 16) * (1 - t) +
    parseInt(b.slice(i, i + 2), 16) * t).toString(16).padStart(2, "0")).join("");
  function ramp(rank, count) {
    const stops = RAMP[dark() && !matchMedia("print").matches ? "dark" : "light"];
    const at = count > 1 ? (rank / (count - 1)) * (stops.length - 1) : 0;
    const low = Math.min(stops.length - 2, Math.floor(at));
    return mix(stops[low], stops[low + 1], at - low);
  }
  const colour = (run) => ramp(rank(state.colour, run), values[state.colour].length);
  const shape = (run) => SHAPES[rank(shaped, run) % SHAPES.length];
  const radius = (run) => 4.2 + (4.2 * (rank("images", run) + 1)) / values.images.length;
  const visible = (run) => Object.entries(GROUPS).every(([key, group]) => !state.off[key].has(group.of(run)));
  const errorOf = (run) => run.errors[state.task];

  // ------------------------------------------------------------------ one chart
  function marker(kind, x, y, r) {
    const at = (points) => `M${points.map(([a, b]) => `${(x + a * r).toFixed(1)} ${(y + b * r).toFixed(1)}`).join("L")}Z`;
    if (kind === "square") return at([[-0.88, -0.88], [0.88, -0.88], [0.88, 0.88], [-0.88, 0.88]]);
    if (kind === "diamond") return at([[0, -1.25], [1.25, 0], [0, 1.25], [-1.25, 0]]);
    if (kind === "up") return at([[0, -1.2], [1.1, 0.8], [-1.1, 0.8]]);
    if (kind === "down") return at([[0, 1.2], [1.1, -0.8], [-1.1, -0.8]]);
    if (kind === "hex") return at([0, 1, 2, 3, 4, 5].map((i) => [1.08 * Math.cos(i * Math.PI / 3), 1.08 * Math.sin(i * Math.PI / 3)]));
    if (kind === "cross") return at([[-0.4, -1.1], [0.4, -1.1], [0.4, -0.4], [1.1, -0.4], [1.1, 0.4], [0.4, 0.4], [0.4, 1.1], [-0.4, 1.1], [-0.4, 0.4], [-1.1, 0.4], [-1.1, -0.4], [-0.4, -0.4]]);
    return `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`;
  }

  function scale(low, high, from, to, log) {
    const f = log ? Math.log : (v) => v;
    const a = f(low), b = f(high);
    const map = (v) => from + ((f(v) - a) / (b - a || 1)) * (to - from);
    return Object.assign(map, { low, high, log, ticks: (count) => (log ? logTicks(low, high, count) : linearTicks(low, high, count)) });
  }
  function linearTicks(low, high, count) {
    const raw = (high - low) / Math.max(1, count), size = 10 ** Math.floor(Math.log10(raw));
    const step = size * [1, 2, 5, 10].find((m) => m * size >= raw);
    const ticks = [];
    for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-6; v += step) ticks.push(Math.abs(v) < step * 1e-9 ? 0 : v);
    return ticks;
  }
  function logTicks(low, high, count) {
    for (const parts of [[1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
      const ticks = [];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e += 1)
        for (const part of parts) { const v = part * 10 ** e; if (v >= low && v <= high) ticks.push(v); }
      if (ticks.length < 2) break;
      if (ticks.length <= count + 1) return ticks;
    }
    if (high / low < 10) return linearTicks(low, high, count);
    const first = Math.ceil(Math.log10(low)), last = Math.floor(Math.log10(high));
    const step = Math.max(1, Math.ceil((last - first) / count));
    return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => 10 ** (first + i * step));
  }
  function bounds(list, log, pad) {
    const kept = list.filter((v) => Number.isFinite(v) && (!log || v > 0));
    let low = least(kept), high = most(kept);
    if (!kept.length) return [log ? 0.1 : 0, 1];
    if (low === high) { low = log ? low / 1.5 : low - Math.abs(low || 1) * 0.1; high = log ? high * 1.5 : high + Math.abs(high || 1) * 0.1; }
    if (log) { const grow = (high / low) ** pad; return [low / grow, high * grow]; }
    const grow = (high - low) * pad;
    return [low >= 0 ? Math.max(0, low - grow) : low - grow, high + grow];
  }

  // spec: {name, x, y: {label, log, form}, lines, bands, points, levels, intervals, height}
  function chart(host, spec) {
    const width = Math.max(240, host.clientWidth - 16), height = spec.height(width);
    const box = { left: 58, right: width - 14, top: 14, bottom: height - 42 };
    const inside = (list, i) => list.flatMap((item) => item.map((p) => p[i]));
    const xs = [...spec.points.map((p) => p.x), ...inside(spec.lines.filter((l) => !l.beyond).map((l) => l.points), 0), ...spec.intervals.map((i) => i.x)];
    const ys = [...spec.points.flatMap((p) => [p.y, p.y - p.spread, p.y + p.spread]), ...inside(spec.lines.filter((l) => !l.beyond).map((l) => l.points), 1), ...spec.levels.map((l) => l.y), ...spec.intervals.flatMap((i) => [i.low, i.high])];
    const x = scale(...bounds(xs, spec.x.log, 0.06), box.left, box.right, spec.x.log);
    const y = scale(...bounds(ys, spec.y.log, 0.06), box.bottom, box.top, spec.y.log);
    const id = `clip-${host.id || spec.name.replace(/\W+/g, "-")}`;
    const out = [`<svg viewBox="0 0 ${width} ${height}" height="${height}" tabindex="0" role="img" aria-label="${esc(spec.name)}: ${spec.points.length} points; arrow keys walk through them">`,
      `<clipPath id="${id}"><rect x="${box.left}" y="${box.top - 6}" width="${box.right - box.left}" height="${box.bottom - box.top + 6}"/></clipPath>`];
    for (const v of y.ticks(Math.max(3, height / 60)))
      out.push(`<line class="gridline" x1="${box.left}" x2="${box.right}" y1="${y(v)}" y2="${y(v)}"/><text x="${box.left - 7}" y="${y(v) + 4}" text-anchor="end">${spec.y.form(v)}</text>`);
    for (const v of spec.x.at || x.ticks(Math.max(2, (box.right - box.left) / 78)))
      out.push(`<line class="gridline" y1="${box.top}" y2="${box.bottom}" x1="${x(v)}" x2="${x(v)}"/><text x="${x(v)}" y="${box.bottom + 17}" text-anchor="middle">${spec.x.form(v)}</text>`);
    out.push(`<line class="axis" x1="${box.left}" x2="${box.right}" y1="${box.bottom}" y2="${box.bottom}"/>`);
    out.push(`<text class="title" x="${(box.left + box.right) / 2}" y="${height - 6}" text-anchor="middle">${esc(spec.x.label)}</text>`);
    out.push(`<text class="title" transform="translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)" text-anchor="middle">${esc(spec.y.label)}</text>`);
    const path = (points) => "M" + points.filter((p) => (!spec.x.log || p[0] > 0) && (!spec.y.log || p[1] > 0)).map((p) => `${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("L");
    out.push(`<g clip-path="url(#${id})">`);
    for (const band of spec.bands)
      out.push(`<path d="${path([...band.map((p) => [p[0], p[1]]), ...band.map((p) => [p[0], p[2]]).reverse()])}Z" fill="var(--band)"/>`);
    for (const line of spec.lines) if (line.points.length > 1)
      out.push(`<path d="${path(line.points)}" fill="none" stroke="${line.colour}" stroke-width="${line.width || 1.2}" stroke-dasharray="${line.dash || ""}" class="${dim(line.run)}"/>`);
    for (const level of spec.levels) out.push(`<line x1="${box.left}" x2="${box.right}" y1="${y(level.y)}" y2="${y(level.y)}" stroke="var(--warn)" stroke-dasharray="2 4"/>`);
    for (const i of spec.intervals) {
      out.push(`<path d="M${x(i.x)} ${y(i.low)}V${y(i.high)}M${x(i.x) - 6} ${y(i.low)}h12M${x(i.x) - 6} ${y(i.high)}h12" stroke="var(--law)" stroke-width="1.6" fill="none"/>`);
      out.push(`<path d="${marker("diamond", x(i.x), y(i.y), 5)}" fill="var(--panel)" stroke="var(--law)" stroke-width="1.6"/>`);
    }
    out.push("</g>");
    const places = [];
    for (const p of spec.points) {
      const px = x(p.x), py = y(p.y);
      if (p.spread && (!spec.y.log || p.y > p.spread)) out.push(`<line x1="${px}" x2="${px}" y1="${y(p.y - p.spread)}" y2="${y(p.y + p.spread)}" stroke="${p.colour}" opacity=".45" class="${dim(p.run.id)}"/>`);
      out.push(`<path class="mark ${dim(p.run.id)}" d="${marker(p.shape, px, py, p.r)}" fill="${p.colour}"/>`);
      places.push({ px, py, p });
    }
    placeLabels(spec, out, x, y, box, places);
    out.push("</svg>");
    host.innerHTML = out.join("");
    listen(host.firstChild, places.sort((a, b) => a.px - b.px), width);
  }
  const dim = (run) => (state.on !== null && run !== undefined && run !== state.on ? "dim" : "");

  // floors and the forecast are named where no point is in the way
  function placeLabels(spec, out, x, y, box, places) {
    const taken = [];
    for (const level of spec.levels) {
      let py = y(level.y) - 5;
      while (taken.some((t) => Math.abs(t - py) < 14)) py += 14;
      taken.push(py);
      const length = level.name.length * 6.2;
      const clear = [...places, ...spec.intervals.map((i) => ({ px: x(i.x) - 30, py: y(i.y) - 12 })), ...spec.lines.filter((l) => l.width > 1.5).flatMap((l) => l.points.map((p) => ({ px: x(p[0]), py: y(p[1]) })))];
      const crowd = (from) => clear.filter((q) => q.px > from - 10 && q.px < from + length + 10 && Math.abs(q.py - py + 4) < 15).length;
      const spots = Array.from({ length: 9 }, (_, i) => box.left + 6 + ((box.right - box.left - 12 - length) * i) / 8);
      const from = spots.reduce((best, spot) => (crowd(spot) < crowd(best) ? spot : best), spots[0]);
      out.push(`<text class="halo" x="${from}" y="${py}" style="fill:var(--warn)">${esc(level.name)}</text>`);
    }
    for (const line of spec.lines.filter((l) => l.name && l.points.length)) {
      const [px, py] = [x(line.points[0][0]), y(line.points[0][1])];
      const up = taken.some((t) => Math.abs(t - py) < 12) ? 15 : -6;
      taken.push(py);
      out.push(`<text class="halo" x="${px + 6}" y="${py + up}" style="fill:var(--warn)">${esc(line.name)}</text>`);
    }
    for (const i of spec.intervals)
      out.push(`<text class="halo" x="${x(i.x) - 10}" y="${y(i.y) - 9}" text-anchor="end" style="fill:var(--ink)">${esc(i.name)}</text>`);
  }

  // ------------------------------------------------------------------ pointing and keys
  const tip = $("tip");
  function tell(run, box) {
    const error = errorOf(run), rows = [
      `${si(run.parameters)} parameters · ${si(run.forward)} FLOPs an image`,
      `${si(run.steps)} steps · ${si(run.seen)} images seen · ${imagesName(run.images)}${run.images ? " unique" : ""}`,
      `${si(run.compute)} training FLOPs${run.seconds ? ` · ${si(run.seconds)} s` : ""}`,
    ];
    if (run.recipe) rows.unshift(esc(run.recipe));
    if (error) rows.push(`error ${plus(error[0], error[1])} (${error[2]} draws)`);
    tip.innerHTML = `<b>${esc(run.run)}</b>${rows.join("<br>")}`;
    tip.hidden = false;
    const place = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(6, Math.min(innerWidth - place.width - 6, box.x + 14))}px`;
    tip.style.top = `${box.y + place.height + 20 > innerHeight ? box.y - place.height - 12 : box.y + 14}px`;
  }
  function listen(svg, places, width) {
    let current = -1;
    const at = (q) => { const r = svg.getBoundingClientRect(), k = r.width / width; return { x: r.left + q.px * k, y: r.top + q.py * k }; };
    const nearest = (event) => {
      const r = svg.getBoundingClientRect(), k = width / r.width, mx = (event.clientX - r.left) * k, my = (event.clientY - r.top) * k;
      let best = null, distance = 26;
      for (const q of places) { const d = Math.hypot(q.px - mx, q.py - my); if (d < distance) { best = q; distance = d; } }
      return best;
    };
    svg.addEventListener("pointermove", (event) => { const q = nearest(event); if (q) tell(q.p.run, at(q)); else tip.hidden = true; svg.style.cursor = q ? "pointer" : ""; });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
    svg.addEventListener("click", (event) => { const q = nearest(event); pick(q ? q.p.run.id : null); });
    svg.addEventListener("blur", () => { tip.hidden = true; });
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (event.key === "Escape") { tip.hidden = true; pick(null); }
      if (event.key === "Enter" && current >= 0) pick(places[current].p.run.id);
      if (!step || !places.length) return;
      event.preventDefault();
      current = (current + step + places.length) % places.length;
      tell(places[current].p.run, at(places[current]));
    });
  }
  function pick(run) {
    state.on = state.on === run ? null : run;
    draw();
  }

  // ------------------------------------------------------------------ from runs to marks
  const mark = (run, x, y, spread = 0) => ({ x, y, spread, run, colour: colour(run), shape: shape(run), r: radius(run) });
  function pareto(list) {
    let best = Infinity;
    return [...list].sort((a, b) => a.x - b.x || a.y - b.y).filter((p) => { const better = p.y < best; if (better) best = p.y; return better; });
  }
  function joined(points) {
    const lines = new Map();
    for (const p of points) {
      const key = [p.run.study, p.run.model, p.run.images, p.run.recipe, p.run.seed].join("|");
      if (!lines.has(key)) lines.set(key, []);
      lines.get(key).push(p);
    }
    return [...lines.values()].map((list) => ({ points: list.sort((a, b) => a.x - b.x).map((p) => [p.x, p.y]), colour: list[0].colour, dash: "1.5 3" }));
  }
  const shown = () => runs.filter((run) => visible(run) && errorOf(run));
  const taskName = () => (tasks.find(([key]) => key === state.task) || ["", ""])[1];
  const yAxis = (log) => ({ label: `${taskName()} error`, log, form: pct });
  const blank = { lines: [], bands: [], levels: [], intervals: [] };
  const legible = (width) => Math.min(520, Math.max(330, width * 0.5));

  function drawMain() {
    const axis = AXES[state.x], on = state.show, logx = on["log x"] && !axis.names, logy = on["log y"];
    const names = axis.names && values[state.x].map((v) => GROUPS[state.x].name(v));
    const points = shown().map((run) => mark(run, axis.of(run), errorOf(run)[0], errorOf(run)[1])).filter((p) => !logy || p.y > 0);
    const spec = { ...blank, name: `error against ${axis.label}`, height: legible, points, lines: joined(points), bands: [], levels: [], intervals: [],
      x: { label: axis.label, log: logx, form: names ? (v) => esc(names[v]) : si, at: names && names.map((_, i) => i) }, y: yAxis(logy) };
    if (names) spec.lines = [];
    const compute = state.x === "compute";
    studies.forEach((study, index) => {
      if (state.off.study.has(index)) return;
      const law = study.laws[state.task];
      if (compute && on.law && law && law.curve.length) {
        const dash = index ? `${7 - index} 3` : "7 4";
        spec.bands.push(law.curve.map((p) => [p[0], p[2], p[3]]));
        spec.lines.push({ points: law.curve.map((p) => [p[0], p[1]]), colour: "var(--law)", dash, width: 1.7, beyond: true });
      }
      const told = study.forecast;
      if (compute && on.forecast && told && told.mean !== null && `${told.dataset}|${told.shots}` === state.task)
        spec.intervals.push({ x: told.compute, y: told.mean, low: told.low, high: told.high, name: "forecast" });
    });
    if (on.frontier && compute) spec.lines.push({ points: pareto(points).map((p) => [p.x, p.y]), colour: "var(--accent)", width: 2 });
    if (on.floors) spec.levels.push(...floorLevels());
    chart($("main"), spec);
    $("caption").textContent = caption(compute);
  }
  function floorLevels() {
    const levels = new Map();
    studies.forEach((study) => study.floors.filter((f) => f.task === state.task).forEach((f) => {
      if (!levels.has(f.name) || levels.get(f.name) > f.error) levels.set(f.name, f.error);
    }));
    return [...levels].map(([name, y]) => ({ name: `${name} ${pct(y)}`, y }));
  }
  function caption(compute) {
    const words = ["Bars: standard deviation over draws of the support set. Larger markers had more unique images; dotted lines join the durations of one model."];
    if (compute) words.push("Blue: frontier of what is shown.");
    if (compute && studies.some((s) => s.laws[state.task]?.curve.length)) words.push("Dashed: the law fitted to the frontier of all runs, with its 90% interval.");
    studies.forEach((study) => { const law = study.laws[state.task]; if (law && law.verdict) words.push(`${studies.length > 1 ? study.title + ": " : ""}${law.verdict[0].toUpperCase()}${law.verdict.slice(1)}.`); });
    return words.join(" ");
  }

  // ------------------------------------------------------------------ the smaller figures
  const PANELS = [];
  const panel = (title, words, has, spec) => PANELS.push({ title, words, has, spec });
  const sizeOf = (width) => Math.min(320, Math.max(250, width * 0.72));
  function bestOf(key) {
    const best = new Map();
    for (const run of shown()) { const v = key(run); if (!best.has(v) || errorOf(run)[0] < errorOf(best.get(v))[0]) best.set(v, run); }
    const chosen = [...best].sort((a, b) => a[0] - b[0]).map(([v, run]) => mark(run, v, errorOf(run)[0], errorOf(run)[1]));
    return { points: chosen, lines: [{ points: chosen.map((p) => [p.x, p.y]), colour: "var(--soft)", dash: "5 4" }] };
  }
  const varies = (key) => differ(runs.map(key));

  panel("What larger models do with each image", "Error against images seen: lower curves learn more from the same images.",
    () => varies((r) => r.seen), () => {
      const points = shown().map((r) => mark(r, r.seen, errorOf(r)[0], errorOf(r)[1]));
      return { points, lines: joined(points), x: { label: "images seen", log: true, form: si }, y: yAxis(true) };
    });
  panel("The best of each model size", "Where this line flattens, another model size alone no longer helps.",
    () => varies((r) => r.forward), () => ({ ...bestOf((r) => r.forward), x: { label: "forward FLOPs an image", log: true, form: si }, y: yAxis(true) }));
  panel("The best of each data size", "The best run at each number of unique images: how soon images run short.",
    () => varies((r) => r.unique), () => ({ ...bestOf((r) => r.unique), x: { label: "unique images", log: true, form: si }, y: yAxis(true) }));
  panel("Few shots", "Error of the best run by examples a class, beside the floors that need no training.",
    () => tasks.length > 1, fewShot);
  panel("Learning rates", "Shorter runs branch off the longest one's plateau and cool down; here the largest model.",
    () => runs.some((r) => r.rates.length > 2), rates);
  panel("Training", "Loss of each run against its steps, as far as it was logged.",
    () => runs.some((r) => r.curve.length > 1), training);

  function fewShot() {
    const dataset = state.task.split("|")[0], best = bestOf((r) => r.model).points.map((p) => p.run);
    const of = (key) => Number(key.split("|")[1]);
    const keys = tasks.map(([key]) => key).filter((key) => key.split("|")[0] === dataset).sort((a, b) => of(a) - of(b));
    const points = best.flatMap((run) => keys.filter((k) => run.errors[k]).map((k) => mark(run, of(k), run.errors[k][0], run.errors[k][1])));
    const lines = joined(points);
    for (const name of unique(studies.flatMap((s) => s.floors.map((f) => f.name)))) {
      const all = studies.flatMap((s) => s.floors.filter((f) => f.name === name));
      const line = keys.map((k) => [of(k), least(all.filter((f) => f.task === k).map((f) => f.error))]).filter((p) => Number.isFinite(p[1]));
      lines.push({ name, points: line, colour: "var(--warn)", dash: name.includes("pixel") ? "2 4" : "6 3" });
    }
    return { points, lines, x: { label: `examples a class, ${dataset}`, log: true, form: si }, y: { label: "error", log: true, form: pct } };
  }
  function rates() {
    const kept = runs.filter(visible), top = most(kept.map((r) => r.forward)), data = most(kept.map((r) => r.images || Infinity));
    const family = kept.filter((r) => r.forward === top && (r.images || Infinity) === data);
    const longest = most(family.map((r) => r.steps));
    const lines = family.map((r) => ({ points: r.rates, colour: values.recipe.length > 1 ? colour(r) : ramp(Math.sqrt(r.steps / longest), 2), width: 1.8, run: r.id }));
    return { points: [], lines, x: { label: "steps", log: false, form: si }, y: { label: "learning rate", log: false, form: (v) => (v ? v.toExponential(1).replace(".0e", "e") : "0") } };
  }
  function training() {
    const all = runs.filter((r) => visible(r) && r.curve.length > 1);
    const lines = all.map((r) => ({ points: r.curve, colour: colour(r), width: 1, dash: r.images ? "4 2" : "", run: r.id }));
    return { points: [], lines, x: { label: "steps", log: false, form: si }, y: { label: "training loss", log: false, form: (v) => trim(v) } };
  }
  function drawPanels() {
    const host = $("panels"), kept = [...PANELS.entries()].filter(([index, item]) => item.has() && (state.task || index > 3));
    host.hidden = !kept.length;
    // all frames first: the width of one depends on how many there are
    for (const [index, item] of kept)
      if (!$(`panel${index}`)) host.insertAdjacentHTML("beforeend", `<div><h3>${item.title}</h3><p class="caption">${item.words}</p><figure id="panel${index}"></figure></div>`);
    for (const [index, item] of kept) chart($(`panel${index}`), { ...blank, name: item.title, height: sizeOf, ...item.spec() });
  }

  // ------------------------------------------------------------------ tables
  const COLUMNS = [
    ["run", "run", (r) => r.run, (v) => esc(v)], ["model", "model", (r) => weight(r.model), (v, r) => esc(r.model)],
    ["recipe", "recipe", (r) => r.recipe, (v) => esc(v)],
    ["images", "unique images", (r) => r.images || Infinity, (v, r) => imagesName(r.images)],
    ["seed", "seed", (r) => r.seed, (v) => v], ["steps", "steps", (r) => r.steps, (v) => v.toLocaleString("en")],
    ["parameters", "parameters", (r) => r.parameters, si], ["compute", "FLOPs", (r) => r.compute, si],
    ["error", "error", (r) => (errorOf(r) || [null])[0], (v, r) => (v === null ? "–" : plus(v, errorOf(r)[1]))],
    ["speed", "images/s", (r) => r.speed, (v) => (v ? si(v) : "–")], ["seconds", "seconds", (r) => r.seconds, (v) => (v ? si(v) : "–")],
  ].filter(([key]) => !["recipe", "seed"].includes(key) || values[key].length > 1);

  function drawRuns() {
    const [, , of] = COLUMNS.find(([key]) => key === state.sort), sign = state.down ? -1 : 1;
    const list = runs.filter(visible).sort((a, b) => { const x = of(a), y = of(b); return x === y ? 0 : x === null ? 1 : y === null ? -1 : (x < y ? -1 : 1) * sign; });
    const best = least(list.map((r) => (errorOf(r) || [Infinity])[0])), kept = state.all ? list : list.slice(0, 60);
    const head = COLUMNS.map(([key, name]) => `<th aria-sort="${key === state.sort ? (state.down ? "descending" : "ascending") : "none"}"><button type="button" data-sort="${key}">${name}${key === state.sort ? (state.down ? " ↓" : " ↑") : ""}</button></th>`);
    const body = kept.map((r) => `<tr data-run="${esc(r.id)}" class="${r.id === state.on ? "on" : ""}">${COLUMNS.map(([key, , value, form]) => `<td class="${key === "error" && value(r) === best ? "best" : ""}">${form(value(r), r)}</td>`).join("")}</tr>`);
    $("runs").innerHTML = `<thead><tr>${head.join("")}</tr></thead><tbody>${body.join("")}</tbody>`;
    $("all").hidden = kept.length === list.length;
    $("all").textContent = `Show all ${list.length} runs`;
  }
  function drawFloors() {
    const rows = studies.flatMap((study, i) => study.floors.map((f) => ({ ...f, study: i }))).filter((f) => f.task === state.task);
    $("floorhead").hidden = !rows.length;
    if (!rows.length) { $("floors").innerHTML = ""; return; }
    const line = (f) => `<tr><td>${esc(f.name)}${f.model ? `, ${esc(f.model)}` : ""}${studies.length > 1 ? ` · ${esc(studies[f.study].title)}` : ""}</td><td>${plus(f.error, f.spread)}</td></tr>`;
    $("floors").innerHTML = `<thead><tr><th><button type="button" tabindex="-1">what needs no training</button></th><th><button type="button" tabindex="-1">${esc(taskName())} error</button></th></tr></thead><tbody>${rows.map(line).join("")}</tbody>`;
  }
  function saveCsv() {
    const facts = ["run", "model", "recipe", "images", "unique", "seed", "steps", "batch", "seen", "compute", "parameters", "forward", "seconds"];
    const cell = (v) => (v === null || v === undefined ? "" : /[",\n]/.test(String(v)) ? `"${String(v).replace(/"/g, '""')}"` : v);
    const lines = [[...facts, "dataset", "shots", "error", "spread", "draws"].join(",")];
    for (const r of runs) for (const [key, error] of Object.entries(r.errors)) lines.push([...facts.map((f) => cell(r[f])), ...key.split("|").map(cell), ...error].join(","));
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
    link.download = "runs.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  // ------------------------------------------------------------------ controls
  function options(select, list, chosen, change) {
    select.innerHTML = list.map(([key, name]) => `<option value="${esc(key)}">${esc(name)}</option>`).join("");
    select.value = chosen;
    select.addEventListener("change", () => { change(select.value); draw(); });
  }
  function setUp() {
    options($("task"), tasks, state.task, (v) => { state.task = v; });
    options($("xaxis"), Object.entries(AXES).filter(([k, a]) => (a.names ? values[k].length > 1 : varies(a.of))).map(([k, a]) => [k, a.label]), state.x, (v) => { state.x = v; });
    const groups = Object.entries(GROUPS).filter(([key]) => values[key].length > 1);
    options($("colour"), groups.map(([k, g]) => [k, g.label]), state.colour, (v) => { state.colour = v; });
    $("colour").parentElement.hidden = groups.length < 2;
    $("xaxis").parentElement.hidden = !$("xaxis").options.length;
    $("switches").innerHTML = Object.keys(state.show).map((key) => `<label><input type="checkbox" data-show="${key}" checked> ${key}</label>`).join("");
    $("switches").addEventListener("change", (event) => { state.show[event.target.dataset.show] = event.target.checked; draw(); });
    $("chips").addEventListener("click", (event) => {
      const chip = event.target.closest("button");
      if (!chip) return;
      const group = chip.dataset.group, value = values[group][chip.dataset.index], off = state.off[group];
      if (off.has(value)) off.delete(value);
      else if (off.size === 0 && values[group].length > 2) values[group].forEach((v) => v !== value && off.add(v));
      else off.add(value);
      if (off.size === values[group].length) off.clear();
      draw();
      const again = $("chips").querySelector(`[data-group="${group}"][data-index="${chip.dataset.index}"]`);
      if (again) again.focus({ preventScroll: true });
    });
    $("runs").addEventListener("click", (event) => {
      const sort = event.target.closest("[data-sort]"), row = event.target.closest("[data-run]");
      if (sort) { state.down = state.sort === sort.dataset.sort ? !state.down : false; state.sort = sort.dataset.sort; drawRuns(); }
      else if (row) pick(row.dataset.run);
    });
    $("all").addEventListener("click", () => { state.all = true; drawRuns(); });
    $("csv").addEventListener("click", saveCsv);
    $("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; draw(); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    for (const when of ["beforeprint", "afterprint"]) addEventListener(when, draw);
    addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  }
  function drawChips() {
    const icon = (group, value) => {
      const run = runs.find((r) => GROUPS[group].of(r) === value);
      const fill = group === state.colour ? colour(run) : "var(--faint)";
      return `<svg width="14" height="14" viewBox="0 0 14 14" style="width:14px" aria-hidden="true"><path d="${marker(group === shaped ? shape(run) : "circle", 7, 7, group === "images" ? Math.min(6, radius(run) * 0.7) : 5)}" fill="${fill}"/></svg>`;
    };
    const groups = Object.keys(GROUPS).filter((key) => values[key].length > 1 && values[key].length <= 24);
    $("chips").innerHTML = groups.map((key) => `<div>${GROUPS[key].label} ${values[key].map((v, i) => `<button type="button" data-group="${key}" data-index="${i}" aria-pressed="${!state.off[key].has(v)}">${icon(key, v)}${esc(GROUPS[key].name(v))}</button>`).join("")}</div>`).join("");
  }
  function draw() {
    if (state.task) { drawChips(); drawMain(); drawFloors(); }
    drawPanels();
    drawRuns();
  }

  setUp();
  $("explore").hidden = !state.task;
  $("tables").hidden = !runs.length;
  $("panels").hidden = false;
  draw();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; requestAnimationFrame(draw); } });
})();
