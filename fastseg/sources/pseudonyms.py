"""Pseudonyms of patients: keyed hashes of their IDs.

Without the key, nobody can tell whether a pseudonym is that of an ID; with it, the same
ID gives the same pseudonym in every run and on every machine.
"""

import errno
import hashlib
import hmac
import json
import os
import shlex
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastseg.errors import OptionError
from fastseg.files import name_path, open_regular
from fastseg.links import LinkTable

# 64 bits: among a million patients, two share a pseudonym with a chance of 1 to 37
# million. More digits would make names in tables and pictures hard to read.
DIGITS = 16
# A key that is shorter could be guessed; a longer file is no key, but the wrong file.
LEAST_KEY_BYTES = 16
MOST_KEY_BYTES = 2**16
# The permissions of group and others to read a file.
OTHERS_READ = stat.S_IRGRP | stat.S_IROTH


def read_key(path: Path) -> bytes:
    """Return the bytes of a key file, all of them.

    Raises OptionError unless it is a regular file of LEAST_KEY_BYTES to MOST_KEY_BYTES
    that only its owner can read, FileNotFoundError with a command that makes one.
    """
    try:
        with name_path(path), open_regular(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(MOST_KEY_BYTES + 1) or b""
    except FileNotFoundError:
        missing = FileNotFoundError(
            f"there is no key file {path}; make one with: {command_that_makes(path)}"
        )
        missing.errno = errno.ENOENT
        raise missing from None
    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise OptionError(
            f"{path}: is no key, it must have {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} "
            "bytes"
        )
    # Windows has no such permissions.
    if sys.platform != "win32" and mode & OTHERS_READ:
        raise OptionError(
            f"{path}: others than its owner can read this key, and find out whose "
            f"pseudonyms these are: chmod 600 {shlex.quote(str(path))}"
        )
    return key


def command_that_makes(path: Path) -> str:
    """Return a command for the shells of Linux and macOS that makes a key file."""
    # JSON quotes a text as Python does, but always with the quotes that need no escapes
    # in those of the shell.
    name = json.dumps(str(path), ensure_ascii=False)
    code = f'import os; os.umask(0o77); open({name}, "xb").write(os.urandom(32))'
    return f"python3 -c {shlex.quote(code)}"


def pseudonym_of(key: bytes) -> Callable[[str], str]:
    """Return the function that gives the pseudonym of an ID: DIGITS hex digits.

    They are the first ones of the HMAC-SHA256 of the ID in UTF-8.
    """

    def hash_id(patient: str) -> str:
        return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:DIGITS]

    return hash_id


def with_pseudonyms(table: LinkTable, key: bytes) -> LinkTable:
    """Return a table with pseudonyms as `patient`, sorted again."""
    patient = table.links.patient
    texts = tuple(map(pseudonym_of(key), patient.texts))
    links = replace(table.links, patient=patient._replace(texts=texts))
    return LinkTable(
        base=table.base,
        links=links.sorted(),
        rejects=table.rejects,
        unlabelled=table.unlabelled,
        ignored=table.ignored,
        left_out=table.left_out,
        notes=table.notes,
    )
