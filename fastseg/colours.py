"""The colours of classes in pictures."""

# Okabe and Ito's palette, which people with any colour vision can tell apart.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")


def colour_of(k: int) -> str:
    """Return the colour of class k, as in "#E69F00"; they repeat after seven."""
    return COLOURS[k % len(COLOURS)]


def rgb_of(k: int) -> tuple[float, float, float]:
    """Return red, green and blue of the colour of class k, each 0 to 1."""
    colour = colour_of(k)
    red, green, blue = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    return red, green, blue
