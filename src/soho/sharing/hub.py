"""Uploading a model folder to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from soho.errors import SohoError
from soho.sharing.card import CARD_NAME, write_card
from soho.sharing.folder import view_folder

# What belongs to a model; notes, checkpoints and exports that lie beside it stay here.
PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "provenance.json",
    "conversion_report.txt",
    "LICENSE*",
    CARD_NAME,
)


@dataclass(frozen=True)
class PushReport:
    """What was uploaded.

    Attributes:
        url: of the commit.
        files: names.
        left: names in the folder that were not uploaded.
    """

    url: str
    files: list[str]
    left: list[str]

    def lines(self) -> list[str]:
        """Return the report for a console."""
        lines = [f"uploaded {', '.join(self.files)}", f"model: {self.url}"]
        return lines if not self.left else [f"left here: {', '.join(self.left)}", *lines]


def push_folder(
    folder: Path,
    repo_id: str,
    private: bool = False,
    message: str = "Upload SOHO model",
    token: str | None = None,
    endpoint: str | None = None,
) -> PushReport:
    """Upload a model folder: weights, configuration, processor and card, which is written where there is none.

    Args:
        folder: what a SOHO run wrote.
        repo_id: "owner/name" on the hub; the repository is made where it is missing.
        private: make a new repository private; one that exists stays as it is.
        message: of the commit.
        token: of an account that may write; None: the one of `hf auth login` or of HF_TOKEN.
        endpoint: another hub than that of HF_ENDPOINT.

    Raises:
        SohoError: the folder cannot predict or lacks a part, there is no token, or the hub refuses or is not there.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise SohoError(f"{repo_id!r} is no name of the hub; expected OWNER/NAME ({error})") from None
    view = view_folder(folder)
    if not view.processor or not (folder / "tokenizer_config.json").is_file():
        raise SohoError(f"{folder} holds no processor; expected processor_config.json and the tokenizer's files")
    token = token or get_token()
    if token is None:
        raise SohoError("there is no token of the Hugging Face hub; log in with `hf auth login` or set HF_TOKEN")
    if not (folder / CARD_NAME).exists():
        write_card(folder)
    names = sorted(path.name for path in folder.iterdir())
    files = [name for name in names if any(Path(name).match(pattern) for pattern in PATTERNS)]
    api = HfApi(endpoint=endpoint, token=token)
    with _one_sentence(repo_id, endpoint or api.endpoint):
        full = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
        additions = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files]
        commit = api.create_commit(full, additions, commit_message=message)
    return PushReport(commit.commit_url, files, [name for name in names if name not in files])


@contextmanager
def _one_sentence(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turn what the hub's client raises into one sentence."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = " ".join((error.server_message or str(error)).split())[:200]
        advice = {401: "; is the token valid?", 403: "; may this token write there?"}.get(status, "")
        raise SohoError(f"{endpoint} refuses {repo_id} ({status}): {reason}{advice}") from None
    except OfflineModeIsEnabled:
        raise SohoError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except Exception as error:  # the client's transport has changed its library, and so its errors, before
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SohoError(f"{repo_id} could not be uploaded to {endpoint}: {reason}") from None
