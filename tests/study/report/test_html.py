"""The report: one file, what it says is what was measured, and a browser opens it without complaint."""

import re
import shutil
import subprocess
import time
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from pretend_study import SPEC, law, payload, write

from scalevit.cli import main
from scalevit.study.report import external, results, summary
from scalevit.study.report import html as report
from scalevit.study.report.held_out_forecast import forecast_held_out
from scalevit.study.report.next_budget import next_budget
from scalevit.study.report.number_format import number, percent
from scalevit.study.report.recipe_table import recipe_table


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "demo"
    nodes = write(folder)
    forecast_held_out(folder, SPEC, nodes)
    return folder


def test_the_page_is_one_small_file_that_asks_no_network(study):
    html = report.render([results.read_results(study)])
    assert len(html.encode()) < 2e6
    assert not re.findall(r"""<\w+[^>]+(?:src|href)=["'](?!data:)|@import|url\((?!#)|https?://""", html)


def test_the_page_holds_every_run_with_its_error_and_the_law(study):
    found = results.read_results(study)
    (inside,) = payload(report.render([found]))
    assert {run["run"] for run in inside["runs"]} == {facts.run for facts in found.facts}
    errors = {run["run"]: run["errors"]["digits|10"][0] for run in inside["runs"]}
    assert errors == pytest.approx({p.facts.run: p.error for p in found.of(("digits", 10))}, rel=1e-4)
    assert len(inside["laws"]["digits|10"]["curve"]) == 80
    assert inside["forecast"]["run"] == "96x4-fresh-600"


def test_the_summary_says_the_numbers_that_matter_with_their_intervals(study):
    found = results.read_results(study)
    words = " ".join(summary.summary(found))
    best = min(p.error for p in found.of(("digits", 10)))
    assert percent(best) in words and "factor" in words
    assert re.search(r"exponent b = 0\.\d\d \[", words)
    assert "inside the 90% interval" in words and "before its result was read" in words
    assert "raw pixels 40.0% ± 0.0 (beaten)" in words
    assert f"{found.cost.share:.0%} of the cost" in words


def test_what_is_not_beaten_and_what_misses_is_said_so(study):
    found = results.read_results(study)
    low = tuple(replace(floor, error=0.01) for floor in found.floors)
    narrow = {**found.forecast, "low": 0.9, "high": 0.95}
    words = " ".join(summary.summary(replace(found, floors=low, forecast=narrow)))
    assert "NOT beaten" in words and "OUTSIDE" in words


def test_recipes_are_compared_best_first_over_seeds(study):
    found = results.read_results(study)
    kept = [p for p in found.of(("digits", 10)) if p.facts.run in ("96x4-fresh-600", "96x4-2048-600")]
    named = [
        replace(p, facts=replace(p.facts, recipe="fresh" if p.facts.images == 0 else "few")) for p in kept
    ]
    twice = [replace(named[0], error=named[0].error + 0.02), *named]
    words = " ".join(summary.summary(replace(found, points=tuple(twice))))
    fresh = sorted(p.error for p in twice if p.facts.recipe == "fresh")
    few = [p.error for p in twice if p.facts.recipe == "few"]
    assert words.index("by recipe: fresh") < words.index(", few ")
    assert f"± {100 * 0.02 / 2**0.5:.1f} over 2 runs" in words
    best, worst = recipe_table(replace(found, points=tuple(twice)))
    assert (best["recipe"], worst["recipe"], best["images/s"]) == ("fresh", "few", "900")
    assert "over 2 runs" in best["error"] and best["optimizer state"].endswith(" MB")
    assert "peak memory" not in best, "no run says it"
    assert percent(sum(fresh) / len(fresh)) in words and percent(sum(few) / len(few)) in words


def test_without_a_law_the_page_says_so_and_still_opens(study):
    found = results.read_results(study)
    points = found.of(("digits", 10))
    few = replace(found, points=(points[0], points[-1]), forecast=None)
    assert any("No law is fitted" in line for line in summary.summary(few))
    assert "too few points" in report.render([few])


def test_recipes_at_one_compute_are_compared_in_the_first_sentence_and_claim_no_law(study):
    found = results.read_results(study)
    top = next(p for p in found.of(("digits", 10)) if p.facts.run == "96x4-fresh-600")
    tried = [("a", 0.3), ("b", 0.1), ("a", 0.32), ("c", 0.2)]
    points = tuple(replace(top, error=e, facts=replace(top.facts, recipe=name)) for name, e in tried)
    one = replace(found, points=points)
    assert summary.headline(one) == (
        "Of 3 recipes, b has the lowest digits 10-shot error, 10.0%; the others reach 20.0% to 31.0%."
    )
    assert "law" not in " ".join(summary.summary(one)).lower()


