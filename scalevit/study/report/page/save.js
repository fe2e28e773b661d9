// What can be taken from the page: each figure's data and picture, and all runs as CSV.
const SAVES = `<span class="save"><button type="button" data-save="csv">CSV</button><button type="button" data-save="svg">SVG</button></span>`;
const STYLED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "paint-order", "opacity", "font-family", "font-size"];
// text that a spreadsheet would read as a formula gets an apostrophe
const plain = (v) => (typeof v === "string" && /^[=+\-@\t\r]/.test(v) ? `'${v}` : v);
const quoted = (v) => (/[",\r\n]/.test(String(v)) ? `"${String(v).replace(/"/g, '""')}"` : v);
const cell = (v) => (v === null || v === undefined ? "" : quoted(plain(v)));
const csv = (rows) => rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
function hand(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
// marks with their runs; then curves, with what they are curves of
function figureCsv({ points, lines, x, y, table }) {
  if (table) return csv(table);
  const facts = ["run", "model", "recipe", "images", "seed", "steps"];
  const called = (line) => line.told || line.name || (line.run && line.run.slice(line.run.indexOf("/") + 1));
  const curves = lines.filter(called);
  return csv([
    [...facts, x.label, y.label, "spread"],
    ...points.map((p) => [...facts.map((f) => p.run[f]), p.x, p.y, p.spread]),
    ...curves.flatMap((line) => line.points.map(([px, py]) => [called(line), ...facts.slice(1).map(() => ""), px, py, ""])),
  ]);
}
// the page's styles are not in a picture that leaves it
function figureSvg(svg) {
  const copy = svg.cloneNode(true), inside = [...copy.querySelectorAll("*")];
  [...svg.querySelectorAll("*")].forEach((node, i) => { const style = getComputedStyle(node); for (const key of STYLED) inside[i].style.setProperty(key, style.getPropertyValue(key)); });
  const [, , width, height] = svg.getAttribute("viewBox").split(" ");
  // cut in two, so that the page holds no address
  for (const [key, value] of Object.entries({ xmlns: "http:" + "//www.w3.org/2000/svg", width, height })) copy.setAttribute(key, value);
  copy.style.background = getComputedStyle(svg.parentElement).backgroundColor;
  return copy.outerHTML;
}
function saveFigure(figure, kind) {
  const name = figure.spec.name.replace(/\W+/g, "-").toLowerCase();
  if (kind === "csv") hand(`${name}.csv`, "text/csv", figureCsv(figure.spec));
  else hand(`${name}.svg`, "image/svg+xml", figureSvg(figure.querySelector("svg")));
}
function saveRuns() {
  const facts = ["run", "model", "recipe", "images", "unique", "seed", "steps", "batch", "seen", "compute", "parameters", "forward", "seconds", "speed", "memory"];
  const rows = runs.flatMap((r) => Object.entries(r.errors).map(([key, error]) => [...facts.map((f) => r[f]), ...key.split("|"), ...error]));
  hand("runs.csv", "text/csv", csv([[...facts, "dataset", "shots", "error", "spread", "draws"], ...rows]));
}
