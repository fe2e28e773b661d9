"""Every key of a run has a range that is kept: through each end, NaN, infinity, wrong types and overrides."""

import math
import random

import pytest
import yaml

from scalevit import config
from scalevit.config.key_ranges import KEYS, describe_keys
from scalevit.config.load import dump, load, to_dict
from scalevit.config.presets import PRESETS
from scalevit.config.run import Run
from scalevit.config.validate import ConfigErrors, leaf_values, nearest_divisors, range_errors

HINTS = {info.key: info for info in describe_keys()}
NUMBERS = [key for key, (_, bounds) in KEYS.items() if bounds is not None]


def is_int(key):
    return HINTS[key].type.removeprefix("list of ").startswith("int")


def test_the_table_has_every_key_and_no_other():
    assert list(leaf_values(Run())) == list(KEYS) == [info.key for info in describe_keys()]
    assert all(info.meaning for info in describe_keys())
    numbers = {info.key for info in describe_keys() if "int" in info.type or "float" in info.type}
    assert numbers == set(NUMBERS)


def test_every_default_and_every_preset_lies_inside():
    for run in (Run(), *PRESETS.values()):
        assert range_errors(leaf_values(run)) == {}


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_accepted_up_to_the_ends_of_its_range_and_no_further(key):
    bounds = KEYS[key][1]
    step = (lambda value, sign: value + sign) if is_int(key) else lambda v, s: math.nextafter(v, s * math.inf)
    many = "list" in HINTS[key].type

    def refused(value):
        return key in range_errors({key: (value,) if many else value})

    for end, outward, open_end in ((bounds.low, -1, bounds.open_low), (bounds.high, 1, bounds.open_high)):
        assert refused(end) == open_end
        assert not refused(step(end, -outward))
        assert refused(step(end, outward))
        assert refused(outward * math.inf)
    assert refused(math.nan)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    "value", [".nan", ".inf", "-.inf", "many", "true", "2020-01-01", "{a: 1}", "9e999", "[[1]]"]
)
def test_what_is_no_such_number_is_refused_by_name(key, value):
    with pytest.raises(ConfigErrors) as caught:
        load("demo", [f"{key}={value}"])
    assert any(line.startswith(key) for line in caught.value.errors)
    assert len(str(caught.value)) < 2000


def test_the_nearest_value_is_right_itself():
    for key in NUMBERS:
        for value in (-1e30, 1e30):
            errors = range_errors({key: value})
            nearest = float(errors[key].rpartition("nearest: ")[2].replace("about ", "").replace(",", ""))
            assert key not in range_errors({key: nearest}), key


@pytest.mark.parametrize(
    "text",
    [
        "train.batch.size=7",
        "name.foo=3",
        "schedule.lr.peak=1",
        "train=5",
        "train={}",
        "model={image: 32}",
        "=5",
        ".=5",
        "train.=5",
        "train..batch=5",
        "batch=5",
        "x",
    ],
)
def test_an_override_without_effect_is_refused(text):
    with pytest.raises(ConfigErrors):
        load("demo", [text])


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigErrors) as caught:
        load("demo", ["train.batch=many", "optimizer.clip=-1", "optimizer.beta2=1", "guard.window=0"])
    assert len(caught.value.errors) == 4


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            "a: &a [x, x]\nb: &b [*a, *a]\n"
            + "".join(
                f"{chr(c)}: &{chr(c)} [" + ", ".join([f"*{chr(c - 1)}"] * 9) + "]\n"
                for c in range(ord("c"), ord("k"))
            ),
            "values",
        ),
        ("name: " + "[" * 3000, "nested"),
        ("a: &a [*a]", "itself"),
        ("train: {batch: 1, batch: 2}", "twice"),
        ('{"train": {"batch": 1, "batch": 2}}', "twice"),
        ("{" * 9999, "nested"),
        ("schedule: {steps: " + "9" * 5000 + "}", "digits"),
        ("? [a]\n: 1", "unhashable"),
        ("\x00", "special characters"),
        ("train: null", "expected keys"),
    ],
)
def test_documents_from_strangers_are_refused_in_a_line(tmp_path, text, word):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=word) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_nearest_divisors():
    for number in range(1, 60):
        divisors = [d for d in range(1, number + 1) if number % d == 0]
        for to in range(1, 70):
            near = nearest_divisors(number, to)
            assert set(near) <= set(divisors)
            assert near[0] == max((d for d in divisors if d <= to), default=1)
            assert near[-1] == min((d for d in divisors if d >= to), default=number)


def test_random_edits_are_refused_or_seen(tmp_path):
    """500 edits of run.yaml or by override: what is accepted stands in the run as it was given."""
    random.seed(5)
    accepted = 0
    values = [
        "0",
        "1",
        "-1",
        "7",
        "0.5",
        "1e-3",
        ".nan",
        ".inf",
        "-.inf",
        "1e400",
        "null",
        "true",
        "x",
        "[]",
        "[1]",
        "[1, x]",
        "{a: 1}",
        "'7'",
        "1.5",
        "12345678901234567890",
        "~",
        "0x10",
        "2020-01-01",
        "fp32",
        "adam",
        "gap",
    ]
    keys = list(KEYS)
    for trial in range(500):
        key, value = random.choice(keys), random.choice(values)
        key = random.choice([key, key, key, key + random.choice(["x", ".y", ""]), key.replace(".", "..", 1)])
        try:
            if trial % 2:
                run = load("demo", [f"{key}={value}"])
            else:
                run = load(str(edited(tmp_path, key, value)))
        except ValueError as error:
            assert all(len(line) < 700 for line in str(error).splitlines())
            continue
        accepted += 1
        assert same(leaf_values(run)[key], yaml.safe_load(value)), (key, value)
        assert load_again(tmp_path, run) == run
    assert accepted > 25


def edited(folder, key, value):
    tree = to_dict(load("demo"))
    *sections, last = key.split(".")
    inner = tree
    for section in sections:
        inner = inner.setdefault(section, {})
        if not isinstance(inner, dict):
            break
    else:
        inner[last] = yaml.safe_load(value)
    path = folder / "edited.yaml"
    path.write_text(yaml.safe_dump(tree) if isinstance(inner, dict) else f"{key}: {value}\n")
    return path


def load_again(folder, run):
    path = folder / "again.yaml"
    path.write_text(dump(run))
    return load(str(path))


def same(kept, given):
    if isinstance(kept, tuple):
        given = given if isinstance(given, list) else [given]
        return len(kept) == len(given) and all(map(same, kept, given))
    return kept == (type(kept)(given) if isinstance(given, str) and kept is not None else given)


def test_overrides_of_a_run_apply_to_it():
    assert config.override(load("demo"), ["train.seed=3"]).train.seed == 3
