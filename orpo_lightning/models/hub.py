"""The Hugging Face hub: whether a name is there, and how a folder gets there."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._validators import validate_repo_id

MARKERS = ("config.json", "adapter_config.json", "tokenizer_config.json")
"""A folder or repository with one of these holds a model, an adapter or a tokenizer."""

_SECONDS = 10.0


def why_not_on_hub(name: str, revision: str | None = None) -> str | None:
    """Why a name cannot be loaded from the hub or from its local copy; None if it can. Asks once and never retries."""
    try:
        url = hf_hub_url(name, MARKERS[0], revision=revision)
        validate_repo_id(name)
        get_hf_file_metadata(url, timeout=_SECONDS)
    except EntryNotFoundError:
        return None  # it is there, without that file: an adapter or a tokenizer
    except HFValidationError:
        return "it is not a hub id (owner/name)"
    except GatedRepoError:
        return "on the hub it is gated: ask for access on its page, then log in with `hf auth login`"
    except RepositoryNotFoundError:
        return "the hub has no model of this name (a private one is found after `hf auth login`)"
    except RevisionNotFoundError:
        return f"on the hub it has no revision {revision!r}"
    except OfflineModeIsEnabled:
        return None if _is_cached(name, revision) else "HF_HUB_OFFLINE is set and the hub's local cache has no copy"
    except Exception as error:  # whatever the client raises where there is no network
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return None if _is_cached(name, revision) else f"the hub cannot be reached ({reason})"
    return None


def _is_cached(name: str, revision: str | None) -> bool:
    return _cached(name, revision) is not None


def _cached(name: str, revision: str | None) -> Path | None:
    found = (try_to_load_from_cache(name, file, revision=revision) for file in MARKERS)
    return next((Path(file).parent for file in found if isinstance(file, str)), None)


def snapshot_of(name: str, revision: str | None = None) -> Path:
    """The folder in the hub's local cache that a model was last loaded from.

    Args:
        name: its hub id.
        revision: branch, tag or commit.

    Raises:
        FileNotFoundError: the model is not in the cache.
    """
    folder = _cached(name, revision)
    if folder is None:
        raise FileNotFoundError(f"the hub's local cache has no copy of the model {name!r}, which was loaded from there")
    return folder


def check_upload(repo_id: str) -> None:
    """Find out before any work whether an upload can be tried.

    Raises:
        ValueError: the id is not valid, or nobody is logged in, or the hub cannot be reached.
    """
    try:
        validate_repo_id(repo_id)
        HfApi().whoami()
    except HFValidationError:
        raise ValueError(f"--push-to {repo_id}: not a hub id; accepted: owner/name") from None
    except LocalTokenNotFoundError:
        raise ValueError(f"--push-to {repo_id}: nobody is logged in; run `hf auth login`, or set HF_TOKEN") from None
    except Exception as error:  # whatever the client raises where there is no network
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"--push-to {repo_id}: the hub refuses or cannot be reached ({reason})") from error


def upload(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a complete folder in one commit and return its address; the repository is made where it is missing.

    Args:
        folder: what to upload.
        repo_id: owner/name.
        private: whether a repository that is made is for its owner alone; one that is there stays as it is.

    Raises:
        ValueError: the upload failed; the folder is still there.
    """
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload by orpo_lightning")
    except Exception as error:  # whatever the client raises: the answer is the same
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"the upload to {repo_id} failed ({reason}); the model is complete in {folder}: try again with "
            f"`hf upload {repo_id} {folder}{' --private' if private else ''}`"
        ) from error
    return str(commit.repo_url)
