"""Label files as people write them: any delimiter and column order, quoted, with a head line or without."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalevit.evals.datasets.label_file import read_labels

IMAGES = [Path("/set/a/1.jpg"), Path("/set/a/2.jpg"), Path("/set/b/3.jpg")]
NAMES = ("cat", "dog", "a b")


@pytest.mark.parametrize(
    "text",
    [
        "1\n0\n1\n", "label\n1\n0\n1\n", "1.0\n0.0\n1.0\n", "dog\ncat\ndog\n",
        "1.jpg,1\n2.jpg,0\n3.jpg,1\n", "file,label\n1.jpg,1\n2.jpg,0\n3.jpg,1\n",
        "1.jpg;1\n2.jpg;0\n3.jpg;1\n", "1.jpg\t1\n2.jpg\t0\n3.jpg\t1\n", "1.jpg 1\n2.jpg 0\n3.jpg 1\n",
        '"1.jpg","1"\n"2.jpg","0"\n"3.jpg","1"\n', "1,1.jpg\n0,2.jpg\n1,3.jpg\n",
        "label,name\n1.0,1.jpg\n0.0,2.jpg\n1.0,3.jpg\n",
        "\ufeffname,width,label\na/1.jpg,9,dog\na/2.jpg,9,cat\nb/3.jpg,9,dog\n",
        "3.jpg,1\n1.jpg,1\n2.jpg,0\n9.jpg,0\n",
    ],
)  # fmt: skip
def test_labels_as_people_write_them(tmp_path, text):
    (tmp_path / "labels.txt").write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / "labels.txt", IMAGES, 2, NAMES) == [(1,), (0,), (1,)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n0\n", "2 labels for 3 images"),
        ("1.jpg,1\n2.jpg,0\n", "no label for 3.jpg"),
        ("x.jpg,cat\ny.jpg,dog\n", "no column names the images"),
        ("1.jpg,1\n2.jpg,bird\n3.jpg,1\n", "must be a number or a WordNet id, found 'bird'"),
        ("1.jpg,1,2\n2.jpg,0,2\n3.jpg,1,2\n", "several columns may hold the label"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_labels(tmp_path / "labels.csv", IMAGES, 2, NAMES)
    assert "\n" not in str(error.value)


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet='01.,;\t "\n[]{}:nulabcjpg-', max_size=80), st.sampled_from([".txt", ".csv", ".json"])
)
def test_any_text_is_read_or_refused(tmp_path_factory, text, suffix):
    path = tmp_path_factory.mktemp("labels") / f"labels{suffix}"
    path.write_text(text)
    try:
        assert len(read_labels(path, IMAGES, 2, NAMES)) == len(IMAGES)
    except ValueError as error:
        assert "\n" not in str(error)
