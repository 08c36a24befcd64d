"""Sets of files that are complete and intact, or not there at all.

`publish` writes the files first and `manifest.json` last, so a folder with a manifest was written to the end:

    {"version": 1, "files": {"network.json": {"size": 4096, "sha256": "…"}}, "info": {…}, "sha256": "…"}

The last field is the SHA-256 of the others, as JSON with sorted keys: the manifest vouches for itself too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from typing import Any, cast

from runner.errors import CorruptError, ObjectNotFoundError
from runner.storage.folder import Folder

MANIFEST = "manifest.json"
VERSION = 1


def publish(folder: Folder, files: Mapping[str, bytes], info: Mapping[str, Any] | None = None) -> None:
    """Write `files` and a manifest that vouches for them, with `info` (anything JSON can hold) in it.

    Another manifest from before is removed first: until the new one is written the folder counts as unpublished. The
    same one stays, so that of several who publish the same none takes it from readers.
    """
    if MANIFEST in files:
        raise ValueError(f"{MANIFEST} is the manifest's own name")
    contents = {
        "version": VERSION,
        "files": {name: {"size": len(data), "sha256": sha256(data)} for name, data in files.items()},
        "info": dict(info or {}),
    }
    contents = json.loads(json.dumps(contents))  # As a reader will see it: keys of `info` become strings.
    manifest = json.dumps(contents | {"sha256": contents_sha256(contents)}, indent=1).encode()
    with contextlib.suppress(ObjectNotFoundError):
        if folder.read(MANIFEST) != manifest:
            folder.delete(MANIFEST)
    for name, data in files.items():
        folder.write(name, data)
    folder.write(MANIFEST, manifest)


def read_manifest(folder: Folder) -> dict[str, Any]:
    """The manifest, checked against its own SHA-256; the files it names are not read.

    CorruptError: the folder was never completely published, or the manifest cannot be trusted.
    """
    try:
        data = folder.read(MANIFEST)
    except ObjectNotFoundError as error:
        raise CorruptError(
            f"{folder.uri} was never completely published: it has no {MANIFEST}; write it again"
        ) from error
    where = f"{folder.uri}/{MANIFEST}"
    try:
        manifest: Any = json.loads(data)
    except ValueError as error:
        raise CorruptError(f"{where} is unreadable: {error}; use another copy") from error
    if not isinstance(manifest, dict):
        raise CorruptError(f"{where} is unreadable: it is not a JSON object; use another copy")
    manifest = cast(dict[str, Any], manifest)
    recorded = manifest.pop("sha256", None)
    if recorded != contents_sha256(manifest):
        raise CorruptError(f"{where} is damaged: it does not match its own SHA-256; use another copy")
    if manifest["version"] != VERSION:
        raise CorruptError(f"{where} has version {manifest['version']}: this runner reads version {VERSION}")
    return manifest


def read_published(folder: Folder) -> dict[str, bytes]:
    """All files of a published folder, every one checked against its recorded size and SHA-256.

    CorruptError names the first file that is missing, cut or changed.
    """
    files: dict[str, bytes] = {}
    for name, recorded in read_manifest(folder)["files"].items():
        where = f"{folder.uri}/{name}"
        try:
            data = folder.read(name)
        except ObjectNotFoundError as error:
            raise CorruptError(f"{where} is missing, though {MANIFEST} lists it; use another copy") from error
        if len(data) != recorded["size"]:
            raise CorruptError(
                f"{where} has the wrong size: {len(data)} bytes, {MANIFEST} says {recorded['size']}; use another copy"
            )
        if sha256(data) != recorded["sha256"]:
            raise CorruptError(f"{where} is damaged: it does not match its SHA-256; use another copy")
        files[name] = data
    return files


def contents_sha256(contents: Mapping[str, Any]) -> str:
    """The SHA-256 that a manifest with these contents records for itself."""
    return sha256(json.dumps(contents, sort_keys=True).encode())


def sha256(data: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
