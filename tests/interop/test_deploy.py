"""The files of `deploy/` are YAML that takes rights away, as another reader sees it."""

import json

import places
import pytest
from programs import run

READ = "import json, sys, yaml; print(json.dumps(yaml.safe_load(sys.stdin)))"


def read(name: str) -> dict:
    # A package of KServe's client needs the one that reads YAML.
    return json.loads(run(places.KSERVE_PYTHON, "-c", READ, input=(places.ROOT / "deploy" / name).read_text()))


def test_the_container_has_few_rights():
    service = read("compose.yaml")["services"]["tidemill"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"] and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"], "no filter of system calls is turned off"
    assert service["user"] == "65532:65532" and service["tmpfs"] and service["volumes"] == ["./tidemill:/etc/tidemill:ro"]


def test_the_pod_has_few_rights_and_probes():
    pod = read("kubernetes.yaml")["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("name", ["compose.yaml", "kubernetes.yaml"])
def test_secrets_are_files(name):
    text = (places.ROOT / "deploy" / name).read_text()
    assert "tm_" not in text and "PRIVATE KEY" not in text
