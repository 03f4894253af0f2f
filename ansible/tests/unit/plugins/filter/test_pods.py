# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the filters of the roles: manifests, hosts, states and reasons."""

from __future__ import annotations

import importlib.util
import ipaddress
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError


def load(name):
    path = Path(__file__).parents[4] / "plugins" / "filter" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


NAMES = (
    "pod_manifests",
    "pod_hosts",
    "pod_faults",
    "pod_state",
    "api_reason",
    "pod_containers",
    "pod_record",
    "managed",
)
pod_manifests, pod_hosts, pod_faults, pod_state, api_reason, pod_containers, pod_record, managed = map(load, NAMES)
IMAGES = {"agent_image": "agent", "sidecar_image": "git"}


def test_the_shortest_form_needs_nothing_but_an_image():
    (manifest,) = pod_manifests([{"name": "web", "image": "python"}])
    (main,) = manifest["spec"]["containers"]
    assert (manifest["metadata"]["name"], main["name"], main["image"]) == ("web", "main", "python")
    assert main["command"][0] == "/bin/sh" and manifest["spec"]["volumes"] == []


@pytest.mark.parametrize(
    ("options", "volumes", "init", "command"),
    [
        ({}, [], [], "/bin/sh"),
        ({"agent": "init_container"}, ["podbridge"], ["podbridge"], "/opt/podbridge/podbridge-agent"),
        ({"agent": "image_volume"}, ["podbridge"], [], "/opt/podbridge/podbridge-agent"),
        ({"workspace": "/src"}, ["workspace"], [], "/bin/sh"),
        ({"sidecar": True}, ["workspace"], [], "/bin/sh"),
        ({"cache": {"hostPath": {"path": "/git"}}}, ["cache"], [], "/bin/sh"),
        ({"agent": "init_container", "command": ["x"]}, ["podbridge"], ["podbridge"], "x"),
    ],
)
def test_volumes_and_commands_of_the_short_form(options, volumes, init, command):
    (manifest,) = pod_manifests([{"name": "web", "image": "python", **options}], **IMAGES)
    spec = manifest["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == volumes
    assert [container["name"] for container in spec["initContainers"]] == init
    assert spec["containers"][0]["command"][0] == command
    # Every mount has its volume.
    mounted = {mount["name"] for container in spec["containers"] for mount in container["volumeMounts"]}
    assert mounted == set(volumes)


def test_a_manifest_of_the_users_is_kept():
    given = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "x", "image": "y"}]}}
    (manifest,) = pod_manifests([{"name": "web", "manifest": given}])
    assert manifest["metadata"] == {"labels": {"a": "b"}, "name": "web"}
    assert manifest["spec"] == given["spec"] and manifest["kind"] == "Pod"


@pytest.mark.parametrize(
    ("pod", "words"),
    [
        ({"image": "x"}, "a list of dictionaries, each with a name"),
        ("web", "a list of dictionaries, each with a name"),
        ({"name": "web"}, "image or manifest"),
        ({"name": "web", "image": "x", "manifest": {"spec": {}}}, "image or manifest"),
        ({"name": "web", "image": "x", "comand": []}, "comand"),
        ({"name": "web", "image": "x", "agent": "warp"}, "init_container"),
        ({"name": "web", "image": "x", "agent": "init_container"}, "podbridge_pod_agent_image"),
        ({"name": "web", "image": "x", "sidecar": True}, "podbridge_pod_sidecar_image"),
        ({"name": "web", "image": "x", "pull_secrets": "s"}, "pod web: pull_secrets has to be a list$"),
        (
            {"name": "web", "image": "x", "pull_secrets": [{"name": "s"}]},
            "pod web: pull_secrets has to be a list of words",
        ),
        ({"name": "web", "image": "x", "groups": "g"}, "pod web: groups has to be a list$"),
        ({"name": "web", "image": "x", "command": "sleep 5"}, "pod web: command has to be a list$"),
        ({"name": "web", "image": "x", "env": "A=b"}, "pod web: env has to be a dictionary$"),
        ({"name": "web", "image": ["x"]}, "pod web: image has to be a word$"),
        ({"name": "web", "image": "x", "sidecar": "maybe"}, "pod web: sidecar has to be true or false$"),
    ],
)
def test_what_is_wrong_with_a_pod_is_named(pod, words):
    with pytest.raises(AnsibleFilterError, match=words):
        pod_manifests([pod])


@pytest.mark.parametrize("sidecar", ["no", "false", False, 0, None])
def test_a_sidecar_that_is_not_wanted(sidecar):
    (manifest,) = pod_manifests([{"name": "web", "image": "x", "sidecar": sidecar}])
    assert [container["name"] for container in manifest["spec"]["containers"]] == ["main"]


