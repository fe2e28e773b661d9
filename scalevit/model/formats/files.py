"""Reading and writing files of weights: nothing pickled is ever executed, nothing half-written stays."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.artifacts.atomic_write import fsync_folder, fsync_tree


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError when the file is missing or holds something else."""
    try:
        found = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    return found


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, or of a torch file read without executing anything in it."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip each raise their own kinds
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"cannot read {path}: it is damaged or holds more than tensors ({reason})") from None
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds more than a dictionary of tensors")
    return found


def read_folder(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The first of `names` that the folder holds, whole or in the shards that its index lists."""
    for name in names:
        if (folder / name).is_file():
            return read_tensors(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(read_json(index).get("weight_map", {}).values()))
            return {key: value for shard in shards for key, value in read_tensors(folder / shard).items()}
    raise ValueError(f"{folder} holds none of {', '.join(names)}")


#: What a .safetensors file calls a dtype.
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    stream_tensors(path, tensors, tensors.__getitem__)


def stream_tensors(path: Path, like: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """A .safetensors file of the tensors that `read` gives by name, of which one at a time is in memory.

    like: tensors of the same shapes and dtypes, for which those without memory will do."""
    # wide dtypes first, so that every tensor begins at a multiple of its items
    names = sorted(like, key=lambda name: (-like[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + like[name].nbytes
        shape = list(like[name].shape)
        header[name] = {"dtype": DTYPES[like[name].dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            value = read(name).detach().cpu().contiguous()
            assert value.shape == like[name].shape and value.dtype == like[name].dtype
            file.write(value.reshape(-1).view(torch.uint8).numpy().data)
            del value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when the block ends well, and vanishes when it does not.

    Into a folder that exists already, its files move one by one, each replacing its namesake at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        fsync_tree(temporary)
        if target.is_dir():
            for file in temporary.iterdir():
                file.replace(target / file.name)
            fsync_folder(target)
        else:
            temporary.replace(target)
        fsync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """A temporary path that becomes `target`, along with whatever else was written beside it, when the block
    ends well, and vanishes when it does not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        yield Path(folder) / target.name
        fsync_tree(Path(folder))
        for file in Path(folder).iterdir():
            file.replace(target.parent / file.name)
        fsync_folder(target.parent)
