"""Foreign configurations: whatever their values are, the answer is a model or one line."""

import copy
import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from scalevit.config.run import Model
from scalevit.model import weights
from scalevit.model.formats.schema import JsonObject, class_names
from scalevit.model.vit import ViT

TINY = Model(shape="Ti/4", width=32, depth=1, mlp=48, heads=4, patch=4, image=16, classes=3, pool="token")
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(-3, 100), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def write_model(folder, kind):
    """A folder of one format: the tensors, and the files of its configuration."""
    model = ViT(TINY)
    if kind == "open_clip":
        folder.mkdir()
        vision = {"layers": 1, "width": 32, "head_width": 8, "patch_size": 4, "image_size": 16}
        about = {"model_cfg": {"vision_cfg": vision}, "preprocess_cfg": {"mean": [0.5] * 3}}
        (folder / "open_clip_config.json").write_text(json.dumps(about))
        tensors = {
            "visual.conv1.weight": torch.ones(32, 3, 4, 4),
            "visual.transformer.resblocks.0.mlp.c_fc.bias": torch.ones(48),
        }
        save_file(tensors, str(folder / "open_clip_model.safetensors"))
        return ["open_clip_config.json"]
    weights.write(model, folder, kind)
    if kind == "timm":
        about = json.loads((folder / "config.json").read_text())
        about.pop("scalevit")
        (folder / "config.json").write_text(json.dumps(about))
    return ["config.json", *(["preprocessor_config.json"] if kind == "hf" else [])]


def places(tree, path=()):
    """Every place of a JSON tree."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def changed(tree, path, value):
    """The tree with another value at one place."""
    tree = copy.deepcopy(tree)
    if not path:
        return value
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return tree


@pytest.mark.parametrize("kind", ["scalevit", "timm", "hf", "open_clip"])
def test_any_value_anywhere_gives_a_model_or_one_line(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp(kind) / "m"
    names = write_model(folder, kind)
    trees = {name: json.loads((folder / name).read_text()) for name in names}
    everywhere = [(name, path) for name, tree in trees.items() for path in places(tree)]

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(everywhere), ODD)
    def attempt(place, value):
        name, path = place
        for other, tree in trees.items():
            (folder / other).write_text(json.dumps(changed(tree, path, value) if other == name else tree))
        try:
            weights.load(folder)
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 1500

    attempt()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply|cannot read"),
        ('{"a": ' * 50 + "1" + "}" * 50, "nested too deeply"),
        ('{"scalevit": NaN}', "NaN is no JSON number"),
        ("[1]", "holds no JSON object"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(tmp_path, text, message):
    weights.save(ViT(TINY), tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        weights.load(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_timm_configuration_cannot_pass_arguments_on(tmp_path):
    weights.save(ViT(TINY), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "config.json").read_text())
    about.pop("scalevit")
    for key in ("pretrained", "cache_dir", "checkpoint_path", "pretrained_cfg"):
        evil = about | {"model_args": {key: "x"}}
        (tmp_path / "m" / "config.json").write_text(json.dumps(evil))
        with pytest.raises(ValueError, match=f"model_args.{key}: no argument that weights from elsewhere"):
            weights.load(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps(about | {"architecture": "hf-hub:some/body"}))
    with pytest.raises(ValueError, match="timm has no architecture 'hf-hub:some/body'"):
        weights.load(tmp_path / "m")


def test_getters_check_types_and_ranges():
    values = JsonObject({"a": True, "b": 3.0, "c": 1e9, "d": [1, 2], "e": "x"}, "config.json")
    assert values.integer("b") == 3 and values.integer("absent", 7) == 7
    for get, message in [
        (lambda: values.integer("a"), "config.json.a: expected an integer"),
        (lambda: values.number("c", low=0, high=10), "config.json.c: expected a number from 0 to 10"),
        (lambda: values.flag("e", False), "config.json.e: expected true or false"),
        (lambda: values.numbers("d", (0, 0, 0), low=0, high=9), "config.json.d: expected 3 numbers"),
        (lambda: values.text("absent"), "config.json.absent is missing"),
    ]:
        with pytest.raises(ValueError, match=message):
            get()


def test_class_names_are_complete_or_absent():
    assert class_names({"0": "cat", "1": "dog"}, 2) == ("cat", "dog") == class_names(["cat", "dog"], 2)
    for found in (
        {"0": "cat"},
        {"0": "LABEL_0", "1": "LABEL_1"},
        ["cat"],
        "ab",
        None,
        [1, 2],
        {"0": "", "1": "b"},
    ):
        assert class_names(found, 2) == ()
