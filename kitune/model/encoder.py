"""From the name of a model to a network with the right head, and its tokenizer."""

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from kitune.config import TaskName
from kitune.data.cache import cache_folder, content_key, made_once
from kitune.data.encode import forget_last_call, tokenizer_content
from kitune.data.hub import COMMIT
from kitune.errors import NO_ROOM, UserError, numbered
from kitune.model.heads import map_head, start_at_priors
from kitune.model.starter import starter_folder
from kitune.tasks import TASKS

# How a folder of a run is called while another takes its place.
PUT_ASIDE = ".staging-old-"
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
# What a model needs besides its weights; on the hub only these are fetched.
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")


@dataclass(frozen=True)
class Pretrained:
    """A network on the CPU in fp32 with the head of a task, its tokenizer, and what there is to say about it."""

    network: Any
    tokenizer: Any
    folder: Path
    most_tokens: int
    head_is_new: bool
    said: tuple[str, ...]
    commit: str | None  # of the hub, where it came from there

    def fingerprints(self) -> dict[str, str]:
        """sha256 of what a training begins with: the encoder's weights, and all that decides the token ids."""
        digest = hashlib.sha256()
        for name, weight in self.network.base_model.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
        return {"weights": digest.hexdigest(), "tokenizer": content_key(tokenizer_content(self.tokenizer))}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No wall of warnings and no bars while a model loads: what matters in them is said in one sentence."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def scipy_when_called() -> Iterator[None]:
    """Let transformers' models be imported without scipy.optimize, 0.4 s, which all of them import for one function of the
    detection losses: meanwhile a stand-in has that name, whose function, and any other use of it, imports the real one."""
    name, package = "scipy.optimize", importlib.util.find_spec("scipy")
    if name in sys.modules or package is None:
        yield
        return
    stand_in: Any = ModuleType(name)
    # What `from scipy.optimize import ...` and imports of its own modules look for.
    stand_in.__path__ = [str(Path(place, "optimize")) for place in package.submodule_search_locations or ()]

    def real() -> Any:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return importlib.import_module(name)

    def attribute(wanted: str) -> Any:
        if wanted.startswith("__"):  # asked of every module by who only looks around
            raise AttributeError(wanted)
        return getattr(real(), wanted)

    stand_in.__getattr__ = attribute
    stand_in.linear_sum_assignment = lambda *values, **told: real().linear_sum_assignment(*values, **told)
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]


def model_folder(name: str, revision: str | None = None, *, which: str = "best") -> Path:
    """The folder with a model's files: `starter`, a folder, a run (its `which` part), or a hub name, downloaded.

    Raises:
        UserError: there is no such model, or the folder holds none.
    """
    if name == "starter" and not Path(name).exists():
        return starter_folder()
    path = Path(name)
    if path.is_dir():
        # Where folders cannot change places, a crash may have left one of them aside.
        for folder in (path, path / which, path / f"{PUT_ASIDE}{which}"):
            if (folder / "config.json").exists():
                return folder
        if (path / "repeats.json").exists():
            one = next((inner for inner in sorted(path.iterdir()) if (inner / which / "config.json").exists()), path)
            raise UserError(f"{path}: it holds several trainings", fix=f"take one of them, such as {one}")
        finished = "the run has no finished part yet" if (path / "run.yaml").exists() else "it holds no config.json"
        raise UserError(
            f"{path}: not a model: {finished}",
            fix="give a folder that from_pretrained loads, a finished run, or starter",
        )
    if path.is_file():
        fix = "give the folder of a run, or the one that holds config.json; it comes before the data"
        raise UserError(f"{path}: a file, not a model", fix=fix)
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: there is no such folder", fix="check the path; --model starter needs none")
    return hub_folder(name, revision)


