"""How bytes are reached: local files, object stores and web servers, whole files and members of uncompressed tars.

A location is a local path or a URL. Object stores (s3, gs, hdfs, abfs) are read by pyarrow.fs, all other schemes by
fsspec. Options come from the environment (AWS_ENDPOINT_URL, AWS_PROFILE, AWS_ACCESS_KEY_ID ...) or from the URL's
query in the words of `pyarrow.fs.FileSystem.from_uri`: `s3://bucket/clips?endpoint_override=minio:9000&scheme=http`.
The key in front of the query is taken literally, nothing in it is percent-decoded.

Every function here raises OSError when something cannot be reached, whatever the library below it raised.
"""

import glob
import io
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from pipelines.records import Source

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

ARROW_SCHEMES = {"s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss"}
BLOCK = 8 << 20  # [bytes] of one request when a whole file is read
BUFFER = 1 << 20  # [bytes] of one request when headers here and there are read
URL = re.compile(r"(?P<head>[A-Za-z][\w+.-]*://[^/?]*)(?P<path>.*?)(?P<query>\?\w+=.*)?", re.DOTALL)


class TooLargeError(OSError):
    """A file has more bytes than the caller is ready to hold in memory."""


def open_source(source: Source) -> AbstractContextManager[BinaryIO]:
    """The bytes of a source, to be read from the beginning to the end: a whole file, or a member of a tar.

    Raises:
        OSError: it cannot be opened or read, or has fewer bytes than `source.bytes` says.
    """
    if source.offset >= 0:
        return open_path(source.path, source.offset, source.bytes)
    known = source.bytes if source.bytes and not local_path(source.path) else None
    return open_path(source.path, 0, known, in_order=True)


@contextmanager
def open_path(path: str, start: int = 0, size: int | None = None, *, in_order: bool = False) -> Iterator[BinaryIO]:
    """A buffered, seekable file of the bytes start..start + size; of all up to the end without a size.

    `in_order` promises that nothing is skipped: web servers that cannot serve parts of a file are then no obstacle.
    """
    with _os_errors(path):
        raw = _open_raw(path, in_order)
    with io.BufferedReader(_Part(raw, path, start, size), BUFFER) as file:
        yield file


def read_bytes(source: Source, limit: int) -> bytes:
    """The whole content, of at most `limit` bytes.

    Raises:
        TooLargeError: there is more.
        OSError: as `open_source`.
    """
    with open_source(source) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError(f"{source.path}: more than {limit} bytes")
    return data


@contextmanager
def local_copy(source: Source, folder: Path | None = None) -> Iterator[Path]:
    """A local file with the source's bytes, for libraries that need a path.

    The file itself where it is one; otherwise a temporary copy in `folder` (none: the system's place for such files)
    with the source's suffix, which is deleted afterwards.

    Raises:
        OSError: as `open_source`, or the copy cannot be written.
    """
    itself = local_path(source.path)
    if itself and source.offset < 0:
        yield itself
        return
    ending = suffix(source.uri if source.offset >= 0 else source.path)
    with tempfile.NamedTemporaryFile(prefix="source-", suffix=ending, dir=folder) as copy:
        with open_source(source) as file:
            shutil.copyfileobj(file, copy, BLOCK)
        copy.flush()
        yield Path(copy.name)


def find(path: str) -> tuple[str, list[str]]:
    """The files that a path means, sorted, and the folder above them that their names in a dataset are relative to.

    The path is a file, a folder (searched recursively), a glob such as `clips/**/*.mp4`, or has ranges in it, such as
    `shard-{000..005}.tar`; the files of a range are not asked whether they exist. Hidden files are left alone. Links
    that lead nowhere and pipes are there and are to be counted; `open_path` refuses them.

    Raises:
        FileNotFoundError: nothing is there.
        OSError: as `open_source`.
    """
    names = expand_ranges(path)
    if names != [path] and not os.path.exists(path):
        found = [find(name)[1] if glob.has_magic(name) else [join(".", name)] for name in names]
        return _above_wildcards(path), sorted({file for files in found for file in files})
    local = local_path(path)
    base, files = _find_local(str(local)) if local else _find_remote(path)
    return base, sorted(files)


