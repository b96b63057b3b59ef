"""TRL's own check of a preference data set on ours: on a run, on its export, on a publication.

    python -m pip install trl --no-deps --target PATH
    python -m benchmarks.interop.trl_preferences --trl PATH --run RUN

TRL tells the kinds of data sets apart by their columns. Its `apply_chat_template` refuses an example whose
columns are of no kind: it is given a row of each place, messages instead of images. Then
`unpair_preference_dataset` must find both sides. TRL's trainers are for language models and are not run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Ask TRL about each place; 0 when it takes all of them for preferences."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trl", type=Path, required=True, help="the folder that trl was installed into")
    parser.add_argument("--run", type=Path, required=True, help="a finished run on this machine")
    asked = parser.parse_args()
    sys.path.insert(0, str(asked.trl))
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "published"
        publish = ["publish", str(asked.run), "me/scrolls", "--license", "cc-by-4.0", "--dry-run", str(tree)]
        subprocess.run([sys.executable, "-m", "drspo", *publish], check=True)
        places = {"the run": asked.run, "its export": asked.run / "export", "the publication": tree}
        refused = [name for name, place in places.items() if not taken(name, place, Path(scratch))]
    return 1 if refused else 0


def taken(name: str, place: Path, scratch: Path) -> bool:
    """Whether TRL takes the rows of a place for preferences."""
    import datasets
    from trl import data_utils

    table = datasets.load_dataset(str(place), split="train", cache_dir=str(scratch / "cache"))
    messages = table[0] | {
        side: [{"role": "assistant", "content": "an image"}] for side in ("chosen", "rejected")
    }
    messages["prompt"] = [{"role": "user", "content": table[0]["prompt"]}]
    templated = data_utils.apply_chat_template(messages, Template())
    apart = data_utils.unpair_preference_dataset(table.select_columns(["prompt", "chosen", "rejected"]))
    good = {"prompt", "chosen", "rejected"} <= set(templated) and len(apart) == 2 * len(table)
    print(f"{name:<16} {'preferences' if good else 'refused'}, {len(table)} pairs, {len(apart)} sides")
    return good


class Template:
    """A tokenizer's chat template: each message's content after its role."""

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        """The conversation as one text."""
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)


if __name__ == "__main__":
    sys.exit(main())
