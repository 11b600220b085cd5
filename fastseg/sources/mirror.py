"""The objects below a URL as files of a folder, so that sources find them by name.

URL ── list ──> empty files in a temporary folder ── sources ──> links ──> URLs in them

The files are empty: whatever reads one reads the object that it stands for, see `urls`.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fastseg import remote
from fastseg.errors import FastsegError, LinkError, RemoteError
from fastseg.links import LinkTable
from fastseg.progress import Progress
from fastseg.tables import Reject
from fastseg.urls import mounted

# Letters of a name that would lead elsewhere than the object is.
NOT_IN_NAMES = ("", ".", "..")


class Mirror:
    """A folder whose files stand for the objects below a URL.

    folder  : real path
    rejects : the objects that cannot be files
    """

    def __init__(self, url: str, folder: Path, rejects: list[Reject]):
        self.folder = folder
        self.rejects = rejects
        self._url = url

    def renamed(self, text: str) -> str:
        """Return a message in which the folder is called by its URL."""
        return text.replace(str(self.folder), self._url)

    def table(self, table: LinkTable) -> LinkTable:
        """Return the links of the folder as links to objects."""
        rejects = list(map(self.reject, table.rejects))
        return LinkTable(
            base=".",
            links=table.links.moved(self._to_url),
            rejects=[*self.rejects, *rejects],
            unlabelled=table.unlabelled,
            ignored=table.ignored,
            left_out=table.left_out,
            notes=map(self.renamed, table.notes),
        )

    def reject(self, reject: Reject) -> Reject:
        """Return a reject of a file as one of its object."""
        file = self.renamed(reject.file)
        reason = self.renamed(reject.reason).removeprefix(f"{file}: ")
        return reject._replace(file=file, reason=reason)

    def _to_url(self, path: str) -> str:
        path = path.rstrip("/")
        return self._url if path in ("", ".") else f"{self._url}/{path}"


@contextmanager
def mirror(url: str, progress: Progress) -> Iterator[Mirror]:
    """List the objects below a URL, and make a Mirror of them for a while.

    Errors of fastseg that name the folder name the URL. Raises LinkError if there are
    no objects, or they cannot be listed.
    """
    infos: dict[str, remote.Info] = {}
    rejects: list[Reject] = []
    count = 0
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastseg-"))
        folder = Path(os.path.realpath(name))
        try:
            with progress("list objects", 0) as advance:
                for path, found in remote.list_objects(url):
                    advance()
                    own = f"{url}/{path}"
                    problem = found if isinstance(found, str) else _make(folder, path)
                    if problem:
                        rejects.append(Reject(own, None, problem))
                    else:
                        count += 1
                    if isinstance(found, remote.Info):
                        infos[own] = found
        except RemoteError as exc:
            raise LinkError(str(exc)) from None
        if not count and not rejects:
            raise LinkError(f"{url}: holds no objects, expected a data set")
        stack.enter_context(mounted(str(folder), url))
        stack.enter_context(remote.known(infos))
        result = Mirror(url, folder, rejects)
        stack.enter_context(_errors_renamed(result.renamed))
        yield result


def _make(folder: Path, path: str) -> str:
    """Make an empty file; return why there is none, "" if there is one."""
    if any(part in NOT_IN_NAMES for part in path.split("/")) or "?" in path:
        return "has a ? or an empty part, . or .. in its name; rename it"
    target = folder / path
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(exist_ok=False)
    except (FileExistsError, NotADirectoryError):
        return "has the name of another object or folder; rename one"
    except (OSError, ValueError) as exc:
        return f"has a name that files cannot have here ({type(exc).__name__})"
    return ""


@contextmanager
def _errors_renamed(renamed: Callable[[str], str]) -> Iterator[None]:
    try:
        yield
    except FastsegError as exc:
        exc.args = tuple(renamed(x) if isinstance(x, str) else x for x in exc.args)
        raise
