"""Damaged code streams of each codec, in builds of stores."""

from collections import Counter

from tests import codec_damage
from tests.soak import Fault

# Damaged files of one build, at most.
AT_ONCE = 500


def run(folder, tries, seed):
    """Yield for each damaged file whether it was built, and why it was not."""
    number = 0
    each = max(1, tries // len(codec_damage.CODECS))
    for start in range(0, each, AT_ONCE):
        count = min(AT_ONCE, each - start)
        for codec in codec_damage.CODECS:
            number += 1
            where = folder / str(number)
            where.mkdir()
            try:
                outcomes = codec_damage.build_damaged(
                    where, codec, seed * 1_000_003 + number, count
                )
            except Exception as exc:
                yield Fault(f"{codec}, build {number} of seed {seed}: {exc!r}")
                continue
            yield from counted(codec, outcomes).elements()


def counted(codec, outcomes):
    """Return how many files of a codec were built and rejected, the latter by cause."""
    counts = Counter()
    for reason, count in outcomes.items():
        if reason == "built":
            cause = "built"
        elif "ended with" in reason:
            cause = "rejected, the decoder died"
        elif "takes more than" in reason or "memory" in reason:
            cause = "rejected for time or memory"
        else:
            cause = "rejected"
        counts[f"{codec} {cause}"] += count
    return counts
