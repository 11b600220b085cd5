"""Bounds on numbers and text from outside; docs/limits.md lists them.

No real file meets them. They stop damaged and hostile files before these take memory
and time. `tests/test_bounds.py` checks that the page names each with its number.
"""

# Bytes that the pixels of all frames of a file take, as its header announces them.
# `max_pixel_bytes` of `build` and `read_image` replaces it for larger series of frames.
MAX_PIXEL_BYTES = 2**30

# Bytes of everything but the pixels in an image file. The header of 10 000 frames with
# 100 elements each takes 20 to 40 MB.
MAX_HEADER_BYTES = 2**28

# Elements of a header, outside of its sequences: some hundreds in most files. pydicom
# takes 15 us for each.
MAX_ELEMENTS = 2**17

# Bytes of one value in a header. The largest that is read is a lookup table of 65 536
# values.
MAX_VALUE_BYTES = 2**18

# Digits of a whole number in a header, such as InstanceNumber. DICOM allows 32 bits
# (PS3.5 6.2), so 10 digits; somewhat larger numbers exist. float64 holds 15 exactly.
MAX_INTEGER_DIGITS = 15

# Absolute value of other numbers in a header: rescale, window and spacing. A slope is
# also at least 1 / MAX_DECIMAL. Known numbers lie between 1e-10 and 1e10. Batches are
# float32, which ends at 3e38.
MAX_DECIMAL = 1e20

# Spacing along one axis of an image that is turned in millimetres, in units of that
# along the other. Known pixels are up to some ten times as long as wide.
MAX_SPACING_RATIO = 1000

# Bytes of a UID (PS3.5 9.1).
MAX_UID_BYTES = 64

# Bytes of a file of contours. A text with one ring has some kB; the largest file of
# other formats that is known has 10 MB.
MAX_CONTOUR_BYTES = 2**25

# Bytes of an RT structure set, and of its content if it is deflated. Most have less
# than 10 MB; one of 100 MB has five million points.
MAX_STRUCTURE_SET_BYTES = 2**28

# ROIs of a structure set; known ones have up to some hundred.
MAX_ROIS = 2**14

# Values and items that are read of a structure set, and images that its contours
# reference: some ten for each contour. Each takes 32 to 72 bytes of memory.
MAX_STRUCTURE_SET_VALUES = 2**22

# Contours of a structure set that cannot be used, each of which is reported.
MAX_CONTOUR_PROBLEMS = 2**14

# Characters of a line of a contour file, and of a row of a table. A row with two paths
# of the longest kind has 10 000.
MAX_ROW_CHARACTERS = 2**16

# Bytes of a path in UTF-8, as on Linux.
MAX_PATH_BYTES = 4096

# Bytes of a Compose in JSON; that of 4096 transforms has 800 kB.
MAX_JSON_BYTES = 2**20

# Pixels of the grid on which a sample is resampled or cropped. The largest mammograms
# and radiographs have 30 million.
MAX_GRID_CELLS = 2**27

# Bytes of a file's name in UTF-8. File systems allow 255 units of UTF-16 at most.
MAX_NAME_BYTES = 765

# Bytes of a text in a links table that is no path. DICOM's longest names of patients
# and organs have 64 characters; folders are named by up to 765 bytes.
MAX_TEXT_BYTES = 1024

# Pixels of one image in a compressed store, which takes up to 16 bytes of memory each
# when it is decompressed, however short its chunk is. The largest radiographs, stitched
# ones of a whole leg, have 50 million; a store without compression has no such bound.
MAX_COMPRESSED_PIXELS = 2**27

# Seconds that decoding one compressed image may take. An image of 100 million pixels
# takes about 10 s. `decode_timeout` of `build` and `read_image` replaces it.
MAX_DECODE_SECONDS = 60.0

# Seconds that `decode_timeout` may be: a week.
MAX_DECODE_TIMEOUT = 604_800.0

# Bytes of memory that a decoding process may add to those that it has, on Linux: a
# number, and some for each pixel of its image and each byte of its code stream.
# OpenJPEG, the largest, takes some 20 for a pixel.
MAX_DECODER_BYTES = 2**30
MAX_DECODER_BYTES_PER_PIXEL = 64

# Fragments of the compressed pixels of one file. Enhanced files have one for each of
# some 10 000 frames.
MAX_FRAGMENTS = 2**20

# Frames of a file whose headers are listed. Files of some 10 000 frames exist.
MAX_FRAMES = 2**20

# Segments of JPEG, and boxes of JP2, before the pixels of a code stream: some ten in
# most files, some hundred with a large colour profile. Reading one takes a microsecond.
MAX_SEGMENTS = 2**16

# Threads of one call. The largest machines have some hundred cores.
MAX_THREADS = 2**10

# Images of a synthetic study, which are all listed before the first is drawn.
MAX_PHANTOM_IMAGES = 1_000_000

# Batches that a Loader makes ahead of its consumer.
MAX_PREFETCH = 2**16

# Rows and columns of a tile of JPEG 2000, where an image has more than one, at least.
# Encoders use 128 and more; a decoder takes kilobytes for each tile.
MIN_TILE_SIDE = 32
