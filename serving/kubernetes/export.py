"""The objects as files in the form of Kustomize: `kubectl apply -k DIR`.

`base` is what every cluster takes. The folders of `PARTS` are components that the file at the top may list. `kserve`
stands alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from serving.kubernetes import base, kserve, monitoring, scaling
from serving.kubernetes.installation import NAME, PARTS, Installation, Manifest

KUSTOMIZE_API = "kustomize.config.k8s.io/v1beta1"
COMPONENT_API = "kustomize.config.k8s.io/v1alpha1"


def files(installation: Installation) -> dict[str, str]:
    """Path below the export's folder → YAML. Raises InvalidSetting."""
    components: dict[str, Mapping[str, Any]] = {
        "prometheus": monitoring.objects(),
        "cpu-scaling": {"autoscaler.yaml": scaling.by_cpu(installation)},
        "queue-scaling": {"scaled-object.yaml": scaling.by_queue(installation)},
    }
    assert tuple(components) == PARTS
    of_namespace = {"namespace": installation.namespace}
    chosen = {"components": [part for part in PARTS if part in installation.parts]} if installation.parts else {}
    found: Manifest = {"kustomization.yaml": _kustomization(["base"]) | of_namespace | chosen}
    found |= _folder("base", base.objects(installation), _kustomization)
    found |= _folder("kserve", kserve.objects(installation), lambda names: _kustomization(names) | of_namespace)
    for part, objects in components.items():
        found |= _folder(part, objects, _scaling if part.endswith("scaling") else _component)
    return {path: to_yaml(content) for path, content in found.items()}


def to_yaml(content: object) -> str:
    """A document. Texts of several lines stand as they are."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
    return f"# Made by `headwaiter deploy export`.\n{text}"


def _folder(name: str, objects: Mapping[str, Any], kustomize: Callable[[Sequence[str]], Any]) -> Manifest:
    """The objects' files in a folder, and the file that lists them."""
    return {f"{name}/kustomization.yaml": kustomize(list(objects))} | {
        f"{name}/{file}": content for file, content in objects.items()
    }


def _kustomization(resources: Sequence[str]) -> Manifest:
    return {"apiVersion": KUSTOMIZE_API, "kind": "Kustomization", "resources": list(resources)}


def _component(resources: Sequence[str]) -> Manifest:
    return {"apiVersion": COMPONENT_API, "kind": "Component", "resources": list(resources)}


def _scaling(resources: Sequence[str]) -> Manifest:
    """A component that takes `replicas` from the deployment, else each `kubectl apply` would set it again."""
    patch = {"target": {"kind": "Deployment", "name": NAME}, "patch": "- op: remove\n  path: /spec/replicas\n"}
    return _component(resources) | {"patches": [patch]}


class _Dumper(yaml.SafeDumper):
    """Writes every use of an object in full, without YAML's references."""

    def ignore_aliases(self, data: Any) -> bool:
        """As PyYAML calls it."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)
