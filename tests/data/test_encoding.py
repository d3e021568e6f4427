"""Small files of five languages in every encoding that holds them: read right, or refused with the option that reads them."""

import csv
from pathlib import Path

import pytest

from kitune.config import Layout
from kitune.data.read import read_table
from kitune.errors import UserError

TEXTS = {
    "Japanese": [
        ("配送が遅くて困りました。連絡もありませんでした。", "苦情"),
        ("画面がきれいで、とても使いやすいです。", "称賛"),
        ("返品の方法を教えてください。", "質問"),
        ("サポートの対応が早くて助かりました！", "称賛"),
    ],
    "Korean": [
        ("배송이 너무 늦어서 실망했습니다.", "불만"),
        ("화면이 깨끗하고 사용하기 정말 좋아요.", "칭찬"),
        ("반품은 어떻게 하나요?", "질문"),
        ("상담원이 친절하게 도와주었습니다.", "칭찬"),
    ],
    "Chinese": [
        ("送餐太慢了，等了一个多小时，菜都凉了。", "差评"),
        ("味道很好，送得也快，下次还会再来。", "好评"),
        ("请问怎么退货？", "问题"),
        ("服务员的态度非常好，给五星。", "好评"),
    ],
    "Taiwanese": [
        ("外送時間太久，送到的時候飯都冷掉了。", "負評"),
        ("味道很好，送得也快，下次還會再來。", "好評"),
        ("請問怎麼退貨？", "問題"),
        ("服務人員的態度非常好，給五顆星。", "好評"),
    ],
    "French": [
        ("Le colis est arrivé très tard, je suis déçu.", "négatif"),
        ("L’écran est magnifique et facile à régler.", "positif"),
        ("Où puis-je échanger l’appareil ?", "question"),
        ("Une équipe agréable, bravo à tous !", "positif"),
    ],
    "English": [
        ("The parcel came late and nobody answered.", "complaint"),
        ("A clear screen, and easy to set up.", "praise"),
        ("How do I send it back?", "question"),
        ("The team was kind and quick.", "praise"),
    ],
}
# Encodings that a language is not written in: refused, with the option that reads them.
UNSURE = {("French", "euc_jp"), ("French", "gb18030"), ("Japanese", "gb18030"), ("Korean", "gb18030")}
UNSURE |= {("Taiwanese", "cp932"), ("Taiwanese", "euc_jp")}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "cp932", "euc_jp", "gb18030", "cp949", "cp950", "iso2022_jp", "latin-1"]


def write(path: Path, rows: list[tuple[str, str]], encoding: str) -> bool:
    """Whether the encoding holds the rows."""
    try:
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("text", "label"))
            writer.writerows(rows)
    except UnicodeEncodeError:
        return False
    return True


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("times", [1, 50])
def test_every_language_in_every_encoding(tmp_path: Path, language: str, encoding: str, times: int) -> None:
    rows = TEXTS[language] * times
    path = tmp_path / "rows.csv"
    if not write(path, rows, encoding):
        rows = [(text.replace("’", "'"), label) for text, label in rows]
        if not write(path, rows, encoding):
            pytest.skip(f"{encoding} has not all characters of {language}")
    if (language, encoding) in UNSURE:
        with pytest.raises(UserError, match=r"--set data\.encoding="):
            read_table(path)
        table = read_table(path, layout=Layout(encoding=encoding))
    else:
        table = read_table(path)
    assert [tuple(row.values()) for row in table.data.to_pylist()] == rows
    is_utf8 = encoding.startswith("utf-8") or (language == "English" and encoding != "utf-16")
    assert bool(table.notes) == (not is_utf8 and (language, encoding) not in UNSURE)


def test_a_few_lines_of_euc_jp_are_never_taken_for_big5(tmp_path: Path) -> None:
    """Hiragana have the bytes of the commonest characters of Big5."""
    for begin in range(4):
        path = tmp_path / f"rows-{begin}.csv"
        assert write(path, TEXTS["Japanese"][begin:], "euc_jp")
        try:
            notes = read_table(path).notes
        except UserError as error:
            assert "euc_jp" in error.fix  # noqa: PT017
            assert "cp950" not in error.fix  # noqa: PT017
        else:
            assert "EUC_JP" in notes[0]


