"""Draws the pictures of `docs/labels.md`: for each rule, a fault that it finds.

    python -m tests.quality.draw_rules            # all of them, into docs/rules
    python -m tests.quality.draw_rules spike      # those of some rules

The faults are those of the tests, put into phantoms, and a picture shows what the page
of `fastseg check` shows of the finding. The same Pillow writes the same bytes.
"""

import argparse
import base64
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

import fastseg
from fastseg.colours import colour_of
from fastseg.quality.findings import Finding
from fastseg.quality.report.panels import in_turn
from fastseg.quality.report.pictures import UNITS, Picture, draw_finding
from tests.conftest import PROJECT
from tests.quality.faults import FAULTS
from tests.quality.faults.images import of_image
from tests.quality.study import Put, Study

FOLDER = PROJECT / "docs" / "rules"
# Pixels: of a picture, between two, of the text below them.
HEIGHT, GAP, TEXT = 144, 4, 11
CAPTION = TEXT + 6
# Pictures are drawn larger by this factor, then made smaller: lines are smooth.
SCALE = 4
MARK = 6.0
# A picture has so many greys, and each colour alone and mixed with these.
GREYS, MIXES = (
    20,
    ((0.6, 20), (0.6, 110), (0.6, 220), (0.3, 20), (0.3, 110), (0.3, 220)),
)
WHITE, INK = (255, 255, 255), (80, 90, 105)
PATIENTS = 12
# Pixels of an image in a close-up, and mm of a bar.
CLOSE, BAR = 14, 50

Ring = NDArray[np.float64]


class Example(NamedTuple):
    """A fault to draw.

    fault    : its name in FAULTS, or a function
    captions : of the pictures, in their order
    seed     : of the place where it is put; chosen so that one sees it well
    kind     : of the phantom
    beside   : "twin": the next image of the finding; "slices": those before and after;
        "other": the same slice of another patient; "": none
    view     : "labels": crops around all classes; "image": whole images; "": as on the
        page
    extra    : what is drawn besides: "arrows" that show the direction of rings, a "bar"
        of BAR mm, "letters" of the directions in the patient, "values" in one window,
        a "window" that the header has, a "shift" or the "vertices" in a close-up
    """

    fault: str | Callable[[Study, np.random.Generator], Put | None]
    captions: tuple[str, ...]
    seed: int = 0
    kind: str = "cine"
    beside: str = ""
    view: str = ""
    extra: str = ""


def wrap(study: Study, rng: np.random.Generator) -> Put:
    """Let values below 60 become the largest ones, as if they had been negative."""

    def change(pixels: NDArray[Any]) -> NDArray[Any]:
        return (pixels.astype(np.int64) - 60).astype(np.uint16)

    put = of_image(study, rng, "values-wrap", change)
    (image,) = (image for image in study.images if image.path in put.paths)
    study.set_header(image, BitsStored=16, HighBit=15)
    return put


def leak(study: Study, rng: np.random.Generator) -> Put:
    """Nothing: the split is at fault, which has this patient twice."""
    patient = study.images[0].patient
    return Put(
        "split-leak", tuple(k.path for k in study.images if k.patient == patient)
    )


def move_outside(study: Study, rng: np.random.Generator) -> Put:
    """Move a contour beside its image."""
    image, name = study.pick(rng, ("icontour",))
    width = study.pixels(image).shape[1]
    (ring,) = study.contours[image.index, name]
    study.contours[image.index, name] = [ring + (width - ring[:, 0].min() + 4, 0)]
    return Put("outside-image", (image.path,), name)


