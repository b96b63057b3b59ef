"""`drspo publish RUN REPO_ID --license ID`: a run's shards and card, or a LoRA, to the Hub.

The publication owns its file list: what it uploads replaces what it uploaded before, so publishing twice, or
after the data set grew, never doubles a row. The same command after a cut continues: objects that arrived are
not sent again, and the commit that makes them visible comes last.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataset_builder.hub.tree import Tree, collect
from drspo.errors import UserError
from drspo.files.run import RunDir
from drspo.leaving import without_secrets

_REPO_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_AGAIN = "The same command continues; what arrived is not sent again."


def main(argv: list[str]) -> int:
    """Publish, or write the tree that would be published."""
    asked = _parse(argv)
    check_repo_id(asked.repo_id)
    with RunDir(asked.source).understood():
        tree = collect(asked.source, asked.repo_id, asked.license)
    if asked.dry_run:
        folder = Path(asked.dry_run)
        tree.write(folder)
        print(f"wrote the {len(tree)} files of {asked.repo_id} to {folder}; nothing was uploaded")
        print("next      the same command without --dry-run")
        return 0
    commit, address, private = upload(tree, asked.repo_id, private=not asked.public)
    if tree.kind == "dataset":
        RunDir(asked.source).phase_done("publish", repo=asked.repo_id, commit=commit, files=len(tree))
    print(f"{len(tree)} files at {address} ({'private' if private else 'public'}), commit {commit}")
    if private == asked.public:
        print("The repository existed already; its visibility was left as it is.")
    loader = f'datasets.load_dataset("{asked.repo_id}")'
    download = f"hf download {asked.repo_id} --local-dir lora"
    print(f"next      {loader if tree.kind == 'dataset' else download}")
    return 0


def check_repo_id(repo_id: str) -> None:
    """Raise UserError for a name that the Hub does not allow."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not _REPO_ID.fullmatch(repo_id):
        raise UserError(f"{repo_id!r} is not the name of a repository", hint="Write owner/name.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"the Hub does not allow this name: {error}", repo_id) from None


def upload(tree: Tree, repo_id: str, private: bool) -> tuple[str, str, bool]:
    """Make the repository equal to the tree under the names it owns: (commit, address, whether private)."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    if not get_token():
        raise UserError("there is no token for the Hub", hint="Set HF_TOKEN, or run `hf auth login`.")
    disable_progress_bars()
    api = HfApi()
    with _explained(repo_id), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        api.create_repo(repo_id, repo_type=tree.kind, private=private, exist_ok=True)
        tree.write(Path(folder), link=True)
        done = api.upload_folder(
            repo_id=repo_id,
            repo_type=tree.kind,
            folder_path=folder,
            delete_patterns=tree.owned,
            commit_message="Publish with DRSPO",
        )
        info = api.repo_info(repo_id, repo_type=tree.kind)
        address = f"{api.endpoint}/{'datasets/' if tree.kind == 'dataset' else ''}{repo_id}"
        return done.oid, address, bool(info.private)


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turn what the Hub and the network answer into one clear message; our own faults pass unchanged."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        causes = list(_causes(error))
        if refusal := next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None):
            raise _refusal(refusal, repo_id) from None
        if failure := next((cause for cause in causes if _is_network(cause)), None):
            said = without_secrets(str(failure) or type(failure).__name__)
            raise UserError(f"the connection to the Hub failed: {said}", repo_id, _AGAIN) from None
        if not isinstance(error, ValueError):
            raise
        raise UserError(f"the Hub does not accept this: {without_secrets(str(error))}", repo_id) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from: the Hub's client wraps some failures of uploads in a RuntimeError."""
    while error is not None:
        yield error
        error = error.__cause__


def _refusal(error: Any, repo_id: str) -> UserError:
    status = error.response.status_code if error.response is not None else 0
    said = without_secrets(getattr(error, "server_message", None) or str(error).partition("\n")[0])
    if status == 401:
        return UserError(f"the Hub rejects the token: {said}", repo_id, "Set HF_TOKEN to a valid one.")
    if status == 403:
        return UserError(f"this token may not write here: {said}", repo_id, "Use a token with write access.")
    if status >= 500 or status in (408, 429):
        return UserError(f"the Hub is not ready (HTTP {status}): {said}", repo_id, _AGAIN)
    return UserError(f"the Hub refuses (HTTP {status}): {said}", repo_id)


def _is_network(error: BaseException) -> bool:
    """Whether the transport failed. The Hub's client changes its HTTP library between versions."""
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or library.startswith(("httpx", "httpcore", "requests", "urllib3"))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("drspo publish", description="A run's pairs, or a LoRA, to the Hub.")
    parser.add_argument("source", metavar="RUN", help="a run folder or its URL, or the folder of a LoRA")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the Hub")
    parser.add_argument(
        "--license", default="", metavar="ID", help="required for data; for example cc-by-4.0"
    )
    parser.add_argument("--dry-run", default="", metavar="DIR", help="write the tree here and upload nothing")
    visible = parser.add_mutually_exclusive_group()
    visible.add_argument("--private", action="store_true", help="a new repository is private; the default")
    visible.add_argument("--public", action="store_true", help="a new repository is public")
    return parser.parse_args(argv)
