"""The folder of a planned build, `<store>.plan`, which machines share.

    plan.json     what every part must know: options, classes, buckets, offsets
    blocks        the links of each block, one frame after another
    blocks.index  where each frame begins: int64, little-endian, one more than blocks
    rejects.json  what the plan has rejected
    pixels        pixels at the offsets that they have in the store; in a compressed
                  store there is none
    journals/     what parts have made, a file for each process, see `part_journal`

All but the journals and the pixels are written once. A plan has an identity, a hash of
plan.json, which journals repeat: what another plan has left is never taken for this
one's.
"""

import hashlib
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest, xxh3_128

from fastseg.errors import OutputError, PlanError
from fastseg.files import name_path
from fastseg.ingest.block import Block
from fastseg.ingest.plan import Plan
from fastseg.ingest.request import Request, software_of
from fastseg.links import COLUMNS, Link
from fastseg.progress import Progress
from fastseg.raster.rules import Rules
from fastseg.sources import DEFAULT_FORMAT
from fastseg.store.layout import Bucket, canonical_json
from fastseg.store.writing.hdf5_index import PixelOffsets, StoreShape, reserve_pixels
from fastseg.store.writing.pixel_file import PixelFile
from fastseg.store.writing.records import Slots
from fastseg.tables import Reject
from fastseg.urls import is_url

VERSION = 1
FORMAT = "fastseg-plan"
SUFFIX = ".plan"
FRAME = struct.Struct("<QQ")
IDENTITY_DIGITS = 16


def folder_of(target: Path) -> Path:
    """Return the folder of the plan of a store."""
    return target.with_name(target.name + SUFFIX)


