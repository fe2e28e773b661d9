"""Probes and fine-tunes as nodes of a study: what they cost, when they run, and whose results they are."""

import json
from dataclasses import replace

import pytest
from cluster_study import Quiet
from pretend_study import SPEC, rows, write

from scalevit import config
from scalevit.artifacts import records
from scalevit.cli import main
from scalevit.study.design import downstream, grid
from scalevit.study.design.cost import study_cost
from scalevit.study.design.downstream import Finetune, ProbeSpec
from scalevit.study.design.spec import dump_spec, read_spec
from scalevit.study.launch import scheduler
from scalevit.study.launch.executors.local import LocalExecutor
from scalevit.study.launch.study_folder import write_node_folders, write_study
from scalevit.study.report import figures, results

WIDE = replace(
    SPEC,
    models=SPEC.models[:1],
    probes=(ProbeSpec("mnist", (1, 10), draws=2),),
    finetunes=(Finetune("digits", steps=20, batch=64, lr=0.03, overrides=("model.image=56",)),),
)


def follow(nodes, kind):
    return [node for node in nodes if node.kind == kind]


def test_every_run_is_followed_at_a_cost_known_beforehand():
    nodes = grid.expand(WIDE)
    trained = grid.pretraining_nodes(nodes)
    assert len(follow(nodes, "probe")) == len(follow(nodes, "finetune")) == len(trained) == 6
    model = trained[0].run.model
    shape = model.resolve()
    assert follow(nodes, "probe")[0].flops == 5_000 * shape.flops(28, model.pool, model.classes)
    assert follow(nodes, "finetune")[0].flops == 3 * 20 * 64 * shape.flops(56, model.pool, model.classes)
    assert study_cost(nodes).shared == sum(node.flops for node in nodes)


def test_the_named_sets_have_as_many_images_as_their_cost_says():
    from scalevit.evals.datasets.open import open_probe_set

    for name in ("digits", "photographs", "unseen-strokes"):
        opened = open_probe_set(name)
        assert len(opened.support) + len(opened.query) == pytest.approx(
            downstream.DATASET_SIZES[name], rel=0.001
        )


def test_a_follow_up_starts_when_its_run_has_ended_and_is_blocked_with_it(tmp_path):
    nodes = grid.expand(WIDE, tmp_path / "runs")
    bad = next(node for node in nodes if node.kind == "trunk")
    command = 'echo {0} >> "{1}/order.txt"; {2}; mkdir -p "{3}/checkpoints/step_{4}"; : > "{3}/ended"'

    def words(node, home):
        at = " ".join(f'"{home}/checkpoints/step_{step}"' for step in node.run.train.keep_at)
        fail = f"mkdir -p {at}; exit 2" if node is bad else ":"
        return ["/bin/sh", "-c", command.format(node.name, tmp_path, fail, home, node.at)]

    worker = scheduler.NodeType(words, lambda home: (home / "ended").exists(), scheduler.has_checkpoint)
    outcome = scheduler.run_study(nodes, tmp_path, Quiet(tmp_path), worker, LocalExecutor(2), attempts=1)
    order = (tmp_path / "order.txt").read_text().split()
    assert outcome.states[bad.name] == "failed"
    for node in nodes:
        if node.job is None:
            continue
        if node.after == bad.name:
            assert outcome.states[node.name] == "blocked" and node.name not in order
        else:
            assert order.index(node.name) > order.index(node.after)


def test_what_is_behind_a_blocked_node_is_given_up_too(tmp_path):
    """A chain of longer runs whose trunk fails ends instead of waiting for ever."""
    spec = replace(SPEC, models=SPEC.models[:1], images=(0,), durations=(150,), added_durations=(300, 600))
    worker = scheduler.NodeType(lambda node, home: ["false"], lambda home: False, scheduler.has_checkpoint)

    nodes = grid.expand(spec, tmp_path / "runs")
    outcome = scheduler.run_study(nodes, tmp_path, Quiet(tmp_path), worker, LocalExecutor(1), attempts=1)
    assert [*outcome.states.values()] == ["failed", "blocked", "blocked"]


