"""The manifests are what Kubernetes and KubeRay accept, closed by default, and ask for what the machines have."""

import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from manifests import all_pods, closed, gpus, groups, of_kind, ray_cluster
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
KINDS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}


@pytest.fixture(scope="session")
def schemas(test_data) -> dict[str, dict]:
    """KubeRay's schemas by kind, and that of a pod template, which is Kubernetes' own."""
    if not (test_data / "crds").is_dir():
        pytest.skip(f"{test_data} has no crds/")
    found = {}
    for kind, file in KINDS.items():
        definition = yaml.load((test_data / "crds" / f"ray.io_{file}.yaml").read_text(), yaml.CSafeLoader)
        (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
        found[kind] = closed(version["schema"]["openAPIV3Schema"])
    head = found["RayCluster"]["properties"]["spec"]["properties"]["headGroupSpec"]
    return found | {"Pod": head["properties"]["template"]}


def test_manifests_are_valid_by_the_schemas(overlay, schemas):
    for kind in KINDS:
        assert of_kind(overlay, kind)
        for manifest in of_kind(overlay, kind).values():
            jsonschema.Draft202012Validator(schemas[kind]).validate(manifest)
    for template in all_pods(overlay).values():
        jsonschema.Draft202012Validator(schemas["Pod"]).validate(template)


def test_the_schemas_refuse_a_misspelt_field(overlay, schemas):
    pod = next(iter(all_pods(overlay).values()))
    with pytest.raises(jsonschema.ValidationError, match="runAsNonroot"):
        jsonschema.validate({"spec": pod["spec"] | {"securityContext": {"runAsNonroot": True}}}, schemas["Pod"])


def test_no_container_has_privileges_or_lacks_limits(overlay):
    for where, template in all_pods(overlay).items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"], where
        assert pod["securityContext"]["runAsUser"] > 0, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), where
        assert not any("hostPath" in volume for volume in pod.get("volumes", [])), where
        if not where.endswith("headGroupSpec.template"):  # whose autoscaler asks Kubernetes for pods
            assert pod["automountServiceAccountToken"] is False, where
        for container in pod["containers"] + pod.get("initContainers", []):
            _check_container(container, where)
    for kind in KINDS:
        for manifest in of_kind(overlay, kind).values():
            _check_container(ray_cluster(manifest)["autoscalerOptions"], f"autoscaler of {kind}")


def _check_container(container: dict, where: str) -> None:
    assert container["resources"]["limits"].keys() >= {"cpu", "memory"}, where
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, where
    assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
    assert "privileged" not in container["securityContext"], where


def test_every_secret_is_a_reference(overlay):
    assert not of_kind(overlay, "Secret")
    for where, template in all_pods(overlay).items():
        for container in template["spec"]["containers"]:
            for variable in container.get("env", []):
                if re.search("PASSWORD|SECRET|TOKEN|CREDENTIAL|KEY", variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), f"{where}: {variable['name']}"
                assert not re.search(r"://[^/@]*:(?!\$\()[^/@]+@", variable.get("value", "")), where
            assert not re.search("password|secret", " ".join(container.get("args", []))), where
    for name, manifest in of_kind(overlay, "ConfigMap").items():
        assert not re.search("(?i)password|secret", str(manifest["data"])), name


def test_ray_asks_for_a_token_everywhere(overlay):
    for kind in KINDS:
        for manifest in of_kind(overlay, kind).values():
            assert ray_cluster(manifest)["authOptions"] == {"mode": "token"}


def test_the_network_is_closed_but_for_named_peers(overlay):
    policies = of_kind(overlay, "NetworkPolicy")
    assert policies["nothing"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name, policy in policies.items():
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], name
            assert all(peer.keys() <= {"podSelector", "namespaceSelector"} for peer in rule["from"]), name
            assert all(selector["matchLabels"] for peer in rule["from"] for selector in peer.values()), name
        for rule in policy["spec"].get("egress", []):
            outside = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
            assert all(block["except"] == ["169.254.0.0/16"] and rule["ports"] for block in outside), name
    chosen = [each["spec"]["podSelector"].get("matchLabels", {}) for each in policies.values()]
    for where, template in all_pods(overlay).items():
        labels = template["metadata"]["labels"]
        assert any(label and label.items() <= labels.items() for label in chosen), where


