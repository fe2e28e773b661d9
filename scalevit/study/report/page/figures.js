// From runs to marks, and the main chart.
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
const shown = (of = () => 1) => runs.filter((run) => visible(run) && errorOf(run) && Number.isFinite(of(run)));
const taskName = () => (tasks.find(([key]) => key === state.task) || ["", ""])[1];
const yAxis = (log) => ({ label: `${taskName()} error`, log, form: pct });
const blank = { lines: [], bands: [], levels: [], intervals: [] };
const legible = (width) => Math.min(520, Math.max(330, width * 0.5));

// which switches do something here
const SWITCHES = {
  "log x": () => true, "log y": () => true,
  law: () => studies.some((s) => Object.values(s.laws).some((law) => law.curve.length)),
  frontier: () => differ(runs.map((r) => r.compute)),
  floors: () => studies.some((s) => s.floors.length),
  forecast: () => studies.some((s) => s.forecast && s.forecast.mean !== null),
};

function drawMain() {
  const axis = AXES[state.x], on = state.show, logx = on["log x"] && !axis.names, logy = on["log y"];
  const names = axis.names && values[state.x].map((v) => GROUPS[state.x].name(v));
  const points = shown(axis.of).map((run) => mark(run, axis.of(run), errorOf(run)[0], errorOf(run)[1])).filter((p) => (!logy || p.y > 0) && (!logx || p.x > 0));
  const spec = { ...blank, name: `error against ${axis.label}`, height: legible, points, lines: joined(points), bands: [], levels: [], intervals: [],
    x: { label: axis.label, log: logx, form: names ? (v) => esc(names[v]) : si, at: names && names.map((_, i) => i) }, y: yAxis(logy) };
  if (names) spec.lines = means(points);
  const compute = state.x === "compute";
  studies.forEach((study, index) => {
    if (state.off.study.has(index)) return;
    const law = study.laws[state.task];
    if (compute && on.law && law && law.curve.length) {
      const dash = index ? `${7 - index} 3` : "7 4";
      spec.bands.push(law.curve.map((p) => [p[0], p[2], p[3]]));
      spec.lines.push({ points: law.curve.map((p) => [p[0], p[1]]), colour: "var(--law)", dash, width: 1.7, beyond: true, told: `law${studies.length > 1 ? ` of ${study.title}` : ""}` });
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
// a short line at the mean of each name's runs
function means(points) {
  return unique(points.map((p) => p.x)).map((x) => {
    const errors = points.filter((p) => p.x === x).map((p) => p.y), mean = errors.reduce((a, b) => a + b, 0) / errors.length;
    return { points: [[x - 0.3, mean], [x + 0.3, mean]], colour: "var(--law)", width: 1.6, beyond: true };
  });
}
function floorLevels() {
  const levels = new Map();
  studies.forEach((study) => study.floors.filter((f) => f.task === state.task).forEach((f) => {
    if (!levels.has(f.name) || levels.get(f.name) > f.error) levels.set(f.name, f.error);
  }));
  return [...levels].map(([name, y]) => ({ name: `${name} ${pct(y)}`, y }));
}
function caption(compute) {
  const words = ["Bars: standard deviation over draws of the support set."];
  if (values.images.length > 1) words.push("Larger markers had more unique images.");
  if (AXES[state.x].names) words.push("Short lines: the mean over seeds and models.");
  else words.push("Dotted lines join the durations of one model.");
  if (compute && SWITCHES.frontier()) words.push("Blue: frontier of what is shown.");
  if (compute && studies.some((s) => s.laws[state.task]?.curve.length)) words.push("Dashed: the law fitted to the frontier of all runs, with its 90% interval.");
  studies.forEach((study) => { const law = study.laws[state.task]; if (compute && law && law.verdict) words.push(`${studies.length > 1 ? study.title + ": " : ""}${law.verdict[0].toUpperCase()}${law.verdict.slice(1)}.`); });
  return words.join(" ");
}
