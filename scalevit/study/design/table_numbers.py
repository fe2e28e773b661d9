"""Parse numbers as people write them: 1e18, 13B, 300M, 12.5 %, 1,000,000, and decimal commas where certain.

A comma may separate thousands or decimals. `0,5`, `12,34` and `1,5e17` are decimals, `1,234,567` and
`1,234.5` thousands; `1,234` alone may be either, and is refused with the question unless another cell
decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

SUFFIXES = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "M": 1e6,
    "B": 1e9,
    "G": 1e9,
    "bn": 1e9,
    "T": 1e12,
    "P": 1e15,
    "%": 0.01,
}
#: Cells that hold no value.
MISSING = {"", "nan", "na", "n/a", "#n/a", "null", "none", "-", "–", "—", "nat", "<na>"}
INFINITE = {"inf": np.inf, "+inf": np.inf, "infinity": np.inf, "-inf": -np.inf, "-infinity": -np.inf}

#: Digits, an exponent, and a suffix.
NUMBER = re.compile(r"([+-]?[\d.,]+)((?:[eE][+-]?\d+)?)\s*(k|K|M|B|G|bn|T|P|%)?")
#: 10^18 and 3x10^18.
POWER = re.compile(r"(?:([+-]?[\d.,]+)\s*[x*×·]\s*)?10(?:\^|\*\*)\s*([+-]?\d+)")
THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
CERTAIN_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(?:(,\d{3}){2,}|(,\d{3})+\.\d*)")
DOTTED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+")
POINT = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?\s*%?")
DECIMAL = re.compile(r"[+-]?(\d*,\d*|\d{1,3}(\.\d{3})+,\d*)")


def _tidy(cell: str) -> str:
    """Without spaces at the ends, spaces between thousands, and underscores between digits."""
    text = cell.strip().replace("\u2212", "-")
    text = re.sub(r"(?<=\d)[\u00a0\u202f\u2009 '](?=\d{3}(?!\d))", "", text)
    return re.sub(r"(?<=\d)_(?=\d)", "", text)


def _digits(text: str) -> str:
    """The digits of a number before its exponent and suffix; "" for what is no number."""
    match = NUMBER.fullmatch(text) or POWER.fullmatch(text)
    return (match.group(1) or "") if match else ""


def _is_decimal(digits: str, exponent: bool) -> bool:
    """Whether a comma certainly separates decimals."""
    return bool(DECIMAL.fullmatch(digits)) and (exponent or not THOUSANDS.fullmatch(digits))


def uses_decimal_commas(cells: Sequence[str]) -> bool:
    """Whether a column certainly has decimal commas: some cell has, none has commas between thousands."""
    texts = [_tidy(cell) for cell in cells if "," in cell]
    found = [(_digits(text), "e" in text.lower()) for text in texts]
    return (
        all(digits for digits, _ in found)
        and any(_is_decimal(*one) for one in found)
        and not any(CERTAIN_THOUSANDS.fullmatch(digits) for digits, _ in found)
    )


def uses_decimal_points(cells: Sequence[str]) -> bool:
    """Whether some cell of a column is a number with a decimal point that cannot separate thousands."""
    return any(POINT.fullmatch(text) and not DOTTED.fullmatch(text) for text in map(_tidy, cells))


def parse_numbers(
    cells: Sequence[Any], places: Sequence[str], where: str, decimal: bool = False, points: bool = False
) -> np.ndarray:
    """Numbers (n,) of a column's cells, NaN for missing ones. `places` name the rows, `where` the column;
    `decimal`: some column of the table certainly has decimal commas; `points`: some has decimal points.
    ValueError for what is no number, and for decimal commas beside decimal points."""
    style = _comma_style([cell for cell in cells if isinstance(cell, str)], decimal)
    if style == "decimal" and points:
        row = next(row for row, cell in enumerate(cells) if isinstance(cell, str) and "," in cell)
        raise ValueError(
            f"{where}, {places[row]}: {cells[row]!r} seems to have a decimal comma, but other columns have "
            "decimal points; write all numbers in one way"
        )
    numbers = np.empty(len(cells))
    for row, cell in enumerate(cells):
        try:
            numbers[row] = _number(cell, style)
        except ValueError as error:
            raise ValueError(f"{where}, {places[row]}: {error}") from None
    return numbers


def _comma_style(cells: Sequence[str], decimal: bool) -> str:
    """What a comma means in a column: "decimal", "thousands", or "" where nothing decides; "dots" where the
    column has none, and others have decimal commas: then dots may separate thousands."""
    if uses_decimal_commas(cells):
        return "decimal"
    digits = [_digits(_tidy(cell)) for cell in cells if "," in cell]
    if any(CERTAIN_THOUSANDS.fullmatch(one) for one in digits):
        return "thousands"
    return ("decimal" if digits else "dots") if decimal else ""


def _number(cell: Any, style: str) -> float:
    if cell is None or isinstance(cell, bool) or not isinstance(cell, str):
        return _plain(cell)
    text = _tidy(cell)
    if text.lower() in MISSING:
        return float("nan")
    if text.lower() in INFINITE:
        return INFINITE[text.lower()]
    power = POWER.fullmatch(text)
    if power:
        return _mantissa(power.group(1) or "1", style, cell) * 10.0 ** int(power.group(2))
    match = NUMBER.fullmatch(text)
    if not match:
        raise ValueError(f"{cell!r} is no number")
    digits, exponent, suffix = match.group(1), match.group(2), match.group(3) or ""
    if exponent and "," in digits and not style:
        style = "decimal"
    value = _mantissa(digits, style, cell)
    return float(f"{value!r}{exponent}") * SUFFIXES[suffix] if exponent else value * SUFFIXES[suffix]


def _plain(cell: Any) -> float:
    """A cell that is no text: a number, a bool (0 or 1), or nothing."""
    if cell is None:
        return float("nan")
    try:
        return float(cell)
    except (TypeError, ValueError):
        if str(cell).lower() in MISSING:
            return float("nan")
        raise ValueError(f"{str(cell)[:40]!r} is no number") from None


def _mantissa(digits: str, style: str, cell: str) -> float:
    """Digits as a number, by what a comma means in the column."""
    if "," in digits:
        if not style:
            raise ValueError(
                f"is {cell!r} {digits.replace(',', '')} or {digits.replace(',', '.')}? Write it without a "
                "comma, or write decimals that cannot be thousands"
            )
        fits = DECIMAL if style == "decimal" else re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?")
        if not fits.fullmatch(digits):
            other = "thousands" if style == "decimal" else "decimals"
            raise ValueError(f"the comma of {cell!r} separates {other}, unlike others in this column")
        plain = digits.replace(".", "") if style == "decimal" else digits.replace(",", "")
        digits = plain.replace(",", ".")
    elif style in ("decimal", "dots") and DOTTED.fullmatch(digits):
        if digits.count(".") == 1:
            raise ValueError(
                f"is {cell!r} {digits.replace('.', '')} or {digits.replace('.', ',')}? Other cells of "
                f"this table "
                "have decimal commas; write it without the dot"
            )
        digits = digits.replace(".", "")
    elif style == "decimal" and "." in digits:
        raise ValueError(f"{cell!r} has a decimal point, other cells of this column decimal commas")
    try:
        return float(digits)
    except ValueError:
        raise ValueError(f"{cell!r} is no number") from None
