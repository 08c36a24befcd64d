"""Run directories and caches, on local disk or S3, behind one `Folder`.

    folder = open_folder("s3://bucket/runs/demo")       # or "runs/demo", "~/runs", "file:///srv/runs"
    folder.write("status.json", b"{}")                  # old bytes or new bytes, never a mix
    publish(folder.child("model"), {"weights.safetensors": weights}, info={"step": 500})
    files = read_published(folder.child("model"))       # every byte checked against the manifest

Trade-offs: an object is written and read whole, from memory (the largest are token shards and checkpoints,
well under S3's 5 GiB for one request); storage is asked again while a server is away, so a call can take
minutes before it gives up, unless the folder was opened with `patient=False`.
"""

from runner.storage.arrow import arrow_filesystem
from runner.storage.fenced import FencedFolder
from runner.storage.folder import Entry, Folder, shown_name
from runner.storage.local import LocalFolder
from runner.storage.location import enclosing_folders, open_folder, open_parent, path_below
from runner.storage.manifest import publish, read_manifest, read_published
from runner.storage.owned import Layout

__all__ = [
    "Entry",
    "FencedFolder",
    "Folder",
    "Layout",
    "LocalFolder",
    "arrow_filesystem",
    "enclosing_folders",
    "open_folder",
    "open_parent",
    "path_below",
    "publish",
    "read_manifest",
    "read_published",
    "shown_name",
]
