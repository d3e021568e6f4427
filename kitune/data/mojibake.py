"""Text that was read in a wrong encoding and kept: `æ—¥æœ¬` for 日本, `cafÃ©` for café."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kitune.data.table import Rows, as_bools

# Encodings in which people read UTF-8 by mistake.
MISTAKEN = ("cp1252", "cp932", "gb18030", "cp949")
# Bytes that CP1252 has no character for; readers let them pass as control characters.
HOLES = {0x81: "\x81", 0x8D: "\x8d", 0x8F: "\x8f", 0x90: "\x90", 0x9D: "\x9d"}
BYTE_OF = (
    {bytes([byte]).decode("cp1252"): byte for byte in range(0x80, 0x100) if byte not in HOLES}
    | {sign: byte for byte, sign in HOLES.items()}
    | {chr(byte): byte for byte in range(0x80, 0xA0)}
)
RUN = re.compile(r"[^\x00-\x7f]{2,}")
# A letter before a closing quote, an ellipsis, a dash or a no-break space: in BEYONCÉ’S, „Spaß“, CAFÉ… they look like the bytes
# of a character, and are what they are. Misread are Ã and Â in front of them, but for the end of MAÇÃ.
BEHIND_LETTERS = "‘’‚“”„…–—‹›«»\u00a0"
HONEST = re.compile(f"([^ÂÃ]|(?<=[A-ZÀ-Þ])[ÂÃ])[{BEHIND_LETTERS}]")
# A character that stands for bytes which could not be read.
LOST = "\ufffd"
# What the first two bytes of a character of UTF-8 look like in CP1252.
SIGNS = "[\u00c2-\u00f4][\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|" + LOST
# Rows in which the two-byte encodings are looked for: a file is misread in them as a whole.
SAMPLE_ROWS = 20_000


def misread_rows(texts: pa.ChunkedArray) -> dict[int, str]:
    """The rows whose text was misread, and how (see `misread`)."""
    looked_at = np.flatnonzero(as_bools(pc.match_substring_regex(texts, SIGNS)))
    step = max(1, len(texts) // SAMPLE_ROWS)
    rows: Rows = np.union1d(looked_at, np.arange(0, len(texts), step))
    found = ((int(row), texts[int(row)].as_py() or "") for row in rows)
    return {row: how for row, text in found if not text.isascii() and (how := misread(text))}


def misread(text: str) -> str | None:
    """The encoding in which a UTF-8 text was read by mistake, or None; `lost` where characters are gone for good."""
    if LOST in text:
        return "lost"
    if any(single_bytes(run[0]) and not is_honest(run) for run in RUN.finditer(text)):
        return "cp1252"
    return next((encoding for encoding in MISTAKEN[1:] if was_utf8(text, encoding)), None)


def is_honest(run: re.Match[str]) -> bool:
    """Whether two characters are a letter and the sign behind it (see `HONEST`)."""
    return len(run[0]) == 2 and HONEST.match(run.string, run.start()) is not None


def single_bytes(run: str) -> bool:
    """Whether characters beyond ASCII are the bytes of a UTF-8 character or more, one each."""
    if any(character not in BYTE_OF for character in run):
        return False
    try:
        return len(bytes(BYTE_OF[character] for character in run).decode()) < len(run)
    except UnicodeDecodeError:
        return False


def was_utf8(text: str, encoding: str) -> bool:
    """Whether the text's bytes in a two-byte encoding are UTF-8 of three characters or more that have three bytes each.

    Two characters of Chinese may be so by chance; a text with three is not.
    """
    try:
        meant = text.encode(encoding).decode()
    except (UnicodeEncodeError, UnicodeDecodeError):
        return False
    return sum(character >= "\u0800" for character in meant) >= 3
