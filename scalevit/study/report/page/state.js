// What the page knows, what can be varied, and how a run looks.
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
const si = (v) => { if (v === null || v === undefined || !Number.isFinite(v)) return "–"; for (const [size, letter] of SI) if (Math.abs(v) >= size * 0.9995) return trim(v / size) + letter; return trim(v); };
const pct = (v) => (v === null || v === undefined ? "–" : trim(100 * v, v < 0.1 ? 2 : 3) + "%");
const plus = (v, s) => !s ? `${(100 * v).toFixed(1)}%` : `${(100 * v).toFixed(1)} ± ${(100 * s).toFixed(1)}%`;
const esc = (s) => String(s).replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
const imagesName = (n) => (n ? (n < 1e5 ? n.toLocaleString("en") : si(n).replace("G", "B")) : n === null ? "not said" : "all new");
const unique = (list) => [...new Set(list)];
// what a run of other origin does not say is null
const known = (list) => list.filter(Number.isFinite);
const least = (list) => known(list).reduce((a, b) => Math.min(a, b), Infinity);
const most = (list) => known(list).reduce((a, b) => Math.max(a, b), -Infinity);

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
  recipe: { label: "recipe", of: (r) => r.recipe, name: (v) => v || "base", order: (a, b) => a.localeCompare(b, "en", { numeric: true }) },
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
state.colour = studies.length > 1 ? "study" : first(["model", "recipe", "images", "steps", "seed", "study"], (key) => values[key].length > 1);
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
const own = studies.filter((study) => study.own);
