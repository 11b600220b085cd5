"""`check`: asks the rules about a store."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from fastseg.calls import check_call
from fastseg.errors import (
    LinkError,
    OptionError,
    StoreError,
    choice,
    is_iterable,
    one_of,
    shown,
)
from fastseg.findings_table import IDENTITY_DIGITS
from fastseg.paths import StrPath
from fastseg.progress import Progress, silent
from fastseg.quality.causes import fold
from fastseg.quality.facts import Facts
from fastseg.quality.findings import MOST_POINTS, Finding, Findings
from fastseg.quality.findings_file import read_accepted
from fastseg.quality.rule import Rule, thresholds_of
from fastseg.quality.rules import RULES
from fastseg.reprs import many
from fastseg.store.reader import Store, as_store
from fastseg.store.split_table import read_parts
from fastseg.store.verify import verify
from fastseg.threads import check_threads, usable_cores

T = TypeVar("T")
R = TypeVar("R")


@check_call("fastseg.check('heart.h5')")
def check(
    store: Store | StrPath,
    *,
    rules: str | Sequence[str] | None = None,
    skip: str | Sequence[str] = (),
    thresholds: Mapping[str, float] | None = None,
    inside: Sequence[tuple[str, str]] = (),
    splits: StrPath | None = None,
    accept: StrPath | None = None,
    threads: int | None = None,
    executor: Any = None,
    progress: Progress = silent,
) -> Findings:
    """Look for what is wrong with the labels and images of a store.

    store      : a store, as `fastseg.open` returns it, or the path of one
    rules      : names of the rules to ask, by default all; `fastseg rules` lists them
    skip       : names of rules not to ask
    thresholds : numbers of rules, as in {"area-unlike-others.deviations": 8}
    inside     : pairs (inner, outer) of classes, of which one must lie inside the
        other; by default they are found: those that do so on at least 80 % of the
        images that have both
    splits     : a table of a split: also look for patients, series and images in
        several parts
    accept     : a table of findings that somebody has looked at and found right, as
        `write_findings` writes it with the suffix .csv
    threads    : number of threads, by default one for each core
    executor   : a `concurrent.futures.Executor`, such as a ProcessPoolExecutor, or a
        Client of Dask: its workers ask the rules, each some of them, with `threads`
        threads. They need the same path of the store and the same packages. The
        findings are the same

    The store is verified first, which reads all of it: what is damaged is no fault of
    labels.

    Raises OptionError for an unknown rule or threshold, or a table that is none of this
    store; StoreError if the file is damaged; UnknownClassError, FileNotFoundError, and
    what `open` raises.
    """
    opened = as_store(store)
    chosen = _choose(rules, skip, thresholds or {})
    threads = None if threads is None else check_threads(threads)
    pairs = _pairs(opened, inside)
    _verify(opened, threads, progress)
    facts = Facts(
        opened,
        inside=pairs,
        splits=None if splits is None else _read(read_parts, splits, opened)[0],
        threads=threads or usable_cores(),
        progress=progress,
    )
    if executor is None:
        answers = _ask(facts, chosen)
    else:
        answers = _ask_on(executor, facts, chosen, threads, progress)
    findings = Findings(
        fold([finding for answer in answers for finding in answer.findings]),
        facts=facts,
        rules=[rule.name for rule in chosen],
        not_run={answer.rule: answer.why_not for answer in answers if answer.why_not},
        thresholds={
            f"{rule.name}.{field.name}": getattr(rule, field.name)
            for rule in chosen
            for field in thresholds_of(type(rule))
        },
    )
    if accept is None:
        return findings
    return findings.accepting(_read(read_accepted, accept, facts))


def _verify(store: Store, threads: int | None, progress: Progress) -> None:
    """Raise StoreError if a file of a store is damaged, or is another one by now."""
    for path in store.paths:
        report = verify(path, threads=threads, progress=progress)
        if report.damages:
            raise StoreError(
                f"{path}: {report.damages[0]}, so that findings would be wrong; "
                f"{many(len(report.damages), 'damage')} in all, which `fastseg verify` "
                "lists: build the store again"
            )
    store.check()


class _Answer(NamedTuple):
    """What a rule says of a store.

    why_not : why it was not asked; "" if it was
    """

    rule: str
    findings: list[Finding]
    why_not: str


def _ask(facts: Facts, rules: Iterable[Rule]) -> list[_Answer]:
    """Return the answers of rules."""
    answers = []
    for rule in rules:
        reason = rule.why_not(facts)
        found = [] if reason else _identified(facts, rule, rule.find(facts))
        answers.append(_Answer(rule.name, found, reason))
    return answers


def _ask_on(
    executor: Any,
    facts: Facts,
    rules: Sequence[Rule],
    threads: int | None,
    progress: Progress,
) -> list[_Answer]:
    """Return the answers of rules, asked by the workers of an executor.

    There are no more tasks than workers, because each computes the facts that it needs.
    """
    from fastseg.tasks import executor_of, run_tasks, workers_of

    pool = executor_of(executor)
    count = min(workers_of(pool), len(rules))
    # Neighbours in the list share facts, and some are slow together.
    tasks = [
        (facts.store, facts.inside, facts.splits, rules[k::count], threads)
        for k in range(count)
    ]
    answers: list[_Answer] = []
    with (
        progress("ask rules", len(rules)) as advance,
        closing(run_tasks(pool, _ask_task, tasks, _name_task)) as results,
    ):
        for _, some in results:
            answers += some
            advance(len(some))
    order = {rule.name: k for k, rule in enumerate(rules)}
    return sorted(answers, key=lambda answer: order[answer.rule])


def _ask_task(
    store: Store,
    inside: Iterable[tuple[int, int]],
    splits: Mapping[str, Any],
    rules: Sequence[Rule],
    threads: int | None,
) -> list[_Answer]:
    """Return the answers of some rules, in a worker."""
    facts = Facts(
        store, inside=inside, splits=splits, threads=threads or usable_cores()
    )
    return _ask(facts, rules)


def _name_task(store: Store, *others: Any) -> str:
    return f"the check of {store.path}"


def _read(function: Callable[[StrPath, T], R], path: StrPath, of: T) -> R:
    """Read a table; a file that is none is a wrong value of an option."""
    try:
        return function(path, of)
    except LinkError as exc:
        raise OptionError(str(exc)) from None


def _choose(rules: Any, skip: Any, thresholds: Mapping[str, float]) -> list[Rule]:
    """Return the rules to ask, with their thresholds."""
    wanted = list(RULES) if rules is None else _names("rules", rules)
    unwanted = _names("skip", skip)
    options: dict[str, dict[str, float]] = {}
    for name, value in thresholds.items():
        rule, _, field = str(name).partition(".")
        if not field:
            raise OptionError(
                f"threshold is {shown(name)}, expected as in rule.threshold"
            )
        choice("rule of a threshold", rule, RULES)
        fields = [known.name for known in thresholds_of(RULES[rule])]
        if field not in fields:
            raise OptionError(one_of(f"threshold of {rule}", field, fields))
        if rule not in wanted or rule in unwanted:
            raise OptionError(
                f"thresholds has {name}, but the rule {rule} is not asked"
            )
        options.setdefault(rule, {})[field] = value
    chosen = [
        RULES[name](**options.get(name, {}))
        for name in RULES
        if name in wanted and name not in unwanted
    ]
    if not chosen:
        raise OptionError("rules and skip leave no rule to ask")
    return chosen


def _names(what: str, given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not is_iterable(names):
        raise OptionError(f"{what} is {shown(given)}, expected names of rules")
    return [choice(what, name, RULES) for name in names]


def _pairs(store: Store, inside: Any) -> list[tuple[int, int]]:
    """Return the indices of classes in pairs (inner, outer)."""
    pairs = []
    for pair in inside:
        if isinstance(pair, str) or not is_iterable(pair) or len(list(pair)) != 2:
            raise OptionError(
                f"inside has {shown(pair)}, expected pairs (inner class, outer class)"
            )
        inner, outer = map(store.class_index, pair)
        if inner == outer:
            raise OptionError(f"inside has {shown(pair)}, expected two classes")
        pairs.append((inner, outer))
    return pairs


def _identified(facts: Facts, rule: Rule, found: Iterable[Finding]) -> list[Finding]:
    """Return findings with their identities, and refuse two of the same identity."""
    identified: dict[str, Finding] = {}
    for finding in found:
        sources = facts.sources(finding.samples)
        parts = [rule.name, *sorted(sources), "", *finding.classes]
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        identity = digest[:IDENTITY_DIGITS]
        if identity in identified:
            raise RuntimeError(
                f"rule {rule.name} has two findings of the same samples and classes: "
                f"{identified[identity].text} {finding.text}"
            )
        identified[identity] = replace(
            finding, identity=identity, points=finding.points[:MOST_POINTS]
        )
    return list(identified.values())
