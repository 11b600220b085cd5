"""Synthetic studies, for samples, tests and benchmarks.

    make_phantom ──┬─ cine.py      cine MR of the heart, contours as text files
                   └─ rtstruct.py  oblique CT of the chest, structure sets
                        both use drawing.py: rings, random numbers, DICOM files

Every file is a function of the seed, the patient and the numbers of slices and phases:
the same call gives the same files, and a patient does not depend on the others.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from fastseg.bounds import MAX_PHANTOM_IMAGES
from fastseg.calls import check_call
from fastseg.choices import PhantomKind
from fastseg.errors import OptionError, OutputError, choice, shown, whole_number
from fastseg.loading.orders import check_seed
from fastseg.paths import StrPath, as_path
from fastseg.phantom import cine, faulty, rtstruct
from fastseg.progress import Progress, silent

KINDS = get_args(PhantomKind)
SMALLEST_SIDE = 32
LARGEST_SIDE = 4096


@check_call()
def make_phantom(
    output: StrPath,
    *,
    kind: PhantomKind = "cine",
    patients: int | None = None,
    sizes: int | str | Sequence[int | str | tuple[int, int]] | None = None,
    slices: int | None = None,
    phases: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Path:
    """Write a synthetic study and return its folder.

    output   : a new or empty folder
    kind     : "cine" is cine MR of the heart with contours as text files, in the layout
        of the Sunnybrook challenge. "rtstruct" is oblique CT of the chest with a
        structure set for each patient, in DICOM. "faulty" is a small study of "cine"
        with faults in labels and images, which `check` finds; `faults.csv` lists them
    patients : number of patients, by default 4 of "cine", 3 of "rtstruct"; 6 of
        "faulty", as are its slices and phases, which cannot be changed
    sizes    : (rows, columns) of the patients' images, "ROWSxCOLUMNS", or one number
        for a square; of several sizes, patient k has the k-th, in rotation. By default
        96, 96, 96 and 120x88 of "cine"; 80x120, 96x104 and 104x96 of "rtstruct"; 64
        of "faulty"
    slices   : number of a patient's images along the body, by default 4 of "cine", 8 of
        "rtstruct"
    phases   : number of a patient's images over a heartbeat, for "cine" alone, by
        default 6
    seed     : seed of the random anatomy and noise, below 2**64

    Raises OptionError for an invalid option, OutputError if the folder has files.
    """
    is_cine = choice("kind", kind, KINDS) == "cine"
    is_faulty = kind == "faulty"
    for name, number in (("patients", patients), ("slices", slices)):
        if is_faulty and number is not None:
            raise OptionError(
                f"{name} is {shown(number)}, but kind 'faulty' has places for its "
                "faults, and cannot be changed; leave one of them out"
            )
    if phases is not None and not is_cine:  # nor of "faulty"
        raise OptionError(
            f"phases is {phases}, but kind {kind!r} has none; leave one of them out"
        )
    if is_faulty:
        patients, slices, phases = faulty.PATIENTS, faulty.SLICES, faulty.PHASES
    if patients is None:
        patients = 4 if is_cine else 3
    if slices is None:
        slices = 4 if is_cine else 8
    if sizes is None and is_faulty:
        sizes = 64
    if sizes is None:
        sizes = (96, 96, 96, "120x88") if is_cine else ("80x120", "96x104", "104x96")
    patients = whole_number("patients", patients, 1)
    slices = whole_number("slices", slices, 1)
    phases = whole_number("phases", 6 if phases is None else phases, 2)
    in_phases = f" in {phases} phases" if is_cine else ""
    count = patients * slices * (phases if is_cine else 1)
    if count > MAX_PHANTOM_IMAGES:
        raise OptionError(
            f"{patients} patients of {slices} slices{in_phases} are {count} images, "
            f"expected at most {MAX_PHANTOM_IMAGES}"
        )
    seed = check_seed(seed)
    several = [sizes] if isinstance(sizes, int | str) else list(sizes)
    if not several:
        raise OptionError("sizes is empty, expected at least one")
    shapes = [parse_size(size) for size in several]
    root = as_path("output", output)
    # A link to nothing is there, too.
    is_there = root.exists() or root.is_symlink()
    if is_there and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(f"{root}: is not an empty folder; choose a new folder")
    root.mkdir(parents=True, exist_ok=True)
    numbers = {"patients": patients, "slices": slices, "seed": seed}
    if is_faulty:
        faulty.write_study(root, shapes, seed=seed, progress=progress)
    elif is_cine:
        cine.write_study(root, shapes, phases=phases, progress=progress, **numbers)
    else:
        rtstruct.write_study(root, shapes, progress=progress, **numbers)
    return root


def parse_size(size: int | str | tuple[int, int]) -> tuple[int, int]:
    """Return (rows, columns) of 96, "96", "120x88" or (120, 88)."""
    if isinstance(size, str):
        match = re.fullmatch(r"(\d{1,5})(?:[x×](\d{1,5}))?", size.strip())
        if not match:
            raise OptionError(f"size is {size!r}, expected as in 96 or 120x88")
        rows, columns = int(match[1]), int(match[2] or match[1])
    else:
        try:
            sides: Any = size if isinstance(size, Sequence) else (size, size)
            rows, columns = (whole_number("size", side, 1) for side in sides)
        except (TypeError, ValueError):
            raise OptionError(
                f"size is {size!r}, expected rows and columns, or one number"
            ) from None
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in (rows, columns)):
        raise OptionError(
            f"size is {rows}x{columns}, expected {SMALLEST_SIDE} to {LARGEST_SIDE}"
        )
    return rows, columns