def hub_folder(name: str, revision: str | None) -> Path:
    """A hub model's files in the hub's own cache; old-style weights are fetched only where there are no others."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        with quiet_hub():
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*SMALL_FILES, "*.safetensors"]))
            if not any((folder / file).exists() for file in WEIGHT_FILES):
                folder = Path(
                    snapshot_download(name, revision=revision, allow_patterns=[*SMALL_FILES, "pytorch_model*.bin"])
                )
    except GatedRepoError:
        raise UserError(
            f"model {name!r}: its owner asks for a permission first", fix="accept its terms, hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UserError(
            f"model {name!r}: it has no revision {revision!r}", fix="check --set revision=, or leave it out"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(
            f"model {name!r}: no such folder here and no such model on the hub",
            fix="check the name, or --model starter",
        ) from None
    except (LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise UserError(f"model {name!r}: {error.strerror}", fix="make room where HF_HOME lies") from None
        raise UserError(
            f"model {name!r}: no such folder here, and the hub cannot be reached",
            fix="check the name and the network, give a folder, or --model starter",
        ) from None
    return folder


@contextmanager
def quiet_hub() -> Iterator[None]:
    """No bar per small file."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def with_safetensors(folder: Path) -> tuple[Path, str | None]:
    """`folder`, or a copy of it in the cache whose old-style weights were converted; and the sentence that says so.

    The pickle is read with `weights_only`, which runs no code of it.
    """
    if any((folder / name).exists() for name in WEIGHT_FILES):
        return folder, None
    old = folder / "pytorch_model.bin"
    if not old.exists():
        raise UserError(f"{folder}: no model.safetensors and no pytorch_model.bin", fix="download the model again")
    if (folder / "run.yaml").exists():
        fix = "somebody has put it there: take the weights from the run's last checkpoint, or train it again"
        raise UserError(f"{old}: kitune writes no pickles, and reads none in a run", fix=fix)
    status = old.stat()
    # By their content: two revisions of the hub share a file of weights and may have different tokenizers.
    small = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in small_files(folder)]
    key = content_key(str(old.resolve()), str(status.st_size), str(status.st_mtime_ns), *small)
    target = cache_folder() / "converted" / key
    new = not target.exists()
    try:
        made_once(target, lambda staging: convert(folder, old, staging))
    except OSError as error:
        raise UserError(
            f"{target}: {old.name} cannot be converted there: {error.strerror or error}",
            fix="make room, or set HF_HOME to a folder that can be written",
        ) from None
    return target, f"{old} converted to safetensors, once, into {target}" if new else None


def small_files(folder: Path) -> list[Path]:
    """What a model has besides its weights."""
    return sorted(file for file in folder.iterdir() if file.is_file() and any(map(file.match, SMALL_FILES)))


def convert(folder: Path, old: Path, staging: Path) -> None:
    """Write the weights of `old` as safetensors, beside copies of the model's small files."""
    from safetensors.torch import save_file

    try:
        state: dict[str, Tensor] = torch.load(old, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises a dozen kinds for a damaged or a hostile pickle
        raise UserError(
            f"{old}: not readable as weights ({type(error).__name__})", fix="download it again, or ask for safetensors"
        ) from error
    # The names of 2018's checkpoints; copies, because safetensors refuses tensors that share memory.
    renamed = {
        name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): tensor.clone()
        for name, tensor in state.items()
    }
    for file in small_files(folder):
        shutil.copyfile(file, staging / file.name)
    save_file(
        {name: tensor.contiguous() for name, tensor in renamed.items()}, staging / "model.safetensors", {"format": "pt"}
    )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; a bare vocab.txt is lower-cased unless it has capital letters itself."""
    from transformers import AutoTokenizer

    told: dict[str, Any] = {}
    described = any((folder / name).exists() for name in ("tokenizer_config.json", "tokenizer.json"))
    if not described and (folder / "vocab.txt").exists():
        tokens = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        told["do_lower_case"] = not any(token.isascii() and token[:1].isupper() for token in tokens)
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **told)
        except ImportError as error:  # of Japanese, the words are told apart by a library
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder}: its tokenizer does not load: {reason}", fix="pip install 'kitune[ja]', or that package"
            ) from None
        except (OSError, ValueError, KeyError) as error:
            refuse_own_code(error, folder)
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{folder}: its tokenizer does not load: {reason}", fix="put the tokenizer's files there"
            ) from None
    # Where no file holds a vocabulary, transformers makes a tokenizer to which every word is unknown.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UserError(f"{folder}: it holds no tokenizer's vocabulary", fix="put the tokenizer's files there")
    return tokenizer


def load_config(folder: Path) -> Any:
    """The config of a model's folder."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        refuse_own_code(error, folder)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / 'config.json'}: not a model's config: {reason}", fix="download the model again"
        ) from None


