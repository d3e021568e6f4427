"""Every file of the real data sets, as their publishers wrote them: published rows and columns, by default or by the option
that the message names."""

from pathlib import Path
from typing import Any

import pytest

from kitune.config import Layout
from kitune.data.read import read_table
from kitune.data.sources import parts_in
from kitune.errors import UserError

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
