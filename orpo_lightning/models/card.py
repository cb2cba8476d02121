"""The README of an exported model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from orpo_lightning.models.short_names import HUB_IDS, difference_of_base
from orpo_lightning.run_folder import config_of, metrics_of
from orpo_lightning.versions import versions

CARD_FILE = "README.md"
_STEPS = "optimizer_steps"
_IMPORTS = "from transformers import AutoModelForCausalLM, AutoTokenizer"
_ADAPTER_IMPORTS = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer"
_SNIPPET = """\
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
model = {model_class}.from_pretrained(FOLDER)
chat = [{{"role": "user", "content": "Name a colour."}}]
inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
output = model.generate(**inputs, max_new_tokens=50)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""


def steps_of(folder: Path) -> int | None:
    """The optimizer steps that a model folder's card tells of; None where it has none of ours."""
    try:
        steps = (metadata_load(folder / CARD_FILE) or {}).get(_STEPS)
    except (OSError, ValueError, yaml.YAMLError):  # whatever a README may be
        return None
    return steps if isinstance(steps, int) and not isinstance(steps, bool) else None


@dataclass(frozen=True)
class ModelCard:
    """What a model card says.

    Args:
        objective: the objective with its arguments.
        base_model: the model that the training started from: a short name, a path or a hub id.
        steps: optimizer steps done.
        version: of this package, when the model was trained.
        adapter: whether the folder holds an adapter alone.
        data_report: what became of the rows of the data.
        config: the resolved configuration of the run, as YAML.
        metrics: the last value of each measure.

    Example:
        >>> print(ModelCard("ORPO(lambda_=0.1)", "facebook/opt-125m", 24, "0.1.0"))
        ---
        library_name: transformers
        ...
    """

    objective: str
    base_model: str
    steps: int
    version: str
    adapter: bool = False
    data_report: str | None = None
    config: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_run(
        cls,
        run: Path,
        *,
        objective: str,
        base_model: str,
        steps: int,
        version: str,
        reports: Mapping[str, object],
        adapter: bool = False,
        metrics: Mapping[str, float] | None = None,
    ) -> ModelCard:
        """The card of a model with what its run left in a folder.

        Args:
            run: the folder of the run.
            objective: the objective with its arguments.
            base_model: the model that the training started from.
            steps: optimizer steps done; measures of later ones do not count.
            version: of this package, when the model was trained.
            reports: what became of the rows of each split.
            adapter: whether the folder holds an adapter alone.
            metrics: the measures of a run that wrote none into its folder.
        """
        return cls(
            objective=objective,
            base_model=base_model,
            steps=steps,
            version=version,
            adapter=adapter,
            data_report="\n".join(map(str, reports.values())),
            config=config_of(run),
            metrics=metrics_of(run, steps) or metrics or {},
        )

    def write(self, folder: Path) -> None:
        """Write the card into a folder."""
        (folder / CARD_FILE).write_text(str(self), encoding="utf-8")

    def __str__(self) -> str:
        name = self.objective.partition("(")[0]
        parts = [
            f"---\n{yaml.safe_dump(self._front_matter(name), sort_keys=False)}---\n",
            f"# {name} on {self.base_model}\n",
            f"A language model trained with orpo_lightning {self.version} for {self.steps:,} optimizer steps.\n",
            f"- objective: `{self.objective}`\n- base model: `{self.base_model}`\n",
        ]
        difference = difference_of_base(self.base_model) if self.adapter else None
        if difference:
            parts.append(f"{difference}\n")
        imports = _ADAPTER_IMPORTS if self.adapter else _IMPORTS
        snippet = _SNIPPET.format(model_class="AutoPeftModelForCausalLM" if self.adapter else "AutoModelForCausalLM")
        parts.append(f"## Use\n\n```python\n{imports}\n\n{snippet}\n```\n")
        if self.metrics:
            rows = "\n".join(f"| {measure} | {value:.6g} |" for measure, value in sorted(self.metrics.items()))
            of_training = any(measure.startswith("train/") for measure in self.metrics)
            note = "Those of `train/` are of the batch of the last logged step alone.\n\n" if of_training else ""
            parts.append(f"## Measures at the end\n\n{note}| measure | value |\n|---|---|\n{rows}\n")
        if self.data_report:
            parts.append(f"## Data\n\n```\n{self.data_report.strip()}\n```\n")
        if self.config:
            parts.append(f"## Configuration\n\n```yaml\n{self.config.strip()}\n```\n")
        listed = "\n".join(f"- {package} {version}" for package, version in versions().items())
        parts.append(f"## Versions that wrote this folder\n\n{listed}\n")
        return "\n".join(parts)

    def _front_matter(self, objective: str) -> dict[str, object]:
        values: dict[str, object] = {"library_name": "peft" if self.adapter else "transformers"}
        values["pipeline_tag"] = "text-generation"
        hub_id = HUB_IDS.get(self.base_model, self.base_model)
        # the hub refuses a card whose base model is not one of its own
        if re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) and not Path(hub_id).expanduser().exists():
            values["base_model"] = hub_id
        values[_STEPS] = self.steps
        values["tags"] = ["orpo-lightning", "preference-optimization", objective.lower()]
        return values
