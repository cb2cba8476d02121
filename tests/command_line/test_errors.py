"""A mistake is answered in one line that says where it is and names the nearest that is right."""

from pathlib import Path

import pytest

from orpo_lightning.command_line.errors import nearest_key

KNOWN = "CPO, DPO, HingeDPO, IPO, KTO, ORPO, ProbabilityRatio, RobustDPO, SFT, SimPO"
OBJECTIVES = f"known: {KNOWN}, or the path of a class"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--model.objective.lamda_", "0.2"],
            "--model.objective.lamda_ is not a setting; did you mean --model.objective.lambda_? "
            "accepted: lambda_, nll_over, nll_mean",
        ),
        (
            ["--model.optimizer.lrr=1"],
            "--model.optimizer.lrr is not a setting; did you mean --model.optimizer.lr? "
            "accepted: lr, weight_decay, algorithm, options",
        ),
        (["--data.max_lenght", "9"], "--data.max_lenght is not a setting; did you mean --data.max_length?"),
        (["--trainer.max_step", "9"], "--trainer.max_step is not a setting; did you mean --trainer.max_steps?"),
        (
            ["--model.policy.lora.rank", "9"],
            "--model.policy.lora.rank is not a setting; did you mean --model.policy.lora.r? "
            "accepted: r, alpha, dropout, target_modules, modules_to_save, adapter",
        ),
        (
            ["--modle.objective", "ORPO"],
            "--modle.objective is not a setting; did you mean --model.objective?",
        ),
        (["--data=a\0b"], r"'--data=a\x00b' holds a NUL character; accepted: text without one"),
        (["--lr", "1"], "--lr is not a setting; did you mean --model.optimizer.lr?"),
        (["--beta", "1e-3"], "--beta is not a setting; did you mean --model.objective.beta?"),
        (
            ["--model.label_smoothing=0"],
            "--model.label_smoothing is not a setting; did you mean --model.objective.label_smoothing? "
            "accepted: objective, policy, reference, layout, optimizer, schedule",
        ),
        (["--confg", "orpo"], "--confg is not a setting; did you mean --config?"),
        (
            ["--model.objective=DPO", "--model.objective.lambda_=1"],
            "--model.objective.lambda_ is a setting of ORPO, ProbabilityRatio; "
            "accepted: beta, label_smoothing, length_normalized",
        ),
        (
            ["--model.objective", "DPOO"],
            f"--model.objective: no Objective is named 'DPOO'; did you mean 'DPO'? {OBJECTIVES}",
        ),
        (
            ["--model.objective", "dpo"],
            f"--model.objective: no Objective is named 'dpo'; did you mean 'DPO'? {OBJECTIVES}",
        ),
        (
            ["--model.objective", "my_losess.Squared"],
            "--model.objective: 'my_losess.Squared' cannot be imported: no module is named 'my_losess'",
        ),
        (
            ["--model", "PreferenceModul"],
            "--model: no LightningModule is named 'PreferenceModul'; did you mean 'PreferenceModule'? "
            "known: PreferenceModule, or the path of a class",
        ),
        (
            ["--data.filters", "[Duplicate]"],
            "--data.filters: no Filter is named 'Duplicate'; did you mean 'Duplicates'? known: Duplicates, "
            "EmptyChosen, EmptyRejected, EmptyResponse, IdenticalResponses, SharedPrompts, SmallMargin, or the path "
            "of a class",
        ),
        (["--data.filters", "Duplicates"], "--data.filters = Duplicates; accepted: a list in brackets, [A, B], null"),
        (
            ["--trainer.callbacks=ModelCheckpont"],
            "--trainer.callbacks: no Callback is named 'ModelCheckpont'; did you mean 'ModelCheckpoint'? "
            "give a class path",
        ),
        (["--model.objective.lambda_", "abc"], "--model.objective.lambda_ = abc; accepted: a number"),
        (["--data.limit", "few"], "--data.limit = few; accepted: a whole number, null"),
        (
            ["--trainer.logger", "CSVLoger"],
            "--trainer.logger: no Logger is named 'CSVLoger'; did you mean 'CSVLogger'? known: CSVLogger, CometLogger, "
            "MLFlowLogger, TensorBoardLogger, WandbLogger, or the path of a class",
        ),
        (
            ["--trainer.precision", "bf-16"],
            "--trainer.precision = bf-16; did you mean bf16? accepted: transformer-engine, transformer-engine-float16, "
            "16-true, 16-mixed, bf16-true, bf16-mixed, 32-true, 64-true, 64, 32, 16, bf16",
        ),
        (
            ["--trainer", "null"],
            "--trainer = null is not a block of settings; set one of them, such as --trainer.accelerator",
        ),
        (["--seed_everything", "x"], "--seed_everything = x; accepted: true or false, a whole number"),
        (
            ["--data.overlong", "cut"],
            "--data.overlong = cut; accepted: drop, truncate_prompt, truncate_response, error",
        ),
        (
            ["--model.layout", "pakced"],
            "--model.layout = pakced; did you mean packed? accepted: auto, packed, padded",
        ),
        (
            ["--model.policy.lora", "true"],
            "--model.policy.lora = true is not a block of settings; set one of them, such as --model.policy.lora.r 16",
        ),
        (
            ["--model.objective", "SFT", "--model.objective.lambda_", "1"],
            "--model.objective.lambda_ is a setting of ORPO, ProbabilityRatio; accepted: nll_over, nll_mean",
        ),
        (["--data.limit", "${oc.env:NOT_THERE}"], "--data.limit: Environment variable 'NOT_THERE' not found"),
        (["--model.objective.lambda_"], "--model.objective.lambda_ needs a value"),
        (["--model.objective.lambda_", "--data.limit", "3"], "--model.objective.lambda_ needs a value"),
        (["--trainer.max_steps"], "--trainer.max_steps needs a value"),
        (["orpo.yaml"], "'orpo.yaml' belongs to no option; options are typed as --key value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_answered_in_one_line(refusal, arguments, said):
    assert refusal("fit", *arguments) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model:\n  optimizer:\n    lr: 1\n    weight_decai: 2\n",
            "mine.yaml:4: model.optimizer.weight_decai is not a setting; did you mean model.optimizer.weight_decay? "
            "accepted: lr, weight_decay, algorithm, options",
        ),
        (
            "model:\n  objective:\n    class_path: DPO\n    init_args:\n      betta: 1\n",
            "mine.yaml:5: model.objective.betta is not a setting; did you mean model.objective.beta? "
            "accepted: beta, label_smoothing, length_normalized",
        ),
        ("modle:\n  layout: auto\n", "mine.yaml:2: modle.layout is not a setting; did you mean model.layout?"),
        (
            "data:\n  overlong: cut\n",
            "mine.yaml:2: data.overlong = cut; accepted: drop, truncate_prompt, truncate_response, error",
        ),
        (
            "trainer:\n  max_stepss: 3\n",
            "mine.yaml:2: trainer.max_stepss is not a setting; did you mean trainer.max_steps?",
        ),
        ("model:\n  optimizer:\n    lr: fast\n", "mine.yaml:3: model.optimizer.lr = fast; accepted: a number"),
        (
            "model:\n  objective: ORPOO\n",
            f"mine.yaml:2: model.objective: no Objective is named 'ORPOO'; did you mean 'ORPO'? {OBJECTIVES}",
        ),
        (
            "data:\n  filters: [Duplicates, SmallMargn]\n",
            "mine.yaml:2: data.filters: no Filter is named 'SmallMargn'; did you mean 'SmallMargin'? known: "
            "Duplicates, EmptyChosen, EmptyRejected, EmptyResponse, IdenticalResponses, SharedPrompts, SmallMargin, or "
            "the path of a class",
        ),
        (
            "data:\n  filters:\n  - class_path: SmallMargin\n    init_args:\n      leastt: 1\n",
            "mine.yaml:5: data.filters.leastt is not a setting; did you mean data.filters.least? accepted: least",
        ),
        (
            "data:\n  train: [sample, {path: sample, weight: x}]\n",
            "mine.yaml:2: data.train.weight = x; accepted: a number",
        ),
        (
            "model:\n  objective: {class_path: DPO, beta: 0.3}\n",
            "mine.yaml:2: model.objective: the arguments of a class stand under init_args: {class_path: ORPO",
        ),
        (
            "model:\n  optimizer:\n    lr: ${model.policy}\n",
            "mine.yaml:3: model.optimizer.lr = {'name_or_path': 'tiny', 'revision': None, 'dtype': 'float32', …; "
            "accepted: a number",
        ),
        ("model:\n  objective: [ORPO\ndata: 3\n", "mine.yaml:3: not valid YAML: while parsing a flow sequence"),
        ("model:\n\tlayout: auto\n", "mine.yaml:2: not valid YAML: while scanning for the next token"),
        ("- ORPO\n", "mine.yaml:1: not a configuration; accepted: a mapping of keys"),
        (
            "data:\n  limit: ${data.lmit}\n",
            "mine.yaml:2: data.limit: ${data.lmit} refers to no setting",
        ),
        (
            "model:\n  optimizer:\n    lr: ${model.optimizer.weight_decay}\n    weight_decay: ${model.optimizer.lr}\n",
            "mine.yaml:3: model.optimizer.lr: ${model.optimizer.weight_decay} refers to itself: "
            "model.optimizer.weight_decay -> model.optimizer.lr -> model.optimizer.weight_decay",
        ),
        (
            "data:\n  limit: ${data.limit}\n",
            "mine.yaml:2: data.limit: ${data.limit} refers to itself: data.limit -> data.limit",
        ),
    ],
)
def test_a_mistake_in_a_configuration_file_is_answered_with_its_line(refusal, text, said):
    Path("mine.yaml").write_text(text)
    message = refusal("fit", "--config", "orpo", "--config", "mine.yaml")
    assert message.startswith(said)
    assert len(message.splitlines()) == 1


