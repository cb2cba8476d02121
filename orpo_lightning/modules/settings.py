"""The settings that a run may or may not change when it goes on from a checkpoint: honoured and said, or refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info

from orpo_lightning.models.checkpoint import plain_policy
from orpo_lightning.modules.optimization import dimensions, form, parameter_groups, rate_factor

_ORDER = "the order of the data would be another"
_STATE = "the optimizer's state is of the one it was"
_WEIGHTS = "the weights come from the checkpoint, and it would change nothing"
_ADAPTER = "the adapter in the checkpoint is of another shape"
_ROUNDING = "the numbers are the same up to rounding"


@dataclass(frozen=True)
class Setting:
    """What becomes of a setting that is another than it was.

    Args:
        name: as a user types it.
        effect: what the change does; of one that is refused, why it cannot be had.
        refused: whether the run then does not go on.
        place: whether it is a path or name of something that may have been moved since.
    """

    name: str
    effect: str = ""
    refused: bool = False
    place: bool = False


SETTINGS = (
    Setting("model.optimizer.algorithm", _STATE, refused=True),
    Setting("model.optimizer.options", _STATE, refused=True),
    Setting("model.optimizer.lr"),
    Setting("model.optimizer.weight_decay"),
    Setting("model.schedule.name"),
    Setting("model.schedule.warmup", "counted from the first step of the run"),
    Setting("steps of the run (trainer.max_epochs, trainer.max_steps)", "the schedule is that of the new length"),
    Setting("model.layout", _ROUNDING),
    Setting("model.reference.mode", _ROUNDING),
    Setting("model.policy.name_or_path", _WEIGHTS, refused=True, place=True),
    Setting("model.policy.revision", _WEIGHTS, refused=True),
    Setting("model.policy.dtype", "weights are rounded to it"),
    Setting("model.policy.attn_implementation", _ROUNDING),
    Setting("model.policy.attention_kernel", _ROUNDING),
    Setting("model.policy.head_kernel", _ROUNDING),
    Setting("model.policy.gradient_checkpointing", _ROUNDING),
    Setting("model.policy.compile_layers", _ROUNDING),
    Setting("model.policy.load_in_4bit", _WEIGHTS, refused=True),
    Setting("model.policy.disable_dropout"),
    Setting("model.policy.lora.r", _ADAPTER, refused=True),
    Setting("model.policy.lora.alpha", _ADAPTER, refused=True),
    Setting("model.policy.lora.target_modules", _ADAPTER, refused=True),
    Setting("model.policy.lora.modules_to_save", _ADAPTER, refused=True),
    Setting("model.policy.lora.adapter", _WEIGHTS, refused=True, place=True),
    Setting("model.policy.lora.dropout"),
    Setting("data.train, as tokenized rows", _ORDER, refused=True),
    Setting("data.val, as tokenized rows", "measures of before and after it do not compare"),
    Setting("data.global_batch_size", _ORDER, refused=True),
    Setting("data.shuffle", _ORDER, refused=True),
    Setting("data.seed or seed_everything", _ORDER, refused=True),
    Setting("trainer.accumulate_grad_batches", _ROUNDING),
    Setting("number of processes", _ROUNDING),
    Setting("trainer.precision"),
    Setting("trainer.gradient_clip_val"),
    Setting("trainer.gradient_clip_algorithm"),
)
"""All settings that a checkpoint keeps; what is not among them holds from where the run goes on, as it is given.

The class and arguments of the objective, the weights of a reference and those below an adapter are looked at elsewhere.
"""


def check_changes(saved: Mapping[str, Any], found: Mapping[str, Any], step: int) -> None:
    """Say which settings are others than they were, and refuse those that could not be honoured.

    Args:
        saved: the settings in the checkpoint, by name; what is not there, another version did not keep.
        found: those of the run that goes on.
        step: its first step.

    Raises:
        ValueError: names a setting that must be as it was, with both values.

    Example:
        >>> check_changes({"data.shuffle": True}, {"data.shuffle": False}, step=8)
        Traceback (most recent call last):
        ...
        ValueError: data.shuffle = False, but the run of the checkpoint has True: the order ...
    """
    changed = [each for each in SETTINGS if each.name in saved and saved[each.name] != found.get(each.name)]
    for setting in changed:
        before, now = saved[setting.name], found.get(setting.name)
        if setting.refused and not (setting.place and _is_gone(before)):
            raise ValueError(
                f"{setting.name} = {now!r}, but the run of the checkpoint has {before!r}: {setting.effect}. Set it as "
                "it was; to start another run from those weights, name the checkpoint as model.policy.name_or_path"
            )
    for setting in changed:
        before, now = saved[setting.name], found.get(setting.name)
        effect = f" ({setting.effect})" if setting.effect and not setting.refused else ""
        rank_zero_info(f"{setting.name} is {now!r} from step {step} on, and was {before!r}{effect}")


def _is_gone(place: object) -> bool:
    """Whether a local path leads nowhere any more: what was there has been moved."""
    return isinstance(place, str) and Path(place).is_absolute() and not Path(place).exists()


def settings_of_run(module: Any) -> dict[str, Any]:
    """The settings of the table above, by name, as plain data.

    Args:
        module: a preference module amid a fit; a data module of a user's own need not tell its settings.
    """
    trainer, data = module.trainer, module.trainer.datamodule
    told: dict[str, Any] = getattr(data, "settings", dict)()
    return {
        **_flat("model.policy", plain_policy(module.policy_config)),
        **_flat("model.optimizer", asdict(module.optimizer_config)),
        **_flat("model.schedule", asdict(module.schedule_config)),
        "model.layout": module.layout,
        "model.reference.mode": module.reference_config.mode,
        "steps of the run (trainer.max_epochs, trainer.max_steps)": data.total_steps,
        "trainer.accumulate_grad_batches": trainer.accumulate_grad_batches,
        "number of processes": trainer.world_size,
        "trainer.precision": str(trainer.precision),
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "trainer.gradient_clip_algorithm": getattr(trainer.gradient_clip_algorithm, "value", None),
        **told,
    }


def _flat(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(f"{name}.{key}", value) if key == "lora" else {f"{name}.{key}": value}
    return found


def honour_rates(checkpoint: Mapping[str, Any], module: Any) -> None:
    """Put the learning rate and weight decay of this run into the states that would bring back the old ones.

    Args:
        checkpoint: the loaded checkpoint; changed in place.
        module: the preference module that goes on.
    """
    config, total_steps = module.optimizer_config, module.trainer.datamodule.total_steps
    groups = parameter_groups(config, module.policy.named_parameters(), dimensions(module.trainer.strategy))
    # a form that the run before could use need not be one that this one can
    own_form = form(config, fused=module.can_fuse)
    for optimizer, schedule in zip(checkpoint["optimizer_states"], checkpoint["lr_schedulers"], strict=True):
        lr = config.lr * rate_factor(module.schedule_config, total_steps, schedule["last_epoch"])
        for saved, fresh in zip(optimizer["param_groups"], groups, strict=True):
            saved.update(lr=lr, initial_lr=config.lr, weight_decay=fresh["weight_decay"], **own_form)
        schedule.update(base_lrs=[config.lr] * len(groups), _last_lr=[lr] * len(groups))