def expand_ranges(path: str) -> list[str]:
    """`a-{08..10}` as a-08, a-09, a-10: every number range in braces, with leading zeros where it has them."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", path)
    if not match:
        return [path]
    ends = match.groups()
    width = max(map(len, ends)) if any(end[0] == "0" and len(end) > 1 for end in ends) else 0
    first, last = sorted(map(int, ends))
    before, after = path[: match.start()], expand_ranges(path[match.end() :])
    return [f"{before}{number:0{width}d}{rest}" for number in range(first, last + 1) for rest in after]


def is_url(path: str) -> bool:
    """Whether it is a URL rather than a local path."""
    return URL.fullmatch(path) is not None


def local_path(path: str) -> Path | None:
    """The local path that a path or a file:// URL means; None for what is elsewhere."""
    if not is_url(path):
        return Path(path)
    return Path(unquote(urlsplit(path).path)) if path.lower().startswith("file://") else None


def join(base: str, name: str) -> str:
    """The location of `name`, which is relative to the folder `base` unless it is a URL or an absolute path itself."""
    if is_url(name) or (is_url(base) and name.startswith("/")):
        return name
    local = local_path(base)
    if local:
        return str((local / posixpath.normpath(name)).absolute())
    head, path, query = _split(base)
    path = f"{path.rstrip('/')}/{quote(name) if _is_web(head) else name}"
    return head + (posixpath.normpath(path) if {".", ".."} & set(name.split("/")) else path) + query


def relative(path: str, base: str) -> str:
    """The name of a location in a dataset: relative to the folder `base` where it lies below it, else all of it."""
    local, local_base = local_path(path), local_path(base)
    if local:
        below = local_base is not None and local.is_relative_to(local_base)
        return (local.relative_to(local_base) if local_base and below else local).as_posix()
    head, inner, query = _split(path)
    query = query if _is_web(head) else ""  # part of the resource's name there, options of the store elsewhere
    above = "".join(_split(base)[:2]).rstrip("/") + "/" if not local_base else None
    if above is None or not (head + inner).startswith(above):
        return head + inner + query
    name = (head + inner)[len(above) :]
    return (unquote(name) if _is_web(head) else name) + query


def folder(path: str) -> str:
    """The folder that a file lies in."""
    head, inner, query = _split(path) if is_url(path) else ("", path, "")
    return f"{head}{inner.rpartition('/')[0]}{query}" if head else str(Path(path).absolute().parent)


def suffix(path: str) -> str:
    """The suffix with its dot, of a path or of a URL without its query; empty when there is none."""
    return posixpath.splitext(_split(path)[1] if is_url(path) else path)[1]


def with_suffix(path: str, ending: str) -> str:
    """The location with another suffix."""
    head, inner, query = _split(path) if is_url(path) else ("", path, "")
    return head + inner.removesuffix(suffix(path)) + ending + query