def test_the_page_begins_with_what_to_remember_and_ends_its_words_with_a_plan(study):
    found = results.read_results(study)
    assert "fell from" in summary.headline(found) and "10 times more should bring" in summary.headline(found)
    names = [name for name, _ in summary.sections(found)]
    assert names == [
        "What was done",
        "What was learnt",
        "How sure this is",
        "What 10 times the compute would buy",
    ]
    together, longer, larger = next_budget(found)
    low, high = (float(n) / 100 for n in re.search(r"\[([\d.]+), ([\d.]+)\]", together["error"]).groups())
    assert low < law(10 * max(p.facts.compute for p in found.points)) < high
    assert "96x4 10 times longer" in longer["what"] and "10 times larger" in larger["what"]
    page = report.render([found])
    assert summary.headline(found) in unescape(page) and "rests on" in page


def test_where_more_training_did_not_help_the_page_says_so_and_plans_nothing(study):
    found = results.read_results(study)
    worse = tuple(replace(p, error=0.1 + 0.05 * p.facts.compute / 1e12) for p in found.points)
    upside_down = replace(found, points=worse)
    assert "did not lower" in summary.headline(upside_down)
    assert next_budget(upside_down) == []
    assert "No law is fitted" in " ".join(summary.summary(upside_down))


def test_a_fall_among_the_cheap_runs_promises_nothing_when_the_dear_ones_are_worse(study):
    found = results.read_results(study)
    most = max(p.facts.compute for p in found.points)
    worse = tuple(replace(p, error=0.7) if p.facts.compute >= most / 3 else p for p in found.points)
    told = summary.headline(replace(found, points=worse))
    assert "did not lower" in told and "should bring" not in told
    assert next_budget(replace(found, points=worse)) == []


def test_what_is_missing_is_named(tmp_path):
    folder = tmp_path / "demo"
    nodes = write(folder)
    none, cut, nan = (folder / "runs" / nodes[i].name / results.records.FILE for i in (0, 1, 2))
    none.write_text("")
    with cut.open("a") as file:
        file.write('{"kind": "probe", "metr\n')
    row = {
        "run": "id",
        "kind": "probe",
        "dataset": "digits",
        "shots": 10,
        "seed": 77,
        "step": nodes[2].duration,
    }
    results.records.append_records(nan.parent, [{**row, "metric": "accuracy", "value": float("nan")}])
    found = results.read_results(folder)
    told = " ".join(dict(summary.sections(found))["What is missing"])
    assert f"1 run without a result at its last step: {nodes[0].name}" in told
    assert (
        f"no valid record, left out: {nodes[1].name}" in told
        and f"which was left out: {nodes[2].name}" in told
    )
    assert all(0 < p.error < 1 for p in found.points)
    report.render([found])


def test_names_cannot_break_out_of_the_page(study):
    found = results.read_results(study)
    nasty = "</script><script>alert(1)</script>"
    named = tuple(replace(facts, model=nasty) for facts in found.facts)
    html = report.render([replace(found, facts=named, title=nasty, points=())])
    assert html.count("<script") == 2


def test_a_folder_without_runs_is_the_users_mistake(tmp_path, capsys):
    assert main.main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    with pytest.raises(ValueError, match="nothing to report"):
        report.render([results.Results("t", (), (), (), {}, {})])


def test_the_command_writes_a_run_or_several_studies(study, tmp_path, capsys):
    both = tmp_path / "both.html"
    assert main.main(["report", str(study), str(study / "runs" / "96x4-fresh-600"), "--out", str(both)]) == 0
    assert len(payload(both.read_text())) == 2
    assert str(both) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "words"),
    [(1.1e13, "1.1 × 10¹³"), (600, "600"), (0.0455, "0.0455"), (45_500, "45,500"), (0, "0")],
)
def test_numbers_as_people_write_them(value, words):
    assert number(value) == words


# --------------------------------------------------------------------------- in a browser

#: Uses every control of the page, then leaves what it saw in the document's title.
WALK = """
<script>
const seen = { errors: [] };
window.onerror = (text) => seen.errors.push(text);
window.addEventListener("load", () => {
  seen.ready = performance.now();
  for (const select of document.querySelectorAll("select"))
    for (const option of [...select.options].map((o) => o.value)) {
      select.value = option; select.dispatchEvent(new Event("change"));
    }
  for (const select of document.querySelectorAll("select")) {
    select.value = select.options[0].value; select.dispatchEvent(new Event("change"));
  }
  for (const box of document.querySelectorAll("input[type=checkbox]")) { box.click(); box.click(); }
  seen.marks = document.querySelectorAll("#main .mark").length;
  seen.rows = document.querySelectorAll("#runs tbody tr").length;
  document.querySelector("#chips button").click();
  seen.filtered = document.querySelectorAll("#main .mark").length;
  document.querySelector("#chips button").click();
  document.querySelector("#chips button").click();
  for (const head of document.querySelectorAll("#runs th button")) head.click();
  document.querySelector("#main svg").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  seen.tip = document.querySelector("#tip b").textContent;
  document.querySelector("#runs tbody tr").click();
  seen.dimmed = document.querySelectorAll("#main .dim").length;
  document.getElementById("theme").click();
  const saved = [];
  window.Blob = class { constructor(parts) { saved.push(parts[0]); } };
  URL.createObjectURL = () => "#";
  for (const button of document.querySelectorAll("[data-save]")) button.click();
  const tables = saved.filter((text) => text.startsWith("run,")), drawn = saved.filter((t) => t[0] === "<");
  const pictures = drawn.map((text) => new DOMParser().parseFromString(text, "image/svg+xml"));
  seen.tables = tables.map((text) => text.trim().split("\\n").length - 1);
  seen.pictures = pictures.filter((one) => one.querySelector("svg > text").style.fontSize).length;
  seen.charts = document.querySelectorAll("figure svg").length;
  seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.requests = performance.getEntriesByType("resource").length;
  seen.broken = (document.querySelector("main").innerHTML.match(/NaN|undefined|Infinity/g) || []).length;
  document.title = JSON.stringify(seen);
});
</script>
"""