TWINS = ("this image", "another patient")
PATIENT = ("this patient", "another patient")
SLICES = ("slice before", "this slice", "next slice")
RT = "rtstruct"
EXAMPLES: dict[str, Example] = {
    "contour-across-patients": Example(
        "contours of another patient", TWINS, beside="twin"
    ),
    "contour-of-two-classes": Example(
        "a contour for two classes", ("two classes have it",), 11
    ),
    "contour-repeated": Example(
        "a contour of the next image", ("one slice", "the next"), beside="twin"
    ),
    "series-repeated": Example(
        "a series of another patient",
        ("one patient", "another patient"),
        beside="twin",
        view="labels",
    ),
    "image-across-patients": Example(
        "an image of another patient", TWINS, beside="twin", view="labels"
    ),
    "image-repeated": Example(
        "an image twice", ("one slice", "another slice"), beside="twin", view="labels"
    ),
    "image-rescaled": Example(
        "an image of another patient, rescaled",
        TWINS,
        11,
        beside="twin",
        view="image",
        extra="values",
    ),
    "not-inside": Example("inner contour leaves the outer one", ("this image",), 11),
    "overlap": Example("classes that lie apart overlap", ("this image",), kind=RT),
    "swapped-labels": Example("labels are swapped", TWINS, 2, beside="other"),
    "self-intersection": Example("contour crosses itself", ("this image",), 5),
    "spike": Example("contour has a spike", ("this image",)),
    "jump": Example("contour jumps", ("this image",)),
    "tiny-ring": Example("ring has almost no area", ("the blue dot",), 8),
    "speck": Example("ring of few pixels", ("within the circle",), kind=RT),
    "outside-image": Example(move_outside, ("image, and beside it the contour",)),
    "cut-by-border": Example("contour is cut by the border", ("image and contour",)),
    "crossing-rings": Example("rings overlap in part", ("this image",), kind=RT),
    "nested-rings": Example(
        "rings lie within each other", ("one direction",), kind=RT, extra="arrows"
    ),
    "opposite-winding": Example(
        "rings of opposite winding", ("opposite directions",), kind=RT, extra="arrows"
    ),
    "pixel-offset": Example(
        "all contours are half a pixel off", ("white: where it fits",), extra="shift"
    ),
    "whole-numbers": Example(
        "all vertices of a class are rounded", ("dots: vertices",), extra="vertices"
    ),
    "slice-without-contour": Example("missing slice", SLICES, beside="slices"),
    "area-jump": Example("area jump", SLICES, beside="slices"),
    "centre-jump": Example("centre jump", SLICES, beside="slices"),
    "overlap-jump": Example("overlap jump", SLICES, beside="slices"),
    "slices-swapped": Example(
        "swapped slices", ("one slice", "the other"), beside="twin"
    ),
    "end-slice-unlike-rest": Example(
        "stray end", ("the last slice", "the next to last"), beside="twin"
    ),
    "time-jump": Example("swapped times", ("one time", "the next"), beside="twin"),
    "contour-of-other-time": Example(
        "contour of other time", ("this time", "another time"), beside="twin"
    ),
    "area-unlike-others": Example("unusual area", TWINS, beside="other", view="image"),
    "position-unlike-others": Example(
        "unusual position", TWINS, beside="other", view="image"
    ),
    "intensity-unlike-others": Example("unusual intensity", TWINS, beside="other"),
    "outline-unlike-others": Example("outline off its edge", TWINS, beside="other"),
    "patient-without-class": Example(
        "patient without a class", PATIENT, beside="other", view="labels"
    ),
    "class-on-part": Example("class on part", TWINS, beside="other", view="labels"),
    "constant-image": Example("constant image", TWINS, beside="other", view="image"),
    "clipped-image": Example("clipped image", TWINS, beside="other", view="image"),
    "few-values": Example("few values", TWINS, beside="other", view="image"),
    "spacing-unlike-rest": Example(
        "spacing of a patient", PATIENT, beside="other", view="image", extra="bar"
    ),
    "orientation-unlike-rest": Example(
        "orientation of a patient",
        PATIENT,
        beside="other",
        view="image",
        extra="letters",
    ),
    "window-off-values": Example(
        "window off the values",
        ("in its window", "another patient"),
        beside="other",
        view="image",
        extra="window",
    ),
    "values-unlike-rest": Example(
        "values of an image", TWINS, beside="other", view="image", extra="values"
    ),
    "values-wrap": Example(wrap, TWINS, beside="other", view="image"),
    "split-leak": Example(
        leak, ("in training", "in validation"), beside="twin", view="labels"
    ),
}


