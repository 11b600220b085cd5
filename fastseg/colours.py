"""The colours of classes in pictures."""

COLOURS = (
    # Okabe and Ito's palette, which people with any colour vision can tell apart.
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"),
    # As far from these and from each other as 16 colours on grey can be.
    *("#9A5CFF", "#6EE62E", "#FF2A5F", "#4BFFD2", "#FF4FE0", "#968510", "#FFD2EC"),
    *("#4F63FF", "#A06A4A"),
)


def colour_of(k: int) -> str:
    """Return the colour of class k, as in "#E69F00"; they repeat after 16."""
    return COLOURS[k % len(COLOURS)]


def rgb_of(k: int) -> tuple[float, float, float]:
    """Return red, green and blue of the colour of class k, each 0 to 1."""
    colour = colour_of(k)
    red, green, blue = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    return red, green, blue
