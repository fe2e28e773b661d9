// The smaller figures, each where the runs can fill it.
const PANELS = [];
// draw: chart, unless the figure is of another kind
const panel = (title, words, has, spec, draw = chart) => PANELS.push({ title, words, has, spec, draw });
const tasked = (has) => () => state.task && has();
const sizeOf = (width) => Math.min(320, Math.max(250, width * 0.72));
function bestOf(key) {
  const best = new Map();
  for (const run of shown((r) => (typeof key(r) === "string" ? 1 : key(r)))) { const v = key(run); if (!best.has(v) || errorOf(run)[0] < errorOf(best.get(v))[0]) best.set(v, run); }
  const chosen = [...best].sort((a, b) => a[0] - b[0]).map(([v, run]) => mark(run, v, errorOf(run)[0], errorOf(run)[1]));
  return { points: chosen, lines: [{ points: chosen.map((p) => [p.x, p.y]), colour: "var(--soft)", dash: "5 4" }] };
}
const varies = (key) => differ(runs.map(key));

panel("What larger models do with each image", "Error against images seen: lower curves learn more from the same images.",
  tasked(() => varies((r) => r.seen)), () => {
    const points = shown((r) => r.seen).map((r) => mark(r, r.seen, errorOf(r)[0], errorOf(r)[1]));
    return { points, lines: joined(points), x: { label: "images seen", log: true, form: si }, y: yAxis(true) };
  });
panel("The best of each model size", "Where this line flattens, another model size alone no longer helps.",
  tasked(() => varies((r) => r.forward)), () => ({ ...bestOf((r) => r.forward), x: { label: "forward FLOPs an image", log: true, form: si }, y: yAxis(true) }));
panel("The best of each data size", "The best run at each number of unique images: how soon images run short.",
  tasked(() => varies((r) => r.unique)), () => ({ ...bestOf((r) => r.unique), x: { label: "unique images", log: true, form: si }, y: yAxis(true) }));
panel("Few shots", "Error by examples a class, the best run of each model, beside the floors that need no training.",
  tasked(() => tasks.filter(([key]) => key.split("|")[0] === state.task.split("|")[0]).length > 1), fewShot);
panel("What more images are worth", "Error of the largest model while training goes on, a line for each number of unique images.",
  tasked(() => values.images.length > 1 && varies((r) => r.steps)), moreImages);
panel("Weight decay of head and body", "Accuracy (%) of the best run of each pair; bluer is better.", tasked(bothDecays), decays, heatMap);
panel("Learning rates", runs.length > 1 ? "The largest model's; without a horizon, shorter runs branch off the longest." : "As the schedule gave them.",
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
function moreImages() {
  const list = shown((r) => r.steps).filter((r) => r.steps), top = most(list.map((r) => r.forward));
  const family = list.filter((r) => r.forward === top);
  const tone = (r) => ramp(rank("images", r), values.images.length);
  const points = family.map((r) => ({ ...mark(r, r.steps, errorOf(r)[0], errorOf(r)[1]), colour: tone(r) }));
  const lines = values.images.map((n) => {
    const mine = family.filter((r) => r.images === n), steps = unique(mine.map((r) => r.steps)).sort((a, b) => a - b);
    const mean = (at) => { const e = mine.filter((r) => r.steps === at).map((r) => errorOf(r)[0]); return e.reduce((a, b) => a + b, 0) / e.length; };
    return { points: steps.map((at) => [at, mean(at)]), colour: mine.length ? tone(mine[0]) : "", width: 1.6 };
  });
  return { points, lines, x: { label: `steps of ${family.length ? family[0].model : ""}`, log: true, form: si }, y: yAxis(true) };
}
// the paper's figure 5, left
function bothDecays() {
  return unique(known(runs.map((r) => r.head_decay))).length > 1 && unique(known(runs.map((r) => r.body_decay))).length > 1;
}
function decays() {
  const list = shown((r) => r.head_decay), order = (key) => unique(list.map((r) => r[key])).sort((a, b) => a - b);
  const best = new Map();
  for (const r of list) { const at = `${r.body_decay}|${r.head_decay}`; if (!best.has(at) || errorOf(r)[0] < errorOf(best.get(at))[0]) best.set(at, r); }
  return { best, across: order("body_decay"), up: order("head_decay") };
}
function heatMap(host, spec) {
  const width = roomOf(host), height = spec.height(width), left = 52, bottom = height - 42;
  const wide = (width - left - 14) / Math.max(1, spec.across.length), high = (bottom - 10) / Math.max(1, spec.up.length);
  const errors = [...spec.best.values()].map((r) => errorOf(r)[0]), low = least(errors), span = most(errors) - low || 1;
  const ends = dark() && !matchMedia("print").matches ? ["#1d2533", "#8fb2ff"] : ["#eef2fb", "#2257c4"];
  const out = [`<svg viewBox="0 0 ${width} ${height}" height="${height}" role="img" aria-label="${esc(spec.name)}">`];
  spec.across.forEach((body, i) => {
    const x = left + i * wide;
    out.push(`<text x="${x + wide / 2}" y="${bottom + 17}" text-anchor="middle">${trim(body)}</text>`);
    spec.up.forEach((head, j) => {
      const run = spec.best.get(`${body}|${head}`), y = bottom - (j + 1) * high;
      if (!run) return;
      const good = 1 - (errorOf(run)[0] - low) / span, text = `${(100 - 100 * errorOf(run)[0]).toFixed(1)}`;
      out.push(`<rect class="${dim(run.id)}" x="${x + 1}" y="${y + 1}" width="${wide - 2}" height="${high - 2}" rx="3" fill="${mix(ends[0], ends[1], good)}"><title>${esc(run.run)}</title></rect>`);
      out.push(`<text class="${good > 0.55 ? "inverse" : "title"}" x="${x + wide / 2}" y="${y + high / 2 + 4}" text-anchor="middle" pointer-events="none">${text}</text>`);
    });
  });
  spec.up.forEach((head, j) => out.push(`<text x="${left - 7}" y="${bottom - (j + 0.5) * high + 4}" text-anchor="end">${trim(head)}</text>`));
  out.push(`<text class="title" x="${(left + width - 14) / 2}" y="${height - 6}" text-anchor="middle">decay of the body</text>`);
  out.push(`<text class="title" transform="translate(13 ${bottom / 2}) rotate(-90)" text-anchor="middle">decay of the head</text></svg>`);
  host.innerHTML = out.join("") + SAVES;
  const table = [...spec.best.values()].map((r) => [r.run, r.head_decay, r.body_decay, ...errorOf(r).slice(0, 2)]);
  host.spec = { ...spec, table: [["run", "head_decay", "body_decay", "error", "spread"], ...table] };
}
function rates() {
  const kept = runs.filter((r) => visible(r) && r.rates.length), size = (r) => r.images || Number.MAX_VALUE;
  const top = most(kept.map((r) => r.forward)), data = most(kept.filter((r) => r.forward === top).map(size));
  const family = kept.filter((r) => r.forward === top && size(r) === data);
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
  const host = $("panels"), kept = [...PANELS.entries()].filter(([, item]) => item.has());
  host.hidden = !kept.length;
  // all frames first: the width of one depends on how many there are
  for (const [index, item] of kept)
    if (!$(`panel${index}`)) host.insertAdjacentHTML("beforeend", `<div><h3>${item.title}</h3><p class="caption">${item.words}</p><figure id="panel${index}"></figure></div>`);
  for (const [index, item] of kept) item.draw($(`panel${index}`), { ...blank, name: item.title, height: sizeOf, ...item.spec() });
}
