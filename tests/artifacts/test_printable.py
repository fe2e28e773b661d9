"""Printable text: nothing in it moves a cursor, begins a line or turns the reading order."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from scalevit.artifacts.printable import printable


def test_escapes_line_breaks_and_bidi_are_shown():
    assert printable("n\x1b]0;OWNED\x07\nscalevit: done") == r"n\x1b]0;OWNED\x07\x0ascalevit: done"
    assert printable("abc\u202ecba\u2066") == r"abc\u202ecba\u2066"
    assert printable("a\tb\nc\x9b", keep="\n\t") == "a\tb\nc\\x9b"
    assert printable("Zürich, 東京 ✔") == "Zürich, 東京 ✔"


@given(st.text(st.characters()))
def test_what_is_printable_has_no_control_and_can_be_encoded(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not any(
        unicodedata.bidirectional(c) in ("LRO", "RLO", "LRE", "RLE", "PDF", "LRI", "RLI") for c in shown
    )
    shown.encode()
