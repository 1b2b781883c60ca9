"""What tests look for in Kubernetes manifests."""

import re
from collections.abc import Iterator
from typing import Any

Manifest = dict[str, Any]


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """The manifests of a kind by name."""
    return {each["metadata"]["name"]: each for each in manifests if each["kind"] == kind}


def pod_templates(content: Any, where: str = "") -> Iterator[tuple[str, Manifest]]:
    """Every pod template in a manifest, with its path."""
    if isinstance(content, list):
        for position, value in enumerate(content):
            yield from pod_templates(value, f"{where}[{position}]")
    elif isinstance(content, dict):
        if "containers" in content.get("spec", {}):
            yield where, content
        for key, value in content.items():
            yield from pod_templates(value, f"{where}.{key}")


def all_pods(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Every pod template of all manifests by where it stands."""
    return {
        f"{each['kind']} {each['metadata']['name']}{where}": template
        for each in manifests
        for where, template in pod_templates(each)
    }


def ray_cluster(manifest: Manifest) -> Manifest:
    """The specification of the Ray cluster of a RayCluster, RayJob or RayService."""
    spec = manifest["spec"]
    return spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec


def groups(manifest: Manifest) -> dict[str, Manifest]:
    """Its groups of workers by name."""
    return {group["groupName"]: group for group in ray_cluster(manifest)["workerGroupSpecs"]}


def gpus(group: Manifest) -> int:
    """GPUs of one pod of a group."""
    return int(group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu", 0))


def closed(schema: Any) -> Any:
    """A schema of Kubernetes that refuses what it does not name, as its API does with strict field validation."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result


def metrics_of(expression: str) -> set[str]:
    """The metrics that a PromQL expression names; labels and functions are none."""
    rest = re.sub(r"\{[^}]*\}|\b(by|on|without)\s*\([^)]*\)|\"[^\"]*\"", "", expression)
    return set(re.findall(r"\b[a-z]\w*_\w+\b(?!\s*\()", rest))