def test_words_are_what_kubernetes_takes():
    options = {"command": ["sleep", 5], "labels": {"a": 1}, "env": {"B": 2}, "pull_secrets": ["s"], "limits": None}
    (manifest,) = pod_manifests([{"name": "web", "image": "x", **options}])
    (main,) = manifest["spec"]["containers"]
    assert (main["command"], main["env"]) == (["sleep", "5"], [{"name": "B", "value": "2"}])
    assert manifest["metadata"]["labels"]["a"] == "1" and manifest["spec"]["imagePullSecrets"] == [{"name": "s"}]


@pytest.mark.parametrize(
    "pods",
    [
        [{"name": "web", "image": "x"}, {"name": "web", "image": "y"}],
        [{"name": "web", "image": "x"}, {"name": "db", "image": "y", "host": "web"}],
        [{"name": "web", "image": "x", "sidecar": True}, {"name": "web-sidecar", "image": "y"}],
    ],
)
def test_two_containers_are_not_one_host(pods):
    with pytest.raises(AnsibleFilterError, match="two containers would be the host web"):
        pod_hosts(pod_manifests(pods, **IMAGES), "b1", "ci", pods=pods)


def hosts_of(build="b1", namespace="ci", **options):
    pods = [{"name": "web", "image": "python", "sidecar": True}, {"name": "db", "image": "python"}]
    return pod_hosts(pod_manifests(pods, **IMAGES), build, namespace, **options)


def test_each_container_is_a_host():
    hosts = {host["name"]: host for host in hosts_of(context="x", kubeconfig="/k")}
    assert list(hosts) == ["web", "web-sidecar", "db"]
    sidecar = hosts["web-sidecar"]
    assert (sidecar["ansible_kubectl_pod"], sidecar["ansible_kubectl_container"]) == ("web", "sidecar")
    assert (sidecar["ansible_kubectl_context"], sidecar["ansible_kubectl_kubeconfig"]) == ("x", "/k")


def test_pods_of_one_name_have_hosts_of_different_names():
    pods = [{"name": "web", "image": "python", "host": "left", "sidecar": True}]
    hosts = pod_hosts(pod_manifests(pods, **IMAGES), "b1", "ci", pods=pods)
    assert [host["name"] for host in hosts] == ["left", "left-sidecar"]
    assert {host["ansible_kubectl_pod"] for host in hosts} == {"web"}


def test_native_sidecars_are_hosts_and_init_containers_are_not():
    init = [{"name": "setup"}, {"name": "git", "restartPolicy": "Always"}]
    manifest = {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "main"}], "initContainers": init}}
    assert [host["name"] for host in pod_hosts([manifest], "b1", "ci")] == ["web", "web-git"]


def test_addresses_of_live_logs_differ_by_build_namespace_pod_and_container():
    hosts = hosts_of() + hosts_of("b2") + hosts_of(namespace="other")
    addresses = [host["ansible_host"] for host in hosts]
    assert len(set(addresses)) == len(addresses)
    assert addresses == [host["ansible_host"] for host in hosts_of() + hosts_of("b2") + hosts_of(namespace="other")]
    for number in range(2000):
        (host, *_rest) = hosts_of(str(number))
        address = ipaddress.IPv4Address(host["ansible_host"])
        assert address.is_loopback and address not in ipaddress.IPv4Network("127.0.0.0/24")
        assert int(address) & 255 not in (0, 255)


def resource(ready="False", phase="Pending", conditions=(), deleted=False, policy="Always", **status):
    metadata = {"name": "web", **({"deletionTimestamp": "now"} if deleted else {})}
    all_conditions = [{"type": "Ready", "status": ready}, *conditions]
    status = {"phase": phase, "conditions": all_conditions, **status}
    return {"metadata": metadata, "spec": {"restartPolicy": policy}, "status": status}


def waiting(reason, message=None, name="main"):
    return {"name": name, "state": {"waiting": {"reason": reason, **({"message": message} if message else {})}}}


def ended(code, reason="Error", name="main"):
    return {"name": name, "state": {"terminated": {"exitCode": code, "reason": reason}}}


def of_main(status):
    return [resource(containerStatuses=[status])]


def with_init(status):
    return [resource(containerStatuses=[waiting("PodInitializing")], initContainerStatuses=[status])]


