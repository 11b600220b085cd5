"""The items of a plan beside those of an older store: whether anything has changed."""

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import NamedTuple

from fastseg.ingest.fast_path import Bulk
from fastseg.ingest.item import Maker
from fastseg.ingest.plan import Part, Plan, Planned, Refusal
from fastseg.links import Link, Reject
from fastseg.store.writing.older_store import Finished
from fastseg.threads import in_order


class Seen(NamedTuple):
    """An item beside an older store: its place there, -1 if new, None if unusable."""

    links: Sequence[Link]
    place: int | None
    rejects: list[Reject]


def compare(
    older: Finished, plan: Plan, maker: Maker, workers: int
) -> Generator[Seen, None, None]:
    """Yield what an older store has of each item, in the order of the plan.

    Contents decide, so every file is read.
    """
    bulk = Bulk(maker)

    def look(part: Part) -> list[Seen]:
        known = bulk.digests(part)
        buckets = [part.buckets[part.slots.bucket[k]] for k in known]
        found = older.find(list(known.values()), buckets).tolist()
        seen = {
            k: Seen(part.links[k], place, [])
            for k, place in zip(known, found, strict=True)
            if place >= 0
        }
        older.store.release()
        return [seen.get(k) or _see(older, part[k], maker) for k in range(len(part))]

    with closing(in_order(look, plan.parts(), workers)) as parts:
        for part in parts:
            yield from part


def _see(older: Finished, item: Planned, maker: Maker) -> Seen:
    try:
        material = maker.read(item)
        (index,) = older.find([material.hash], [item.bucket]).tolist()
        if index < 0:  # it is new, unless it cannot be used anyway
            maker.decode(item, material)
        return Seen(item.links, index, material.rejects)
    except Refusal as exc:
        return Seen(item.links, None, exc.rejects)