def test_images_have_a_version_and_no_private_registry(overlay):
    for where, template in all_pods(overlay).items():
        for container in template["spec"]["containers"]:
            image, _, tag = container["image"].partition(":")
            assert tag, where
            assert tag != "latest", where
            assert "." not in image.split("/")[0], where


def test_jobs_and_the_service_have_the_pods_of_the_cluster(overlay):
    (standing,) = of_kind(overlay, "RayCluster").values()
    own = [*of_kind(overlay, "RayJob").values(), *of_kind(overlay, "RayService").values()]
    assert len(own) == 4
    for manifest in own:
        assert ray_cluster(manifest)["headGroupSpec"] == ray_cluster(standing)["headGroupSpec"]
        assert ray_cluster(manifest)["rayVersion"] == ray_cluster(standing)["rayVersion"]
        for name, group in groups(manifest).items():
            for part in ("template", "rayStartParams"):
                assert group[part] == groups(standing)[name][part]


def test_ray_has_the_version_that_is_installed(overlay):
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert {ray_cluster(each)["rayVersion"] for each in of_kind(overlay, "RayCluster").values()} == {pinned[1]}


def test_ray_knows_its_parameters_and_the_object_store_fits_its_memory(overlay):
    options = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    (standing,) = of_kind(overlay, "RayCluster").values()
    for group in [ray_cluster(standing)["headGroupSpec"], *groups(standing).values()]:
        assert group["rayStartParams"].keys() <= options
        pod = group["template"]["spec"]
        assert {"name": "memory", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
        assert {"name": "memory", "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
        limit = pod["containers"][0]["resources"]["limits"]["memory"]  # the store is part of it
        assert int(group["rayStartParams"]["object-store-memory"]) <= _bytes(limit) / 2


def _bytes(amount: str) -> int:
    return int(amount.removesuffix("Gi")) << 30


def test_groups_grow_within_their_bounds_and_only_curation_has_spot_machines(overlay):
    for kind in KINDS:
        for name, manifest in of_kind(overlay, kind).items():
            assert ray_cluster(manifest)["enableInTreeAutoscaling"] is True
            for group in groups(manifest).values():
                assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], name
            spot = groups(manifest)["cpu"]["template"]["spec"].get("nodeSelector") == {"flexip/nodes": "spot"}
            if spot and name in ("train", "evaluate", "inference"):
                assert groups(manifest)["cpu"]["maxReplicas"] == 0
            assert "nodeSelector" not in groups(manifest)["gpu"]["template"]["spec"]


def test_prometheus_asks_what_is_there(overlay):
    jobs = yaml.safe_load(of_kind(overlay, "ConfigMap")["prometheus"]["data"]["prometheus.yml"])["scrape_configs"]
    ray, serving = jobs
    (found,) = ray["dns_sd_configs"]
    assert found["names"] == ["ray-metrics"]
    assert of_kind(overlay, "Service")["ray-metrics"]["spec"]["ports"][0]["port"] == found["port"]
    for group in groups(of_kind(overlay, "RayCluster")["flexip"]).values():
        assert group["rayStartParams"]["metrics-export-port"] == str(found["port"])
    (service,) = of_kind(overlay, "RayService")
    assert serving["static_configs"] == [{"targets": [f"{service}-serve-svc:8000"]}]


def test_the_gpu_overlays_have_gpus_and_local_has_none(overlay):
    (standing,) = of_kind(overlay, "RayCluster").values()
    reachable = {name: gpus(group) * group["maxReplicas"] for name, group in groups(standing).items()}
    assert reachable["cpu"] == 0
    large = of_kind(overlay, "PersistentVolumeClaim")["shared"]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert (reachable["gpu"] > 0) == large
