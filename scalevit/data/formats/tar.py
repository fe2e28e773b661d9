"""WebDataset shards: tar files in which `key.jpg` and `key.cls` (or .json, .txt) make a sample.

A key is a member's folder and its name up to the first dot, as webdataset has it. Members of a sample need
not follow one another. Where no member is a label, and images lie in several folders, these are the classes.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping

from scalevit.artifacts.remote import file_version, read_range
from scalevit.data.class_names import listed
from scalevit.data.decode import BrokenImage
from scalevit.data.formats.image_files import MAX_BYTES, SUFFIXES, image_type, is_system_name
from scalevit.data.formats.labels import LABEL_SUFFIXES, Labels, labels_from
from scalevit.data.formats.tar_headers import SMALL, TarMember, members
from scalevit.data.index.cache import UNCACHED, CachedReader
from scalevit.data.index.read import Builder, Header, ShardIndex
from scalevit.data.left_out import LeftOut, printable
from scalevit.data.options import DEFAULTS, ListingOptions
from scalevit.data.splits import split_value

IMAGES = tuple(suffix[1:] for suffix in SUFFIXES)
NO_IMAGE, EMPTY, NO_TARGET = "no image among its members", "an empty image", "a link to no earlier member"
SPECIAL, TOO_LARGE = "neither a file nor a link", "too large for an image"

#: The members of a sample, by what follows the first dot of their names, in lower case.
Sample = dict[str, TarMember]


def scan(path: str, options: ListingOptions = DEFAULTS, boundary: str = "") -> ShardIndex:
    """Index of a shard from its headers and label members. Raises ValueError when it holds no image."""
    builder = Builder(Header("tar", path, *file_version(path), options=options.as_dict()))
    found = list[tuple[TarMember, Sample]]()
    for sample in _samples(path, builder.left_out):
        found += _images(path, sample, options.image, builder.left_out)
    by_folder = _folder_classes([image for image, _ in found], [sample for _, sample in found])
    for image, sample in found:
        labels = (by_folder[image.name],) if by_folder else _labels(path, sample, options.label)
        try:
            builder.add(image.offset, image.length, labels, split=_split(path, sample, options.split))
        except ValueError as error:
            raise ValueError(f"{image.name} in {error}") from None
    if not builder.rows:
        more = f"; {builder.left_out.lines()[0]}" if builder.left_out.total else ""
        raise ValueError(f"{path} holds no image ({', '.join(IMAGES[:6])}, …){more}")
    return builder.done()


def _samples(path: str, left_out: LeftOut) -> Iterator[Sample]:
    """Members by key, in the order in which keys appear. A name that comes again begins another sample."""
    samples, latest = list[Sample](), dict[tuple[str, str], Sample]()
    files = dict[str, TarMember]()
    for member in members(path):
        if any(is_system_name(part) for part in member.name.split("/") if part not in (".", "..")):
            continue
        member = _followed(member, files, left_out)
        if member is None:
            continue
        files[posixpath.normpath(member.name)] = member
        folder, _, base = member.name.rpartition("/")
        stem, _, suffix = base.partition(".")
        sample = latest.get((folder, stem))
        if sample is None or suffix.lower() in sample:
            sample = latest[folder, stem] = {}
            samples.append(sample)
        sample[suffix.lower()] = member
    yield from samples


def _followed(member: TarMember, files: Mapping[str, TarMember], left_out: LeftOut) -> TarMember | None:
    """The member, a link as the earlier member that it points to; None for what is no file."""
    if member.kind in b"0\0" + b"7":
        return member
    if member.kind not in b"12":
        left_out.add(SPECIAL, member.name)
        return None
    start = posixpath.dirname(member.name) if member.kind == b"2" else ""
    target = files.get(posixpath.normpath(posixpath.join(start, member.target)))
    if target is None:
        left_out.add(NO_TARGET, member.name)
        return None
    return target._replace(name=member.name)


def _images(path: str, sample: Sample, chosen: str, left_out: LeftOut) -> Iterator[tuple[TarMember, Sample]]:
    """The image of a sample with its members; several where names with dots share a key. Raises ValueError
    where several members may be the image."""
    if chosen:
        keys = [key for key in (chosen.lower().lstrip("."),) if key in sample]
    else:
        keys = [key for key in IMAGES if key in sample][:1] or [
            key for key in sample if key.rpartition(".")[2] in IMAGES
        ]
    if not keys and not chosen:
        keys = [key for key in sample if key not in LABEL_SUFFIXES and _is_image(path, sample[key])]
    pairs = [(sample[key], sample) for key in keys]
    if len(keys) > 1:
        parts = [_of_stem(sample, key) for key in keys]
        if not all(any(suffix in part for suffix in LABEL_SUFFIXES) for part in parts):
            names = listed([f".{key}" for key in keys])
            raise ValueError(
                f"{path}: {printable(sample[keys[0]].name)} is one of several images of a sample ({names}); "
                "choose one with data.image="
            )
        pairs = [(sample[key], part) for key, part in zip(keys, parts)]
    if not pairs and sample:
        left_out.add(NO_IMAGE, next(iter(sample.values())).name)
    for image, own in pairs:
        if image.length == 0:
            left_out.add(EMPTY, image.name)
        elif image.length > MAX_BYTES:
            left_out.add(TOO_LARGE, image.name)
        else:
            yield image, own


def _of_stem(sample: Sample, key: str) -> Sample:
    """The members whose names agree with the member `key` up to the last dot, by what follows it."""
    stem = key.rpartition(".")[0]
    return {k.rpartition(".")[2]: member for k, member in sample.items() if k.rpartition(".")[0] == stem}


def _is_image(path: str, member: TarMember) -> bool:
    return image_type(read_range(path, member.offset, min(32, member.length))) is not None


def _folder_classes(images: list[TarMember], samples: list[Sample]) -> dict[str, str]:
    """The class of each image by its folder below the common one; {} where labels are members, or where
    images do not lie in several folders."""
    if any(_label_member(sample) for sample in samples):
        return {}
    parts = [posixpath.normpath(image.name).split("/")[:-1] for image in images]
    if not parts or not all(parts):
        return {}
    shared = len(posixpath.commonprefix(parts))
    if any(len(part) <= shared for part in parts):
        return {}
    return {image.name: part[shared] for image, part in zip(images, parts)}


def _label_member(sample: Sample) -> TarMember | None:
    """The member with the label: of an exact suffix, or of one such as target.cls."""
    exact = (sample[suffix] for suffix in LABEL_SUFFIXES if suffix in sample)
    longer = (m for key, m in sample.items() if key.rpartition(".")[2] in LABEL_SUFFIXES[:2])
    return next(exact, None) or next(longer, None)


def _labels(path: str, sample: Sample, key: str) -> Labels:
    """Labels of a sample from its .cls, .json or .txt; None when it has none of them. key: of a JSON object,
    or the suffix of the member itself."""
    member = sample.get(key.lower().lstrip(".")) if key else None
    member, key = (member, "") if member else (_label_member(sample), key)
    if member is None:
        return None
    if member.length > SMALL:
        raise ValueError(f"{path}: {member.name} has {member.length} bytes, more than a label can have")
    return labels_from(read_range(path, member.offset, member.length), f"{path}: {member.name}", key)


def _split(path: str, sample: Sample, key: str) -> str:
    """The split that `key` of a sample's JSON names; "" without one."""
    member = sample.get("json") if key else None
    if member is None or member.length > SMALL:
        return ""
    try:
        value = json.loads(read_range(path, member.offset, member.length))
    except (ValueError, RecursionError):
        return ""
    return split_value(value.get(key)) if isinstance(value, dict) else ""


def name(index: ShardIndex, number: int) -> str:
    """How a message names a sample: the shard, and the byte its image starts at."""
    return f"{index.header.path} at byte {int(index.records[number]['offset'])}"


def encoded(index: ShardIndex, number: int, reader: CachedReader = UNCACHED) -> bytes:
    """The bytes of one image."""
    record = index.records[number]
    data = reader.read(index.header.path, int(record["offset"]), int(record["length"]))
    if len(data) != int(record["length"]):
        raise BrokenImage(f"{name(index, number)}: the shard ends early; it changed after it was indexed")
    return data
