"""Files that are something else than preference data, told by their first bytes: what they are, and what to
do.

A pointer of Git LFS stands where the data was not fetched, a web page where a download failed; tables of
other programs are written in a form that can be read.
"""

import re
from collections.abc import Mapping

TAR, TAR_AT = b"ustar", 257
DVC = re.compile(rb"(?:^|\n)outs:\s*\n\s*- .*?\bpath:[ \t]*([^\r\n]+)", re.DOTALL)
PICKLE = re.compile(rb"\x80[\x02-\x05]")
PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
WITHIN = 4096
"""A DVC file names its path within so many bytes."""

_OTHERWISE = "write it as JSON lines or Parquet"
_UNPACK = "unpack it, and name the files or their folder"
ARROW = ("an Arrow file, as `save_to_disk` of datasets leaves it: write it with "
         "`datasets.load_from_disk(FOLDER).to_json(\"preferences.jsonl\")` or `.to_parquet`, a split each")
MAGIC: Mapping[bytes, str] = {
    b"version https://git-lfs.github.com/spec/": "a Git LFS pointer, which stands where the data was not "
                                                 "fetched: `git lfs pull` puts the data in its place",
    b"/annex/objects/": "a git-annex pointer, which stands where the data was not fetched: `git annex get` "
                        "fetches it",
    b"ARROW1": ARROW,
    b"\xff\xff\xff\xff": ARROW,
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "a workbook of an old Excel: save the sheet as CSV (UTF-8)",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive: {_UNPACK}",
    b"Rar!\x1a\x07": f"a rar archive: {_UNPACK}",
    b"SQLite format 3\0": f"an SQLite database: {_OTHERWISE}",
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file: {_OTHERWISE}",
    b"\x93NUMPY": f"a NumPy array: {_OTHERWISE}",
    b"Obj\x01": f"an Avro file: {_OTHERWISE}",
    b"%PDF-": f"a PDF: {_OTHERWISE}",
    b"<?xml": "XML, as an object store answers that refuses a download: fetch the file again, with the right "
              "to do so",
    b"\xff\xfe": "UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "UTF-16 or UTF-32; save it as UTF-8",
    b"\0\0\xfe\xff": "UTF-16 or UTF-32; save it as UTF-8",
}


def what_else(start: bytes, name: str) -> str | None:
    """Return what a file with this name and first bytes is instead of preference data; None if it may be
    that.
    """
    for magic, what in MAGIC.items():
        if start.startswith(magic):
            return what
    if start.startswith(b"PK\x03\x04"):
        if name.endswith((".xlsx", ".xlsm")) or b"xl/" in start or b"[Content_Types].xml" in start:
            return "an Excel workbook: save the sheet as CSV (UTF-8)"
        return f"a zip archive: {_UNPACK}"
    if start[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return f"a tar archive: {_UNPACK}"
    if PICKLE.match(start):
        return f"a Python pickle, which is not opened, because that can run code: {_OTHERWISE}"
    if PAGE.match(start.lstrip()):
        return ("a web page (HTML), as a download leaves that failed: fetch the file itself, on the hub from "
                "an address with /resolve/ in it")
    if pointed := DVC.search(start[:WITHIN]):
        path = pointed[1].decode(errors="replace").strip()
        return f"a DVC file, which stands for the data: `dvc pull` fetches that; then name {path} beside it"
    if name.endswith((".yaml", ".yml")) and not start.lstrip().startswith((b"{", b"[")):
        return f"YAML: {_OTHERWISE}"
    return None
