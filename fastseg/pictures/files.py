"""Files of pictures: their formats, and how a later call recognises its own."""

import os
from io import FileIO

# Name in the metadata of a picture, and the field that holds it, by format.
SOFTWARE = "fastseg"
METADATA = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}
# The metadata stand within so many bytes of the begin or the end of a picture.
METADATA_BYTES = 2**16
# What a picture of each format begins with, and what stands before the metadata.
MARKS = (
    (b"\x89PNG\r\n\x1a\n", b"tEXtSoftware\0"),
    (b"%PDF-", b"/Creator ("),
    (b"<?xml", b"<dc:creator>\n     <cc:Agent>\n      <dc:title>"),
)


class _PictureKind:
    """The kind of output that `show` writes, see `outputs.Kind`."""

    name = "a picture"

    def recognises(self, file: FileIO) -> bool:
        """Return whether a file is a picture with fastseg in its metadata."""
        data = file.read(METADATA_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - METADATA_BYTES, 0))  # where a PDF has it
        data += file.read()
        return any(
            data.startswith(start) and mark + SOFTWARE.encode() + b" " in data
            for start, mark in MARKS
        )


PICTURE = _PictureKind()
