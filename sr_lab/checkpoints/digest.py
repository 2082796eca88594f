"""The SHA-256 of a checkpoint, carried by the file itself.

What ``torch.save`` writes is a ZIP archive, and an archive ends with a comment, which every reader passes
over. Ours says ``sr_lab sha256:`` and the digest of all that stands before the digest. So a file needs no
companion, wherever it is copied, and any reader of checkpoints opens it.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

_TAG = b"sr_lab sha256:"
_HEX = 64
_COMMENT = len(_TAG) + _HEX
_END, _END_SIZE = b"PK\x05\x06", 22  # the last record of an archive; its last two bytes: size of the comment


def seal(file: BinaryIO) -> None:
    """Add the digest to an archive without a comment, open for reading and writing."""
    file.seek(-2, 2)
    file.write(_COMMENT.to_bytes(2, "little") + _TAG)
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # it can be read
    file.seek(0, 2)
    file.write(digest.encode())


def is_damaged(path: Path) -> bool:
    """Whether a file with a digest is not as it was written; of one without, nothing is known: ``False``.

    A file is taken to have one if its last record *or* the tag says so: a flipped bit, or an end cut off,
    spoils one of them at most.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _END_SIZE - _COMMENT))
        tail = file.read()
        end = tail.rfind(_END)
        comment = tail[end + _END_SIZE - 2 : end + _END_SIZE] if end >= 0 else b""
        if comment != _COMMENT.to_bytes(2, "little") and tail[-_COMMENT:-_HEX] != _TAG:
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - _HEX
        while left > 0 and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
        return digest.hexdigest().encode() != tail[-_HEX:]
