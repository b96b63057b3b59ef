"""The shipped cluster configuration is complete, and every option in it exists."""

from __future__ import annotations

import inspect
import re
import shutil
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from dataset_builder.build import check
from dataset_builder.config import BuildConfig
from drspo.config import load
from drspo.options import options_of
from drspo.registry import lookup


def test_the_cluster_configuration_loads_and_names_only_what_exists(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eval import MEASURES, SCORERS
    from generate import GENERATORS

    file = str(repository / "configs/cluster.yaml")
    argv = ["--config", file, "--out", str(tmp_path / "run")]
    monkeypatch.setenv("OPENAI_API_KEY", "one-for-this-test")
    config = load(BuildConfig, argv, package="dataset_builder", prog="p")
    check(config)
    for name in config.scoring.scorers:
        known = inspect.signature(lookup(SCORERS | MEASURES, name, "scorer")).parameters
        assert set(options_of(config.scoring.options, name)) <= set(known)
    for name in config.candidates.generators:
        known_fields = {field.name for field in fields(lookup(GENERATORS, name, "method").config_class)}
        assert {"window"} <= known_fields or name == "sdxl"
        assert set(options_of(config.candidates.options, name)) <= known_fields


# The fields of ray.io/v1 that a manifest may use, from the reference of its custom resources.
RAY_JOB = set(
    """activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus
    entrypointNumGpus entrypointResources jobId managedBy metadata preRunningDeadlineSeconds rayClusterSpec
    runtimeEnvYAML shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend
    ttlSecondsAfterFinished""".split()
)
RAY_CLUSTER = set(
    """authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec
    headServiceAnnotations managedBy rayVersion suspend upgradeStrategy workerGroupSpecs""".split()
)
HEAD = set("enableIngress headService labels rayStartParams resources serviceType template".split())
WORKERS = set(
    """groupName idleTimeoutSeconds labels maxReplicas minReplicas numOfHosts rayStartParams replicas
    resources scaleStrategy suspend template""".split()
)
NEEDED = {"groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def test_the_manifest_for_kubernetes_is_a_ray_job_of_our_program(repository: Path) -> None:
    page = (repository / "docs/cluster.md").read_text()
    (text,) = re.findall(r"```yaml\n(apiVersion: ray\.io/v1\n.*?)```", page, re.DOTALL)
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    spec = manifest["spec"]
    cluster = spec["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(spec) <= RAY_JOB and set(cluster) <= RAY_CLUSTER and set(head) <= HEAD
    for group in workers:
        assert NEEDED <= set(group) <= WORKERS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (head, *workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            assert all(isinstance(limit, str) for limit in container["resources"]["limits"].values())
    entry = spec["entrypoint"].split()
    assert entry[:3] == ["python", "-m", "dataset_builder"]
    assert (repository / entry[entry.index("--config") + 1].removeprefix("/app/")).is_file()


def test_ray_sends_the_code_and_its_miniature_and_leaves_keys_and_runs_at_home(
    repository: Path, tmp_path: Path
) -> None:
    from ray._private.runtime_env.packaging import create_package

    sent = ["pipeline/flow.py", "configs/cluster.yaml", "miniature/weights/sdxl/unet/model.safetensors"]
    kept = [".env", ".env.local", "train/.env", "my.pem", "keys/deep/server.key", ".git/config"]
    kept += [".venv/bin/python", "runs/one/run.json", "tests/conftest.py", "pipeline/__pycache__/flow.pyc"]
    folder = tmp_path / "checkout"
    for name in (*sent, *kept):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    for name in (".rayignore", ".gitignore"):
        shutil.copy(repository / name, folder)
    package = tmp_path / "package.zip"
    create_package(str(folder), package, include_gitignore=True)
    with zipfile.ZipFile(package) as file:
        names = {name for name in file.namelist() if not name.endswith("/")}
    assert names - {".rayignore", ".gitignore"} == set(sent)