class PlanFolder:
    """A plan that is read: its options, and its blocks when they are asked for.

    path     : the folder
    identity : of the plan
    store    : path of the store
    base     : folder that the paths of links are relative to
    rules, classes, software, compress, max_pixel_bytes, decode_timeout, force : as of
        the build
    formats  : of the contours
    request  : hash of what was asked for, see `request_digest`
    shape    : StoreShape if no item fails
    offsets  : of the pixels; None for a compressed store
    count    : number of images
    blocks   : number of blocks
    """

    def __init__(self, path: Path):
        """Read a plan, but not its blocks.

        Raises PlanError if the folder is none, or of another version,
        FileNotFoundError.
        """
        if path.name in ("", ".."):  # as `.` is, from within
            path = Path(os.path.abspath(path))  # noqa: PTH100
        self.path = path
        try:
            text = (path / "plan.json").read_bytes()
        except FileNotFoundError as exc:
            problem = "there is no plan; `fastseg plan` makes one, `finish` removes it"
            raise FileNotFoundError(exc.errno, problem, os.fspath(path)) from None
        except NotADirectoryError:
            raise PlanError(f"{path}: is no folder of a plan") from None
        try:
            content = json.loads(text)
            is_plan = content.get("format") == FORMAT
        except (ValueError, AttributeError):
            is_plan = False
        if not is_plan:
            raise PlanError(f"{path}: holds no plan; plan the build again")
        if content["version"] != VERSION:
            raise PlanError(
                f"{path}: is a plan of version {content['version']}, this fastseg "
                f"makes version {VERSION}; plan the build again"
            )
        self.identity = hashlib.sha256(text).hexdigest()[:IDENTITY_DIGITS]
        # The store lies beside the folder, wherever a machine has mounted it.
        self.store = path.with_name(content["store"])
        self.base = Path(os.path.normpath(path.absolute() / content["base"]))
        self.rules = Rules(**content["rules"])
        self.classes = tuple(content["classes"])
        self.software = content["software"]
        self.compress = content["compress"]
        self.max_pixel_bytes = content["max_pixel_bytes"]
        self.decode_timeout = content["decode_timeout"]
        self.force = content["force"]
        self.left_out = content["left_out"]
        self.outer_roots = tuple(
            root if is_url(root) else Path(root) for root in content["outer_roots"]
        )
        self.formats = frozenset(content["formats"])
        self.request = content["request"]
        self.counts = tuple(
            (Bucket(tuple(shape), np.dtype(dtype)), count)
            for shape, dtype, count in content["buckets"]
        )
        self.count = sum(count for _, count in self.counts)
        self.blocks = content["blocks"]
        offsets = content["offsets"]
        self.offsets = None if offsets is None else PixelOffsets(**offsets)
        self._rejects_xxh3 = content["rejects_xxh3"]
        self._index_xxh3 = content["index_xxh3"]

    @property
    def shape(self) -> StoreShape:
        """What the offsets of the pixels depend on."""
        return StoreShape(
            classes=self.classes,
            counts=self.counts,
            compression="zstd" if self.compress else "",
        )

    @property
    def journals(self) -> Path:
        """The folder of journals."""
        return self.path / "journals"

    @property
    def pixels(self) -> Path:
        """The file of pixels."""
        return self.path / "pixels"

    def check_software(self) -> None:
        """Raise PlanError if packages here would write another store."""
        here = software_of(self.compress)
        if here != self.software:
            differ = [
                f"{name} {here.get(name, 'missing')} (there {version})"
                for name, version in self.software.items()
                if here.get(name) != version
            ]
            raise PlanError(
                f"{self.path}: was made with other packages: {', '.join(differ)}; use "
                "the same ones everywhere, or plan the build again"
            )

    def read_blocks(self, first: int, stop: int) -> Iterable[Block]:
        """Yield blocks from `first` to `stop` - 1, or raise PlanError."""
        size = 8 * (stop - first + 1)
        with (self.path / "blocks.index").open("rb") as file:
            file.seek(8 * first)
            index = np.frombuffer(file.read(size), "<i8")
        if len(index) != stop - first + 1:
            raise self._damaged("blocks.index")
        with (self.path / "blocks").open("rb") as file:
            file.seek(int(index[0]))
            for _ in range(first, stop):
                header = file.read(FRAME.size)
                if len(header) < FRAME.size:
                    raise self._damaged("blocks")
                length, digest = FRAME.unpack(header)
                body = file.read(length) if length <= index[-1] - index[0] else b""
                if len(body) < length or xxh3_64_intdigest(body) != digest:
                    raise self._damaged("blocks")
                yield self._decode(body)

    def check_index(self) -> None:
        """Raise PlanError if the index of blocks is damaged; it is read as a whole."""
        data = (self.path / "blocks.index").read_bytes()
        if xxh3_64_intdigest(data) != self._index_xxh3:
            raise self._damaged("blocks.index")

    def rejects(self) -> list[Reject]:
        """Return what the plan has rejected."""
        data = (self.path / "rejects.json").read_bytes()
        if xxh3_64_intdigest(data) != self._rejects_xxh3:
            raise self._damaged("rejects.json")
        return [Reject(*row) for row in json.loads(data)]

    def _decode(self, body: bytes) -> Block:
        content = json.loads(zlib.decompress(body))
        items = np.array(content["items"], np.int64)
        bucket = content["bucket"]
        slots = Slots(
            np.array(content["hashes"], np.uint64),
            np.full(len(items), bucket),
            np.array(content["rows"], np.int64),
        )
        columns = (
            values if len(values) > 1 else repeat(values[0])
            for values in content["links"]
        )
        links = map(Link, *columns)
        return Block(
            items=items,
            links=[list(islice(links, count)) for count in content["counts"]],
            slots=slots,
            bucket=self.counts[bucket][0],
            is_todo=np.ones(len(items), np.bool_),
        )

    def _damaged(self, name: str) -> PlanError:
        return PlanError(f"{self.path / name}: is damaged; plan the build again")


def encode_block(block: Block) -> bytes:
    """Return a block as the body of a frame.

    Links are columns; one with one value for all links has this value alone.
    """
    columns = list(zip(*chain.from_iterable(block.links), strict=True))
    content = {
        "items": block.items.tolist(),
        "bucket": int(block.slots.bucket[0]),
        "hashes": block.slots.links.tolist(),
        "rows": block.slots.row.tolist(),
        "counts": list(map(len, block.links)),
        "links": [
            values[:1] if values.count(values[0]) == len(values) else values
            for values in columns
        ],
    }
    # Level 1: a third of the size in a tenth of the time that the default takes.
    return zlib.compress(json.dumps(content).encode(), 1)


def remove_plan(folder: Path) -> None:
    """Remove a plan, also if a part that nobody waits for still writes into it.

    It loses its name first: a machine that comes late finds no plan. What cannot be
    removed yet, because files of it are open elsewhere, the next plan removes.
    """
    working = working_of(folder)
    shutil.rmtree(working, ignore_errors=True)
    folder.rename(working)
    shutil.rmtree(working, ignore_errors=True)


def working_of(folder: Path) -> Path:
    """Return the folder in which a plan is written, and removed."""
    return folder.with_name(f"{folder.name}.partial")


