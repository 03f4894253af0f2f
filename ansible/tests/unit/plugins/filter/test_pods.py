# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of the filters of the role `pod`: manifests, hosts and reasons."""

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


pod_manifests, pod_hosts, pod_faults = map(load, ("pod_manifests", "pod_hosts", "pod_faults"))
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
        ({"image": "x"}, "no name"),
        ({"name": "web"}, "image or manifest"),
        ({"name": "web", "image": "x", "manifest": {"spec": {}}}, "image or manifest"),
        ({"name": "web", "image": "x", "comand": []}, "comand"),
        ({"name": "web", "image": "x", "agent": "warp"}, "init_container"),
        ({"name": "web", "image": "x", "agent": "init_container"}, "podbridge_pod_agent_image"),
        ({"name": "web", "image": "x", "sidecar": True}, "podbridge_pod_sidecar_image"),
    ],
)
def test_what_is_wrong_with_a_pod_is_named(pod, words):
    with pytest.raises(AnsibleFilterError, match=words):
        pod_manifests([pod])


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


def resource(ready="False", phase="Pending", conditions=(), **status):
    all_conditions = [{"type": "Ready", "status": ready}, *conditions]
    return {"metadata": {"name": "web"}, "status": {"phase": phase, "conditions": all_conditions, **status}}


WAITING = {"name": "main", "state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}
ENDED = {"name": "main", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}
WAITS_FOR_INIT = {"name": "main", "state": {"waiting": {"reason": "PodInitializing"}}}
INIT = {"name": "init", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
UNSCHEDULED = {"type": "PodScheduled", "status": "False", "message": "Insufficient cpu"}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ([resource(containerStatuses=[WAITING])], "pod web: container main ErrImagePull: not found"),
        ([resource(containerStatuses=[ENDED])], "pod web: container main ended with exit code 3 (Error)"),
        (
            [resource(containerStatuses=[WAITS_FOR_INIT], initContainerStatuses=[INIT])],
            "pod web: container init ended with exit code 1 (Error)",
        ),
        ([resource(conditions=[UNSCHEDULED])], "pod web: not scheduled: Insufficient cpu"),
        ([resource(phase="Failed", message="evicted")], "pod web: evicted"),
        ([resource()], "pod web: its phase is Pending"),
        ([resource(ready="True")], "forbidden"),
        ([], "forbidden"),
    ],
)
def test_the_reason_of_a_pod_that_is_not_ready(resources, expected):
    assert pod_faults([{"name": "web"}], resources, "forbidden") == expected
