"""The pictures of rules in `docs/labels.md`."""

import re

from PIL import Image

from fastseg.quality.rules import RULES
from tests.conftest import PROJECT
from tests.quality.draw_rules import EXAMPLES, FOLDER, draw

# Bytes of all pictures together, so that the repository stays small.
MOST_BYTES = 600_000


def test_each_rule_has_its_picture():
    """One, on the page, among the rules, with a heading for those who do not see it."""
    assert {*EXAMPLES} == {*RULES}
    page = (PROJECT / "docs/labels.md").read_text()
    named = re.findall(r"^!\[(.*)\]\(rules/(.*)\.png\)$", page, re.MULTILINE)
    assert sorted(name for _, name in named) == sorted(RULES)
    assert all(title == RULES[name].title for title, name in named)
    files = [*FOLDER.iterdir()]
    assert sorted(file.name for file in files) == sorted(f"{x}.png" for x in RULES)
    assert sum(file.stat().st_size for file in files) < MOST_BYTES
    for file in files:
        with Image.open(file) as image:
            image.verify()
            assert image.height == 178


def test_a_picture_is_of_a_finding(cine, tmp_path):
    """Of a fault that the rule finds; drawn again, it has the same pixels."""
    drawn = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        copy = cine.copy(tmp_path / str(number))
        drawn.append(draw("spike", EXAMPLES["spike"], copy))
    assert drawn[0].tobytes() == drawn[1].tobytes()
    # The spike is drawn in the colour of its class, in a picture that is grey else.
    colours = drawn[0].convert("RGB").getcolors(10_000)
    assert sum(count for count, (red, _, blue) in colours if red > blue + 60) > 100
