"""The search finds every hash within the radius, copies are found, and what only looks coarse alike stays."""

import numpy as np
from pictures import encoded, picture
from PIL import Image, ImageEnhance

from scalevit.data.dataset import open_dataset
from scalevit.data.dedup.phash import CROPS, distance, luminance, phash, views
from scalevit.data.dedup.search import HashTable, candidates, confirmed, evaluation_table, thumbnails
from scalevit.data.exclusions import read_exclusions, skip_excluded
from scalevit.data.index.build import build


def test_the_search_is_exact():
    draw = np.random.default_rng(0)
    hashes = draw.integers(0, 2**64, 300, dtype=np.uint64)
    queries = np.concatenate([hashes, draw.integers(0, 2**64, 100, dtype=np.uint64)])
    for place in range(300):
        for bit in draw.choice(64, place % 11, replace=False):
            queries[place] ^= np.uint64(1) << np.uint64(bit)
    bits = distance(queries[:, None], hashes[None, :])
    for radius in (0, 3, 7):
        who, entry, found = HashTable(hashes).near(queries, radius)
        assert {*zip(who, entry)} == {*zip(*np.nonzero(bits <= radius))}
        assert (found == bits[who, entry]).all()


def test_the_hash_sees_the_picture_not_its_light():
    one, other = luminance(picture(1, 160, 120)), luminance(picture(2, 160, 120))
    hashes = np.array([phash(one), phash(one * 0.8 + 10), phash(other)], np.uint64)
    bits = distance(hashes[:1], hashes)
    assert bits[1] <= 2 and bits[2] > 15


def test_images_smaller_than_the_hash_are_hashed_alike_by_index_and_search():
    pictures = [picture(seed, 28, 28) for seed in range(40)]
    indexed = np.array([phash(luminance(one, 32)) for one in pictures], np.uint64)
    searched = np.array([phash(views(luminance(one))[0]) for one in pictures], np.uint64)
    assert distance(indexed, searched).mean() < 0.5


def test_views_are_crops_and_their_mirrors():
    grey = luminance(picture(3, 200, 100))
    seen = views(grey)
    assert len(seen) == 2 * len(CROPS)
    assert np.array_equal(seen[0], grey) and np.array_equal(seen[1], grey[:, ::-1])
    assert seen[4].shape == (90, 180)


def copies(image: Image.Image) -> dict[str, Image.Image]:
    width, height = image.size
    return {
        "same": image,
        "halved": image.resize((width // 2, height // 2)),
        "mirrored": image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        "brighter": ImageEnhance.Brightness(image).enhance(1.1),
        "cropped": image.crop(
            (round(0.04 * width), round(0.01 * height), round(0.99 * width), round(0.96 * height))
        ),
    }


def test_planted_copies_are_removed_and_nothing_else(tmp_path):
    from scalevit.cli.main import main

    for number in range(6):
        target = tmp_path / "eval/x" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(encoded(picture(number, 200, 150), "PNG"))
        for kind, copy in copies(Image.fromarray(picture(number, 200, 150))).items():
            folder = tmp_path / "train/x"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"copy-{number}-{kind}.jpg").write_bytes(encoded(np.asarray(copy)))
            (folder / f"own-{number}-{kind}.jpg").write_bytes(
                encoded(picture(100 + number * 10 + len(kind), 200, 150))
            )
    train = str(tmp_path / "train")
    arguments = ["data", "dedup", train, str(tmp_path / "eval"), "--out", str(tmp_path / "ex.txt")]
    assert main(arguments) == 2  # not indexed yet
    build(train)
    assert main(arguments) == 0
    store = open_dataset(train)
    gone = [store.name(int(n)).split("/")[-1] for n in read_exclusions(str(tmp_path / "ex.txt"), store)]
    assert len(gone) == 30 and all(name.startswith("copy") for name in gone)


def test_a_model_is_asked_for_a_second_opinion(tmp_path, monkeypatch, capsys):
    """Mean colours as features: a copy in another light lies further away; a bound of 2 keeps all."""
    from scalevit.cli.main import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "opinion.py").write_text("def colours(images):\n    return images.mean((2, 3)) + 1\n")
    base = picture(1, 200, 150)
    green = (base * np.array([1, 0.9, 0.95])).round().astype(np.uint8)
    for place, pixels in (("eval/x/1", base), ("train/x/same", base), ("train/x/green", green)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{place}.png").write_bytes(encoded(pixels, "PNG"))
    build("train")
    words = ["data", "dedup", "train", "eval", "--out", "ex.txt"]
    removed = []
    for more in ([], ["--distance", "2"], ["--distance", "1e-6"]):
        assert main([*words, *(["--confirm", "opinion:colours", *more] if more else [])]) == 0
        removed.append(capsys.readouterr().out.split()[0])
    assert removed == ["2", "2", "1"]
    assert main([*words, "--distance", "1"]) == 2
    assert "--distance goes with --confirm MODEL" in capsys.readouterr().err


def test_confirming_keeps_what_only_hashes_alike(tmp_path):
    for name, seed in (("eval", 1), ("train", 2)):
        (tmp_path / name / "x").mkdir(parents=True)
        (tmp_path / name / "x/1.png").write_bytes(encoded(picture(seed, 96, 96), "PNG"))
    train, evaluation = open_dataset(str(tmp_path / "train")), open_dataset(str(tmp_path / "eval"))
    table, owners = evaluation_table(evaluation)
    matches = next(candidates(table.hashes[:1], table, owners))  # as if the training image hashed the same
    assert confirmed(matches, train, thumbnails(evaluation)) is None
    assert confirmed(matches, evaluation, thumbnails(evaluation)) == matches[0]


def test_skipping_counts_without_the_excluded():
    excluded = np.array([0, 3, 4, 9])
    kept = [n for n in range(12) if n not in excluded]
    assert skip_excluded(np.arange(8), excluded).tolist() == kept
