"""From what a user writes (`runs/`, `~/runs`, `file:///srv/runs`, `s3://bucket/runs`) to a folder."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

from runner.errors import ConfigError
from runner.storage.folder import Folder, checked_name
from runner.storage.local import LocalFolder


class S3Location(NamedTuple):
    """A bucket and the prefix in it, without slashes at its ends; the empty prefix is the whole bucket."""

    bucket: str
    prefix: str


def open_folder(uri: str, *, patient: bool = True) -> Folder:
    """The folder at `uri`; it need not exist, and nothing is sent to the storage yet.

    A patient folder rides out a server that is gone for a minute; with `patient=False`, meant for checks
    before any work starts, an answer comes within about ten seconds. ConfigError: a uri of another kind.
    """
    location = parse_uri(uri)
    if isinstance(location, Path):
        return LocalFolder(location)
    from runner.storage.s3 import S3Folder, connect  # Here, because boto3 takes a while to import.

    return S3Folder(connect(uri, patient=patient), location.bucket, location.prefix)


def open_parent(uri: str, *, patient: bool = True) -> tuple[Folder, str]:
    """The folder that holds the file at `uri`, and the file's name in it; errors as for `open_folder`."""
    scheme, separator, path = uri.rpartition("://")
    parent, slash, name = path.rpartition("/")
    if name in ("", ".", "..") or (separator and not slash):
        raise ConfigError(f"{uri!r} names no file: write a file's path or s3://bucket/file")
    try:
        checked_name(name)
    except ValueError as error:
        raise ConfigError(f"{uri}: {error}; choose another name") from None
    folder = parent or ("." if not slash else "/")
    return open_folder(f"{scheme}://{parent}" if separator else folder, patient=patient), name


def expand_user(path: str) -> Path:
    """A path that may begin with `~` or `~user`. ConfigError: there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ConfigError(f"{path!r}: there is no user {path.partition('/')[0][1:]!r} with a folder") from None


def enclosing_folders(uri: str) -> list[Folder]:
    """The folder at `uri` and all that it is in, innermost first; links are resolved. Errors as for `open_folder`."""
    location = parse_uri(uri)
    if isinstance(location, Path):
        real = Path(os.path.realpath(location))
        return [LocalFolder(path) for path in (real, *real.parents)]
    from runner.storage.s3 import S3Folder, connect

    connection, segments = connect(uri, patient=False), location.prefix.split("/")
    prefixes = ["/".join(segments[:count]) for count in range(len(segments), -1, -1)]
    return [S3Folder(connection, location.bucket, prefix) for prefix in dict.fromkeys(prefixes)]


def path_below(outer: str, inner: str) -> tuple[str, ...] | None:
    """The segments that lead from the place `outer` down to `inner`, none where they are one; None where none do.

    Links and `..` are resolved on a disk; on S3 there are none.

    >>> path_below("s3://bucket/a/", "s3://bucket/a/b/c"), path_below("/srv", "/srv/x/..")
    (('b', 'c'), ())
    >>> path_below("/srv/a", "/srv/ab")
    """
    there, here = parse_uri(outer), parse_uri(inner)
    if isinstance(there, Path) and isinstance(here, Path):
        here = Path(os.path.realpath(here))
        for parent in (here, *here.parents):
            if _is_same(parent, Path(os.path.realpath(there))):
                return here.relative_to(parent).parts
    elif isinstance(there, S3Location) and isinstance(here, S3Location) and there.bucket == here.bucket:
        above, below = PurePosixPath(there.prefix), PurePosixPath(here.prefix)
        return below.relative_to(above).parts if below.is_relative_to(above) else None
    return None


def _is_same(one: Path, other: Path) -> bool:
    """Whether two directories are one, also by another name (a bind mount, a disk that ignores case)."""
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def parse_uri(uri: str) -> Path | S3Location:
    """An absolute path or an S3 location. Only `file://` uris are percent-decoded, as their standard says."""
    if "\0" in uri:
        raise ConfigError(f"{uri!r} holds the character NUL, which no path can")
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise ConfigError("the storage uri is empty: write a folder's path or s3://bucket/prefix")
        if re.match("(s3|file):", uri, re.IGNORECASE):
            raise ConfigError(f"{uri!r} is neither a path nor an address: write s3://bucket/prefix or file:///path")
        return expand_user(uri).absolute()
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise ConfigError(f"{uri!r} names no bucket: write s3://bucket/prefix")
        return S3Location(bucket, prefix.strip("/"))
    if scheme == "file":
        host, _, path = rest.partition("/")
        if host not in ("", "localhost"):
            raise ConfigError(f"{uri!r} names the host {host!r}: for this machine write file:///path")
        return Path("/" + unquote(path))
    raise ConfigError(f"cannot store at {uri!r}: write a folder's path or s3://bucket/prefix")
