"""Which encoding a text file is in: told by its first bytes, by being valid UTF-8, or by the characters that its language
uses most.

Only the encodings that the people who use kitune write are looked for, and a file that fits two of them is refused: a wrong
guess would train a model on mojibake without a word.
"""

import codecs
import re
from collections.abc import Iterator

from kitune.data.files import UTF8, File
from kitune.errors import UserError

# How much of the lines with characters beyond ASCII decides.
SAMPLE_BYTES = 256 * 1024
# Share of those characters that must be among the most frequent ones of the language, and how far ahead of the next encoding.
LEAST_SHARE, LEAST_LEAD = 0.25, 2.0
# The ideographs that a language uses stand in the first half of its table (JIS X 0208 level 1, GB 2312 level 1); those of
# another one, misread, stand anywhere. The table, the lead byte up to which that half goes, and the share that must be in it.
FIRST_HALF = {
    "cp932": ("euc_jp", 0xCF),
    "euc_jp": ("euc_jp", 0xCF),
    "gb18030": ("gb2312", 0xD7),
    "cp950": ("big5", 0xC6),
}
LEAST_IN_FIRST_HALF = 0.85
# Kana have the same bytes in EUC-JP and GB 18030: so many ideographs must show which of the two it is.
LEAST_IDEOGRAPHS = 20
HANGUL_FILLER = "\u3164"  # begins a syllable that EUC-KR spells out, and CP949 does not join

KANA = "".join(map(chr, (*range(0x3041, 0x3097), *range(0x30A1, 0x30FB)))) + "ー、。「」・！？"
HANZI = (
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还"
    "发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工"
    "己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山"
    "五太水万市体别处总才场师书比住员性通目报立命活难数件安表原车应路期常提感何更反合放做系计或司利受光果及今务制解各任至清物味送快慢餐"
    "，。！？、：；（）“”"
)
TRADITIONAL = (
    "的一是不了人我在有他這中大來上國個到說們為子和你地出道也時年得就那要下以生會自著去之過家學對可她裡後小麼心多天而能好都然沒日於起還"
    "發成事只作當想看文無開手十用主行方又如前所本見經頭面公同三已老從動兩長知民樣現分將外但身些與高意進把法此實回二理美點月明其種聲全工"
    "己話兒者向情部正名定女問力機給等幾很業最間新什打便位因重被走電四第門相次東政海口使教西再平真聽世氣信北少關並內加化由卻代軍產入先山"
    "五太水萬市體別處總才場師書比住員性通目報立命活難數件安表原車應路期常提感何更反合放做系計或司利受光果及今務製解各任至清物味送快慢餐"
    "，。！？、：；（）「」"
)
HANGUL = (
    "이다는에을의가고하지은도로를기서리인사나어한대아자시그해스정일수라들게보면만부장제전주구있까요니여으원했오거습며것같없우진과와생안상동할때"
    "영화잘재미너무말좋좀더내감연최점짜왜별않되된네데적공신비조모소성유음방중드경물세관문위선저ㅋㅎㅠㅜ"
)
LATIN = "éèêëàâäáãåçîïíìôöóòõøùûüúñßæœÉÈÀÂÄÁÇÖÓÜÚÑÅØ’‘“”–—…"
# Signs beside ASCII alone, as in £5, 20°C and Acme®. Two bytes of another script side by side look like them too.
LONE_SIGN = re.compile(r"(?<![^\x00-\x7f])[£€¢©®™°½¼¾§«»¿¡](?![^\x00-\x7f])")

