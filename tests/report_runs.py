"""Made-up runs of which a report has everything to show."""

from comparison_runs import answer, config, make_run, pairs_of

from orpo_lightning.summary.record import RunRecord

HOSTILE = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'> & \"quotes\" </pre>"
"""What the text of an answer or a name may be."""
_STEPS = 8
_DATA = {
    "train": {
        "split": "train",
        "source": "pairs.jsonl",
        "format": "text",
        "read": 12,
        "kept": 10,
        "dropped": {"empty_chosen": 2},
        "truncated": {},
        "lengths": {"prompt": {"min": 1, "median": 20, "p90": 30, "p99": 40, "max": 50}},
        "tokens": 4321,
    }
}


def curves(offset):
    """Measures of training and validation that move by a little at each step."""
    found = {}
    for step in range(_STEPS):
        margin = offset + step / 10
        found[step] = {
            "train/logps_mean/chosen": -2 + margin,
            "train/logps_mean/rejected": -2 - margin,
            "train/pref/margins": margin,
            "train/log_odds_chosen": margin,
            "train/delta": 0.5 - margin / 10,
            "train/grad_coef/chosen": 0.6,
            "train/grad_coef/rejected": 0.5,
            "train/loss": 2 - margin,
            "work/total_tokens": 100.0 * (step + 1),
            "work/total_tflop": 0.5 * (step + 1),
            "time/total_s": 1.0 + offset + step,
            "memory/peak_gb": 0.5 + offset,
        }
    validation = {"val/pref/margins": offset, "val/pref/accuracies": 0.5, "val/nll_response": 2 + offset}
    found[0] |= validation
    found[_STEPS] = validation
    return found


def make_report_runs(folder, strengths=(0.1, 0.5, 1.0), names="abcdefghijklmnopqrstuvwxyzABCDEF"):
    """A run of ORPO for each strength, the last one failed where there are three or more; their folder.

    Args:
        folder: where.
        strengths: of the runs.
        names: of their folders.
    """
    for i, (name, strength) in enumerate(zip(names, strengths, strict=False)):
        has_failed = len(strengths) > 2 and i == len(strengths) - 1
        status, reason = ("failed", f"no memory {HOSTILE}") if has_failed else ("complete", None)
        margins = [(-1) ** (j % 3) * (j + i) / 10 for j in range(20)]
        make_run(
            folder / name,
            record=RunRecord(
                *(status, reason, "ORPO", {"lambda_": strength}, "lambda_", "tiny", 100, 100, _STEPS, _STEPS),
                device="1 x cpu",
                versions={"torch": "2.13.0"},
            ),
            configuration=config(folder=str(folder / name), lambda_=strength),
            pairs=[
                *pairs_of(margins, step=0),
                *pairs_of([each + strength for each in margins], step=_STEPS, nll=2 + strength / 10),
            ],
            metrics=curves(i / 10),
            answers=[answer(0, text="At first."), answer(_STEPS, text=f"{HOSTILE} of {name}")],
            report=_DATA,
        )
    return folder
