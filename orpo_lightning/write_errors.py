"""What to say and do where a checkpoint cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path

SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where there is too little of it."""
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room"),
    errno.EFBIG: "allow files of that size (ulimit -f, or another file system)",
    **dict.fromkeys((errno.EISDIR, errno.ENOTDIR, errno.EEXIST), "move away what is in the way"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "let this user write there"),
    errno.EROFS: "mount the file system for writing",
    errno.ENOENT: "bring back the folder around it",
    errno.ENAMETOOLONG: "give the run a shorter folder",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "allow more open files (ulimit -n)"),
    errno.EIO: "see to the disk",
}
"""What to do, by what the system says."""


def not_written(place: Path, cause: OSError, sizes: str = "") -> OSError:
    """The error of a checkpoint that cannot be written.

    Args:
        place: where it was to be.
        cause: what the system says.
        sizes: what is known beyond that.

    Example:
        >>> str(not_written(Path("last.ckpt"), OSError(errno.EROFS, "Read-only file system"))).partition(" is as")[2]
        ' it was: mount the file system for writing, then go on with --ckpt_path last'
    """
    is_safe = cause.errno != errno.EIO
    before = "What was there before is as it was" if is_safe else "What is there may not last"
    advice = _ADVICE.get(cause.errno or 0, "see to that")
    return OSError(
        f"{place} cannot be written: {cause.strerror}{sizes}. {before}: {advice}, then go on with --ckpt_path last"
    )


def cause_of(error: BaseException | None) -> OSError | None:
    """What the system says of a write that failed; torch raises an error of its own while that one is handled.

    Args:
        error: what was raised.

    Returns:
        The error of the system; None where there is none.

    Example:
        >>> cause_of(OSError(errno.ENOSPC, "No space left on device", "last.ckpt")).strerror
        'No space left on device'
    """
    seen: list[BaseException] = []  # a chain may lead back to where it begins
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.strerror:
            return error
        seen.append(error)
        error = error.__cause__ or error.__context__
    return None
