"""Points in the patient to pixels of images."""

from fastseg._kernels.jit import entry, inlined


@inlined
def dot(ax, ay, az, bx, by, bz):
    """Return the product of two vectors, rounded as `geometry` rounds it."""
    return ax * bx + ay * by + az * bz


@entry(
    points="const float64[:, ::1]",
    counts="const int64[::1]",
    planes="const float64[:, ::1]",
    pixels="float64[:, ::1]",
    distances="float64[::1]",
)
def project_points(points, counts, planes, pixels, distances):
    """Convert points to pixels of the planes of images, as `geometry` does one plane.

    points    : float64 (n, 3), mm, LPS: those of one plane after the other
    counts    : int64 (m,), number of points of each plane
    planes    : float64 (m, 14): origin, directions of rows and columns, spacing between
        rows and columns, normal
    pixels    : float64 (n, 2), written: (x, y), pixel centres at integers
    distances : float64 (n,), written: mm from the plane, along its normal
    """
    stop = 0
    for plane in range(len(planes)):
        own = planes[plane]
        ox, oy, oz = own[0], own[1], own[2]
        rx, ry, rz = own[3], own[4], own[5]
        cx, cy, cz = own[6], own[7], own[8]
        between_rows, between_columns = own[9], own[10]
        nx, ny, nz = own[11], own[12], own[13]
        row_row = dot(rx, ry, rz, rx, ry, rz)
        row_column = dot(rx, ry, rz, cx, cy, cz)
        column_column = dot(cx, cy, cz, cx, cy, cz)
        determinant = row_row * column_column - row_column * row_column
        start = stop
        stop += counts[plane]
        for k in range(start, stop):
            x, y, z = points[k, 0] - ox, points[k, 1] - oy, points[k, 2] - oz
            on_row = dot(x, y, z, rx, ry, rz)
            on_column = dot(x, y, z, cx, cy, cz)
            along_row = column_column * on_row - row_column * on_column
            along_column = row_row * on_column - row_column * on_row
            pixels[k, 0] = along_row / determinant / between_columns
            pixels[k, 1] = along_column / determinant / between_rows
            distances[k] = dot(x, y, z, nx, ny, nz)