def test_a_zero_in_a_file_of_utf8_does_not_make_it_utf16(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\n" + "良い,a\nba\0d,b\n".encode() * 20)
    try:
        assert "UTF-16" not in " ".join(read_table(path).notes)
    except UserError as error:
        assert "UTF-16" not in str(error)  # noqa: PT017


def test_japanese_behind_many_lines_of_ascii_is_found_in_iso_2022_jp(tmp_path: Path) -> None:
    rows = [("The parcel came late and nobody answered.", "complaint")] * 200 + TEXTS["Japanese"]
    assert write(tmp_path / "rows.csv", rows, "iso2022_jp")
    assert read_table(tmp_path / "rows.csv").texts("text")[-1] == TEXTS["Japanese"][-1][0]


@pytest.mark.parametrize("told", ["cp932", "latin-1", "cp1252"])
def test_a_told_encoding_counts_for_files_that_are_not_utf8(tmp_path: Path, told: str) -> None:
    language = "Japanese" if told == "cp932" else "French"
    rows = [(text.replace("’", "'"), label) for text, label in TEXTS[language]]
    for name, encoding in (("train.csv", told), ("valid.csv", "utf-8")):
        assert write(tmp_path / name, rows, encoding)
        table = read_table(tmp_path / name, layout=Layout(encoding=told))
        assert [tuple(row.values()) for row in table.data.to_pylist()] == rows
    assert table.notes == (f"valid.csv is read as UTF-8, which its bytes are, not as {told.upper()}",)


@pytest.mark.parametrize("told", ["utf-8", "utf-8-sig", "UTF8"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_needs_no_word_where_it_was_told(tmp_path: Path, told: str, encoding: str) -> None:
    assert write(tmp_path / "rows.csv", TEXTS["French"], encoding)
    table = read_table(tmp_path / "rows.csv", layout=Layout(encoding=told))
    assert (table.columns, table.notes) == (["text", "label"], ())


def test_the_encoding_that_failed_is_not_offered_again(tmp_path: Path) -> None:
    assert write(tmp_path / "rows.csv", TEXTS["Korean"], "cp949")
    with pytest.raises(UserError, match="is not CP932") as caught:
        read_table(tmp_path / "rows.csv", layout=Layout(encoding="cp932"))
    assert "cp932" not in caught.value.fix


@pytest.mark.parametrize("language", ["Japanese", "Korean", "Chinese", "French"])
@pytest.mark.parametrize("encoding", ["auto", "utf-8"])
def test_a_file_of_utf8_with_a_character_cut_in_half_is_refused_with_that_line(
    tmp_path: Path, language: str, encoding: str
) -> None:
    lines = [f"{text},{label}".encode() for text, label in TEXTS[language] * 10]
    begin = lines[19].index(max(lines[19]))
    lines[19] = lines[19][:begin] + lines[19][begin + 1 :]
    (tmp_path / "rows.csv").write_bytes(b"\n".join([b"text,label", *lines]))
    with pytest.raises(UserError, match=r"rows\.csv, line 21: byte 0x.. is not UTF-8, which the rest") as caught:
        read_table(tmp_path / "rows.csv", layout=Layout(encoding=encoding))
    assert caught.value.fix == "correct that line: a character in it is cut, or in another encoding"


def test_one_byte_of_latin_1_in_an_english_file_of_utf8_is_named(tmp_path: Path) -> None:
    lines = ["It’s fine,praise".encode()] * 20
    lines[7] = "a café,praise".encode("latin-1")
    (tmp_path / "rows.csv").write_bytes(b"\n".join([b"text,label", *lines]))
    with pytest.raises(UserError, match="line 9: byte 0xe9 is not UTF-8, which the rest"):
        read_table(tmp_path / "rows.csv")


def test_a_file_whose_only_signs_are_those_of_western_prices_is_read_as_cp1252(tmp_path: Path) -> None:
    rows = [("It cost £5 and 20°C is too warm", "no"), ("Acme® for £1,200", "yes"), ("plain", "no")]
    assert write(tmp_path / "rows.csv", rows, "cp1252")
    table = read_table(tmp_path / "rows.csv")
    assert table.texts("text") == [text for text, _ in rows]
    assert "CP1252" in table.notes[0]


def test_no_encoding_is_offered_where_none_is_plausible(tmp_path: Path) -> None:
    assert write(tmp_path / "rows.csv", [("það þý", "yes"), ("non", "no")], "latin-1")
    with pytest.raises(UserError, match="do not show which other encoding") as caught:
        read_table(tmp_path / "rows.csv")
    assert "--set data.encoding=NAME (" in caught.value.fix
    assert "latin-1" in caught.value.fix
