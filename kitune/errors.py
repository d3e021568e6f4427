"""The one exception that users see: what is wrong, where, and what to do about it."""

import errno
import shlex

# What a system says of a disk that is full; Windows has no quotas.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}

# And of a file or a folder that its user has to mend.
REFUSALS = {
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "ENAMETOOLONG", "EROFS", "EISDIR", "ENOTDIR")
    if hasattr(errno, name)  # not every system has all
} | NO_ROOM


class UserError(Exception):
    """A mistake the user can mend; the command line prints it without a traceback and exits with 2."""

    def __init__(self, problem: str, *, fix: str) -> None:
        self.problem = problem
        self.fix = fix
        self.in_rows = False  # set where the rows of a file are wrong, not what was asked for
        super().__init__(f"{problem}\n  fix: {fix}")


def command(*words: object) -> str:
    """`words` as one line that runs when it is pasted into a shell: every word quoted as far as it needs it."""
    return shlex.join(str(word) for word in words)


def numbered(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `1,000 rows`."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"
