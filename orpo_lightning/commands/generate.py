"""``orpo-lightning generate``: answers to the prompts of a file."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

from orpo_lightning.commands.arguments import VerbParser
from orpo_lightning.whole_file import whole_file

_DTYPES = ("float32", "bfloat16", "float16", "float64")


def make_parser() -> VerbParser:
    """The options of the verb."""
    parser = VerbParser(
        "generate",
        "Answer the prompts of a file with the chat template of the model. Without a temperature the answers do not "
        "depend on the batch size (but for the rounding of half precision).",
    )
    parser.add_argument(
        "--model", required=True, metavar="MODEL", help="a model folder, run, checkpoint, short name or hub id"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--prompts",
        required=True,
        type=Path,
        metavar="FILE",
        help=".txt (a prompt a line), or .json or .jsonl with the column prompt (text or messages), messages or "
        "instruction",
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="FILE",
        help="a jsonl file, overwritten if it is there; FILE.meta.json says how it was made",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=256, metavar="N", help="longest answer, tokens (%(default)s)"
    )
    parser.add_argument(
        "--temperature", type=float, default=0.0, metavar="T", help="of sampling; 0, the default, is greedy"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="P",
        help="sample from the likeliest tokens that together have this probability (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of sampling (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="B", help="prompts at a time (%(default)s)")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="of the weights (%(default)s)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run code that comes with the model")
    return parser


def main() -> None:
    """Run the verb on ``sys.argv``."""
    options = make_parser().parse_args(sys.argv[2:])

    from orpo_lightning.data.prompts import read_prompts

    prompts = read_prompts(options.prompts)
    prompts_sha256 = hashlib.sha256(options.prompts.read_bytes()).hexdigest()
    _check_out(options.out, options.prompts)

    import torch
    from tqdm import tqdm

    from orpo_lightning.data.tokenization import tokenize_prompts
    from orpo_lightning.models.generation import Sampling, generate
    from orpo_lightning.models.identity import fingerprint
    from orpo_lightning.models.loading import PolicyConfig, hide_loading_bars, load_causal_lm
    from orpo_lightning.models.pretrained import checkpoint_of
    from orpo_lightning.models.tokenizer import load_tokenizer
    from orpo_lightning.versions import versions

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, options.seed, options.batch_size)
    hide_loading_bars()
    # of a run that goes on the newest checkpoint is soon another one
    checkpoint = checkpoint_of(options.model)
    model = str(checkpoint or options.model)
    tokenizer = load_tokenizer(model, options.revision)
    tokens = tokenize_prompts(tokenizer, prompts)
    net = load_causal_lm(
        PolicyConfig(model, options.revision, options.dtype, trust_remote_code=options.trust_remote_code)
    )
    weights = {**_origin(model, checkpoint), "fingerprint": fingerprint(net)}
    torch.nn.Module.to(net, "cuda" if torch.cuda.is_available() else "cpu")
    with tqdm(total=len(prompts), desc="generate", unit="prompt", file=sys.stderr) as bar:
        completions = generate(net, tokenizer, tokens, [prompt.row_id for prompt in prompts], sampling, bar.update)

    rows = [
        {
            "prompt": [vars(message) for message in prompt.prompt],
            "response": completion.text,
            "tokens": completion.tokens,
            "finish_reason": completion.finish_reason,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    about = {"model": options.model, "revision": options.revision, "weights": weights, "dtype": options.dtype}
    about |= {"device": str(net.device), **vars(sampling)}
    about |= {"prompts": str(options.prompts), "prompts_sha256": prompts_sha256, "rows": len(rows)}
    about |= {"versions": versions()}
    cut = sum(completion.finish_reason == "length" for completion in completions)
    answers = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for path, text in ((options.out, answers), (_about(options.out), json.dumps(about, indent=2) + "\n")):
        with whole_file(path) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    print(f"{len(rows):,} answers written to {options.out} ({cut:,} cut off at {sampling.max_new_tokens} tokens)")


def _origin(model: str, checkpoint: Path | None) -> dict[str, object]:
    """Where weights of this machine lie, and after how many steps of a run, as far as that is known."""
    from orpo_lightning.models.card import steps_of
    from orpo_lightning.models.checkpoint import read_checkpoint
    from orpo_lightning.models.pretrained import absolute, resolve
    from orpo_lightning.models.short_names import SHORT_NAMES

    if checkpoint:
        return {"path": absolute(model), "step": read_checkpoint(checkpoint).steps}
    if model in SHORT_NAMES or not Path(model).expanduser().exists():
        return {"path": None, "step": None}
    folder = absolute(resolve(model))
    return {"path": folder, "step": steps_of(Path(folder))}


def _about(path: Path) -> Path:
    return path.with_name(f"{path.name}.meta.json")


def _check_out(out: Path, prompts: Path) -> None:
    """Find out before any work whether the answers can be written; makes the folder that they go to."""
    accepted = "accepted: a jsonl file, overwritten if it is there"
    for path in (out, _about(out)):
        if path.exists() and not path.is_file():
            raise ValueError(f"--out {out}: {path} is there and is no file; {accepted}")
        if path.exists() and path.samefile(prompts):
            raise ValueError(f"--out {out}: {path} is the file of the prompts; accepted: another file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"--out {out}: the folder {out.parent} cannot be written ({error}); accepted: a file in one that can"
        ) from error