def refuse_own_code(error: Exception, folder: Path) -> None:
    """Say of a model that brings Python files that nobody runs them; without an answer transformers would ask the user."""
    if "trust_remote_code" in str(error):
        raise UserError(
            f"{folder}: it needs code of its own, which kitune does not run",
            fix="choose an encoder whose kind transformers has, such as starter",
        ) from None


def load_pretrained(
    folder: Path,
    task: TaskName,
    names: Sequence[str],
    *,
    seed: int = 0,
    dropout: float | None = None,
    label_shares: Sequence[float] | None = None,
) -> Pretrained:
    """The network in `folder` with a head for `names`.

    Args:
        names: the label names, in the order of the outputs (regression: the name of the column).
        seed: decides what a new head starts with.
        dropout: of every dropout in the model; None leaves them.
        label_shares: share of each label in train: where a new head's bias starts.

    Raises:
        UserError: the weights are truncated, or do not belong to the config.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    commit = folder.name if COMMIT.fullmatch(folder.name) else None
    folder, conversion = with_safetensors(folder)
    said = [conversion] if conversion else []
    config = load_config(folder)
    old_names = trained_names(config)
    wanted = dict(enumerate(names))
    # A head of another size is loaded as it is and mapped afterwards.
    loaded_names = old_names if old_names and old_names != list(names) else list(names)
    config.id2label = dict(enumerate(loaded_names))
    config.label2id = {name: i for i, name in enumerate(loaded_names)}
    config.problem_type = TASKS[task].problem_type
    if dropout is not None:
        set_dropout(config, dropout)
    try:
        # The caller's random numbers go on as if nothing had been drawn here.
        with quiet_transformers(), scipy_when_called(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
            )
    except (SafetensorError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder}: its weights do not load, as a truncated file does not: {reason}",
            fix="download the model again; of a run, use last/ (--which last), or train again with another --out",
        ) from None
    except ValueError as error:
        refuse_own_code(error, folder)
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: not a text encoder: {reason}", fix="choose an encoder, such as starter") from None
    prefix = network.base_model_prefix + "."
    # A head without label names of its own may have another size.
    mismatched = [item for item in sorted(report["mismatched_keys"]) if old_names or item[0].startswith(prefix)]
    refuse_other_sizes(mismatched, folder)
    said += missing_weights(network, sorted(report["missing_keys"]), folder)
    head_is_new = len(mismatched) < len(report["mismatched_keys"]) or any(
        not name.startswith(prefix) for name in report["missing_keys"]
    )
    # Outputs that nobody has named are no class of these rows; a number is a number.
    in_file = loaded_names if old_names or task == "regression" else placeholders(len(names))
    if not head_is_new and in_file != list(names):
        said += map_head(network, in_file, names, seed)
        head_is_new = not set(in_file) & set(names)
    network.config.id2label = wanted
    network.config.label2id = {name: i for i, name in wanted.items()}
    network.config.num_labels = len(names) if task != "regression" else 1
    if head_is_new and label_shares is not None:
        start_at_priors(network, task, label_shares)
    if head_is_new:
        said.append(f"the head is new ({numbered(len(names), 'output')}) and learns from your rows")
    tokenizer = load_tokenizer(folder)
    if getattr(network.config, "type_vocab_size", 2) == 1:  # no embedding for a second segment
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return Pretrained(
        network,
        tokenizer,
        folder,
        most_tokens(network, tokenizer, from_run=(folder / "run.yaml").exists()),
        head_is_new,
        tuple(said),
        commit,
    )


def load_encoder(folder: Path) -> tuple[Any, Any]:
    """The encoder in `folder` without any head, on the CPU in fp32, and its tokenizer."""
    from transformers import AutoModel

    folder, _ = with_safetensors(folder)
    with quiet_transformers(), scipy_when_called():
        return AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False), load_tokenizer(folder)


def trained_names(config: Any) -> list[str] | None:
    """The label names that a config carries from an earlier training, None where they are transformers' placeholders."""
    names = [str(name) for _, name in sorted(config.id2label.items())]
    return (
        None
        if names == placeholders(len(names))
        or not any("SequenceClassification" in kind for kind in config.architectures or [])
        else names
    )


