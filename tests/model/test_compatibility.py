"""What comes out loads with plain transformers and answers the same; what goes in may be of any family and any age."""

import hashlib
import importlib.util
import logging
import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import kitune
from kitune.cli import main
from kitune.errors import UserError

Rows = Callable[..., list[dict[str, Any]]]
SMALL = {"engine.threads": 1, "engine.precision": "fp32", "train.epochs": 1, "data.max_length": 32}
LONG = " ".join(["good", "film", "and", "bad", "book"] * 20)  # more tokens than any max_length here


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, lively_model: Path, rows: Rows
) -> Callable[[str, bool], kitune.Run]:
    """A run of a task, with one text column or two, made once."""
    made: dict[tuple[str, bool], kitune.Run] = {}

    def make(task: str, pair: bool) -> kitune.Run:
        if (task, pair) not in made:
            options = SMALL | {"train.epochs": 3, "train.learning_rate": 1e-3}
            made[task, pair] = kitune.train(
                rows(task, 60, pair=pair),
                model=str(lively_model),
                out=tmp_path_factory.mktemp(task) / "run",
                text=["text", "other"] if pair else "text",
                label="label",
                options=options,
            )
        return made[task, pair]

    return make


@pytest.fixture
def said_by_transformers() -> Iterator[list[str]]:
    """The warnings of transformers' logger; Python's own are errors meanwhile."""
    from transformers.utils import logging as transformers_logging

    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_warning()
    logging.getLogger("transformers").addHandler(handler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield said
    logging.getLogger("transformers").removeHandler(handler)
    transformers_logging.set_verbosity(before)


def vocabulary_of(model: Path) -> list[str]:
    """The pieces of a model's tokenizer, by id."""
    from transformers import AutoTokenizer

    pieces = AutoTokenizer.from_pretrained(model).get_vocab()
    return sorted(pieces, key=lambda piece: int(pieces[piece]))


def asked_of(pipe: Any, rows: list[dict[str, Any]], *, pair: bool) -> list[dict[str, float]]:
    """A pipeline's score of every label, a row out for a row in."""
    inputs: list[Any] = [
        {"text": row["text"], "text_pair": row["other"]} if pair else {"text": row["text"]} for row in rows
    ]
    return [{answer["label"]: answer["score"] for answer in pipe(one)} for one in inputs]


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_plain_transformers_loads_a_run_without_a_warning_and_gives_the_same_answers(
    trained: Callable[[str, bool], kitune.Run], rows: Rows, said_by_transformers: list[str], task: str, pair: bool
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    run = trained(task, pair)
    asked = [*rows(task, 12, pair=pair, seed=5), {"text": LONG, "other": LONG}, {"text": "", "other": "very good"}]
    expected = run.predict(asked)

    network = AutoModelForSequenceClassification.from_pretrained(run / "best")
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    pipe = pipeline("text-classification", model=str(run / "best"), truncation=True, top_k=None)
    scores = asked_of(pipe, asked, pair=pair)

    names = {"single-label": ["no", "yes"], "multi-label": ["bad", "good", "odd"], "regression": ["label"]}[task]
    assert list(network.config.id2label.values()) == names
    assert network.config.label2id == {name: i for i, name in enumerate(names)}
    assert list(run.model.label_names) == names
    assert tokenizer.model_max_length == 32
    values = expected.logits if task == "regression" else expected.probabilities
    assert values is not None
    np.testing.assert_allclose([[row[name] for name in names] for row in scores], values, atol=1e-5)
    if task == "single-label":
        assert [max(row, key=lambda name: row[name]) for row in scores] == expected.labels
    assert float(np.ptp(values[:, 0])) > 1e-3  # else any network would do
    assert said_by_transformers == []


def test_a_run_holds_no_pickle(trained: Callable[[str, bool], kitune.Run]) -> None:
    files = [file for file in trained("single-label", False).folder.rglob("*") if file.is_file()]
    assert {file.parent.parent.name for file in files} >= {"run", "checkpoints"}
    for file in files:
        assert file.suffix in {".json", ".jsonl", ".yaml", ".safetensors", ".parquet", ".npy", ".txt"}, file
        assert file.read_bytes()[:2] not in {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}, file


@pytest.mark.parametrize("part", ["best", "last"])
def test_the_saved_tokenizer_neither_cuts_nor_pads_unless_it_is_asked(
    trained: Callable[[str, bool], kitune.Run], part: str
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(trained("single-label", False) / part)
    tokens = tokenizer(["good", LONG], verbose=False)["input_ids"]
    assert [len(ids) for ids in tokens] == [3, 102]


# Other families

TYPED = ("bert", "electra", "deberta-v2", "albert")
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 66,
    "pad_token_id": 1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 2},
    "mpnet": {},
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 16},
    "albert": {"embedding_size": 16},
    "roformer": {"embedding_size": 32},
    "bart": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
    },
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Path]:
    """A folder with a tiny random encoder of a family, and the tiny words in a tokenizer whose [PAD] is 1."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    words = [word for word in vocabulary_of(tiny_model) if word not in special]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}

    def make(family: str, *, types: bool | None = None) -> Path:
        folder = tmp_path_factory.mktemp(family)
        backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
        typed = family in TYPED if types is None else types
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend,
            cls_token="[CLS]",
            pad_token="[PAD]",
            sep_token="[SEP]",
            unk_token="[UNK]",
            mask_token="[MASK]",
            model_input_names=["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"],
        )
        ids = {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
        sizes = FAMILIES[family] if {"dim", "d_model"} & FAMILIES[family].keys() else SIZES | FAMILIES[family]
        sizes = {"max_position_embeddings": 66, "pad_token_id": 1} | sizes | ids
        torch.manual_seed(3)
        config = AutoConfig.for_model(family, vocab_size=len(vocabulary), **sizes)
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("pair", [False, True], ids=["text", "pair"])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_an_encoder_of_any_family_trains_and_comes_back_whole(
    tmp_path: Path, families: Callable[..., Path], rows: Rows, family: str, pair: bool
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = rows("single-label", 24, pair=pair)
    run = kitune.train(
        made,
        model=str(families(family)),
        out=tmp_path / "run",
        text=["text", "other"] if pair else "text",
        label="label",
        options=SMALL | {"train.learning_rate": 1e-3},
    )
    network, report = AutoModelForSequenceClassification.from_pretrained(run / "best", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    tokenizer = AutoTokenizer.from_pretrained(run / "best")
    texts = [[row[name] for row in made] for name in (("text", "other") if pair else ("text",))]
    batch = tokenizer(*texts, truncation=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = network.eval()(**batch).logits.numpy()
    np.testing.assert_allclose(run.predict(made).logits, logits, atol=1e-5)


def test_gradient_checkpointing_is_refused_where_an_encoder_has_none(
    tmp_path: Path, families: Callable[..., Path], rows: Rows
) -> None:
    told = SMALL | {"engine.gradient_checkpointing": True}
    with pytest.raises(UserError, match="a AlbertForSequenceClassification has none\n  fix: leave it out"):
        kitune.train(rows("single-label", 24), model=families("albert"), out=tmp_path / "run", options=told)
    assert not (tmp_path / "run").exists()


def test_weights_that_are_never_trained_follow_the_precision(
    tmp_path: Path, families: Callable[..., Path], rows: Rows
) -> None:
    """RoFormer's positions are sinusoids that need no gradient."""
    options = SMALL | {"engine.precision": "bf16"}
    run = kitune.train(rows("single-label", 24), model=str(families("roformer")), out=tmp_path / "run", options=options)
    assert len(run.predict(["good film", "bad film"])) == 2
    from safetensors.torch import load_file
    from transformers import AutoModel

    after = load_file(run / "best" / "model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in after.values())
    frozen = AutoModel.from_pretrained(run.options.model).encoder.embed_positions.weight
    torch.testing.assert_close(
        after["roformer.encoder.embed_positions.weight"], frozen, rtol=0, atol=1e-5
    )  # sines, computed anew


def test_added_tokens_without_embeddings_are_refused(tmp_path: Path, families: Callable[..., Path], rows: Rows) -> None:
    from transformers import AutoTokenizer

    folder = families("distilbert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["quokka"])
    tokenizer.save_pretrained(folder)
    made = [{**row, "text": row["text"] + " quokka"} for row in rows("single-label", 24)]
    with pytest.raises(UserError, match="gives the id") as raised:
        kitune.train(made, model=str(folder), out=tmp_path / "run", options=SMALL)
    assert "resize_token_embeddings" in raised.value.fix
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_head_of_any_family_is_mapped_by_label_names(
    tmp_path: Path, families: Callable[..., Path], rows: Rows, family: str
) -> None:
    made = rows("single-label", 24)
    first = kitune.train(made, model=str(families(family)), out=tmp_path / "first", options=SMALL)
    named = SMALL | {"train.epochs": 0, "data.labels": ["maybe", "yes", "no"]}
    again = kitune.train(made, model=str(first.folder), out=tmp_path / "again", options=named)
    np.testing.assert_allclose(again.predict(made).logits[:, [2, 1]], first.predict(made).logits, atol=1e-5)


def test_training_changes_every_weight_of_an_encoder_that_shares_its_layers(
    tmp_path: Path, families: Callable[..., Path], rows: Rows
) -> None:
    folder = families("albert")
    options = SMALL | {"train.learning_rate": 1e-3}
    made = rows("single-label", 24, pair=True)
    run = kitune.train(made, model=str(folder), out=tmp_path / "run", text=["text", "other"], options=options)
    before, after = load_file(folder / "model.safetensors"), load_file(run / "best" / "model.safetensors")
    assert {"albert." + name for name in before} <= set(after)
    same = [name for name in before if torch.equal(before[name], after["albert." + name])]
    assert same == []


@pytest.mark.parametrize(("family", "most"), [("roberta", 64), ("xlm-roberta", 64), ("distilbert", 66)])
def test_a_text_longer_than_the_position_embeddings_is_cut_to_those_that_the_family_can_use(
    tmp_path: Path, families: Callable[..., Path], rows: Rows, family: str, most: int
) -> None:
    folder, made = families(family), rows("single-label", 24)
    made[3]["text"] = made[7]["text"] = LONG
    run = kitune.train(made, model=str(folder), out=tmp_path / "run", options=SMALL | {"data.max_length": most})
    assert run.options.data.max_length == most
    with pytest.raises(UserError, match=f"data.max_length: {most + 1} is more than the model's {most} positions"):
        kitune.train(made, model=str(folder), out=tmp_path / "more", options=SMALL | {"data.max_length": most + 1})


@pytest.mark.parametrize("family", ["distilbert", "roberta"])
def test_a_tokenizer_that_gives_segments_which_the_encoder_does_not_have_is_no_obstacle(
    tmp_path: Path, families: Callable[..., Path], rows: Rows, family: str
) -> None:
    from transformers import pipeline

    made = rows("single-label", 24, pair=True)
    folder = families(family, types=True)
    run = kitune.train(made, model=str(folder), out=tmp_path / "run", text=["text", "other"], options=SMALL)
    pipe = pipeline("text-classification", model=str(run / "best"), truncation=True, top_k=None)
    scores = np.array([[row[name] for name in ("no", "yes")] for row in asked_of(pipe, made, pair=True)])
    probabilities = run.predict(made).probabilities
    assert probabilities is not None
    np.testing.assert_allclose(scores, probabilities, atol=1e-5)


def test_cached_token_ids_of_a_tokenizer_without_segments_are_not_taken_for_one_with_them(
    families: Callable[..., Path], rows: Rows
) -> None:
    from kitune.data.encode import encode
    from kitune.data.read import read_table
    from kitune.model.encoder import load_tokenizer

    table = read_table(rows("single-label", 5, pair=True, seed=77))
    without, typed = (load_tokenizer(families("electra", types=types)) for types in (False, True))
    assert encode(table, ("text", "other"), without, max_length=32).token_type_ids is None
    types = encode(table, ("text", "other"), typed, max_length=32).token_type_ids
    assert types is not None
    assert set(types.tolist()) == {0, 1}


# Old models


@pytest.fixture
def old_model(tmp_path: Path, tiny_model: Path) -> Path:
    """The tiny model as one of 2018 came: a pickle with LayerNorm.gamma and .beta, a bare vocab.txt, a short config."""
    import json

    folder = tmp_path / "old"
    folder.mkdir()
    weights = {
        "bert."
        + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(tiny_model / "model.safetensors").items()
    }
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    config = json.loads((tiny_model / "config.json").read_text())
    sizes = [name for name in config if isinstance(config[name], int | float) and not isinstance(config[name], bool)]
    (folder / "config.json").write_text(
        json.dumps({name: config[name] for name in [*sizes, "hidden_act"]} | {"model_type": "bert"})
    )
    (folder / "vocab.txt").write_text("".join(word + "\n" for word in vocabulary_of(tiny_model)))
    return folder


def test_an_old_model_is_converted_once_and_trains_like_the_new_one(
    tmp_path: Path, old_model: Path, tiny_model: Path, rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    made = rows("single-label", 24)
    old = kitune.train(made, model=str(old_model), out=tmp_path / "first", options=SMALL)
    assert "pytorch_model.bin converted to safetensors, once" in capsys.readouterr().err
    kitune.train(made, model=str(old_model), out=tmp_path / "second", options=SMALL)
    assert "converted to safetensors" not in capsys.readouterr().err
    new = kitune.train(made, model=str(tiny_model), out=tmp_path / "new", options=SMALL)
    assert [file.name for file in (tmp_path / "old").iterdir() if file.suffix == ".safetensors"] == []
    np.testing.assert_array_equal(old.predict(made).logits, new.predict(made).logits)


def test_a_converted_model_follows_the_files_beside_its_weights(old_model: Path) -> None:
    from kitune.model.encoder import load_pretrained

    before = load_pretrained(old_model, "single-label", ("a", "b"))
    (old_model / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    after = load_pretrained(old_model, "single-label", ("a", "b"))
    assert before.tokenizer.tokenize("Good") == ["good"]
    assert after.tokenizer.tokenize("Good") == ["[UNK]"]


def test_python_files_of_a_model_do_not_run(
    tmp_path: Path, tiny_model: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io
    import json
    import shutil

    folder, mark = tmp_path / "model", tmp_path / "it-ran"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    own = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config | own))
    (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(UserError, match=f"{folder}: it needs code of its own, which kitune does not run"):
        kitune.train(rows("single-label", 24), model=folder, out=tmp_path / "run", options=SMALL)
    assert not mark.exists()


def test_loading_a_model_draws_nothing_from_the_callers_random_numbers(tiny_model: Path) -> None:
    from kitune.model.encoder import load_pretrained

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_pretrained(tiny_model, "single-label", ("a", "b"), seed=3)
    assert torch.equal(torch.rand(3), expected)
    again = load_pretrained(tiny_model, "single-label", ("a", "b"), seed=3)
    assert torch.equal(first.network.classifier.weight, again.network.classifier.weight)


@pytest.mark.parametrize(("add", "lower"), [("", True), ("Good\n", False)])
def test_a_bare_vocabulary_is_lower_cased_unless_it_has_capital_letters(old_model: Path, add: str, lower: bool) -> None:
    from kitune.model.encoder import load_tokenizer

    with (old_model / "vocab.txt").open("a") as file:
        file.write(add)
    tokens = load_tokenizer(old_model).tokenize("Good film")
    assert tokens == (["good", "film"] if lower else ["Good", "film"])


class Hostile:
    """A pickle that runs a program when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("harm", ["truncated", "hostile", "hostile zip"])
def test_a_pickle_that_is_damaged_or_hostile_is_refused_and_does_not_run(
    tmp_path: Path, old_model: Path, rows: Rows, capsys: pytest.CaptureFixture[str], harm: str
) -> None:
    weights, mark = old_model / "pytorch_model.bin", tmp_path / "it-ran"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:-500])
    elif harm == "hostile":
        weights.write_bytes(pickle.dumps({"bert.weight": Hostile(mark)}, protocol=2))
    else:
        torch.save({"bert.weight": Hostile(mark)}, weights)
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows("single-label", 24)))
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(data), "--model", str(old_model), "--out", str(tmp_path / "run")])
    assert stopped.value.code == 2
    assert f"{weights}: not readable as weights" in capsys.readouterr().err
    assert not mark.exists()
    assert not (tmp_path / "run").exists()


# A run as the model of the next


@pytest.mark.parametrize("task", ["single-label", "multi-label"])
def test_a_run_goes_on_with_labels_in_another_order_and_answers_the_same_by_name(
    tmp_path: Path, trained: Callable[[str, bool], kitune.Run], rows: Rows, task: str
) -> None:
    first, made = trained(task, False), rows(task, 24, seed=3)
    names = list(reversed(first.model.label_names))
    options = SMALL | {"train.epochs": 0, "data.labels": names}
    again = kitune.train(made, model=str(first.folder), out=tmp_path / "again", task=task, options=options)  # type: ignore[arg-type]
    old, new = first.predict(made), again.predict(made)
    assert list(new.label_names) == names
    np.testing.assert_allclose(new.logits, old.logits[:, ::-1], atol=1e-5)


def test_a_label_that_the_earlier_run_did_not_know_is_said_and_starts_anew(
    tmp_path: Path, trained: Callable[[str, bool], kitune.Run], rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    first, made = trained("single-label", False), rows("single-label", 24, seed=3)
    for row in made[::3]:
        row["label"] = "maybe"
    again = kitune.train(made, model=str(first.folder), out=tmp_path / "again", options=SMALL | {"train.epochs": 0})
    assert "the head keeps 2 labels of the earlier run and starts maybe anew" in capsys.readouterr().err
    assert (first.options.train.head_rate, again.options.train.head_rate) == (5.0, 1.0), (
        "a trained head is left its pace"
    )
    old, new = first.predict(made), again.predict(made)
    assert new.label_names == ("maybe", "no", "yes")
    np.testing.assert_allclose(new.logits[:, 1:], old.logits, atol=1e-5)


def test_a_run_of_another_task_gives_its_encoder_and_a_new_head(
    tmp_path: Path, trained: Callable[[str, bool], kitune.Run], rows: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained("single-label", False)
    made = rows("regression", 24)
    again = kitune.train(made, model=str(first.folder), out=tmp_path / "again", options=SMALL)
    assert again.predict(made).logits.shape == (24, 1)
    assert again.options.train.head_rate == 5.0
    assert "the head is new (1 output)" in capsys.readouterr().err


# The starter


@pytest.fixture
def starter_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the installed starter's package that Python finds first; its model folder."""
    from kitune.model.starter import PACKAGE, starter_folder

    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the starter encoder is not installed")
    copy = tmp_path / "packages" / PACKAGE
    shutil.copytree(spec.submodule_search_locations[0], copy)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    starter_folder.cache_clear()
    yield copy / "model"
    starter_folder.cache_clear()


def test_the_starter_is_found_by_its_package(starter_package: Path) -> None:
    from kitune.model.encoder import model_folder

    assert model_folder("starter") == starter_package


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_starter_with_one_changed_byte_is_refused(starter_package: Path, name: str) -> None:
    from kitune.model.starter import starter_folder

    data = bytearray((starter_package / name).read_bytes())
    before = hashlib.sha256(data).digest()
    data[len(data) // 2] ^= 1
    assert hashlib.sha256(data).digest() != before
    (starter_package / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: its sha256 is not the one that kitune knows"):
        starter_folder()
