"""What notebooks show: the pictures decode to the expected pixels, text is escaped."""

import io
import re
from base64 import b64decode

import numpy as np
from numpy.testing import assert_array_equal
from PIL import Image

from fastseg.colours import rgb_of
from fastseg.notebook import SIDE, Thumbnail, as_html, join_regions


def pictures(text):
    """Return the pictures of HTML, as uint8 arrays (h, w, 3)."""
    data = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [np.array(Image.open(io.BytesIO(b64decode(each)))) for each in data]


def test_a_picture_shows_the_image_and_its_mask():
    """Below the image it is shown again, half covered by the colours of the labels."""
    image = np.array([[0, 0, 100], [100, 0, 100]], np.int16)
    labels = np.array([[0, 1, 2], [255, 0, 0]], np.uint8)
    (pixels,) = pictures(as_html("", [Thumbnail(image, labels, "")]))
    grey = np.repeat((image / 100)[..., None], 3, axis=2)
    assert_array_equal(pixels[:2], np.rint(grey * 255))
    below = grey.copy()
    colours = {(0, 1): rgb_of(0), (0, 2): rgb_of(1), (1, 0): (0.5, 0.5, 0.5)}
    for pixel, colour in colours.items():
        below[pixel] = (grey[pixel] + np.array(colour)) / 2
    assert_array_equal(pixels[2:], np.rint(below * 255))


def test_any_image_has_a_picture():
    """Flat images, those without a number, and large and narrow ones are shown."""
    shapes = [(1, 1), (3, 1000), (2 * SIDE + 1, 5)]
    images = [np.zeros(shape, np.float16) for shape in shapes]
    images += [np.full((4, 4), value) for value in (np.nan, np.inf, 2.0**60)]
    images.append(np.array([[np.nan, -1, np.inf, 1]]))
    every = [Thumbnail(image, np.zeros(image.shape, "u8"), "") for image in images]
    shown = pictures(as_html("", every))
    assert [max(each.shape[0] // 2, each.shape[1]) <= SIDE for each in shown] == [
        True
    ] * 7
    assert_array_equal(shown[-1][0, :, 0], [0, 0, 0, 255])


def test_text_is_escaped():
    """Names from files are no HTML, and their control characters are shown."""
    thumbnail = Thumbnail(np.zeros((2, 2)), np.zeros((2, 2), int), "<img>\x1b")
    text = as_html("<b> & 'c'", [thumbnail], ['"<script>\u202e'])
    assert "&lt;b&gt; &amp; &#x27;c&#x27;" in text
    assert "<figcaption>&lt;img&gt;\\x1b</figcaption>" in text
    assert "&quot;&lt;script&gt;\\u202e" in text


def test_a_region_inside_another_is_visible():
    """The smallest region lies on top; what is not known is 255, below all others."""
    outer, inner = np.zeros((2, 4, 4), np.uint8)
    outer[1:] = 1
    inner[2, 2] = 1
    unknown = np.full((4, 4), 255, np.uint8)
    expected = np.full((4, 4), 255)
    expected[1:] = 1
    expected[2, 2] = 2
    assert_array_equal(join_regions(np.stack([outer, inner, unknown])), expected)
