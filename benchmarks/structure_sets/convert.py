"""Structure sets to masks, by one tool, in a process of its own.

    python convert.py TOOL ROOT SCRATCH MASKS START

benchmarks/structure_sets/peers.py starts this script with the Python of the environment
of TOOL, in which nothing else is installed; TOOL is a name of TOOLS. Each folder of
ROOT is a case: the folder `images` with one series, and `RS.dcm`. SCRATCH is a folder
for what the tool writes. MASKS, another one, gets CASE.npz: an array of bool (slices,
rows, columns) for each ROI, slices by rising position along the normal. START is what
time.time() said when the process was started.

Prints a line of JSON: seconds from the start to the last mask, those that follow the
imports, the peak of resident memory in megabytes, and the error of each case that
failed.
"""

import contextlib
import io
import json
import sys
import time
from collections import defaultdict
from pathlib import Path


def by_fastseg(cases, scratch):
    """Links all cases in one go, and builds a store, which holds the masks."""
    import numpy as np

    from fastseg import build, link, open

    yield
    table = link(cases[0].parent, slices="series")
    store = open(build(table, scratch / "store.h5").path)
    samples = defaultdict(list)
    for sample in store:
        meta = sample.meta
        samples[meta["source"].split("/")[0]].append((meta["position_mm"], sample))
    for case in cases:
        masks = {}
        slices = [
            sample for _, sample in sorted(samples[case.name], key=lambda x: x[0])
        ]
        labelled = np.bitwise_or.reduce(
            [store.items["labelled"][sample.index] for sample in slices]
        )
        for k, name in enumerate(store.classes):
            if int(labelled) >> k & 1:
                masks[name] = np.array([sample.mask_of(name) for sample in slices])
        yield case, masks


def by_rt_utils(cases, scratch):
    """As its README does it; it calls the first axis of its masks Columns."""
    from rt_utils import RTStructBuilder

    def convert(case):
        sets = RTStructBuilder.create_from(str(case / "images"), str(case / "RS.dcm"))
        names = sets.get_roi_names()
        return {x: sets.get_roi_mask_by_name(x).transpose(2, 0, 1) for x in names}

    yield
    yield from one_by_one(cases, convert)


def by_dcmrtstruct2nii(cases, scratch):
    """As its README does it, but it writes no images, and masks uncompressed."""
    import SimpleITK
    from dcmrtstruct2nii import dcmrtstruct2nii, list_rt_structs

    def convert(case):
        path = str(case / "RS.dcm")
        folder = scratch / case.name
        options = {"gzip": False, "convert_original_dicom": False}
        dcmrtstruct2nii(path, str(case / "images"), str(folder), **options)
        masks = {}
        for name in list_rt_structs(path):
            image = SimpleITK.ReadImage(str(folder / f"mask_{name}.nii"))
            masks[name] = SimpleITK.GetArrayFromImage(image) > 0
        return masks

    yield
    yield from one_by_one(cases, convert)


def by_platipy(cases, scratch):
    """As its convert_rtstruct does it, but without writing files."""
    import SimpleITK
    from platipy.dicom.io import rtstruct_to_nifti as platipy

    def convert(case):
        image = platipy.read_dicom_image(case / "images")
        structures = platipy.read_dicom_struct_file(case / "RS.dcm")
        found, names = platipy.transform_point_set_from_dicom_struct(image, structures)
        masks = [SimpleITK.GetArrayFromImage(mask) > 0 for mask in found]
        return dict(zip(names, masks, strict=True))

    yield
    yield from one_by_one(cases, convert)


def one_by_one(cases, convert):
    """Yield each case and its masks, or what went wrong."""
    for case in cases:
        try:
            yield case, convert(case)
        except Exception as exc:
            # Of the lines of SimpleITK, the last one says what was wrong.
            yield case, f"{type(exc).__name__}: {exc}".splitlines()[-1].strip()


def peak_megabytes():
    """Return the peak of resident memory of this process.

    getrusage would return that of the process that started it, if that is greater.
    """
    with Path("/proc/self/status").open(encoding="ascii") as status:
        (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(peak) / 1024


TOOLS = {
    "fastseg": by_fastseg,
    "rt-utils": by_rt_utils,
    "dcmrtstruct2nii": by_dcmrtstruct2nii,
    "platipy": by_platipy,
}


def run(tool, root, scratch, target, start):
    """Convert all cases, save their masks, and return what it cost."""
    cases = sorted(root.iterdir())
    steps = TOOLS[tool](cases, scratch)
    next(steps)
    imported = time.time()
    saving = 0.0
    errors = {}
    peak = 0.0
    for case, masks in steps:
        peak = peak_megabytes()
        paused = time.time()
        if isinstance(masks, str):
            errors[case.name] = masks
        else:
            import numpy as np

            np.savez(target / f"{case.name}.npz", **masks)
        saving += time.time() - paused
    end = time.time() - saving
    return {
        "seconds": end - start,
        "after_imports": end - imported,
        "megabytes": peak,
        "errors": errors,
    }


def main():
    """Convert, and print what it cost."""
    tool, root, scratch, target, start = sys.argv[1:]
    # What a tool prints is no answer.
    with contextlib.redirect_stdout(io.StringIO()):
        answer = run(tool, Path(root), Path(scratch), Path(target), float(start))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