UNSCHEDULED = {"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}
RUNS = {"name": "main", "ready": False, "state": {"running": {}}}
LAST_OUTPUT = "; its last output is in the log, above"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            of_main(waiting("ErrImagePull", "not found")),
            "pod web: container main ErrImagePull: not found; "
            "check the name of the image, and pull_secrets if its registry has a password",
        ),
        (
            of_main(waiting("InvalidImageName", "bad")),
            "pod web: container main InvalidImageName: bad; check the name of the image",
        ),
        (of_main(waiting("Unheard")), "pod web: container main Unheard"),
        (of_main(ended(3)), "pod web: container main ended with exit code 3 (Error)" + LAST_OUTPUT),
        (
            of_main(ended(137, "OOMKilled")),
            "pod web: container main ended with exit code 137 (OOMKilled); give the container more memory in limits",
        ),
        (
            of_main(ended(0, "Completed")),
            "pod web: container main ended with exit code 0 (Completed); "
            "leave command out, so that the container waits for tasks",
        ),
        (with_init(ended(1, name="init")), "pod web: container init ended with exit code 1 (Error)" + LAST_OUTPUT),
        (with_init(ended(0, name="init")), "pod web: its phase is Pending"),
        (of_main(RUNS), "pod web: container main is not ready; its readinessProbe does not succeed"),
        (
            [resource(conditions=[UNSCHEDULED])],
            "pod web: not scheduled: Insufficient cpu; ask for less in requests, or for a larger node",
        ),
        ([resource(phase="Failed", message="evicted")], "pod web: evicted"),
        ([resource()], "pod web: its phase is Pending"),
        ([resource(ready="True")], "forbidden"),
        ([], "forbidden"),
    ],
)
def test_the_reason_of_a_pod_that_is_not_ready(resources, expected):
    assert pod_faults([{"name": "web"}], resources, "forbidden") == expected


def test_a_pod_that_exists_with_other_settings_has_to_be_removed_first():
    message = 'Pod "web" is invalid: spec: Forbidden: pod updates may not change fields other than these'
    assert pod_faults([{"name": "web"}], [resource(ready="True")], message).endswith(
        "; remove the pod first, or take another name"
    )


def test_a_pod_that_is_gone_without_a_reason_was_deleted():
    assert pod_faults([{"name": "web"}], []) == "pod web: it was deleted while the role waited for it"


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ([], "Pod web is invalid: spec.volumes[0]: Required value: must specify a volume type"),
        (of_main(waiting("CreateContainerError", "failed to generate container spec")), ""),
        (of_main(waiting("ContainerCreating")), ""),
    ],
)
def test_a_cluster_without_image_volumes_is_named(resources, message):
    pods = [{"name": "web", "agent": "image_volume"}]
    assert pod_faults(pods, resources, message).endswith("mounts no image volumes; take agent: init_container")
    assert "image volumes" not in pod_faults([{"name": "web"}], resources, message)


def found(resources):
    """Returns the answer of a call that succeeds."""
    return {"resources": resources, "api_found": True}


def with_ended(code, policy):
    """Returns a pod in which one of two containers has ended."""
    return [resource(policy=policy, containerStatuses=[ended(code, name="helper"), RUNS])]


READY, PENDING = resource(ready="True"), resource()


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([READY], "ready"),
        ([PENDING], "waiting"),
        ([], "gone"),
        ([resource(ready="True", deleted=True)], "gone"),
        ([resource(phase="Failed")], "failed"),
        ([resource(phase="Succeeded")], "failed"),
        (of_main(waiting("ContainerCreating")), "waiting"),
        (of_main(waiting("InvalidImageName")), "failed"),
        (of_main(waiting("ErrImageNeverPull")), "failed"),
        # The registry may only be out of order, but it knows which images it has.
        (of_main(waiting("ErrImagePull", "connection refused")), "waiting"),
        (of_main(waiting("ErrImagePull", "registry.example.com/x:1: not found")), "failed"),
        (of_main(waiting("ImagePullBackOff", "rpc error: code = NotFound")), "failed"),
        (of_main(RUNS), "waiting"),
        (with_init(waiting("InvalidImageName", name="init")), "failed"),
        (with_ended(0, "Never"), "failed"),
        (with_ended(1, "Never"), "failed"),
        (with_ended(0, "OnFailure"), "failed"),
        (with_ended(1, "OnFailure"), "waiting"),
        (with_ended(0, "Always"), "waiting"),
        (with_init(ended(0, "Completed", "init")), "waiting"),
    ],
)
def test_the_state_of_a_pod(resources, expected):
    assert pod_state([{"name": "web"}], found(resources)) == expected


def test_the_state_of_pods_is_that_of_the_worst_one():
    other = {**READY, "metadata": {"name": "other"}}
    pods = [{"name": "web"}, {"name": "other"}]
    assert pod_state(pods, found([READY, other])) == "ready"
    assert pod_state(pods, found([PENDING, other])) == "waiting"
    assert pod_state(pods, found([other])) == "gone"
    assert pod_state(pods, found([resource(phase="Failed")])) == "failed"


@pytest.mark.parametrize("answer", [{"failed": True, "msg": "refused"}, {"resources": [], "api_found": False}, {}])
def test_a_call_that_fails_says_nothing_of_the_pods(answer):
    assert pod_state([{"name": "web"}], answer) == "waiting"


