"""How long a build by parts takes on a cluster, and what holds it up: a simulation.

    python -m benchmarks.build.cluster_simulation [--images N] [--nodes N ...]
        [--bandwidth GB/s ...] [--open MS ...] [--no-save]

Nothing is built. For each cluster, the script adds up what `plan`, the parts and
`finish` have to do, with costs of one image that other benchmarks have measured
(`Costs`, each an option):

- A part runs on `--threads` threads of a node. A thread opens the files of an image
  one after another, waits for each, reads, computes and writes. So a node makes as
  many images a second as its threads and its cores allow, but no more than its
  network carries.
- All nodes together read and write no faster than the file system, and open no more
  files a second than its metadata server answers.
- The scheduler starts parts one after another. Parts take more or less time by chance,
  as machines and files differ; who is done takes the next one, and the last decides.
  This is simulated part by part, by an event for each end of a part.
- `plan` and `finish` run on one node, with one thread.

It says for each cluster how long all parts take, and what the build waits for most:
`opens` (their latency), `processors`, `network` (of a node), `bandwidth` or `metadata`
(of the file system) or `scheduler`; or `plan + finish`, if these take more time than
all parts.

The table is printed, saved to benchmarks/results/cluster_simulation.md and put into
docs/clusters.md.
"""

import argparse
import heapq
import math
import random
from dataclasses import dataclass, fields, replace
from itertools import product

from benchmarks.inputs import PROJECT
from benchmarks.tables import publish, split_page, table_of

IMAGES = 10_000_000
NODES = 1, 10, 100, 1000
BANDWIDTHS = 1, 5, 20
OPENS = 0.2, 1, 5
# Of an image that pydicom decodes, and the bandwidth for which it is simulated.
SLOW_US = 10_000
SLOW_GB = (5,)
PAGE = PROJECT / "docs" / "clusters.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What an image, a part, a node and a file system cost or can do.

    Measured on this project's machine, warm, for images of 256 x 256 with 16 bits and a
    contour file each, by benchmarks.build.race and benchmarks.build.parts:

    cpu_us      : processor time of a part for an image, with copying its bytes
    plan_us     : of `plan` for a link, reading the table included
    finish_us   : of `finish` for an item, without waiting for the disk
    start_s     : of a process until its part begins
    read_bytes, written_bytes : of an image, by a part: pixels and its journal
    plan_bytes, journal_bytes : of the folder of the plan, for an image
    files       : that are opened for an image

    Assumed of a cluster:

    threads, cores : of a part, and of its node
    node_gb     : GB/s between a node and the file system
    metadata    : files that the file system opens a second, for all nodes together
    parts       : how many for each node
    jobs        : that the scheduler starts a second
    spread      : standard deviation of the logarithm of a part's time
    """

    cpu_us: float = 151
    plan_us: float = 57
    finish_us: float = 45
    start_s: float = 0.5
    read_bytes: float = 132_000
    written_bytes: float = 203_000
    plan_bytes: float = 27
    journal_bytes: float = 6_300
    files: float = 2
    threads: int = 2
    cores: int = 2
    node_gb: float = 1.25
    metadata: float = 50_000
    parts: int = 8
    jobs: float = 10
    spread: float = 0.15


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes that share a file system."""

    nodes: int
    bandwidth_gb: float
    open_ms: float


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the steps, and what the most of them were spent on."""

    plan: float
    parts: float
    finish: float
    bottleneck: str


def rates(costs, cluster):
    """Return how many images a second each limit allows, all nodes together."""
    opens = costs.files * cluster.open_ms / 1e3
    moved = costs.read_bytes + costs.written_bytes
    cpu = costs.cpu_us / 1e6
    nodes = cluster.nodes
    return {
        "opens": nodes * costs.threads / (opens + cpu),
        "processors": nodes * min(costs.threads, costs.cores) / cpu,
        "network": nodes * costs.node_gb * 1e9 / moved,
        "bandwidth": cluster.bandwidth_gb * 1e9 / moved,
        "metadata": costs.metadata / costs.files,
    }


def schedule(costs, cluster, images, seconds_each):
    """Return seconds until the last part ends, and how long nodes waited to begin one.

    seconds_each : of an image, on one of the nodes
    """
    rng = random.Random(0)
    count = cluster.nodes * costs.parts
    work = images / count * seconds_each
    # When each node is free, the earliest first.
    free = [0.0] * cluster.nodes
    started = idle = end = 0.0
    for _ in range(count):
        ready = heapq.heappop(free)
        begin = max(ready, started)
        idle += begin - ready
        started = begin + 1 / costs.jobs
        # A lognormal factor of mean 1.
        factor = math.exp(rng.gauss(-(costs.spread**2) / 2, costs.spread))
        stop = begin + costs.start_s + work * factor
        heapq.heappush(free, stop)
        end = max(end, stop)
    return end, idle / cluster.nodes


def simulate(costs, cluster, images):
    """Return the Times of a build."""
    allowed = rates(costs, cluster)
    name = min(allowed, key=allowed.get)
    # Latency and processor share a thread's time: it is bound by what takes more of it.
    if name == "opens" and costs.files * cluster.open_ms * 1e3 < costs.cpu_us:
        name = "processors"
    seconds_each = cluster.nodes / min(allowed.values())
    parts, idle = schedule(costs, cluster, images, seconds_each)
    if idle > parts / 2:
        name = "scheduler"
    stream = min(costs.node_gb, cluster.bandwidth_gb) * 1e9
    plan = images * (costs.plan_us / 1e6 + costs.plan_bytes / stream)
    # Each byte of the journals is read three times, and written once to the store.
    finish = images * (costs.finish_us / 1e6 + 4 * costs.journal_bytes / stream)
    if plan + finish > parts:
        name = "plan + finish"
    return Times(plan, parts, finish, name)


def words(seconds):
    """Return a duration in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def rows_of(costs, images, nodes, bandwidths, opens):
    """Yield the rows of a table: one for each number of nodes and each bandwidth."""
    yield "nodes", "file system", *(f"a file opens in {ms:g} ms" for ms in opens)
    for count, bandwidth in product(nodes, bandwidths):
        cells = []
        for open_ms in opens:
            times = simulate(costs, Cluster(count, bandwidth, open_ms), images)
            cells.append(f"{words(times.parts)}, {times.bottleneck}")
        yield f"{count:,}", f"{bandwidth:g} GB/s", *cells