class _Part(io.RawIOBase):
    """`size` bytes of a file from `start` on; None: all up to its end. Fewer than promised is an error."""

    def __init__(self, file: Any, path: str, start: int, size: int | None):
        self._file, self._path, self._start, self._size = file, path, start, size
        self._position = 0
        if start:
            with _os_errors(path):
                file.seek(start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer) if self._size is None else min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        with _os_errors(self._path):
            data = self._file.read(wanted)
        if not data and self._size is not None:
            raise OSError(f"{self._path}: ends {self._size - self._position} bytes too early")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _os_errors(self._path):
            if whence == os.SEEK_END:
                end = self._size if self._size is not None else self._file.seek(0, os.SEEK_END) - self._start
                target, moved = end + offset, True
            else:
                target = offset + (self._position if whence == os.SEEK_CUR else 0)
                moved = target != self._position
            if moved:  # a stream that cannot seek can still tell where it is
                self._file.seek(self._start + target)
        self._position = target
        return target

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Whatever a storage library raises, as OSError that names the path."""
    try:
        yield
    except FileNotFoundError as error:  # fsspec says so of a server that is down, too
        cause = error.__cause__
        if cause is None or getattr(cause, "status", 0) in (404, 410):
            raise
        denied = getattr(cause, "status", 0) in (401, 403)
        raise (PermissionError if denied else OSError)(f"{path}: {cause}") from error
    except OSError as error:
        if "ACCESS_DENIED" in str(error):  # pyarrow has no class of its own for it
            raise PermissionError(f"{path}: access denied") from error
        raise
    except Exception as error:
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error


def _open_raw(path: str, in_order: bool) -> Any:
    local = local_path(path)
    if local:
        if not stat.S_ISREG(os.stat(local).st_mode):  # to open a pipe would wait for somebody to write
            raise OSError(f"{path}: not a regular file")
        return open(local, "rb", buffering=0)
    filesystem, inner = _locate(path)
    if filesystem.type_name.startswith("py::"):  # fsspec's own file: it can read a stream without a size
        options = {"block_size": 0} if in_order and _is_web(inner) else {}
        return filesystem.handler.fs.open(inner, "rb", **options)  # type: ignore[attr-defined]
    return filesystem.open_input_file(inner)


def _locate(url: str) -> tuple["FileSystem", str]:
    """The file system of a URL and the path in it."""
    head, path, query = _split(url)
    if head.partition("://")[0].lower() in ARROW_SCHEMES:
        filesystem, root = _arrow_filesystem(head + query)
        return filesystem, root.rstrip("/") + path.rstrip("/")
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    opened, inner = fsspec.core.url_to_fs(url)  # kept by fsspec, one per process and options
    return PyFileSystem(FSSpecHandler(opened)), inner


@lru_cache(maxsize=64)  # opening one may ask the network for the bucket's region
def _arrow_filesystem(root: str) -> tuple["FileSystem", str]:
    from pyarrow.fs import FileSystem

    return FileSystem.from_uri(root)  # unlike S3FileSystem(), this reads AWS_ENDPOINT_URL


def _find_local(path: str) -> tuple[str, list[str]]:
    root = Path(path)
    if root.is_file():
        return str(root.absolute().parent), [str(root.absolute())]
    if root.is_dir():
        inside = glob.iglob("**/*", root_dir=root, recursive=True)  # follows linked folders, leaves hidden files alone
        files = [root / name for name in inside if not (root / name).is_dir()]
    else:
        matches = glob.iglob(path, recursive=True) if glob.has_magic(path) else []
        files = [Path(name) for name in matches if not Path(name).is_dir()]
        root = Path(_above_wildcards(path))
        if not files:
            raise FileNotFoundError(f"{path}: no such file or folder, and no file matches it")
    return str(root.absolute()), [str(file.absolute()) for file in files]


def _find_remote(url: str) -> tuple[str, list[str]]:
    from pyarrow.fs import FileType

    with _os_errors(url):
        filesystem, inner = _locate(url)
        there = filesystem.get_file_info(inner).type
        if there == FileType.File:
            return folder(url), [url]
        if there == FileType.Directory:
            return url, [join(url, name) for name in _files_below(filesystem, inner, deep=True)]
        names = _matches(url) if glob.has_magic(_split(url)[1]) else []
    if not names:
        raise FileNotFoundError(f"{url}: no such file or folder, and no file matches it")
    base = _above_wildcards(url)
    return base, [join(base, name) for name in names]


def _matches(url: str) -> list[str]:
    """Names below the folder above the wildcards that match."""
    from fsspec.utils import glob_translate

    base = _above_wildcards(url)
    pattern = _split(url)[1][len(_split(base)[1]) :].lstrip("/")
    filesystem, folder = _locate(base)
    names = _files_below(filesystem, folder, deep="/" in pattern or "**" in pattern)
    return [name for name in names if re.fullmatch(glob_translate(pattern), name)]


def _files_below(filesystem: "FileSystem", folder: str, *, deep: bool) -> list[str]:
    """Names relative to the folder; hidden ones are left alone, as in local folders."""
    from pyarrow.fs import FileSelector, FileType

    found = filesystem.get_file_info(FileSelector(folder, recursive=deep))
    names = [info.path[len(folder.rstrip("/")) + 1 :] for info in found if info.type == FileType.File]
    return [name for name in names if not is_hidden(name)]


def is_hidden(name: str) -> bool:
    """Whether a part of a relative name begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def _above_wildcards(path: str) -> str:
    """The folder above the file, or above the first part that has a wildcard or a range."""
    head, inner, query = _split(path) if is_url(path) else ("", path, "")
    parts = inner.split("/")[:-1]
    wild = next((i for i, part in enumerate(parts) if glob.has_magic(part) or "{" in part), len(parts))
    folder = "/".join(parts[:wild]) or ("/" if not head and inner.startswith("/") else "")
    return head + folder + query if head else str(Path(folder).absolute())


def _split(url: str) -> tuple[str, str, str]:
    """`scheme://host`, `/path`, `?query`; a question mark without `name=` after it belongs to the path."""
    match = URL.fullmatch(url)
    assert match, url
    return match["head"], match["path"], match["query"] or ""


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))
