// One chart: scales, marks, labels, pointing, keys.
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

// paper is narrower than the window that it is printed from
const PAPER = { main: 688, panel: 336 };
let printing = false;
const roomOf = (host) => Math.max(240, Math.min(host.clientWidth, printing ? PAPER[host.id] || PAPER.panel : Infinity) - 16);

// spec: {name, x, y: {label, log, form}, lines, bands, points, levels, intervals, height}
function chart(host, spec) {
  const width = roomOf(host), height = spec.height(width);
  const names = (spec.x.at || []).map(spec.x.form), longest = most([0, ...names.map((name) => name.length)]);
  const tilted = names.length * longest * 7 > width - 72, drop = tilted ? Math.min(110, 10 + longest * 4.6) : 42;
  const box = { left: 58, right: width - 14, top: 14, bottom: height - (tilted ? drop + 22 : drop) };
  const inside = (list, i) => list.flatMap((item) => item.map((p) => p[i]));
  const xs = [...spec.points.map((p) => p.x), ...inside(spec.lines.filter((l) => !l.beyond).map((l) => l.points), 0), ...spec.intervals.map((i) => i.x)];
  const ys = [...spec.points.flatMap((p) => [p.y, p.y - p.spread, p.y + p.spread]), ...inside(spec.lines.filter((l) => !l.beyond).map((l) => l.points), 1), ...spec.levels.map((l) => l.y), ...spec.intervals.flatMap((i) => [i.low, i.high])];
  const ends = spec.x.at ? [-0.5, spec.x.at.length - 0.5] : bounds(xs, spec.x.log, 0.06);
  const x = scale(...ends, box.left, box.right, spec.x.log);
  const y = scale(...bounds(ys, spec.y.log, 0.06), box.bottom, box.top, spec.y.log);
  const id = `clip-${host.id || spec.name.replace(/\W+/g, "-")}`;
  const out = [`<svg viewBox="0 0 ${width} ${height}" height="${height}" tabindex="0" role="img" aria-label="${esc(spec.name)}: ${spec.points.length} points; arrow keys walk through them">`,
    `<clipPath id="${id}"><rect x="${box.left}" y="${box.top - 6}" width="${box.right - box.left}" height="${box.bottom - box.top + 6}"/></clipPath>`];
  for (const v of y.ticks(Math.max(3, height / 60)))
    out.push(`<line class="gridline" x1="${box.left}" x2="${box.right}" y1="${y(v)}" y2="${y(v)}"/><text x="${box.left - 7}" y="${y(v) + 4}" text-anchor="end">${spec.y.form(v)}</text>`);
  for (const v of spec.x.at || x.ticks(Math.max(2, (box.right - box.left) / 78)))
    out.push(`<line class="gridline" y1="${box.top}" y2="${box.bottom}" x1="${x(v)}" x2="${x(v)}"/><text ${tilted ? `transform="translate(${x(v) + 4} ${box.bottom + 14}) rotate(-38)" text-anchor="end"` : `x="${x(v)}" y="${box.bottom + 17}" text-anchor="middle"`}>${spec.x.form(v)}</text>`);
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
  host.innerHTML = out.join("") + SAVES;
  host.spec = spec;
  listen(host.firstChild, places.sort((a, b) => a.px - b.px), width);
}
const dim = (run) => (state.on !== null && run !== undefined && run !== state.on ? "dim" : "");

// the point at a share of the way along the joined points
function along(points, share) {
  const at = share * (points.length - 1), low = Math.min(points.length - 2, Math.floor(at));
  if (points.length < 2) return points[0];
  return [0, 1].map((i) => points[low][i] + (at - low) * (points[low + 1][i] - points[low][i]));
}
// floors and the forecast are named where no point is in the way
function placeLabels(spec, out, x, y, box, places) {
  const rows = [], named = [];
  for (const level of spec.levels) {
    let py = y(level.y) - 5;
    while (rows.some((row) => Math.abs(row - py) < 14)) py += 14;
    rows.push(py);
    const length = level.name.length * 6.2;
    const clear = [...places, ...spec.intervals.map((i) => ({ px: x(i.x) - 30, py: y(i.y) - 12 })), ...spec.lines.filter((l) => l.width > 1.5).flatMap((l) => l.points.map((p) => ({ px: x(p[0]), py: y(p[1]) })))];
    const crowd = (from) => clear.filter((q) => q.px > from - 10 && q.px < from + length + 10 && Math.abs(q.py - py + 4) < 15).length;
    const spots = Array.from({ length: 9 }, (_, i) => box.left + 6 + ((box.right - box.left - 12 - length) * i) / 8);
    const from = spots.reduce((best, spot) => (crowd(spot) < crowd(best) ? spot : best), spots[0]);
    out.push(`<text class="halo" x="${from}" y="${py}" style="fill:var(--warn)">${esc(level.name)}</text>`);
  }
  for (const line of spec.lines.filter((l) => l.name && l.points.length)) {
    const length = line.name.length * 6.2, above = [4, 3, 5, 2, 6, 1, 7, 0, 8].map((i) => along(line.points.map((p) => [x(p[0]), y(p[1])]), i / 8));
    const spots = above.flatMap(([px, py]) => [-7, 16].map((up) => ({ from: Math.max(box.left + 4, Math.min(px - length / 2, box.right - length - 4)), py: py + up })));
    const crowd = (s) => [...places, ...named].filter((q) => q.px > s.from - 8 && q.px < s.from + length + 8 && Math.abs(q.py - s.py + 4) < 14).length + (s.py < box.top + 8 || s.py > box.bottom - 4);
    const { from, py } = spots.reduce((best, spot) => (crowd(spot) < crowd(best) ? spot : best), spots[0]);
    for (let px = from; px < from + length; px += 14) named.push({ px, py: py - 4 });
    out.push(`<text class="halo" x="${from}" y="${py}" style="fill:var(--warn)">${esc(line.name)}</text>`);
  }
  for (const i of spec.intervals)
    out.push(`<text class="halo" x="${x(i.x) - 10}" y="${y(i.y) - 9}" text-anchor="end" style="fill:var(--ink)">${esc(i.name)}</text>`);
}

// ------------------------------------------------------------------ pointing and keys
const tip = $("tip");
function tell(run, box) {
  const error = errorOf(run), rows = [
    `${si(run.parameters)} parameters · ${si(run.forward)} FLOPs an image`,
    `${run.steps ? `${si(run.steps)} steps · ` : ""}${si(run.seen)} images seen · ${imagesName(run.images)}${run.images ? " unique" : ""}`,
    `${si(run.compute)} training FLOPs${run.seconds ? ` · ${si(run.seconds)} s` : ""}`,
  ];
  if (run.recipe) rows.unshift(esc(run.recipe));
  if (error) rows.push(`error ${plus(error[0], error[1])}${error[2] > 1 ? ` (${error[2]} draws)` : ""}`);
  if (studies.length > 1) rows.push(esc(studies[run.study].title));
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