def test_a_mistake_is_placed_where_it_was_made_last(refusal):
    Path("one.yaml").write_text("data:\n  limit: a\n")
    Path("two.yaml").write_text("data:\n\n  limit: b\n")
    assert refusal("fit", "--config=one.yaml").startswith("one.yaml:2: data.limit = a")
    assert refusal("validate", "--config=two.yaml").startswith("two.yaml:3: data.limit = b")
    assert refusal("data", "--config=two.yaml").startswith("two.yaml:3: data.limit = b")
    assert refusal("fit", "--data.limit=c").startswith("--data.limit = c")


@pytest.mark.parametrize("verb", ["validate", "test", "data", "estimate"])
def test_every_verb_answers_alike(refusal, verb):
    assert refusal(verb, "--data.max_lenght=9") == "--data.max_lenght is not a setting; did you mean --data.max_length?"


@pytest.mark.parametrize(
    "option", ["--trainer.max_step=1", "--data.max_len=9", "--model.policy.name=tiny", "--conf=orpo"]
)
def test_no_option_is_abbreviated(refusal, option):
    assert f"{option.partition('=')[0]} is not a setting" in refusal("fit", option)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model.objectiv.lambda", "model.objective.lambda_"),
        ("objective.lambda_", "model.objective.lambda_"),
        ("model.lambda_", "model.objective.lambda_"),
        ("train.max_steps", "trainer.max_steps"),
        ("xyz", None),
        ("model.qqq", None),
    ],
)
def test_the_nearest_key_is_found_through_several_mistakes(key, nearest):
    known = ["model.objective", "model.objective.lambda_", "model.layout", "trainer.max_steps", "data.train"]
    assert nearest_key(key, known) == nearest


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--trainer.strategy=dpd"], "trainer.strategy = dpd is not known; did you mean ddp?"),
        (["--trainer.accelerator=gpuu"], "trainer.accelerator = gpuu is not known; did you mean gpu?"),
        (
            ["--trainer.profiler=bad"],
            "trainer.profiler = bad is not known; accepted: simple, advanced, pytorch, xla",
        ),
        (["--seed_everything=-1"], "seed_everything = -1 is out of range; accepted: 0 to 4294967295"),
        (["--data.val={a: sample, b: null}"], "data.val.b is empty; accepted: a source, or leave the name out"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_a_value_that_nothing_knows_is_refused_by_name(refusal, verb, arguments, said):
    assert refusal(verb, "--config=orpo", *arguments) == said


def test_a_misuse_of_the_trainer_is_one_line(refusal):
    said = refusal("fit", "--config=orpo", "--trainer.barebones=true")
    assert said.startswith("`Trainer(barebones=True, ")
    assert "Traceback" not in said


def test_only_what_is_not_expected_offers_a_traceback(refusal, monkeypatch):
    hint = "set ORPO_LIGHTNING_TRACEBACK=1"
    assert hint not in refusal("fit", "--config", "orpo", "--model.objective.lambda_=-1")
    assert hint not in refusal("fit", "--config", "orpo", "--data.max_length=3")
    assert hint not in refusal("validate", "--config", "orpo", "--ckpt_path=best")  # there is no such file
    for error in (OSError("the disk is full"), ValueError("of somebody else"), ArithmeticError("not finite")):
        monkeypatch.setattr("orpo_lightning.__main__.main", lambda error=error: (_ for _ in ()).throw(error))
        assert hint in refusal("fit")