FREQUENT = {
    "cp932": frozenset(KANA),
    "euc_jp": frozenset(KANA),
    "gb18030": frozenset(HANZI),
    "cp950": frozenset(TRADITIONAL),
    "cp949": frozenset(HANGUL),
    "euc_kr": frozenset(HANGUL),
    "cp1252": frozenset(LATIN),
    "latin-1": frozenset(LATIN),
}
BOMS = {
    codecs.BOM_UTF8: UTF8,
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


# The escape sequences that begin characters of JIS X 0208 in ISO-2022-JP, which is ASCII otherwise.
JIS = re.compile(rb"\x1b\$[@B]")


def by_first_bytes(file: File) -> str | None:
    """The encoding that a byte order mark, the zeros of UTF-16 or the escapes of ISO-2022-JP show; None where none is there."""
    with file.bytes() as content:
        head = content.read(4096)
    for mark, name in BOMS.items():
        if head.startswith(mark):
            return name
    if head.isascii() and is_jis(file):
        return "iso2022_jp"
    # In UTF-16 ASCII characters, line ends at least, have a zero byte in front (big-endian) or behind.
    if b"\0" in head and not stray_zeros(head):
        return "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    return None


def is_jis(file: File) -> bool:
    """Whether bytes that are ASCII, all of them, hold the escapes of ISO-2022-JP."""
    found, end = False, b""
    with file.bytes() as content:
        while block := content.read(SAMPLE_BYTES):
            if not block.isascii():
                return False
            block = end + block  # an escape may lie across two
            found = found or (b"\x1b" in block and JIS.search(block) is not None)
            end = block[-2:]
    return found


def stray_zeros(head: bytes) -> bool:
    """Whether the bytes are UTF-8 with a zero here and there, which no text should have, and not UTF-16."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return head.count(0) < len(head) / 8


def by_characters(file: File) -> str:
    """The legacy encoding in which the file's characters are those of a language.

    Raises:
        UserError: none fits, or more than one.
    """
    sample = b"".join(telling_lines(file))
    shares: dict[str, float] = {}
    fitting: list[str] = []
    for name, frequent in FREQUENT.items():
        try:
            text = sample.decode(name)
        except UnicodeDecodeError:
            continue
        if name == "cp950" and "euc_jp" in fitting:  # two in five of its characters have a second byte that EUC has not
            continue
        fitting.append(name)
        if well_placed(text, name):
            beyond = [character for character in text if character > "\x7f"]
            usual = sum(character in frequent for character in beyond)
            if name in ("cp1252", "latin-1"):
                usual += len(LONE_SIGN.findall(text))
            shares[name] = usual / max(len(beyond), 1)
    for wide, narrow in (("cp1252", "latin-1"), ("cp949", "euc_kr")):  # Windows' supersets
        if shares.get(wide) == shares.get(narrow):
            shares.pop(narrow, None)
    best, following = [*sorted(shares, key=lambda name: -shares[name]), "", ""][:2]
    share = shares.get(best, 0.0)
    if share < LEAST_SHARE or share < LEAST_LEAD * shares.get(following, 0.0):
        first = best if share else "NAME"  # one that is not plausible would be pasted all the same
        others = [name for name in fitting if name != first]
        raise UserError(
            f"{file.name}: not UTF-8, and its characters do not show which other encoding it is "
            f"(its bytes fit {', '.join(fitting) or 'none that kitune looks for'})",
            fix=f"say which: --set data.encoding={first}"
            + (f" ({'or ' if share else ''}{', '.join(others)})" if others else ""),
        )
    return best


def telling_lines(file: File) -> Iterator[bytes]:
    """Lines with bytes beyond ASCII, up to `SAMPLE_BYTES` of them."""
    size = 0
    with file.bytes() as content:
        for line in content:
            if not line.isascii():
                yield line
                size += len(line)
                if size >= SAMPLE_BYTES:
                    return


def well_placed(text: str, encoding: str) -> bool:
    """Whether the characters of `text` stand where those of a language do in the table of the encoding."""
    if re.search("[\x80-\x9f\ue000-\uf8ff]", text):  # control characters and private ones, which no text has
        return False
    if encoding in ("cp949", "euc_kr"):
        return HANGUL_FILLER not in text
    if encoding not in FIRST_HALF:
        # Accents stand within words of ASCII letters, where the two bytes of another script stand beside each other.
        return len(re.findall(r"[^\x00-\x7f]{3}", text)) <= 0.05 * len(re.findall(r"[^\x00-\x7f]", text))
    table, last = FIRST_HALF[encoding]
    ideographs = "".join(character for character in text if "\u4e00" <= character <= "\u9fff")
    if encoding == "euc_jp" and len(ideographs) < LEAST_IDEOGRAPHS:
        return False
    leads = [character.encode(table, "replace")[0] for character in ideographs]
    return sum(lead <= last for lead in leads) >= LEAST_IN_FIRST_HALF * len(leads)


def is_utf8(file: File) -> bool:
    """Whether the bytes are UTF-8 with characters beyond ASCII."""
    decode, beyond = codecs.getincrementaldecoder("utf-8")().decode, False
    with file.bytes() as content:
        try:
            while block := content.read(SAMPLE_BYTES):
                beyond = beyond or not block.isascii()
                decode(block)
            decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return beyond


def is_nearly_utf8(file: File) -> bool:
    """Whether the bytes are UTF-8 but for a few: those of another encoding hardly ever make a character of UTF-8."""
    text = b"".join(telling_lines(file)).decode("utf-8", "replace")
    lost = text.count("\ufffd")
    return sum(character > "\x7f" for character in text) - lost > lost
