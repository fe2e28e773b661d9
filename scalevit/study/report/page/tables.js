// The tables.
const COLUMNS = [
  ["run", "run", (r) => r.run, (v) => esc(v)],
  ["error", "error", (r) => (errorOf(r) || [null])[0], (v, r) => (v === null ? "–" : plus(v, errorOf(r)[1]))],
  ["model", "model", (r) => weight(r.model), (v, r) => esc(r.model)],
  ["recipe", "recipe", (r) => r.recipe, (v) => esc(v)],
  ["images", "unique images", (r) => r.images || Infinity, (v, r) => imagesName(r.images)],
  ["seed", "seed", (r) => r.seed, (v) => v], ["steps", "steps", (r) => r.steps, (v) => (v ? v.toLocaleString("en") : "–")],
  ["parameters", "parameters", (r) => r.parameters, si], ["compute", "FLOPs", (r) => r.compute, si],
  ["speed", "images/s", (r) => r.speed, (v) => (v ? si(v) : "–")], ["seconds", "seconds", (r) => r.seconds, (v) => (v ? si(v) : "–")],
  ["memory", "GiB", (r) => r.memory, (v) => (v ? trim(v) : "–")],
].filter(([key, , of]) => (["recipe", "seed"].includes(key) ? values[key].length > 1 : !["speed", "seconds", "memory"].includes(key) || runs.some(of)));

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
// every task: the best of the runs shown, beside what needs no training
function drawProbes() {
  const list = runs.filter(visible), names = unique(studies.flatMap((s) => s.floors.map((f) => f.name)));
  const floor = (key, name) => { const e = least(studies.flatMap((s) => s.floors.filter((f) => f.task === key && f.name === name).map((f) => f.error))); return Number.isFinite(e) ? plus(e) : "–"; };
  const line = ([key, name]) => {
    const best = list.filter((r) => r.errors[key]).reduce((a, b) => (a && a.errors[key][0] <= b.errors[key][0] ? a : b), null);
    return `<tr><td>${esc(name)}</td><td>${best ? plus(best.errors[key][0], best.errors[key][1]) : "–"}</td><td>${best ? esc(best.run) : ""}</td>${names.map((n) => `<td>${floor(key, n)}</td>`).join("")}</tr>`;
  };
  const head = ["task", "lowest error", "by run", ...names].map((name) => `<th class="plain">${esc(name)}</th>`);
  $("probes").innerHTML = `<thead><tr>${head.join("")}</tr></thead><tbody>${tasks.map(line).join("")}</tbody>`;
  $("probehead").hidden = !tasks.length;
}
