"""Kernels as they are written: names, numbers of parameters, and declared types."""

import inspect
import pkgutil
from importlib import import_module

import pytest

from fastseg import _kernels
from fastseg._kernels.jit import INTERPRETED, Kernel
from fastseg._kernels.native import catalogue, signatures

pytestmark = pytest.mark.skipif(INTERPRETED, reason="kernels are plain functions")

MOST_PARAMETERS = 11


def all_kernels():
    """Yield each kernel of the package once."""
    for info in pkgutil.walk_packages(_kernels.__path__, f"{_kernels.__name__}."):
        if ".native." in info.name:
            continue
        for value in vars(import_module(info.name)).values():
            if isinstance(value, Kernel) and value.__module__ == info.name:
                yield value


KERNELS = [] if INTERPRETED else list(all_kernels())


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_kernel_has_few_parameters_and_a_description(kernel):
    """What belongs together is one NamedTuple: a long list hides a swap."""
    assert len(inspect.signature(kernel.function).parameters) <= MOST_PARAMETERS
    assert kernel.function.__doc__


def test_no_two_kernels_have_one_name():
    names = [kernel.__name__ for kernel in KERNELS]
    assert len(names) == len(set(names)), {x for x in names if names.count(x) > 1}


def test_what_is_declared_is_distinct_and_survives_being_text():
    requests = catalogue.all_requests()
    assert len(requests) == len(set(requests)) > 40
    for path, text in requests:
        assert signatures.join(signatures.parse(text)) == text, path


def test_entries_declare_all_their_parameters_in_order():
    for kernel in catalogue.all_entries():
        declared, _ = kernel.declared
        assert list(declared) == list(inspect.signature(kernel.function).parameters)