#: Only looks.
LOOK = """
<script>
const seen = { errors: [] };
window.onerror = (text) => seen.errors.push(text);
window.addEventListener("load", () => {
  seen.explore = document.getElementById("explore").hidden;
  seen.charts = document.querySelectorAll("figure svg").length;
  seen.tasks = document.querySelectorAll("#probes tbody tr").length;
  seen.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  seen.broken = (document.querySelector("main").innerHTML.match(/NaN|undefined|Infinity/g) || []).length;
  document.title = JSON.stringify(seen);
});
</script>
"""

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
)


def browse(page, profile, width, walk=WALK):
    """(what the walk saw, the browser's console) of the page in headless Chromium."""
    import json

    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    browser = next((path for path in map(shutil.which, names) if path), None)
    assert browser, "this test needs Chromium: apt-get install chromium (or google-chrome) on PATH"
    html = page.read_text()
    walked = page.with_name("walked.html")
    walked.write_text(
        html.replace('<script type="application/json"', walk + '<script type="application/json"', 1)
    )
    command = [browser, *FLAGS.split(), f"--user-data-dir={profile}", f"--window-size={width},1400"]
    done = subprocess.run([*command, walked.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.S)
    assert title, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(unescape(title.group(1))), console


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1600])
def test_a_browser_uses_every_control_without_error_or_request(study, tmp_path, width):
    page = report.write([results.read_results(study)], tmp_path / "report.html")
    seen, console = browse(page, tmp_path / "profile", width)
    assert console == [] and seen["errors"] == []
    assert seen["requests"] == 0 and seen["broken"] == 0
    assert seen["wide"] <= 0, "the page scrolls sideways"
    assert seen["marks"] == seen["rows"] == 18 and seen["charts"] == 8
    assert seen["filtered"] == 6 and seen["dimmed"] > 0
    assert seen["pictures"] == len(seen["tables"]) == 8 and seen["tables"][0] == 6 + 80
    assert seen["tip"].startswith("32x2")


@pytest.mark.slow
def test_a_browser_shows_several_studies_other_origins_and_decays_that_were_both_varied(study, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text("model,dataset,shots,error,compute\nx,digits,10,0.2,1e12\ny,digits,10,0.3,\n")
    found = results.read_results(study)
    points = found.of(("digits", 10))
    pairs = [(head, body) for head in (0.0, 3.0) for body in (0.03, 0.3)]
    varied = {
        point.facts.run: replace(point.facts, head_decay=head, body_decay=body)
        for point, (head, body) in zip(points, pairs * 5)
    }
    decayed = replace(
        found,
        facts=tuple(varied.values()),
        points=tuple(replace(point, facts=varied[point.facts.run]) for point in points),
    )
    studies = [decayed, found, external.read(table), external.read(Path("paper"))]
    page = report.write(studies, tmp_path / "report.html")
    assert "Weight decay of head and body" in page.read_text()
    seen, console = browse(page, tmp_path / "profile", 1600)
    assert console == [] and seen["errors"] == []
    assert seen["requests"] == 0 and seen["broken"] == 0 and seen["wide"] <= 0
    assert seen["marks"] == 18 + 18 + 1 and seen["charts"] == 9


@pytest.mark.slow
def test_a_browser_shows_one_run_without_a_chart_of_one_point(study, tmp_path):
    page = report.write([results.read_results(study / "runs" / "96x4-fresh-600")], tmp_path / "report.html")
    seen, console = browse(page, tmp_path / "profile", 390, LOOK)
    assert console == [] and seen["errors"] == [] and seen["broken"] == 0
    assert seen["explore"] and seen["charts"] == 3 and seen["tasks"] == 2 and seen["wide"] <= 0


@pytest.mark.slow
def test_five_thousand_records_build_in_ten_seconds_and_open_in_two(tmp_path):
    folder = tmp_path / "large"
    write(folder, replace(SPEC, seeds=tuple(range(9))))
    count = sum(len(results.records.read_records(home)) for home in results.records.find_run_folders(folder))
    assert count >= 5000
    began = time.process_time()
    page = report.write([results.read_results(folder)], tmp_path / "report.html")
    assert time.process_time() - began <= 10
    assert page.stat().st_size < 2e6
    seen, console = browse(page, tmp_path / "profile", 1600)
    assert console == [] and seen["ready"] <= 2000
