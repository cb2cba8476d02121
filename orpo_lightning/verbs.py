"""The verbs of the command line. Imports nothing, so that the help is there at once."""

TRAINER_VERBS = {
    "fit": "train a policy on preference data",
    "validate": "measure a policy on the validation data",
    "test": "the same, logged under test/",
}
OWN_VERBS = {
    "data": ("show what a run would train on, and what became of every row", "orpo_lightning.commands.data:main"),
    "estimate": (
        "say what a run needs on each device, before anything is loaded",
        "orpo_lightning.commands.estimate:main",
    ),
    "objectives": (
        "list the objectives, with their formulas and arguments",
        "orpo_lightning.objectives.table:print_objectives",
    ),
    "sweep": ("run a sweep file of Weights & Biases here, without an account", "orpo_lightning.commands.sweep:main"),
    "generate": ("answer the prompts of a file", "orpo_lightning.commands.generate:main"),
    "compare": ("set runs side by side, with intervals and tests", "orpo_lightning.commands.compare:main"),
    "report": ("write a page about runs, and figures for papers", "orpo_lightning.commands.report:main"),
    "replay": (
        "take a step again that ended a run, and show what is not finite",
        "orpo_lightning.commands.replay:main",
    ),
    "completion": (
        "print what makes a shell complete verbs and settings: source <(orpo-lightning completion bash)",
        "orpo_lightning.commands.completion:main",
    ),
    "export": ("write the model of a checkpoint as a Hugging Face folder", "orpo_lightning.commands.export:main"),
}
"""Each with its help and ``module:function``, imported when the verb is used; the function reads ``sys.argv``."""

HELP = TRAINER_VERBS | {verb: text for verb, (text, _) in OWN_VERBS.items()}
ENTRY_POINTS = dict.fromkeys(TRAINER_VERBS, "orpo_lightning.cli:run_trainer") | {
    verb: entry_point for verb, (_, entry_point) in OWN_VERBS.items()
}
OF_SETTINGS = {*TRAINER_VERBS, "data", "estimate"}
"""Those that read the configuration of a run."""
OTHER_NAMES = {"train": "fit", "finetune": "fit", "eval": "validate", "evaluate": "validate"}
"""What somebody may type for a verb."""