def placeholders(count: int) -> list[str]:
    """What transformers calls outputs that nobody has named."""
    return [f"LABEL_{place}" for place in range(count)]


def set_dropout(config: Any, share: float) -> None:
    """Every dropout that the config names, whatever its family calls it."""
    for name, value in vars(config).items():
        if "dropout" in name and (value is None or isinstance(value, float | int)) and not isinstance(value, bool):
            setattr(config, name, share)


def missing_weights(network: Any, missing: Sequence[str], folder: Path) -> list[str]:
    """A sentence for encoder weights that the file lacks; refuses a file that has none of them."""
    prefix = network.base_model_prefix + "."
    encoder = [name for name, _ in network.named_parameters() if name.startswith(prefix)]
    lacking = [name for name in missing if name.startswith(prefix)]
    if len(lacking) == len(encoder):
        raise UserError(
            f"{folder}: none of the encoder's {len(encoder)} weights are in its file, so its config names another model",
            fix="download the model again",
        )
    if not lacking:
        return []
    return [f"{numbered(len(lacking), 'weight')} of the encoder not in the file ({lacking[0]}, ...) start untrained"]


def refuse_other_sizes(mismatched: Sequence[tuple[str, Sequence[int], Sequence[int]]], folder: Path) -> None:
    """Refuse weights whose shapes are not those of the config; each is a name, the file's shape, and the config's."""
    if mismatched:
        name, in_file, by_config = mismatched[0]
        raise UserError(
            f"{folder}: {name} is {list(in_file)} in its file and {list(by_config)} by its config.json",
            fix="download the model again",
        )


def shape_of(config: Any) -> Any:
    """The network of a config without any weights, for what follows from its shape."""
    from transformers import AutoModel

    with torch.device("meta"), quiet_transformers():
        return AutoModel.from_config(config)


def most_tokens(network: Any, tokenizer: Any, *, from_run: bool) -> int:
    """The longest sequence that the model can take, special tokens included.

    RoBERTa and its kin count positions from the padding id + 1, so that many of their position embeddings are not usable.

    Args:
        from_run: the tokenizer's own limit is the `max_length` that an earlier run chose for its rows, not the model's.
    """
    limits = [int(tokenizer.model_max_length)] if tokenizer.model_max_length < 1e9 and not from_run else []
    positions = getattr(network.config, "max_position_embeddings", None)
    if positions and positions > 0:
        offsets = [
            module.padding_idx + 1
            for name, module in network.named_modules()
            if name.endswith("position_embeddings")
            and isinstance(module, nn.Embedding)
            and module.padding_idx is not None
        ]
        limits.append(int(positions) - max(offsets, default=0))
    return min(limits, default=512)


def save_pretrained(network: Any, tokenizer: Any, weights: Path, folder: Path) -> None:
    """A folder that `from_pretrained` loads: config, tokenizer, and `weights` as a hard link where the disk allows."""
    config = type(network.config).from_dict(network.config.to_dict())
    config.architectures = [type(network).__name__]
    config.dtype = "float32"
    config.save_pretrained(folder)
    forget_last_call(tokenizer)
    tokenizer.save_pretrained(folder)
    link_or_copy(weights, folder / "model.safetensors")


def link_or_copy(source: Path, target: Path) -> None:
    """One copy of the bytes on the disk where it can be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
