"""``orpo-lightning export``: the model of a checkpoint as a Hugging Face folder."""

from __future__ import annotations

import sys
from pathlib import Path

from orpo_lightning.commands.arguments import VerbParser


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser("export", "Write the model of a checkpoint as a Hugging Face folder.")
    parser.add_argument("--checkpoint", required=True, metavar="FILE|RUN", help="a checkpoint, or a run: its newest")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a folder that is empty or not there")
    parser.add_argument(
        "--merge-adapter", action="store_true", help="of an adapter: the whole model, instead of a peft adapter folder"
    )
    parser.add_argument(
        "--push-to",
        metavar="ID",
        help="upload the folder to this model repository on the hub; one that is not there is made, private",
    )
    parser.add_argument(
        "--public",
        action="store_true",
        help="make it public: everybody sees the configuration in the card, with the paths of this machine",
    )
    parser.add_argument(
        "--base-model", metavar="MODEL", help="where the model is now that it was trained from, if it has moved"
    )
    parser.add_argument("--adapter", metavar="DIR", help="the same of the adapter that training started from")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    parser = make_parser()
    options = parser.parse_args(sys.argv[2:])
    if options.public and not options.push_to:
        parser.error("--public is of a repository that --push-to makes; there is no --push-to")
    out: Path = options.out

    from orpo_lightning.models.hub import MARKERS
    from orpo_lightning.whole_folder import is_free, whole_folder

    if not is_free(out):
        raise ValueError(f"--out {out}: something is there; accepted: a folder that is empty or not there")

    from orpo_lightning.data.report import read_reports
    from orpo_lightning.models.adapters import has_adapter
    from orpo_lightning.models.card import ModelCard
    from orpo_lightning.models.checkpoint import load_its_tokenizer, load_policy, read_checkpoint
    from orpo_lightning.models.content import write_model_manifest
    from orpo_lightning.models.export import write_adapter, write_model
    from orpo_lightning.models.hub import check_upload, upload
    from orpo_lightning.models.loading import hide_loading_bars
    from orpo_lightning.models.pretrained import lasting_name
    from orpo_lightning.models.short_names import difference_of_base
    from orpo_lightning.run_folder import DATA_REPORT_FILE

    if options.push_to:
        check_upload(options.push_to)
    hide_loading_bars()
    checkpoint = read_checkpoint(options.checkpoint, options.trust_remote_code, options.base_model, options.adapter)
    net = load_policy(checkpoint)
    tokenizer = load_its_tokenizer(checkpoint)
    policy = checkpoint.policy
    adapter = has_adapter(net) and not options.merge_adapter
    card = ModelCard.of_run(
        checkpoint.run,
        objective=checkpoint.objective,
        base_model=policy.name_or_path,
        steps=checkpoint.steps,
        version=checkpoint.version,
        reports=read_reports(checkpoint.run / DATA_REPORT_FILE),
        adapter=adapter,
    )
    with whole_folder(out, MARKERS) as folder:
        if adapter:
            write_adapter(net, tokenizer, folder, lasting_name(policy.name_or_path, policy.revision), policy.revision)
        else:
            write_model(net, tokenizer, folder)
        card.write(folder)
        write_model_manifest(folder, checkpoint.steps, checkpoint.epoch, checkpoint.config)
    print(f"{'adapter' if adapter else 'model'} of step {checkpoint.steps} of {checkpoint.path} written to {out}")
    difference = difference_of_base(policy.name_or_path) if adapter else None
    if difference:
        print(difference)
    if options.push_to:
        print(f"uploaded to {upload(out, options.push_to, private=not options.public)}")
