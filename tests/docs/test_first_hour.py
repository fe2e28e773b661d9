"""The first hour as a new user lives it: the pages' `sh` blocks, command by command, on 60 photographs."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

DOCS = Path(__file__).parents[2] / "docs"
#: What stands for trouble in a command's output, unless the page prepares its reader for it.
TROUBLE = re.compile(r"Traceback|[A-Z]\w+Warning\b|\bwarning\b|\berror:", re.I)
SECONDS = 300


def photograph(kind: int, seed: int) -> Image.Image:
    """Noise with a direction that tells the class, at a phone's odd sizes: no class is told by its colour."""
    draw = np.random.default_rng([kind, seed])
    width, height = [(320, 240), (240, 320), (400, 300)][seed % 3]
    y, x = np.mgrid[:height, :width]
    angle = kind * np.pi / 3 + draw.normal(0, 0.2)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) / draw.uniform(6, 14) + draw.uniform(0, 6))
    colour = draw.uniform(60, 200, 3)
    pixels = colour + 25 * wave[..., None] + draw.normal(0, 40, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1))


def make_photographs(folder: Path) -> None:
    for kind, name in enumerate(("beach", "city", "forest")):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            photograph(kind, number).save(folder / name / f"IMG_{number:04}.jpg", quality=88)


def blocks(page: str) -> Iterator[tuple[str, str]]:
    """(kind, text) of the blocks to follow: shell commands, and YAML to save under the name before it."""
    text = (DOCS / page).read_text()
    for kind, body in re.findall(r"^```(\w+)\n(.*?)^```", text, re.S | re.M):
        if kind == "sh":
            yield from (("sh", line) for line in body.splitlines() if line.strip())
        elif kind == "yaml":
            before = text[: text.index(body)]
            yield re.findall(r"as `([\w.-]+\.yaml)`", before)[-1], body


def follow(page: str, folder: Path) -> int:
    """Do what a page says in `folder`; fail on surprises. Gives the number of commands."""
    text, done = (DOCS / page).read_text(), 0
    environment = {**os.environ, "COLUMNS": "100"}
    for kind, body in blocks(page):
        if kind != "sh":
            (folder / kind).write_text(body)
            continue
        program, *words = shlex.split(body, comments=True)
        assert program == "scalevit"
        result = subprocess.run(
            [sys.executable, "-m", "scalevit", *words],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        output = result.stdout + result.stderr
        assert result.returncode == 0, f"{body}\n{output}"
        unprepared = [match for match in TROUBLE.findall(output) if match.lower() not in text.lower()]
        assert unprepared == [], f"{body}\n{output}"
        assert result.stdout.strip(), f"{body}: says nothing"
        done += 1
    return done


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_own_images_can_be_followed(tmp_path):
    make_photographs(tmp_path / "photos")
    assert follow("own-images.md", tmp_path) >= 14
    predicted = subprocess.run(
        [sys.executable, "-m", "scalevit", "predict", "runs/tuned", "photos/city/IMG_0003.jpg"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.match(r"photos/city/IMG_0003\.jpg  (city|beach|forest) \d", predicted)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_start_can_be_followed(tmp_path):
    assert follow("quick-start.md", tmp_path) >= 9


def test_the_pages_have_commands_to_follow():
    for page in ("own-images.md", "quick-start.md"):
        commands = [body for kind, body in blocks(page) if kind == "sh"]
        assert len(commands) >= 9
        assert all(command.startswith("scalevit ") for command in commands)
