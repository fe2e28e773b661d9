// Controls, and the first drawing.
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
  $("switches").innerHTML = Object.keys(SWITCHES).filter((key) => SWITCHES[key]()).map((key) => `<label><input type="checkbox" data-show="${key}" checked> ${key}</label>`).join("");
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
  $("csv").addEventListener("click", saveRuns);
  document.addEventListener("click", ({ target }) => { if (target.dataset && target.dataset.save) saveFigure(target.closest("figure"), target.dataset.save); });
  $("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; draw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  for (const when of ["beforeprint", "afterprint"]) addEventListener(when, () => { printing = when === "beforeprint"; draw(); });
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
  if (state.task) { drawChips(); if (several) drawMain(); drawProbes(); }
  drawPanels();
  drawRuns();
}

setUp();
// one run is no comparison: its page has the smaller figures and the table
const several = runs.filter((run) => Object.keys(run.errors).length).length > 1;
$("explore").hidden = !state.task || !several;
$("tables").hidden = !runs.length;
$("panels").hidden = false;
draw();
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; requestAnimationFrame(draw); } });
