"""Data sets of the Hugging Face hub, or of a mirror that HF_ENDPOINT names, through `datasets`."""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kitune.data.cache import cache_folder
from kitune.errors import UserError

# owner/name:config@revision; the owner is missing in legacy names, which the hub redirects.
NAME = re.compile(r"(?P<repo>[\w][\w.-]*(/[\w][\w.-]*)?)(:(?P<config>[^@:]+))?(@(?P<revision>[^@]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
# How long a hub may take to answer before the cache is all there is.
REACH_SECONDS = 10


def looks_like_hub_name(name: str) -> bool:
    """Whether a name that is no path here may be one of the hub."""
    return NAME.fullmatch(name) is not None


def require_datasets(name: str) -> None:
    """Refuse data that need the package `datasets` where it is not installed."""
    if find_spec("datasets") is None:
        raise UserError(f"{name}: this needs the package datasets", fix="pip install datasets")


def load_hub(name: str) -> Mapping[str, Any]:
    """The splits of a hub data set, memory-mapped from the hub's cache; downloaded where they are not there.

    Raises:
        UserError: there is no such data set, config or revision, it may not be read, or the hub cannot be reached.
    """
    found = NAME.fullmatch(name)
    assert found is not None
    repo, config, revision = found["repo"], found["config"], found["revision"]
    require_datasets(name)
    import datasets

    with explained(name, repo):
        if not sys.stderr.isatty():  # a bar that nobody watches is a page of lines
            datasets.disable_progress_bars()
        current, reachable = ask_hub(repo, revision)
        with nullcontext() if reachable else offline():
            splits: Mapping[str, Any] = datasets.load_dataset(current, config, revision=revision)
    commit = commit_of(next(iter(splits.values())))
    if revision and COMMIT.fullmatch(revision) and commit not in (None, revision):
        raise UserError(
            f"{name}: the hub cannot be reached, and the cache holds commit {commit} alone",
            fix=f"go online, or leave @{revision} out",
        )
    return splits


def ask_hub(repo: str, revision: str | None) -> tuple[str, bool]:
    """What the hub calls a data set today (`nyu-mll/glue` what once was `glue`), and whether it can be reached.

    One request without a second try: the libraries' own would wait half a minute for a hub that is away before they look
    into the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    known = cache_folder() / "hub-names" / repo
    try:
        name = str(HfApi().dataset_info(repo, revision=revision, timeout=REACH_SECONDS).id)
    except (OfflineModeIsEnabled, httpx.TransportError):
        return known.read_text(encoding="utf-8") if known.is_file() else repo, False
    if name != repo:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.write_text(name, encoding="utf-8")
    return name, True


@contextmanager
def offline() -> Iterator[None]:
    """As under HF_HUB_OFFLINE=1, which is read when the libraries are imported."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def commit_of(dataset: Any) -> str | None:
    """The hub's commit that a `datasets.Dataset` came from, which names the folder of its cached file."""
    for file in getattr(dataset, "cache_files", None) or ():
        folder = Path(file["filename"]).parent.name
        if COMMIT.fullmatch(folder):
            return folder
    return None


@contextmanager
def explained(name: str, repo: str) -> Iterator[None]:
    """What `datasets` and the hub's client raise, as one sentence.

    Their types say little (a missing config is a ValueError, a gated data set one that was not found), so their words are
    asked too.
    """
    from datasets.exceptions import DatasetNotFoundError, DatasetsError
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import httpx

    try:
        yield
    except (DatasetNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
        if isinstance(error, GatedRepoError) or "is a gated dataset" in str(error):
            raise UserError(
                f"{name}: its owner asks for a permission first",
                fix="accept its terms on its page, then: hf auth login",
            ) from None
        if isinstance(error, RevisionNotFoundError):
            raise UserError(f"{name}: it has no such revision", fix=f"leave it out: {name.partition('@')[0]}") from None
        raise UserError(
            f"{name}: there is no such file or folder here and no such data set on the hub",
            fix="check the name; a private data set needs hf auth login",
        ) from None
    except ValueError as error:
        configs = re.findall(r"'([^']+)'", str(error).partition("[")[2].partition("]")[0])
        if not configs:
            raise UserError(f"{name}: {first_sentence(error)}", fix="check the name and its config") from None
        listed = ", ".join(configs[:12]) + (f" and {len(configs) - 12} more" if len(configs) > 12 else "")
        raise UserError(f"{name}: it has the configs {listed}", fix=f"choose one: {repo}:{configs[0]}") from None
    except (ConnectionError, OfflineModeIsEnabled, httpx.TransportError) as error:
        raise UserError(
            f"{name}: no such file here, and the hub cannot be reached ({first_sentence(error)})",
            fix="try again: what was downloaded is kept; HF_ENDPOINT may name a mirror",
        ) from None
    except (HfHubHTTPError, DatasetsError, OSError, RuntimeError) as error:
        raise UserError(f"{name}: {first_sentence(error)}", fix="try again, or look at its page on the hub") from None


def first_sentence(error: Exception) -> str:
    """The first line of an error, shortened; its type where it says nothing."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= 160 else line[:157] + "..."
