"""Results of other origin: the paper's tables, timm's, a CSV; beside a study on a page and in a figure."""

import math

import pytest
from pretend_study import payload, write

from scalevit.cli import main
from scalevit.config import model_sizes
from scalevit.study.report import external, summary
from scalevit.study.report.frontier_law import frontier_law


def table(tmp_path, text, name="other.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def test_the_papers_tables_are_runs_with_the_compute_that_everything_here_is_counted_in():
    found = external.read(external.Path("paper"))
    (point,) = [
        p for p in found.of(("imagenet", 10)) if (p.facts.model, p.facts.steps) == ("g/14", 400_000)
        and p.facts.images == 3_000_000_000
    ]  # fmt: skip
    assert point.error == pytest.approx(1 - 0.813)
    assert point.facts.compute == 3 * model_sizes.shape("g/14").flops(224) * 400_000 * 4096
    assert {*found.tasks()} == {
        (data, shots) for data in ("imagenet", "cifar100", "pets", "birds") for shots in (5, 10)
    }
    assert frontier_law(found.of(("imagenet", 10))).fit is not None
    assert "external runs" in summary.headline(found) and summary.cards(found) == []


def test_a_csv_says_as_much_as_it_has(tmp_path):
    text = (
        "model,dataset,shots,accuracy,train_flops,unique_images,note\n"
        "mine,digits,10,0.9,1e12,1000,first\nS/16,digits,10,0.95,,,\n"
    )
    first, second = external.read(table(tmp_path, text)).of(("digits", 10))
    assert (first.error, first.facts.compute, first.facts.images) == (pytest.approx(0.1), 1e12, 1000)
    assert math.isnan(first.facts.parameters)
    assert math.isnan(second.facts.compute) and second.facts.parameters == model_sizes.shape(
        "S/16"
    ).parameters(224)


def test_timms_own_table_is_read_as_it_is(tmp_path):
    text = 'model,img_size,top1,top1_err,top5,top5_err,param_count\nbig,448,90,10,99,1,"1,305.08"\n'
    (point,) = external.read(table(tmp_path, text)).of(("imagenet", 0))
    assert (point.error, point.facts.parameters) == (pytest.approx(0.1), pytest.approx(1305.08e6))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model,score\na,1\n", "column error or accuracy"),
        ("model,error\n", "has no rows"),
        ("model,error\na,0.1\nb,12\n", "line 3: an error must be from 0 to 1"),
        ("model,error,compute\na,0.1,much\n", "column 'compute', line 2: 'much'"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, text, says, capsys):
    path = table(tmp_path, text)
    assert main.main(["report", str(path), "--out", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1


def test_a_study_the_paper_and_a_table_stand_on_one_page_and_in_one_figure(tmp_path):
    study, page = tmp_path / "mine", tmp_path / "all.html"
    write(study)
    other = table(tmp_path, "model,dataset,shots,error,compute\nx,digits,10,0.2,1e12\ny,digits,10,0.3,\n")
    words = ["report", str(study), "paper", str(other), "--out", str(page), "--figures", str(tmp_path / "f")]
    assert main.main(words) == 0
    mine, paper, csv = payload(page.read_text())
    assert (mine["own"], paper["own"], csv["own"]) == (True, False, False)
    assert len(paper["runs"]) > 100 and paper["laws"]["imagenet|10"]["curve"]
    assert [run["compute"] for run in csv["runs"]] == [1e12, None]
    drawn = (tmp_path / "f" / "mine" / "figure2_compute.csv").read_text().splitlines()
    assert sum(line.startswith("other,") for line in drawn) == 1


def test_tables_alone_need_a_place_for_the_page(capsys):
    assert main.main(["report", "paper"]) == 2
    assert "--out FILE" in capsys.readouterr().err