def main() -> None:
    """Draw pictures of rules."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rules", nargs="*", help="by default all")
    chosen = parser.parse_args().rules or list(EXAMPLES)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        clean = {
            kind: make_study(Path(folder) / kind, kind)
            for kind in sorted({EXAMPLES[name].kind for name in chosen})
        }
        for name in chosen:
            example = EXAMPLES[name]
            with tempfile.TemporaryDirectory(dir=folder) as copy:
                image = draw(name, example, clean[example.kind].copy(Path(copy)))
            image.save(FOLDER / f"{name}.png", optimize=True)


def make_study(folder: Path, kind: str) -> Study:
    """Make a phantom without faults."""
    folder.mkdir()
    if kind == RT:
        return Study.phantom(folder, kind, patients=PATIENTS, sizes=96, slices=6)
    link = {"slices": "series"}
    return Study.phantom(folder, kind, link, patients=PATIENTS, sizes=96, phases=3)


def draw(name: str, example: Example, study: Study) -> Image.Image:
    """Put a fault into a study, and draw the finding of a rule."""
    rng = np.random.default_rng(example.seed)
    fault = FAULTS[example.fault] if isinstance(example.fault, str) else example.fault
    put = fault(study, rng)
    assert put is not None, name
    store = study.store()
    splits = write_leak(store, study.root.parent) if name == "split-leak" else None
    findings = fastseg.check(store, rules=[name], splits=splits)
    found = [
        finding
        for finding in findings
        if {*findings.facts.sources(finding.samples)} & {*put.paths}
        and (not put.label or put.label in finding.classes)
    ]
    assert found, f"{name} is not found"
    # One of the patient, before one of the whole store.
    finding = min(found, key=lambda one: len(one.samples))
    print(f"{name} ({finding.severity}): {finding.text}", flush=True)
    samples = beside(store, finding, example.beside)
    if example.extra in ("shift", "vertices"):
        images = [close_up(store, finding, example.extra)]
    else:
        pictures = pictures_of(store, finding, samples, example)
        images = [paint(picture, example.extra == "arrows") for picture in pictures]
    for image, sample in zip(images, samples, strict=True):
        mark_extra(image, store, sample, example.extra)
    if example.beside == "slices":
        images = [images[1], images[0], images[2]]
    classes = {name for sample in samples for name in store[sample].contours}
    numbers = map(store.class_index, sorted(classes))
    return joined(name, images, example.captions, numbers)


def pictures_of(
    store: fastseg.Store, finding: Finding, samples: Sequence[int], example: Example
) -> list[Picture]:
    """Return a picture of each sample."""
    shown = replace(finding, samples=tuple(samples))
    if example.view == "labels":
        shown = replace(shown, classes=store.classes)
    if example.view == "image":
        height, width = store[samples[0]].image.shape
        shown = replace(shown, points=((0.0, 0.0), (width - 1.0, height - 1.0)))
    drawn = draw_finding(store, shown, 10**9).pictures
    pictures = [x for x in drawn if x.caption not in ("detail", "whole image")]
    if len(pictures) < len(drawn) or example.view == "image":
        # Marks are on the detail: the large one has its frame.
        pictures = [picture._replace(marks=[], frame=None) for picture in pictures]
    pictures = pictures[: len(samples)]
    if example.extra in ("values", "window"):
        limits = limits_of(store, samples[-1])
        of_first = limits
        if example.extra == "window":
            centre, width = store[samples[0]].meta["window"]
            of_first = (centre - width / 2, centre + width / 2)
        pictures = [
            picture._replace(image=encoded(store, sample, window))
            for picture, sample, window in zip(
                pictures, samples, (of_first, limits), strict=True
            )
        ]
    return pictures


def limits_of(store: fastseg.Store, sample: int) -> tuple[float, float]:
    """Return the image values that are black and white."""
    low, high = np.percentile(values_of(store, sample), (1, 99.5))
    return float(low), float(high)


def values_of(store: fastseg.Store, sample: int) -> NDArray[np.float64]:
    """Return the image values of a sample."""
    meta = store[sample].meta
    values: NDArray[np.float64] = store[sample].image * meta["slope"]
    return values + meta["intercept"]


def encoded(store: fastseg.Store, sample: int, limits: tuple[float, float]) -> str:
    """Return a whole image in a window as a data URI."""
    low, high = limits
    grey = ((values_of(store, sample) - low) / (high - low)).clip(0, 1) * 255
    file = io.BytesIO()
    Image.fromarray(np.rint(grey).astype(np.uint8)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def beside(store: fastseg.Store, finding: Finding, what: str) -> tuple[int, ...]:
    """Return the samples to draw, the first one of the finding in front."""
    first, *others = finding.samples
    if what == "twin":
        return tuple(in_turn(store, [first, *others])[:2])
    if what == "slices":
        return (first, first - 1, first + 1)
    if what == "other":
        patients = {store[k].patient for k in finding.samples}
        labels = {*finding.classes}
        place = slice_of(store, first)
        return first, next(
            k
            for k in range(len(store))
            if (store[k].patient not in patients or len(patients) > 2)
            and store[k].patient != store[first].patient
            and store[k].contours
            and labels <= {*store[k].contours}
            and (slice_of(store, k) == place or len(patients) > 2)
        )
    return (first,)


def slice_of(store: fastseg.Store, sample: int) -> int:
    """Return the number of a sample in its volume."""
    volume = int(store.items["volume"][sample])
    return sample - store.volumes[volume].samples[0] if volume >= 0 else 0


def write_leak(store: fastseg.Store, folder: Path) -> Path:
    """Write a split that has images of one patient in both parts."""
    theirs = [k for k in range(len(store)) if store[k].patient == store[0].patient]
    labelled = [k for k in theirs if store[k].contours]
    others = [k for k in range(len(store)) if k not in theirs]
    parts = {"train": np.array([labelled[0], *others]), "val": np.array(labelled[1:2])}
    path = folder / "splits.csv"
    fastseg.write_split(path, store, parts, by="sample")
    path.write_text(path.read_text().replace(",sample,", ",patient,"))
    return path


def paint(picture: Picture, has_arrows: bool) -> Image.Image:
    """Return a picture with its outlines and marks, HEIGHT pixels high."""
    _, data = picture.image.split(",")
    grey = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    width = round(HEIGHT * picture.width / picture.height)
    image = grey.resize((width * SCALE, HEIGHT * SCALE), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    factor = HEIGHT * SCALE / (picture.height * UNITS)
    # Of classes with the same outline, the one that is drawn first is wider.
    concerned = [x for x in picture.outlines if x.is_concerned]
    are_same = len({x.path for x in concerned}) < len(concerned)
    for outline in picture.outlines:
        width = 2 if outline.is_concerned else 1
        if are_same and outline is concerned[0]:
            width = 5
        for ring in rings_of(outline.path):
            points = [(x * factor, y * factor) for x, y in [*ring, ring[0]]]
            pen.line(points, colour_of(outline.klass), width * SCALE, "curve")
            if has_arrows and outline.is_concerned:
                draw_arrows(pen, points, colour_of(outline.klass))
    for ring in rings_of(picture.edge):
        points = [(x * factor, y * factor) for x, y in [*ring, ring[0]]]
        pen.line(points, "#9aa4b2", SCALE)
    for x, y in [] if has_arrows else picture.marks:
        radius = MARK * SCALE
        low, high = (
            np.array([x, y]) * factor - radius,
            np.array([x, y]) * factor + radius,
        )
        pen.ellipse([*low, *high], None, WHITE, SCALE)
    return smaller(image)


def draw_arrows(
    pen: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], colour: str
) -> None:
    """Draw four heads of arrows along a ring."""
    for k in range(0, len(points) - 1, max(1, len(points) // 4)):
        tail, head = np.array(points[k]), np.array(points[k + 1])
        along = (head - tail) / max(float(np.hypot(*(head - tail))), 1e-9) * 7 * SCALE
        across = np.array([-along[1], along[0]]) * 0.6
        corners = [tail + along, tail - along / 2 + across, tail - along / 2 - across]
        pen.polygon([tuple(corner) for corner in corners], colour)


def close_up(store: fastseg.Store, finding: Finding, extra: str) -> Image.Image:
    """Return some pixels at the right of a contour, as squares."""
    (first, *_), label = finding.samples, finding.classes[0]
    if "icontour" in finding.classes:
        label = "icontour"
    sample = store[first]
    ring = sample.contours[label][0]
    x, y = np.rint(ring[ring[:, 0].argmax()]).astype(int)
    corner = np.array([x - CLOSE * 2 // 3, y - CLOSE // 2])
    rows, columns = (slice(k, k + CLOSE) for k in corner[::-1])
    crop = sample.image[rows, columns].astype(np.float64)
    grey = (crop - crop.min()) / (crop.max() - crop.min()) * 255
    side = HEIGHT * SCALE
    squares = Image.fromarray(np.rint(grey).astype(np.uint8)).convert("RGB")
    image = squares.resize((side, side), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    factor = side / CLOSE

    def placed(points: Ring) -> list[tuple[float, float]]:
        return [(x, y) for x, y in ((points - corner + 0.5) * factor).tolist()]

    colour = colour_of(store.class_index(label))
    points = placed(ring)
    pen.line([*points, points[0]], colour, 2 * SCALE, "curve")
    if extra == "shift":
        shift = [float(x) for x in re.findall(r"\((\S+), (\S+)\)", finding.text)[0]]
        points = placed(ring + np.array(shift))
        pen.line([*points, points[0]], WHITE, 2 * SCALE, "curve")
    else:
        radius = 3 * SCALE
        for x, y in points:
            pen.ellipse([x - radius, y - radius, x + radius, y + radius], colour)
    return smaller(image)


def smaller(image: Image.Image) -> Image.Image:
    """Return an image that was drawn larger in its size."""
    size = (image.width // SCALE, image.height // SCALE)
    return image.resize(size, Image.Resampling.LANCZOS)


def mark_extra(
    image: Image.Image, store: fastseg.Store, sample: int, extra: str
) -> None:
    """Draw a bar of BAR mm, or letters of the directions in the patient."""
    pen = ImageDraw.Draw(image)
    font = ImageFont.load_default(TEXT)
    if extra == "bar":
        spacing = float(store.items["spacing_mm"][sample][1])
        length = BAR / spacing * image.width / store[sample].image.shape[1]
        left, y = image.width - 8 - length, image.height - 8
        pen.line([(left, y), (left + length, y)], WHITE, 3)
        pen.text((image.width - 8, y - 16), f"{BAR} mm", WHITE, font, anchor="ra")
    if extra == "letters":
        plane = store[sample].plane
        origin, right, down = plane.pixel_to_patient(
            np.array([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0)])
        )
        middle = (image.width // 2, image.height // 2)
        places = (
            (image.width - 4, middle[1], "rm"),
            (middle[0], image.height - 3, "md"),
        )
        for step, (x, y, anchor) in zip(
            (right - origin, down - origin), places, strict=True
        ):
            axis = int(np.abs(step).argmax())
            letter = ("RL", "AP", "FH")[axis][int(step[axis] > 0)]
            pen.text((x, y), letter, (255, 220, 0), ImageFont.load_default(16), anchor)


def joined(
    name: str,
    images: Sequence[Image.Image],
    captions: Sequence[str],
    classes: Iterable[int],
) -> Image.Image:
    """Return pictures side by side, with a heading and captions, in few colours."""
    font = ImageFont.load_default(TEXT)
    widths = [
        max(image.width, round(font.getlength(text)))
        for image, text in zip(images, captions, strict=True)
    ]
    heading = ImageFont.load_default(TEXT + 1)
    width = max(sum(widths) + GAP * (len(images) - 1), round(heading.getlength(name)))
    size = (width, HEIGHT + 2 * CAPTION)
    canvas = Image.new("RGB", size, WHITE)
    pen = ImageDraw.Draw(canvas)
    pen.text((0, 1), name, (0, 0, 0), heading)
    x = 0
    for image, text, width in zip(images, captions, widths, strict=True):
        canvas.paste(image, (x, CAPTION))
        pen.text((x, CAPTION + HEIGHT + 2), text, INK, font)
        x += width + GAP
    palette = Image.new("P", (1, 1))
    palette.putpalette(palette_of([colour_of(k) for k in classes]))
    return canvas.quantize(palette=palette, dither=Image.Dither.NONE)


def palette_of(colours: Iterable[str]) -> list[int]:
    """Return greys, and colours alone and mixed with greys: red, green and blue."""
    greys = np.rint(np.linspace(0, 255, GREYS)).repeat(3).astype(int).tolist()
    numbers = [*greys, 255, 220, 0]
    for colour in colours:
        full = ImageColor.getrgb(colour)
        numbers += full
        for part, grey in MIXES:
            numbers += [round(part * x + (1 - part) * grey) for x in full]
    return numbers


def rings_of(path: str) -> list[list[tuple[int, int]]]:
    """Return the vertices of the rings of a path."""
    rings = []
    for part in re.findall("M([^z]*)z", path):
        numbers = [int(x) for x in re.findall(r"-?\d+", part)]
        steps = np.array(numbers).reshape(-1, 2)
        rings.append([(x, y) for x, y in np.cumsum(steps, axis=0).tolist()])
    return rings


if __name__ == "__main__":
    main()
