"""Lightning checkpoints as a source of models: what they say of themselves, and the policy that they hold."""

from __future__ import annotations

import importlib.metadata
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from orpo_lightning.integrity import check_whole
from orpo_lightning.manifest import CONFIG_HASH
from orpo_lightning.models.adapters import has_adapter
from orpo_lightning.models.export import write_model
from orpo_lightning.models.identity import check_base, check_settings, fingerprint_of_base, settings_of
from orpo_lightning.models.loading import PolicyConfig, finish_loading, load_causal_lm, read_base
from orpo_lightning.models.pretrained import absolute, newest_checkpoint
from orpo_lightning.models.tokenizer import Tokenizer, load_tokenizer
from orpo_lightning.run_folder import run_of
from orpo_lightning.sharded_checkpoint import ShardedCheckpoint, is_sharded
from orpo_lightning.versions import PACKAGE

_POLICY = "policy.net."
"""What the names of the policy's weights begin with."""

_READ = (
    *("policy.config.name_or_path", "policy.config.lora.r", "policy.tokenizer", "policy.tokenizer_revision"),
    *("policy.version", "policy.settings", "policy.dtype", "objective.trained_by", "base", "state_dict"),
    "global_step",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint of a run.

    Args:
        path: the file.
        policy: how the model was loaded that the run started from.
        tokenizer: whose tokenizer the run used.
        tokenizer_revision: its revision, if it is on the hub.
        version: of this package, when the checkpoint was written.
        objective: the objective with its arguments.
        steps: optimizer steps done.
        epoch: the epoch that they ended in.
        config: hash of the configuration of the run; None where there was no command line.
        weights: the policy's; only those that were trained where the policy is an adapter.
        base: fingerprint of the frozen weights below an adapter; None where there is none.
        settings: what the model computed with beside its weights.
        dtype: of its frozen weights when it was trained.
    """

    path: Path
    policy: PolicyConfig
    tokenizer: str
    tokenizer_revision: str | None
    version: str
    objective: str
    steps: int
    epoch: int
    config: str | None
    weights: Mapping[str, Tensor]
    base: str | None
    settings: Mapping[str, Any]
    dtype: torch.dtype

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return run_of(self.path.resolve())


def describe_policy(policy: PolicyConfig, net: PreTrainedModel, data: object) -> dict[str, Any]:
    """What a checkpoint says about its policy, as plain data, so that it can be exported without the run's config.

    Args:
        policy: how the model is loaded that the run starts from.
        net: the model as it is trained.
        data: the data module; its ``tokenizer`` and ``tokenizer_revision`` are kept if it has them.
    """
    tokenizer, revision = tokenizer_of(data, policy)
    return {
        "config": plain_policy(policy),
        "tokenizer": absolute(tokenizer),
        "tokenizer_revision": revision,
        "version": importlib.metadata.version(PACKAGE),
        "settings": settings_of(net),
        "dtype": str(net.dtype).removeprefix("torch."),
    }


def plain_policy(policy: PolicyConfig) -> dict[str, Any]:
    """The settings of a policy as plain data, with paths that mean the same in every working directory."""
    return {
        **asdict(policy),
        "name_or_path": absolute(policy.name_or_path),
        "lora": {**asdict(policy.lora), "adapter": policy.lora.adapter and absolute(policy.lora.adapter)},
    }


def tokenizer_of(data: object, policy: PolicyConfig) -> tuple[str, str | None]:
    """Name and revision of the tokenizer of a run: the data module's, or the policy's if that names none."""
    name = getattr(data, "tokenizer", None)
    if isinstance(name, str):
        return name, getattr(data, "tokenizer_revision", None)
    return policy.name_or_path, policy.revision


def read_checkpoint(
    path: str | Path, trust_remote_code: bool = False, base_model: str | None = None, adapter: str | None = None
) -> Checkpoint:
    """Read a checkpoint file, or the newest one of a run folder; as tensors and plain data, never another pickle.

    Args:
        path: the file or folder.
        trust_remote_code: whether to run code that comes with its base model; what the file says of it does not count.
        base_model: where the model is now that it was trained from; None is where it was.
        adapter: the same of the adapter that its training started from.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is not a checkpoint of this package; says what it lacks.
    """
    path = Path(path).expanduser()
    file = newest_checkpoint(path) if path.is_dir() and not is_sharded(path) else path
    if file is None or not file.exists():
        raise FileNotFoundError(f"no checkpoint at {str(path)!r}; accepted: a checkpoint, or a folder that holds some")
    check_whole(file)
    sharded = ShardedCheckpoint(file) if is_sharded(file) else None
    try:
        saved = sharded.plain() if sharded else torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} cannot be read as tensors and plain data alone, and to read it in another way could run any code"
        ) from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a checkpoint; is it whole?") from error
    require(saved, _READ, str(file))
    about = saved["policy"]
    policy = _from_plain(PolicyConfig, {**about["config"], "trust_remote_code": trust_remote_code})
    tokenizer, revision = about["tokenizer"], about["tokenizer_revision"]
    if base_model is not None:
        if tokenizer == policy.name_or_path:
            tokenizer, revision = base_model, None
        policy = replace(policy, name_or_path=base_model, revision=None)
    if adapter is not None:
        policy = replace(policy, lora=replace(policy.lora, adapter=adapter))
    return Checkpoint(
        path=file,
        policy=policy,
        tokenizer=tokenizer,
        tokenizer_revision=revision,
        version=about["version"],
        objective=in_words(saved["objective"]["trained_by"]),
        steps=saved["global_step"],
        epoch=saved.get("epoch", 0),
        config=saved.get(CONFIG_HASH),
        base=saved["base"],
        settings=about["settings"],
        dtype=getattr(torch, about["dtype"]),
        weights=_OfPolicy(sharded.weights if sharded else saved["state_dict"]),
    )


class _OfPolicy(Mapping[str, Tensor]):
    """The policy's among the weights of a module, by their names in the policy."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._names = [name.removeprefix(_POLICY) for name in weights if name.startswith(_POLICY)]

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[_POLICY + name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def in_words(trained_by: Sequence[Sequence[Any]]) -> str:
    """The objectives that a run was trained by.

    Args:
        trained_by: each with the step that it began at before it.

    Example:
        >>> in_words([[0, "ORPO(lambda_=0.1)"], [5, "ORPO(lambda_=0.2)"]])
        'ORPO(lambda_=0.1) to step 5, then ORPO(lambda_=0.2)'
    """
    before = [f"{name} to step {end}, then " for (_, name), (end, _) in pairwise(trained_by)]
    return "".join([*before, trained_by[-1][1]])


def require(saved: object, names: Iterable[str], source: str) -> None:
    """Insist that a loaded checkpoint holds all that is going to be read from it.

    Args:
        saved: its contents.
        names: keys; those of a mapping inside it are separated by points.
        source: what to call it.

    Raises:
        ValueError: says what is missing.

    Example:
        >>> require({"objective": {"repr": "ORPO()"}}, ["objective.repr", "objective.state"], "a.ckpt")
        Traceback (most recent call last):
        ...
        ValueError: a.ckpt lacks objective.state; accepted: a checkpoint of a PreferenceModule
    """
    missing = [name for name in names if not _holds(saved, name)]
    if missing:
        raise ValueError(f"{source} lacks {', '.join(missing)}; accepted: a checkpoint of a PreferenceModule")


def _holds(saved: Any, name: str) -> bool:
    first, _, rest = name.partition(".")
    if not isinstance(saved, Mapping) or first not in saved:
        return False
    return _holds(saved[first], rest) if rest else True


def load_policy(checkpoint: Checkpoint) -> PreTrainedModel:
    """The policy of a checkpoint: its base model with the saved weights.

    Raises:
        FileNotFoundError: the base model is not where it was.
        ValueError: the base model is not what it was.
    """
    with _naming_what_is_gone(checkpoint):
        net, base = _start_of(checkpoint.policy)
    try:
        check_base(checkpoint.base, base)
        check_settings(checkpoint.settings, settings_of(net))
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}") from error
    _put_weights(net, checkpoint)
    return net


def _start_of(policy: PolicyConfig) -> tuple[PreTrainedModel, str | None]:
    """The model that training started from, and the fingerprint of what was frozen of it.

    Weights in 4 bits are the numbers that they stand for: those are what the adapter was trained on.
    """
    if not policy.load_in_4bit:
        net = load_causal_lm(policy)
        return net, fingerprint_of_base(policy, net) if has_adapter(net) else None
    base = read_base(policy)
    frozen = fingerprint_of_base(policy, base)  # before peft leaves its marks on it
    return finish_loading(base.dequantize(), policy), frozen


def _put_weights(net: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Put the saved weights into a model, one after the other: of those of a folder no second copy is held."""
    # tied weights are one parameter under two names
    parameters = dict(net.named_parameters(remove_duplicate=False))
    given = {id(parameters[name]) for name in checkpoint.weights if name in parameters}
    needed = {name for name, each in parameters.items() if each.requires_grad and id(each) not in given}
    own = net.state_dict(keep_vars=True)
    wrong = sorted({*(checkpoint.weights.keys() - own.keys()), *needed})
    for name, tensor in own.items():
        saved = checkpoint.weights.get(name)
        if saved is not None and saved.shape != tensor.shape:
            wrong.append(name)
        elif isinstance(tensor, nn.Parameter):
            # precision plugins train in another dtype than that of the config, and round frozen weights too
            tensor.data = tensor.data.to(checkpoint.dtype if saved is None else saved.dtype)
            if saved is not None:
                tensor.data.copy_(saved)
        elif saved is not None:
            tensor.copy_(saved)
    if wrong:
        raise ValueError(
            f"{checkpoint.path}: the model it was trained from, {checkpoint.policy.name_or_path!r}, is not what it "
            f"was; {len(wrong)} of the saved weights do not fit, such as {wrong[0]!r}"
        )


def load_its_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer that the run of a checkpoint used.

    Raises:
        FileNotFoundError: it is not where it was.
    """
    with _naming_what_is_gone(checkpoint):
        return load_tokenizer(checkpoint.tokenizer, checkpoint.tokenizer_revision)


@contextmanager
def _naming_what_is_gone(checkpoint: Checkpoint) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{checkpoint.path}: the model it was trained from is gone: {error}. Export it with --base-model, which "
            "says where that is now"
        ) from error


def export_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the policy of a checkpoint, an adapter merged, into a folder that is there."""
    write_model(load_policy(checkpoint), load_its_tokenizer(checkpoint), folder)


def _from_plain(cls: type[Any], values: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls)
    known = {field.name for field in fields(cls)}
    return cls(
        **{
            name: _from_plain(hints[name], value) if is_dataclass(hints[name]) else value
            for name, value in values.items()
            if name in known
        }
    )
