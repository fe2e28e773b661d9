"""What must not enter the weights does not, and the run is the one that never saw that data."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_loop import BATCH, assert_same, batch, everything, fresh, recipe

from scalevit.artifacts import dcp
from scalevit.config.result import RunFailed
from scalevit.config.run import Guard
from scalevit.train.loop import Callbacks, checkpoint_shards, restore, scalar_state, train
from scalevit.train.loss_guard import check_loss, skip_offset, update_history

BAD = 7


def test_what_is_wrong():
    guard = Guard(spike=6.0, window=5)
    usual = [2.0, 2.1, 1.9, 2.05, 1.95]
    assert check_loss(2.2, 1.0, usual, guard) is None
    assert "nan" in (check_loss(math.nan, 1.0, usual, guard) or "")
    assert "inf" in (check_loss(2.0, math.inf, usual, guard) or "")
    assert "2 ± 0.05 is usual" in (check_loss(2.4, 1.0, usual, guard) or "")
    assert check_loss(2.29, 1.0, usual, guard) is None  # 6 × 0.05 above the median is 2.3
    assert check_loss(9.0, 1.0, usual[:4], guard) is None  # too little history
    assert check_loss(9.0, 1.0, usual, Guard(window=5)) is None  # spikes are not looked at unless asked


def test_equal_losses_do_not_make_noise_a_spike():
    """A median absolute deviation of 0 says nothing about noise: half a per cent above is no spike of 6."""
    guard, equal = Guard(spike=6.0, window=5), [2.0] * 5
    assert check_loss(2.01, 1.0, equal, guard) is None
    assert "is usual" in (check_loss(2.02, 1.0, equal, guard) or "")


def test_history_is_a_window():
    history: list[float] = []
    for loss in range(9):
        update_history(history, loss, Guard(spike=1.0, window=4))
    assert history == [5, 6, 7, 8]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=4))
def test_skipping_only_moves_on(skips):
    taken = [step + skip_offset(step, skips) for step in range(40)]
    assert taken == sorted(set(taken))
    assert taken[-1] == 39 + sum(count for _, count in skips)


def spoil(x, y):
    return x * math.nan, y


def exaggerate(x, y):
    """Labels as probabilities, a thousand times too large: so is the loss."""
    return x, 1000.0 * torch.nn.functional.one_hot(y, 4)


def poisoned(poison, shift=lambda number: number):
    """Batches of which number BAD is spoilt."""

    def from_number(number):
        while True:
            x, y = batch(shift(number))
            yield [poison(x, y) if shift(number) == BAD else (x, y)]
            number += 1

    return from_number


def keeping(tmp_path, told):
    """Hooks that save to disk and go back to the newest save, or to the start."""
    kept = {}

    def save(state):
        folder = tmp_path / str(state.step)
        folder.mkdir()
        dcp.write_index(folder, dcp.write_shards(folder, 0, checkpoint_shards(state))[0])
        kept[state.step] = (folder, scalar_state(state))

    def rewind(state, why):
        told.append(why)
        if kept:
            folder, about = kept[max(kept)]
            restore(state, dcp.ShardReader(folder), about)
            return
        start = fresh()
        state.optimizer.state.clear()
        state.step, state.history = 0, []
        state.model.load_state_dict(start.model.state_dict())
        for name, value in state.average.items():
            value.copy_(start.average[name])
        state.meters.zero_()

    return Callbacks(save=save, rewind=rewind)


@pytest.mark.parametrize("save_every", [0, 4])
@pytest.mark.parametrize(("poison", "word"), [(spoil, "a loss of nan"), (exaggerate, "is usual")])
def test_the_run_is_the_one_that_never_saw_that_data(tmp_path, save_every, poison, word):
    guard, told = Guard(spike=50.0, window=4), []
    state, clean = fresh(), fresh()
    rule = recipe(save_every=save_every, guard=guard)
    assert train(state, poisoned(poison), rule, keeping(tmp_path, told)) is None
    assert len(told) == 1
    assert word in told[0]
    assert f"at step {BAD}" in told[0]
    without = poisoned(poison, shift=lambda number: number + (number >= BAD))
    assert train(clean, without, recipe(guard=guard), Callbacks()) is None
    assert_same(state, clean)
    assert (state.skips, state.rewinds) == ([(BAD, 1)], 1)


def test_a_gradient_that_is_no_number_is_caught_though_the_loss_is_one(tmp_path):
    state, clean, told, seen = fresh(), fresh(), [], itertools.count()
    state.model[0].weight.register_hook(lambda g: g * math.nan if next(seen) == BAD else g)
    assert train(state, poisoned(lambda x, y: (x, y)), recipe(save_every=4), keeping(tmp_path, told)) is None
    assert told == [f"a gradient norm of nan at step {BAD}"]
    without = poisoned(lambda x, y: (x, y), shift=lambda number: number + (number >= BAD))
    assert train(clean, without, recipe(), Callbacks()) is None
    assert_same(state, clean)


def test_a_run_that_keeps_failing_stops_with_what_it_knows(tmp_path):
    def always(number):
        while True:
            yield [(torch.full((BATCH, 6), math.nan), batch(0)[1])]

    state, told = fresh(), []
    before = everything(state)
    with pytest.raises(RunFailed, match="a loss of nan at step 0, after 3 rewinds"):
        train(state, always, recipe(guard=Guard(rewinds=3)), keeping(tmp_path, told))
    assert len(told) == 3
    assert all(torch.equal(value, before[name]) for name, value in everything(state).items())


def test_without_the_guard_nothing_is_looked_at(tmp_path):
    state = fresh()
    assert train(state, poisoned(spoil), recipe(guard=Guard(on=False)), Callbacks()) is None
    assert not all(p.isfinite().all() for p in state.model.parameters())
