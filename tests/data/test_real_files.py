"""Every file of the real data sets, as their publishers wrote them: published rows and columns, by default or by the option
that the message names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kitune.config import Layout, RunOptions, with_values
from kitune.data.read import read_table
from kitune.data.sources import parts_in
from kitune.diagnosis import diagnose
from kitune.errors import UserError
from kitune.findings import Finding

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [pytest.mark.real, pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not here")]

MRPC = ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
PAIR = ["index", "sentence1", "sentence2", "label"]
QNLI = ["index", "question", "sentence", "label"]
STSB = [str(number) for number in range(1, 10)]
JSTS = ["sentence_pair_id", "yjcaptions_id", "sentence1", "sentence2", "label"]
CHOICES = ["q_id", "question", *(f"choice{i}" for i in range(5)), "label"]
REVIEWS = [
    "",
    "Clothing ID",
    "Age",
    "Title",
    "Review Text",
    "Rating",
    "Recommended IND",
    "Positive Feedback Count",
    "Division Name",
    "Department Name",
    "Class Name",
]
RAGGED, LATIN_1, CONLL = {"ragged": True}, {"encoding": "latin-1"}, {"format": "conll"}
# file, rows, columns, what has to be told
FILES: list[tuple[str, int, list[str], dict[str, Any]]] = [
    ("banking77/train.csv", 10003, ["text", "category"], {}),
    ("banking77/test.csv", 3080, ["text", "category"], {}),
    ("banking77/categories.json", 77, ["text"], {}),
    ("cola/in_domain_train.tsv", 8551, ["1", "2", "3", "4"], {}),
    ("cola/in_domain_dev.tsv", 527, ["1", "2", "3", "4"], {}),
    ("cola/out_of_domain_dev.tsv", 516, ["1", "2", "3", "4"], {}),
    ("goemotions/train.tsv", 43410, ["1", "2", "3"], {}),
    ("goemotions/dev.tsv", 5426, ["1", "2", "3"], {}),
    ("goemotions/test.tsv", 5427, ["1", "2", "3"], {}),
    ("goemotions/labels.txt", 28, ["text"], {}),
    ("jglue_jcommonsenseqa/train-v1.3.json", 8939, CHOICES, {}),
    ("jglue_jcommonsenseqa/valid-v1.3.json", 1119, CHOICES, {}),
    ("jglue_jcommonsenseqa/test-v1.3.json", 1118, CHOICES, {}),
    ("jglue_jsts/train-v1.3.json", 12451, JSTS, {}),
    ("jglue_jsts/valid-v1.3.json", 1457, JSTS, {}),
    ("jglue_jsts/test-v1.3.json", 1589, JSTS, {}),
    ("mrpc/msr_paraphrase_train.txt", 4076, ["1", "2", "3", "4", "5"], {}),
    ("mrpc/msr_paraphrase_test.txt", 1725, MRPC, {}),
    ("ner_wikipedia_ja/ner.json", 5343, ["curid", "text", "entities"], {}),
    ("nsmc/ratings_train.txt", 150000, ["id", "document", "label"], {}),
    ("nsmc/ratings_test.txt", 50000, ["id", "document", "label"], {}),
    ("qnli/dev.tsv", 5463, QNLI, {}),
    ("qnli/test.tsv", 5463, QNLI[:3], {}),
    ("rte/train.tsv", 2490, PAIR, {}),
    ("rte/dev.tsv", 277, PAIR, {}),
    ("rte/test.tsv", 3000, PAIR[:3], {}),
    ("sst2/train.tsv", 67349, ["sentence", "label"], {}),
    ("sst2/dev.tsv", 872, ["sentence", "label"], {}),
    ("sst2/test.tsv", 1821, ["index", "sentence"], {}),
    ("sst2/test-labeled.tsv", 1821, ["sentence", "label"], {}),
    ("sst5/ids-sst-train.csv", 8544, ["", "id", "sentence", "sentiment"], {}),
    ("sst5/ids-sst-dev.csv", 1101, ["", "id", "sentence", "sentiment"], {}),
    ("sst5/ids-sst-test-student.csv", 2210, ["0", "", "id", "sentence"], {}),
    ("stsb/sts-train.csv", 5749, STSB, RAGGED),
    ("stsb/sts-dev.csv", 1500, STSB, RAGGED),
    ("stsb/sts-test.csv", 1379, STSB, RAGGED),
    ("trec/train_5500.label.txt", 5452, ["label", "text"], LATIN_1),
    ("trec/test_TREC_10.label.txt", 500, ["label", "text"], {}),
    ("vocab_bert_base_uncased/vocab.txt", 30522, ["text"], {}),
    ("vocab_ja_wordpiece/vocab.txt", 32000, ["text"], {}),
    ("waimai_10k/waimai_10k.csv", 11987, ["label", "review"], {}),
    ("wnut17/wnut17train.conll", 3394, ["tokens", "tags"], {}),
    ("wnut17/emerging.dev.conll", 1009, ["tokens", "tags"], {}),
    ("wnut17/emerging.test.annotated", 1287, ["tokens", "tags"], CONLL),
    ("womens_clothing/reviews.csv", 23486, REVIEWS, {}),
]


@pytest.mark.parametrize(("name", "rows", "columns", "told"), FILES, ids=[name for name, *_ in FILES])
def test_a_published_file_has_its_published_rows_and_columns(
    name: str, rows: int, columns: list[str], told: dict[str, Any]
) -> None:
    table = read_table(DATA / name, layout=Layout(**told))
    assert table.columns == columns
    assert len(table) == rows


def test_no_file_is_forgotten() -> None:
    papers = {"SOURCE.txt", "README", "README.md", "LICENSE", "LICENSE.md", "LICENSE.txt", "readme.txt", "config.json"}
    there = {str(path.relative_to(DATA)) for path in DATA.rglob("*") if path.is_file() and path.name not in papers}
    assert there == {name for name, *_ in FILES}


@pytest.mark.parametrize(("name", "told"), [(name, told) for name, _, _, told in FILES if told])
def test_what_has_to_be_told_is_named_by_the_message(name: str, told: dict[str, Any]) -> None:
    (option,) = told
    with pytest.raises(UserError, match=f"--set data.{option}="):
        read_table(DATA / name)


def test_line_breaks_inside_fields_and_empty_texts() -> None:
    reviews = read_table(DATA / "womens_clothing" / "reviews.csv").texts("Review Text")
    assert sum("\n" in text for text in reviews) == 2024
    assert sum(not text for text in reviews) == 845
    assert sum("\n" in text for text in read_table(DATA / "banking77" / "train.csv").texts("text")) == 10


def test_folders_of_glue_are_read_by_name() -> None:
    assert set(parts_in(DATA / "rte")) == {"train", "valid", "test"}
    assert set(parts_in(DATA / "qnli")) == {"valid", "test"}


# The doctor


def diagnosed(
    train: str, told: Mapping[str, Any] | None = None, *, test: str | None = None
) -> dict[tuple[str, str | None], Finding]:
    options = with_values(RunOptions(), {"engine.cache": False, "doctor.allow": ["estimate"], **(told or {})})
    sources = {"train": str(DATA / train)} | ({"test": str(DATA / test)} if test else {})
    return {(finding.code, finding.part): finding for finding in diagnose(options, sources)}


@pytest.mark.slow
def test_texts_of_nsmc_s_test_that_are_in_train_are_named() -> None:
    found = diagnosed("nsmc/ratings_train.txt", test="nsmc/ratings_test.txt")
    assert len(found["leak", "test"].lines) == 1571
    assert len(found["empty-texts", "train"].lines) == 5
    assert len(found["empty-texts", "test"].lines) == 3
    assert "klue" in found["other-language", None].fix
    assert not {"mojibake", "escapes", "imbalance", "unused-text"} & {code for code, _ in found}


def test_texts_of_goemotions_test_that_are_in_train_are_named() -> None:
    told = {"data.text": ("1",), "data.label": "2", "task": "multi-label"}
    found = diagnosed("goemotions/train.tsv", told, test="goemotions/test.tsv")
    assert len(found["leak", "test"].lines) == 37
    assert not {"mojibake", "unknown-tokens", "other-language", "unseen-labels"} & {code for code, _ in found}


def test_duplicates_of_sst2_are_named_and_no_leak() -> None:
    found = diagnosed("sst2/train.tsv", test="sst2/dev.tsv")
    assert len(found["duplicates", "train"].lines) == 371
    assert ("leak", "test") not in found


def test_qnli_without_its_second_text_is_named() -> None:
    found = diagnosed("qnli/dev.tsv", {"data.text": ("question",)})
    assert found["unused-text", None].fix == "read both: --text question --text sentence"
    assert ("unused-text", None) not in diagnosed("qnli/dev.tsv")


def test_japanese_with_an_english_model_is_named_with_a_model_for_it() -> None:
    told = {"task": "regression", "data.text": ("sentence1", "sentence2")}
    found = diagnosed("jglue_jsts/train-v1.3.json", told)
    named = found.get(("unknown-tokens", "train")) or found["some-unknown-tokens", "train"]
    assert "cl-tohoku/bert-base-japanese" in named.fix


def test_empty_texts_an_index_and_a_second_text_of_the_reviews_are_named() -> None:
    found = diagnosed("womens_clothing/reviews.csv", {"data.text": ("Review Text",), "data.label": "Rating"})
    assert len(found["empty-texts", "train"].lines) == 845
    assert "column '' only counts" in found["index-column", None].says
    assert found["unused-text", None].says.startswith("column 'Title' holds text too")


@pytest.mark.parametrize("name", ["banking77/train.csv", "mrpc/msr_paraphrase_test.txt", "trec/test_TREC_10.label.txt"])
def test_no_error_is_invented(name: str) -> None:
    assert not [finding for finding in diagnosed(name).values() if finding.severity == "error"]