STATUS = '{"kind":"Status","message":"pods \\"x\\" is forbidden","code":403}'
HEADERS = "Exception '403\nReason: Forbidden\nHTTP response headers: HTTPHeaderDict({'a': 'b'})\nHTTP response body: "


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"msg": f"Failed to create object: {STATUS}"}, 'pods "x" is forbidden'),
        ({"msg": f"{HEADERS}{STATUS}\n' raised while trying"}, 'pods "x" is forbidden'),
        ({"msg": f"{HEADERS}{STATUS.encode() + b'x'!r}\nOriginal traceback:\n"}, 'pods "x" is forbidden'),
        ({"msg": 'Failed: {"kind":"Status" cut'}, 'Failed: {"kind":"Status" cut'),
        ({"msg": "one\ntwo"}, "one"),
        ({"msg": "non-zero return code", "rc": 1, "stderr": "a\nb\n\n", "stdout": "c"}, "b"),
        # Zuul's commands have one stream for both outputs.
        ({"msg": "non-zero return code", "rc": 1, "stderr": "", "stdout": "c\nd\n"}, "d"),
        (
            {"rc": 128, "stdout": "x\npodbridge: no git\nfatal: no\n\nmake sure\nand the repository exists.\n"},
            "podbridge: no git",
        ),
        ({"rc": 123, "stdout": "podbridge-agent: no git\nfatal: Could not read\n"}, "podbridge-agent: no git"),
        ({"rc": 125, "stderr": "STEP 1\nError: stat f: no such file\n"}, "Error: stat f: no such file"),
        ({"rc": 1, "stderr": "x\nfatal: one\nfatal: two\nlast"}, "fatal: one"),
        ({"msg": "non-zero return code", "rc": 1}, "non-zero return code"),
        ({"msg": "x" * 9999}, "x" * 500),
        (
            {
                "msg": "One or more items failed",
                "results": [{"msg": ""}, {"failed": True, "msg": "a"}, {"failed": True}],
            },
            "a",
        ),
        ({"msg": "b", "results": [{"failed": False}]}, "b"),
        ({"msg": None}, ""),
        ({}, ""),
    ],
)
def test_the_reason_of_a_failed_task(result, expected):
    assert api_reason(result) == expected


SECRET = "nobody may see this"
CONTAINER = {
    "name": "main",
    "image": "python",
    "command": ["sh", "-c", SECRET],
    "args": [SECRET],
    "env": [{"name": "A", "value": SECRET}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
    "readinessProbe": {"exec": {"command": [SECRET]}},
    "livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "C", "value": SECRET}]}},
    "resources": {"limits": {"memory": "1Gi"}},
}
FOUND = {
    "metadata": {"name": "web", "annotations": {"last-applied": SECRET}},
    "spec": {"nodeName": "n", "containers": [CONTAINER], "initContainers": [{**CONTAINER, "name": "init"}]},
    "status": {
        "phase": "Running",
        "containerStatuses": [{"name": "main", "ready": False}],
        "initContainerStatuses": [{"name": "init", "ready": True}],
    },
}


def test_a_record_of_a_pod_has_names_and_no_values():
    record = pod_record(FOUND)
    assert SECRET not in str(record)
    assert (record["metadata"], record["status"], record["spec"]["nodeName"]) == ({"name": "web"}, FOUND["status"], "n")
    (main,) = record["spec"]["containers"]
    assert main["env"] == [{"name": "A"}, CONTAINER["env"][1]]
    assert (main["image"], main["resources"]) == ("python", CONTAINER["resources"])


def test_the_names_of_containers_are_all_that_a_loop_sees():
    main, init = ({"pod": "web", "container": name} for name in ("main", "init"))
    assert pod_containers([FOUND]) == [init, main]
    assert pod_containers([FOUND], unready=True) == [main]
    failed = {"initContainerStatuses": [{"name": "init", "ready": False}]}
    assert pod_containers([{**FOUND, "status": failed}], unready=True) == [init]
    assert pod_containers([{**FOUND, "status": {}}], unready=True) == []


def test_what_the_roles_made_is_told_from_what_others_made():
    label = {"app.kubernetes.io/managed-by": "podbridge"}
    resources = [
        {"kind": kind, "metadata": {"name": "x", **labels}, "data": SECRET}
        for kind, labels in [("Pod", {"labels": label}), ("Secret", {"labels": {"a": "b"}}), ("Service", {})]
    ]
    pod, secret, service = ({"apiVersion": "v1", "kind": each["kind"], "metadata": {"name": "x"}} for each in resources)
    assert managed(resources) == [pod]
    assert managed(resources, made=False) == [secret, service]