def test_their_results_are_their_runs_own(tmp_path):
    plain = write(tmp_path / "plain", replace(WIDE, probes=(), finetunes=()))
    nodes = grid.expand(WIDE, tmp_path / "wide" / "runs")
    write_study(tmp_path / "wide", WIDE, nodes)
    write_node_folders(nodes, tmp_path / "wide")
    for node in grid.pretraining_nodes(nodes):
        said = [row | {"run": node.name} for row in rows(node)]
        records.append_records(tmp_path / "wide" / "runs" / node.name, said)
    trunk = next(node for node in nodes if node.kind == "trunk")
    probe, tune = (next(n for n in follow(nodes, k) if n.after == trunk.name) for k in ("probe", "finetune"))
    one = {"run": trunk.name, "kind": "probe", "dataset": "mnist", "shots": 10, "metric": "accuracy"}
    home = tmp_path / "wide" / "runs" / probe.name
    records.append_records(home, [one | {"seed": seed, "step": 600, "value": 0.6} for seed in range(3)])
    home = tmp_path / "wide" / "runs" / tune.name
    begun = replace(tune.run, start=config.Start("there", "abc", trunk.name))
    (home / "run.yaml").write_text(config.dump(begun))
    told = one | {"run": "t", "parent": trunk.name, "kind": "finetune", "dataset": "digits", "shots": None}
    records.append_records(home, [told | {"step": 10, "value": 0.2}, told | {"step": 20, "value": 0.9}])

    found = results.read_results(tmp_path / "wide")
    assert {facts.run for facts in found.facts} == {node.name for node in plain}
    (tuned,) = found.of(("digits fine-tuned", 0))
    assert tuned.facts.run == trunk.name and tuned.error == pytest.approx(0.1)
    (probed,) = found.of(("mnist", 10))
    assert probed.facts.run == trunk.name and probed.draws == 3 and probed.error == pytest.approx(0.4)
    assert found.cost == study_cost(plain)
    without = results.read_results(tmp_path / "wide", without=[trunk.name])
    assert not without.of(("mnist", 10)) and not without.of(("digits fine-tuned", 0))


def test_a_follow_up_that_would_mean_something_else_is_refused(tmp_path):
    nodes = grid.expand(WIDE, tmp_path / "runs")
    write_node_folders(nodes, tmp_path)
    other = replace(WIDE, finetunes=(replace(WIDE.finetunes[0], lr=0.1),))
    with pytest.raises(ValueError, match="means something else by 6 of its runs"):
        write_node_folders(grid.expand(other, tmp_path / "runs"), tmp_path)


def test_in_yaml_and_back(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(dump_spec(WIDE))
    assert read_spec(path) == WIDE


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("probes: [{data: photos/pets}]", "say how many images photos/pets holds"),
        ("probes: [{data: digits}, {data: digits}]", "the same data twice"),
        ("probes: [{shots: 3}]", "expected data"),
        ("probes: [{data: digits, shot: [3]}]", "probes.shots"),
        ("finetunes: [{data: digits, lr: 0}]", "must be positive"),
        ("finetunes: [{data: digits, model.imag: 3}]", "model.image"),
    ],
)
def test_mistakes(line, says, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    path.write_text(f"base: demo\ndurations: [300]\n{line}\n")
    assert main.main(["study", str(path), "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_real_study_probes_and_fine_tunes_and_can_be_given_more_later(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(figures, "FIGURES", {})
    text = (
        "{base: demo, durations: [16], cooldown: 0.25, overrides: [schedule.warmup=2, train.batch=8],"
        " models: [{name: s, width: 32, depth: 1, mlp: 64, heads: 1}]"
    )
    path, out = tmp_path / "s.yaml", tmp_path / "out"
    path.write_text(text + "}")
    assert main.main(["study", str(path), "--out", str(out)]) == 0
    trained = (out / "runs" / "s-fresh-16" / "records.jsonl").read_bytes()
    more = ", probes: [{data: photographs, shots: [5], draws: 2}]"
    more += ", finetunes: [{data: digits, steps: 4, batch: 16}]}"
    path.write_text(text + more)
    capsys.readouterr()
    assert main.main(["study", str(path), "--out", str(out), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["states"].values()) == {"done"}
    assert (out / "runs" / "s-fresh-16" / "records.jsonl").read_bytes() == trained
    found = results.read_results(out)
    assert {("photographs", 5), ("digits fine-tuned", 0)} <= {*found.tasks()} and len(found.facts) == 1
    assert not any("left out" in note for note in found.notes)