def steps_of(costs, images, bandwidths):
    """Return how long plan and finish take, in words."""
    steps = []
    for name in ("plan", "finish"):
        seconds = [
            getattr(simulate(costs, Cluster(1, bandwidth, 1), images), name)
            for bandwidth in bandwidths
        ]
        low, high = words(min(seconds)), words(max(seconds))
        steps.append(f"`{name}` takes {low if low == high else f'{low} to {high}'}")
    return ", ".join(steps)


def main():
    """Print, and perhaps save, the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--nodes", type=int, nargs="+", default=NODES)
    parser.add_argument("--bandwidth", type=float, nargs="+", default=BANDWIDTHS)
    parser.add_argument("--open", type=float, nargs="+", default=OPENS)
    for field in fields(Costs):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=field.type, default=field.default)
    parser.add_argument("--no-save", action="store_true", help="print only")
    arguments = parser.parse_args()
    costs = Costs(**{f.name: getattr(arguments, f.name) for f in fields(Costs)})
    given = arguments.images, arguments.nodes, arguments.bandwidth, arguments.open
    slow = replace(costs, cpu_us=SLOW_US)
    text = (
        f"{table_of(rows_of(costs, *given))}\n"
        f"Time of all parts, and what holds up the build. {arguments.images:,} images "
        f"of {costs.read_bytes / 1e3:.0f} kB in {costs.files:g} files each, "
        f"{costs.cpu_us:g} µs of a processor. "
        f"{steps_of(costs, arguments.images, arguments.bandwidth)}.\n\n"
        f"{table_of(rows_of(slow, *given[:2], SLOW_GB, given[3]))}\n"
        f"The same with {slow.cpu_us / 1e3:g} ms of a processor for an image, as where "
        "pydicom decodes it.\n\n"
        f"Each node has {costs.threads} threads and {costs.parts} parts, and reads and "
        f"writes {costs.node_gb:g} GB/s; all together open {costs.metadata:,.0f} files "
        "a second. Simulated by `python -m benchmarks.build.cluster_simulation`.\n"
    )
    print(text)
    is_default = given == (IMAGES, NODES, BANDWIDTHS, OPENS) and costs == Costs()
    if is_default and not arguments.no_save:
        split_page("cluster_simulation", PAGE)
        publish("cluster_simulation", text, PAGE)


if __name__ == "__main__":
    main()
