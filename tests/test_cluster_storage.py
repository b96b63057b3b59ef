"""A run on an object store (an S3 stand-in on loopback): the same tables, whatever happens on the way."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataset_builder import compact, retry
from dataset_builder.command import main
from dataset_builder.report import status
from drspo.cli import execute
from drspo.config import dump
from drspo.files import backends, patience
from drspo.files.storage import Storage
from pipeline.shards import read_pairs
from tests.building import ALLOW, IDEAS, build, fake_config, final_tables, neighbours
from tests.flaky_store import KINDS, FlakyStore
from tests.forks import Forks

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def credentials(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    settings = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret-5b1f",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> str:
    import boto3

    name = "run-" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return name


def tables(url: str) -> dict[str, str]:
    storage = Storage(url)
    names = [*storage.list("export/"), "stats.json", "plan.parquet", "prompts.parquet"]
    return {name: hashlib.sha256(storage.read(name)).hexdigest() for name in sorted(names)}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, str]:
    """The tables of a calm run on the local disk."""
    (tmp_path / "calm").mkdir()
    build(fake_config(tmp_path / "calm", tmp_path / "calm/out"))
    return final_tables(tmp_path / "calm/out")


def test_a_run_on_s3_gives_the_tables_of_a_local_one(
    tmp_path: Path, bucket: str, expected: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"s3://{bucket}/deep/run"
    config = fake_config(tmp_path, url)
    assert build(config).made_now == len(IDEAS)
    assert tables(url) == expected
    assert build(config).made_now == 0
    assert len(list(read_pairs(url))) == len(IDEAS)
    assert status.main([url]) == 0 and "6 of 6 units" in capsys.readouterr().out
    assert retry.main([url]) == 0
    everything = b"".join(Storage(url).read(name) for name in Storage(url).list())
    assert b"test-secret" not in everything and b"test-key" not in everything


def test_a_run_on_s3_that_is_compacted_exports_as_before(tmp_path: Path, bucket: str) -> None:
    url = f"s3://{bucket}/run"
    config = neighbours(tmp_path, url)
    build(config)
    before = tables(url)
    assert compact.main([url]) == 0
    assert sum("/pack-" in name for name in Storage(url).list("units/")) == 2
    for name in Storage(url).list("export/"):
        Storage(url).delete(name)
    assert build(config).made_now == 0
    assert tables(url) == before


def test_kills_of_a_run_on_s3_lose_nothing(
    tmp_path: Path, bucket: str, expected: dict[str, str], credentials: dict[str, str], repository: Path
) -> None:
    url = f"s3://{bucket}/run"
    file = tmp_path / "config.yaml"
    file.write_text(dump(fake_config(tmp_path, url)))
    env = {**credentials, "FAKE_LOG": str(tmp_path / "made.log"), "FAKE_SECONDS": "0.05"}
    forks = Forks(repository)
    codes = []
    try:
        for moment in ("run.json", "plan.parquet", 1, 3, 5, "scores.parquet"):
            pid = forks.start(["--config", str(file), *ALLOW], tmp_path / "log.txt", **env)
            deadline = time.monotonic() + 60
            while not reached(url, moment) and time.monotonic() < deadline:
                time.sleep(0.02)
            forks.kill(pid)
            codes.append(forks.wait())
        forks.start(["--config", str(file), *ALLOW], tmp_path / "log.txt", **env)
        assert forks.wait() == 0, (tmp_path / "log.txt").read_text()
    finally:
        forks.close()
    assert codes.count(-9) >= 3, codes
    assert tables(url) == expected


def reached(url: str, moment: str | int) -> bool:
    storage = Storage(url)
    return storage.exists(moment) if isinstance(moment, str) else len(storage.list("units/")) >= moment


def test_an_upload_that_was_cut_is_invisible_and_made_again(
    tmp_path: Path, bucket: str, expected: dict[str, str], s3_endpoint: str
) -> None:
    import boto3

    from pipeline.units import unit_name

    url = f"s3://{bucket}/run"
    config = fake_config(tmp_path, url)
    build(config)
    victim = sorted(Storage(url).list("units/"))[0]
    Storage(url).delete(victim)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    begun = client.create_multipart_upload(Bucket=bucket, Key=f"run/{victim}")
    client.upload_part(
        Bucket=bucket, Key=f"run/{victim}", PartNumber=1, UploadId=begun["UploadId"], Body=b"x" * 2**20
    )
    assert not Storage(url).exists(victim) and victim == unit_name(Path(victim).stem)
    assert build(config).made_now == 1
    assert tables(url) == expected


@pytest.mark.parametrize(
    ("out", "said"), [("s3://no-such-bucket-anywhere/run", "bucket"), ("s4://x/run", "s4://")]
)
def test_a_store_that_is_not_there_is_named(
    tmp_path: Path, out: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(dump(fake_config(tmp_path, out)))
    assert execute(main, ["--config", str(file)]) == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message and "test-secret" not in message


@pytest.fixture
def flaky(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyStore]:
    """The store behind a proxy; its client leaves all waiting to us, which is short here."""
    import s3fs

    once = {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 1}}}
    monkeypatch.setitem(backends._CLIENT_OPTIONS, "s3", once)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(patience, "WAITS", (0.02,) * 6)
    with FlakyStore(s3_endpoint) as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
        # Clients are kept by their arguments, which the address is none of.
        s3fs.S3FileSystem.clear_instance_cache()
        yield store
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_is_slow_fails_and_drops_connections_changes_nothing(
    tmp_path: Path, bucket: str, expected: dict[str, str], flaky: FlakyStore
) -> None:
    url = f"s3://{bucket}/run"
    flaky.share = 0.25
    build(fake_config(tmp_path, url))
    # Read through the faults too: a store that fails is no reason to think that a file is damaged.
    assert build(fake_config(tmp_path, url)).made_now == 0
    assert set(KINDS) <= set(flaky.met), flaky.met
    flaky.share = 0.0
    assert tables(url) == expected
    assert not Storage(url).list("quarantine/") and not Storage(url).list("dead/")


@pytest.mark.parametrize(
    ("always", "after", "said"),
    [
        ("busy", 25, "the object store keeps failing"),
        ("cut after", 40, "the object store keeps failing"),
        ("forbidden", 0, "Choose a folder that you may write to"),
    ],
)
def test_a_store_that_stops_serving_is_named_and_the_same_command_continues(
    tmp_path: Path,
    bucket: str,
    expected: dict[str, str],
    flaky: FlakyStore,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    always: str,
    after: int,
    said: str,
) -> None:
    url = f"s3://{bucket}/run"
    file = tmp_path / "config.yaml"
    file.write_text(dump(fake_config(tmp_path, url)))
    monkeypatch.setattr(patience, "WAITS", (0.02,))
    flaky.always, flaky.after = always, after
    assert execute(main, ["--config", str(file)]) == 2
    message = capsys.readouterr().err
    assert said in message and bucket in message and "Traceback" not in message
    flaky.always = ""
    assert execute(main, ["--config", str(file)]) == 0
    assert tables(url) == expected
