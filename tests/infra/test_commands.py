"""What the manifests run is understood by what they run, and finds the GPUs that it asks for."""

import shlex
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import yaml
from manifests import Manifest, gpus, groups, of_kind, ray_cluster
from mlflow.cli import server
from ray.serve.schema import ServeDeploySchema

from jobs.config import load
from jobs.curate import CurateConfig
from jobs.evaluate import EvaluateConfig
from jobs.serve import FOR_SERVE, ServeConfig, build
from jobs.serving.deployment import Capacity, Settings, application
from jobs.train import TrainConfig

CONFIGS = {"jobs.curate": CurateConfig, "jobs.train": TrainConfig, "jobs.evaluate": EvaluateConfig}


def test_the_command_of_every_job_is_understood_and_has_its_gpus(overlay, tmp_path):
    jobs = of_kind(overlay, "RayJob")
    assert {"curate", "train", "evaluate"} == jobs.keys()
    for name, job in jobs.items():
        config = _configuration(job, overlay, tmp_path)
        assert job["spec"]["suspend"] is True
        there = sum(gpus(group) * group["minReplicas"] for group in groups(job).values())
        assert (config.ray.use_gpu is True) == (there > 0), name
        if there:
            assert getattr(config, "workers", 1) <= there, name
        if isinstance(config, TrainConfig):
            most = sum(gpus(group) * group["maxReplicas"] for group in groups(job).values())
            assert config.workers + config.validation.gpus <= most or not there


def _configuration(job: Manifest, overlay: list[Manifest], folder: Path):
    """As the job's own command line says, its file being where the pod's volume shows it."""
    python, flag, module, *argv = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag) == ("python", "-m")
    pod = ray_cluster(job)["headGroupSpec"]["template"]["spec"]
    maps = {volume["name"]: volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume}
    for mount in pod["containers"][0]["volumeMounts"]:
        if mount["name"] in maps:
            for file, text in of_kind(overlay, "ConfigMap")[maps[mount["name"]]]["data"].items():
                (folder / file).write_text(text)
            argv = [word.replace(f"{mount['mountPath']}/", f"{folder}/") for word in argv]
    assert any(str(folder) in word for word in argv)
    return load(CONFIGS[module], argv, f"python -m {module}")


def test_the_configuration_of_the_service_is_understood_and_lets_nobody_in(overlay, tmp_path):
    (service,) = of_kind(overlay, "RayService").values()
    schema = ServeDeploySchema.model_validate(yaml.safe_load(service["spec"]["serveConfigV2"]))
    (described,) = schema.applications
    module, _, name = described.import_path.partition(":")
    assert getattr(import_module(module), name) is build
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(described.args))
    config = load(ServeConfig, ["--config", str(tmp_path / "serve.yaml")], "python -m jobs.serve")
    assert config.subjects.folder
    assert set(config.access.keys.values()) == {"0" * 64}
    assert "prometheus" in config.access.keys
    _check_deployment(config, described.deployments, groups(service)["gpu"])


def _check_deployment(config: ServeConfig, overrides: list, group: Manifest) -> None:
    """What the manifest says of the deployment holds for the one that there is, and each replica finds a GPU."""
    assert config.subjects.folder
    settings = Settings(
        config.sources, config.registry, config.limits, config.access, config.subjects, config.hooks, config.people
    )
    capacity = Capacity(config.batch_rows, config.queue_rows, config.cache_mb)
    made = application(settings, capacity, replicas=1, scaling=config.scaling, cpus=config.cpus_per_replica, gpus=0)
    replicas = group["maxReplicas"] * gpus(group)
    assert len(overrides) == (replicas > 0)
    for override in overrides:
        assert override.name == made._bound_deployment.name
        assert override.ray_actor_options.num_gpus == 1
        assert override.ray_actor_options.num_cpus == config.cpus_per_replica
        assert config.scaling.max_replicas == replicas


def test_every_node_knows_what_serve_is_told_by_its_environment(overlay):
    (service,) = of_kind(overlay, "RayService").values()
    for group in [ray_cluster(service)["headGroupSpec"], *groups(service).values()]:
        (container,) = group["template"]["spec"]["containers"]
        told = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert told.items() >= FOR_SERVE.items()


def test_mlflow_understands_its_command(overlay):
    (container,) = of_kind(overlay, "Deployment")["mlflow"]["spec"]["template"]["spec"]["containers"]
    program, command, *argv = container["command"]
    assert (program, command) == ("mlflow", "server")
    context = server.make_context("server", argv)
    assert context.params["port"] == of_kind(overlay, "Service")["mlflow"]["spec"]["ports"][0]["port"]
    read = {variable for parameter in server.params for variable in _variables(parameter.envvar)}
    assert "MLFLOW_BACKEND_STORE_URI" in read & {variable["name"] for variable in container["env"]}
    assert of_kind(overlay, "ConfigMap")["store"]["data"].keys() <= read


def _variables(names: str | Sequence[str] | None) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])
