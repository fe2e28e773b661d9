"""Files of weights and their JSON: bounded reading, atomic writing, and folders that hold something else."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scalevit.artifacts import run_folder
from scalevit.artifacts.atomic_write import fsync_folder, fsync_tree
from scalevit.model.formats import schema, torch_file

#: Endings of files of weights; "tar" as in .pth.tar.
ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".tar")
#: Most bytes and levels of a JSON file of configuration.
JSON_BYTES, JSON_DEPTH = 1 << 25, 40


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError when the file is missing, too large or nested too deeply, or holds
    something else."""
    try:
        if path.stat().st_size > JSON_BYTES:
            raise ValueError(f"it is larger than {JSON_BYTES >> 20} MiB")
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"cannot read {path}: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no JSON object")
    if schema.depth(found) > JSON_DEPTH:
        raise ValueError(f"cannot read {path}: it is nested too deeply")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


@dataclass(frozen=True)
class WeightSource:
    """Where tensors are read from: a folder, or `file`, which the user named. part: the entry of a torch
    file, e.g. "model_ema". notes: filled with lines for the user."""

    folder: Path
    file: Path | None = None
    part: str = ""

    def tensors(self, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The tensors of the named file, or of the first of `names` that the folder holds, whole or in the
        shards that its index lists. Prints which part of a checkpoint was taken."""
        if self.file is not None:
            return self._read(self.file)
        for name in names:
            if (self.folder / name).is_file():
                return self._read(self.folder / name)
            if (self.folder / f"{name}.index.json").is_file():
                return _sharded(self.folder, name)
        there = [p.name for p in sorted(self.folder.iterdir()) if p.suffix in ENDINGS and p.is_file()]
        hint = f"; name the file itself: {', '.join(there[:4])}" if there else ""
        raise ValueError(f"{self.folder} holds none of {', '.join(names)}{hint}")

    def _read(self, path: Path) -> dict[str, Tensor]:
        tensors, notes = _read_file(path, self.part)
        for note in notes:
            tell(note)
        return tensors


def tell(note: str) -> None:
    """Print a line for the user on stderr."""
    print(f"scalevit: {note}", file=sys.stderr)


def _read_file(path: Path, part: str = "") -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of a .safetensors file, or of a torch file read without executing anything in it."""
    content: Any
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            content = load_file(path)
        except Exception as error:  # its own kinds
            raise ValueError(f"cannot read {path}: it is damaged ({_first_line(error)})") from None
    else:
        content = torch_file.read(path)
    tensors, notes = torch_file.state_dict(content, path, part)
    torch_file.require_real(tensors, path)
    return tensors, notes


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _sharded(folder: Path, name: str) -> dict[str, Tensor]:
    """All shards that an index lists, each of them a file in the folder itself."""
    index = folder / f"{name}.index.json"
    places = schema.JsonObject(read_json(index), index.name).mapping("weight_map")
    shards = sorted({places.text(key) for key in places.values})
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        if Path(shard).name != shard or Path(shard).suffix not in ENDINGS:
            raise ValueError(f"{index}: {schema.quoted(shard)} is no file of weights in this folder")
        if not (folder / shard).is_file():
            raise ValueError(f"cannot read {folder / shard}: the index names it, but it is not there")
        tensors |= _read_file(folder / shard)[0]
    lost = [key for key in places.values if key not in tensors]
    if lost:
        raise ValueError(f"{index}: no shard holds {lost[0]}")
    return tensors


#: What a .safetensors file calls a dtype.
DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A .safetensors file of these tensors."""
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
    """A JSON file, indented."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def require_writable(target: Path, names: tuple[str, ...]) -> None:
    """Raise ValueError for an output folder that holds a model of another format: a reader would find the
    older one. `names`: the files that will be written and replace their namesakes."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: there is a file of that name, not a folder")
    if not target.is_dir():
        return
    others = [
        path.name
        for path in sorted(target.iterdir())
        if path.name not in names and (path.suffix in ENDINGS or path.name in _CONFIGS)
    ]
    if others:
        raise ValueError(
            f"{target} already holds {', '.join(others[:4])}, which readers might take instead: choose "
            "another folder, or remove them"
        )


_CONFIGS = (
    "open_clip_config.json",
    "preprocessor_config.json",
    run_folder.CONFIG,
    "model.safetensors.index.json",
)


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
