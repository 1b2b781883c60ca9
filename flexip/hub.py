"""Checkpoints on the Hugging Face Hub: the folder that inference needs, with a model card; there and back."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from flexip.card import model_card
from flexip.checkpoint import CONFIG, WEIGHTS, checkpoint_path, load_checkpoint, read_config
from flexip.encoders import EncoderNames
from flexip.engine import Engine

CARD = "README.md"
ONE_BRANCH = "ip-adapter.safetensors"


def save_pretrained(
    checkpoint: Path | str,
    folder: Path | str,
    *,
    name: str = "",
    licence: str = "apache-2.0",
    data: Sequence[str] = (),
) -> Path:
    """Copy what inference needs of a checkpoint, without its training state, and write a card beside it.

    Args:
        name: in the card; the folder's own without. licence, data: see `flexip.card.model_card`.

    Raises:
        CheckpointError: no checkpoint there. FileExistsError: a folder with files of something else.
    """
    source, folder = checkpoint_path(checkpoint), Path(folder)
    config = read_config(source)
    others = {path.name for path in folder.glob("*")} - {WEIGHTS, CONFIG, CARD, ONE_BRANCH}
    if others:
        raise FileExistsError(
            f"folder {folder}: holds {min(others)}, which is no part of a checkpoint; give an empty one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in (WEIGHTS, CONFIG):
        shutil.copyfile(source / file, folder / file)
    meaning = {ONE_BRANCH: "one branch alone, in IP-Adapter's layout, for `pipe.load_ip_adapter`"}
    beside = {file: meaning[file] for file in meaning if (folder / file).is_file()}
    (folder / CARD).write_text(model_card(config, name or folder.name, licence, data, beside), encoding="utf-8")
    return folder


def push_to_hub(
    folder: Path | str,
    repository: str,
    *,
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload what `save_pretrained` wrote; returns the commit's URL.

    Args:
        repository: "user/name"; made where there is none. token: without one, that of `hf auth login` or $HF_TOKEN.
        endpoint: URL of the Hub; without one, $HF_ENDPOINT or the public one.

    Raises:
        CheckpointError: no checkpoint there. huggingface_hub.errors.HfHubHTTPError: what the Hub refuses.
    """
    from huggingface_hub import HfApi

    read_config(folder)
    api = HfApi(endpoint, token)
    api.create_repo(repository, private=private, exist_ok=True)
    files = [WEIGHTS, CONFIG, CARD, ONE_BRANCH]
    commit = api.upload_folder(
        repo_id=repository, folder_path=folder, allow_patterns=files, commit_message="Checkpoint of FlexIP"
    )
    return commit.commit_url


def from_pretrained(
    name: Path | str,
    device: str = "cpu",
    names: EncoderNames | None = None,
    dtype: torch.dtype = torch.float32,
    **options: Any,
) -> Engine:
    """Load a checkpoint from the Hub, or from a local folder, ready to sample.

    Args:
        name: "user/name" or a folder. options: of `huggingface_hub.snapshot_download`, as revision, token, endpoint.

    Raises:
        CheckpointError: as `load_checkpoint`. huggingface_hub.errors.RepositoryNotFoundError: no such repository.
    """
    folder = checkpoint_path(name)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(name), allow_patterns=[WEIGHTS, CONFIG], **options))
    return load_checkpoint(folder, device, names, dtype)