def write_plan(
    folder: Path,
    request: Request,
    plan: Plan,
    rejects: Sequence[Reject],
    progress: Progress,
) -> None:
    """Write a plan into a new folder, which appears when it is complete."""
    working = working_of(folder)
    if working.exists():
        shutil.rmtree(working)
    working.mkdir(parents=True)
    with name_path(folder):
        offsets = array_of_frames(working / "blocks", plan, progress)
        index = offsets.astype("<i8").tobytes()
        (working / "blocks.index").write_bytes(index)
        listed = json.dumps(list(map(list, rejects))).encode()
        (working / "rejects.json").write_bytes(listed)
        (working / "journals").mkdir()
        shape = StoreShape(
            classes=request.table.classes,
            counts=tuple(plan.counts),
            compression="zstd" if request.options.compress else "",
        )
        reserved = None
        if not request.options.compress:
            reserved = reserve_pixels(working / "index", shape)
            pixels = PixelFile(working / "pixels")
            try:
                pixels.begin(True)
                os.ftruncate(pixels.handle(), reserved.file_size)
            finally:
                pixels.close()
        formats = {text or DEFAULT_FORMAT for text in request.table.links.format.texts}
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "store": request.target.name,
            "base": relative_base(request.table.base, folder),
            "request": request_digest(request, folder),
            "rules": asdict(request.options.rules),
            "classes": list(request.table.classes),
            "software": software_of(request.options.compress),
            "compress": request.options.compress,
            "max_pixel_bytes": request.options.max_pixel_bytes,
            "decode_timeout": request.options.decode_timeout,
            "force": request.options.force,
            "left_out": request.left_out,
            "outer_roots": list(map(str, request.outer_roots)),
            "formats": sorted(formats),
            "buckets": [
                (list(bucket.shape), bucket.dtype.str, count)
                for bucket, count in plan.counts
            ],
            "blocks": len(offsets) - 1,
            "offsets": None if reserved is None else asdict(reserved),
            "index_xxh3": xxh3_64_intdigest(index),
            "rejects_xxh3": xxh3_64_intdigest(listed),
            # So that the identity also depends on the blocks.
            "blocks_xxh3": file_digest(working / "blocks"),
        }
        (working / "plan.json").write_text(canonical_json(content), encoding="utf-8")
        try:
            working.rename(folder)
        except OSError:
            if folder.exists():
                raise OutputError(
                    f"{folder}: is there already; finish that build, or remove the "
                    "folder"
                ) from None
            raise


def request_digest(request: Request, folder: Path) -> str:
    """Return a hash of the table and the options of a build, relative to a folder.

    Whether a file may be replaced is no part of it: the store does not depend on it.
    """
    table = request.table
    others = [
        [request.target.name, relative_base(table.base, folder)],
        [list(table.classes), list(map(list, table.rejects)), request.left_out],
        [asdict(request.options.rules), request.options.compress],
        [request.options.max_pixel_bytes, request.options.decode_timeout],
    ]
    digest = xxh3_128(json.dumps(others).encode())
    for name in COLUMNS:
        _add(digest, getattr(table.links, name))
    return digest.hexdigest()


def _add(digest: xxh3_128, column: Any) -> None:
    """Add a column of links to a hash: an array, or a tuple of texts and columns."""
    if isinstance(column, np.ndarray):
        digest.update(f"{column.dtype.str} {column.shape} ".encode())
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    elif isinstance(column, str):
        digest.update(json.dumps(column).encode())
    else:
        for part in column:
            _add(digest, part)


def array_of_frames(path: Path, plan: Plan, progress: Progress) -> NDArray[np.int64]:
    """Write the blocks of a plan, and return where each begins, and the end."""
    offsets = [0]
    with path.open("xb") as file, progress("plan", len(plan)) as advance:
        for block in plan.blocks(1):
            body = encode_block(block)
            file.write(FRAME.pack(len(body), xxh3_64_intdigest(body)) + body)
            offsets.append(offsets[-1] + FRAME.size + len(body))
            advance(len(block))
    return np.array(offsets, np.int64)


def relative_base(base: Path, folder: Path) -> str:
    """Return the base of links relative to the folder of the plan, if there is a way.

    So another machine may mount both elsewhere.
    """
    here = os.path.realpath(base)
    try:
        return os.path.relpath(here, os.path.realpath(folder))
    except ValueError:  # on another drive of Windows
        return here


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
