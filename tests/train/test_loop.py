"""The loop with a small MLP: what a step does, and that interruptions leave no trace."""

import pytest
import torch
from tiny_loop import BATCH, STEPS, assert_same, batch, everything, fresh, recipe
from torch import nn

from scalevit.artifacts import dcp
from scalevit.config.lr_schedule import lr_at
from scalevit.train import loop
from scalevit.train.loop import (
    Callbacks,
    accumulate_gradients,
    checkpoint_shards,
    clip_gradients,
    restore,
    scalar_state,
    train,
)


def batches(micro=BATCH):
    def from_step(step):
        while True:
            x, y = batch(step)
            yield list(zip(x.split(micro), y.split(micro)))
            step += 1

    return from_step


def test_a_step_is_the_textbook_one():
    """Against a loop written out by hand: schedule, mean loss, clipping, update, running average."""
    state = fresh(optimizer=torch.optim.SGD)
    weights = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    average = {name: p.clone() for name, p in weights.items()}
    rule = recipe(clip=0.3)
    for step in range(STEPS):
        leaves = {name: p.clone().requires_grad_() for name, p in weights.items()}
        x, y = batch(step)
        hidden = torch.tanh(x @ leaves["0.weight"].T + leaves["0.bias"])
        loss = nn.functional.cross_entropy(hidden @ leaves["2.weight"].T + leaves["2.bias"], y)
        loss.backward()
        norm = sum(p.grad.square().sum() for p in leaves.values()) ** 0.5
        for name, p in leaves.items():
            weights[name] = weights[name] - lr_at(rule.schedule, step) * p.grad * min(1, 0.3 / norm)
            average[name] = 0.9 * average[name] + 0.1 * weights[name]
    train(state, batches(), rule, Callbacks())
    for name, p in state.model.named_parameters():
        torch.testing.assert_close(p.detach(), weights[name], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(state.average[name], average[name], rtol=1e-5, atol=1e-6)


def test_a_polyak_average_is_the_mean_of_the_last_weights():
    state, seen = fresh(), []
    knobs = recipe(ema=0.0, polyak=5)

    def remember(state, _):
        seen.append({name: p.detach().clone() for name, p in state.model.named_parameters()})
        assert state.step >= 5 or all(torch.equal(state.average[n], seen[-1][n]) for n in state.average)

    train(state, batches(), knobs, Callbacks(after_step=remember))
    for name, value in state.average.items():
        mean = torch.stack([weights[name] for weights in seen[4:]]).mean(0)  # those of steps 5 … 12
        torch.testing.assert_close(value, mean, rtol=1e-6, atol=1e-7)


def test_gradients_are_added_up_where_they_are():
    """A second and third micro-batch add to the gradients of the first one, with no copy of them."""
    state, seen = fresh(), []
    for parameter in state.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.data_ptr()))
    accumulate_gradients(state, next(batches(2)(0)), recipe())
    assert len(seen) == 4 * 4 and len({*seen}) == 4


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_accumulating_changes_nothing_but_rounding(micro):
    whole, parts = fresh(), fresh()
    train(whole, batches(), recipe(), Callbacks())
    train(parts, batches(micro), recipe(), Callbacks())
    for a, b in zip(whole.model.parameters(), parts.model.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_clipping_leaves_small_gradients_alone():
    small, large = [torch.tensor([0.3, 0.4])], [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    assert clip_gradients(small, 1.0).item() == pytest.approx(0.5)
    assert small[0].tolist() == pytest.approx([0.3, 0.4])
    assert clip_gradients(large, 1.0).item() == pytest.approx(5.0)
    assert torch.cat(large).tolist() == pytest.approx([0.6, 0.0, 0.8])
    assert clip_gradients(large, 0.0).item() == pytest.approx(1.0)


@pytest.mark.parametrize("at", [1, 4, 5, 11])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_resuming_leaves_no_trace(tmp_path, at, optimizer):
    """Logged means too: they are part of the state."""

    def run(state, rule, logged):
        train(
            state, batches(), rule, Callbacks(log=lambda step, values: logged.append((step, values["loss"])))
        )

    rule, straight, broken = recipe(), fresh(optimizer=optimizer), fresh(optimizer=optimizer)
    logged, again = [], []
    run(straight, rule, logged)
    saved = []

    def stop():
        return "enough" if broken.step == at else None

    callbacks = Callbacks(
        save=lambda s: saved.append((everything(s), scalar_state(s))), stop=stop,
        log=lambda step, values: again.append((step, values["loss"])),
    )  # fmt: skip
    assert train(broken, batches(), rule, callbacks) == "enough"
    places, _ = dcp.write_shards(tmp_path, 0, dcp.unsharded(saved[-1][0]))
    dcp.write_index(tmp_path, places)
    resumed = fresh(optimizer=optimizer)
    restore(resumed, dcp.ShardReader(tmp_path), saved[-1][1])
    assert resumed.step == at
    run(resumed, rule, again)
    assert_same(straight, resumed)
    assert again == logged


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    places, _ = dcp.write_shards(tmp_path, 0, checkpoint_shards(fresh(ema=False)))
    dcp.write_index(tmp_path, places)
    with pytest.raises(ValueError, match=r"average\.0\.bias"):
        restore(fresh(), dcp.ShardReader(tmp_path), {})


def test_what_is_due_when():
    saves, logs, evaluations = [], [], []
    callbacks = Callbacks(
        save=lambda s: saves.append(s.step), log=lambda step, values: logs.append(step),
        evaluate=lambda s: evaluations.append(s.step),
    )  # fmt: skip
    train(fresh(), batches(), recipe(save_every=4, eval_every=6, keep_at=(5,)), callbacks)
    assert (saves, logs, evaluations) == ([4, 5, 8, 12], [5, 10, 12], [6])


def test_stopping_saves_where_it_stops():
    saves = []
    callbacks = Callbacks(save=lambda s: saves.append(s.step), stop=lambda: "please")
    assert train(fresh(), batches(), recipe(), callbacks) == "please"
    assert saves == [1]


def test_bf16_computes_low_and_keeps_high():
    low, high = fresh(), fresh()
    train(low, batches(), recipe(precision="bf16"), Callbacks())
    train(high, batches(), recipe(), Callbacks())
    kept = [*low.model.parameters(), *low.average.values()]
    assert {value.dtype for value in kept} == {torch.float32}
    a, b = (torch.cat([p.detach().flatten() for p in s.model.parameters()]) for s in (low, high))
    assert 0 < (a - b).norm() / b.norm() < 0.05


def test_speed_and_seconds_leave_out_evaluation_and_saving(monkeypatch):
    """On a clock that only data (1 s a batch) and callbacks (100 s each) move."""
    clock, logged = [0.0], []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: clock[0])

    def wait(seconds):
        clock[0] += seconds

    def slow(step):
        for micro_batches in batches()(step):
            wait(1.0)
            yield micro_batches

    state = fresh()
    slow_callbacks = Callbacks(
        log=lambda step, values: logged.append(values["images_per_second"]) or wait(100.0),
        save=lambda s: wait(100.0), evaluate=lambda s: wait(100.0), after_step=lambda s, v: wait(100.0),
    )  # fmt: skip
    train(state, slow, recipe(save_every=4, eval_every=3), slow_callbacks)
    assert state.seconds == STEPS
    assert logged == pytest.approx([BATCH] * 3)
