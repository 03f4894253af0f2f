"""Scenarios of the roles of the collection: a second call changes nothing, and a failure is one sentence.

Each row of a table becomes a play of a generated playbook, so a new case is one more row.
"""

import json
import os
import re
import sys
from dataclasses import dataclass, field

from tier import kube, settings
from tier.build import playbook
from tier.scenarios.job_pods import collection
from tier.scenarios.native_job import PROJECT, check_out, import_images, variables
from tier.session import require_podbridge

ROLES = "podbridge.zuul."
DEBIAN, BUSYBOX = kube.IMAGES["debian"], kube.IMAGES["busybox"]
REGISTRY = "registry"
# Files of the project under test beside those of the example.
CONTAINERFILES = {
    "Broken": "ARG BASE\nFROM ${BASE}\nCOPY no-such-file /\n",
    "Lost": "ARG BASE\nFROM ${BASE}\nRUN kill 1; sleep 60\n",
}
# What a role leaves alone: names in a namespace of nodepool's, beside what the table makes.
OF_KUBERNETES = re.compile(r"^(secret/(default|zuul-worker)\S*|service/kubernetes)$")


@dataclass(frozen=True)
class Call:
    """Call of a role with these variables.

    `always_changes`: a second call does the work again. `label` tells calls of one role apart.
    """

    role: str
    variables: dict = field(default_factory=dict)
    tasks: str = "main"
    always_changes: bool = False
    label: str = ""

    @property
    def name(self):
        return f"{self.role} {self.tasks} {self.label}".strip()

    def task(self):
        call = {"name": ROLES + self.role, "tasks_from": self.tasks}
        return {"name": f"Call {self.role}", "ansible.builtin.include_role": call, "vars": self.variables}


def pods(*each, **more):
    return {"podbridge_pods": list(each), **more}


def pod(name="bad", image=DEBIAN, **more):
    return {"name": name, "image": image, **more}


def spec(**container):
    """Returns a pod with a manifest whose container has these fields."""
    main = {"name": "main", "image": DEBIAN, "imagePullPolicy": "IfNotPresent", "command": kube.IDLE_COMMAND}
    return {"name": "bad", "manifest": {"spec": {"terminationGracePeriodSeconds": 1, "containers": [main | container]}}}


# Value that no log has, of a variable of a container and of an argument of a build.
UNSEEN = "value-that-no-log-has"


def image(base="{{ base_image }}", name="app"):
    """Returns the variables of a build of the project under test from this image."""
    return {
        "podbridge_image_build_image": "{{ builder_image }}",
        "podbridge_image_build_name": name,
        "podbridge_image_build_args": {"BASE": base, "UNSEEN": UNSEEN},
    }


# Every way in which the role makes pods, as pods that the later calls use.
ALL_PODS = pods(
    pod(
        "web",
        requests={"cpu": "10m"},
        limits={"memory": "300Mi"},
        env={"GREETING": "hello", "UNSEEN": UNSEEN},
        groups=["served"],
    ),
    pod("bare", BUSYBOX, agent="init_container"),
    pod("mounted", BUSYBOX, agent="image_volume"),
    pod("two", sidecar=True, workspace="/volume", cache={"emptyDir": {}}, labels={"tier": "test"}),
    {"name": "own", "manifest": {"spec": kube.pod_spec([kube.container("first"), kube.container("second")])}},
    podbridge_pod_agent_image="{{ agent_image }}",
    podbridge_pod_sidecar_image="{{ sidecar_image }}",
)
REGISTRY_OF = {"podbridge_registry_image": "{{ registry_image }}"}
IMAGE = image()
LOST = IMAGE | {"podbridge_image_build_file": "Lost"}
FLAT = {"src_dir": "src/flat", "checkout": "master"}
# Name of a directory that a shell and a command line could take for something else.
ODD_NAME = "-an 'odd' $name: \\ #1"
# Paths in the pod `web`, and a file that the executor has afterwards for each.
ARTIFACTS = [
    ({"path": "/etc/debian_version"}, "debian_version"),
    ({"path": f"/results/{ODD_NAME}/"}, f"{ODD_NAME}/main.log"),
    ({"path": "/results", "name": "all of it"}, f"all of it/{ODD_NAME}/main.log"),
]
LINKS = {"podbridge_artifacts_pods": "web", "podbridge_artifacts_paths": [{"pod": "web", "path": "/links"}]}
PATHS = {"podbridge_artifacts_paths": [{"pod": "web", **path} for path, _file in ARTIFACTS]}

SHARED_BY_NONE = {"token": "x", "job": "parent", "namespace": "n", "cluster": {"server": "https://127.9.9.9:1"}}
# As another parent's, which shares the same namespace.
SHARED_BY_OTHER = {"podbridge_join_shared": "{{ podbridge_shared | combine({'build': 'other-parent', 'hosts': []}) }}"}

MADE = [
    Call("pod", ALL_PODS),
    Call("registry", REGISTRY_OF),
    Call("image_build", IMAGE, always_changes=True),
    # Ansible lets a word pass for a list.
    Call("repos", {"podbridge_repos_hosts": "web,two-sidecar"}),
    # As with the workspace scheme `flat`.
    Call("repos", {"podbridge_repos_hosts": ["two-sidecar"], "podbridge_repos_projects": [FLAT]}, label="flat"),
    # The default is all pods. Their status may change between two calls; the result of a fetched file does not.
    Call("artifacts", PATHS | {"podbridge_artifacts_pods": ["web", "bare"]}),
    # A link that leads out comes again, and is removed again.
    Call("artifacts", LINKS, always_changes=True, label="links"),
    Call("share"),
    Call("join"),
    Call("join", SHARED_BY_OTHER, label="other"),
]
REMOVED = [
    # The facts of the playbook that joined are gone.
    Call("join", {"podbridge_join_shared": {"build": "{{ zuul.build }}"}}, "remove"),
    Call("join", {"podbridge_join_shared": {"build": "other-parent"}}, "remove", label="other"),
    Call("share", tasks="remove"),
    Call("registry", tasks="remove"),
    Call("pod", ALL_PODS, tasks="remove"),
]
# Beginning of a message of Ansible's own, which has two lines.
OF_ANSIBLE = "Validation of arguments failed:"
AGENT = "/opt/podbridge/podbridge-agent"
MEMORY = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
# How the pods of ALL_PODS look from inside: host, command, and words that it prints.
LOOKS = [
    ("web", f"echo $GREETING; {MEMORY}", ["hello", "314572800"]),
    ("bare", "readlink /proc/1/exe", [AGENT]),
    ("mounted", "readlink /proc/1/exe; touch /opt/podbridge/x 2>&1", [AGENT, "Read-only"]),
    (
        "two-sidecar",
        "git --version && touch /volume/shared && echo flat has $(cat /workspace/src/flat/README)",
        ["git version", "flat has one"],
    ),
    ("two", "ls /volume/shared && touch /opt/git/x 2>&1", ["/volume/shared", "Read-only"]),
    ("own-second", "hostname", ["own"]),
]

# A container that ends beside one that goes on, in a pod that starts none again.
ONE_OF_TWO_ENDS = {
    "restartPolicy": "Never",
    "containers": [kube.container("main"), kube.container("helper") | {"command": ["true"]}],
}
FAILED_SETUP = {
    "restartPolicy": "Never",
    "initContainers": [kube.container("setup") | {"command": ["sh", "-c", "echo the first words; exit 4"]}],
    "containers": [kube.container("main")],
}
SHORT = {"podbridge_pod_timeout": 4}
NO_RIGHT = {"podbridge_namespace": "default"}
NO_IMAGE = "localhost/podbridge-test/none:1"
# Image without a shell.
BARE_IMAGE = "localhost/podbridge-test/pause:1"
NOT_READY = {"exec": {"command": ["false"]}, "periodSeconds": 1}
PULL = "(ErrImagePull|ImagePullBackOff)"
FORBIDDEN = r'is forbidden: User "system:serviceaccount:.*in the namespace "default"'
# Calls of roles that fail, and what their only sentence says: the cause and the next step. One of each role is here;
# MORE_FAILURES has the others.
FAILURES = [
    (Call("pod", pods(pod(image="UPPER CASE"))), "^pod bad: container main InvalidImageName.*check the name of the im"),
    (Call("pod", pods(pod()) | NO_RIGHT), f"^pods {FORBIDDEN}"),
    (Call("registry", REGISTRY_OF | NO_RIGHT), f"^the registry cannot be made: secrets .*{FORBIDDEN}.*a label of the"),
    (Call("share", NO_RIGHT), f"^the namespace default cannot be shared: secrets .*{FORBIDDEN}"),
    (Call("join"), "^no parent job has shared its pods with this one: the job needs `dependencies`"),
    (Call("repos", {"podbridge_repos_hosts": ["none"]}), "^no host none: .*call the role podbridge.zuul.pod first"),
    (Call("repos"), "^there is no host to push into: call the role podbridge.zuul.pod first, or name hosts"),
    (Call("image_build", IMAGE), "call the role podbridge.zuul.registry first"),
]
MORE_FAILURES = [
    (Call("pod", pods(pod(image=NO_IMAGE)) | SHORT), f"^pod bad: container main {PULL}.*check the name of the image"),
    (Call("pod", pods(spec(readinessProbe=NOT_READY)) | SHORT), "^pod bad: container main is not ready; its readiness"),
    (
        Call("pod", pods(pod(command=["sh", "-c", "echo the last words; exit 3"], env={"UNSEEN": UNSEEN}))),
        r"^pod bad: container main ended with exit code 3 \(Error\); its last output is in the log",
    ),
    (
        Call("pod", pods({"name": "bad", "manifest": {"spec": ONE_OF_TWO_ENDS}})),
        "^pod bad: container helper ended with exit code 0",
    ),
    (
        Call("pod", pods({"name": "bad", "manifest": {"spec": FAILED_SETUP}})),
        r"^pod bad: container setup ended with exit code 4 \(Error\); its last output is in the log",
    ),
    (Call("pod", pods(pod(command=["true"]))), "^pod bad: container main ended with exit code 0.*leave command out"),
    (Call("pod", pods(spec(name="UPPER"))), r'^Pod "bad" is invalid: spec.containers\[0\].name'),
    (Call("pod", pods(pod(requests={"cpu": "1000"})) | SHORT), "^pod bad: not scheduled: .*nsufficient cpu.*ask for"),
    (Call("pod", pods(pod(requests={"cpu": "much"}))), "quantities must match"),
    (Call("pod", pods(pod("good"), spec(readinessProbe=NOT_READY)) | SHORT), "^pod bad: container main is not ready"),
    (
        Call("pod", pods(pod(agent="image_volume"), podbridge_pod_agent_image=NO_IMAGE) | SHORT),
        f"^pod bad: container main {PULL}.*check the name of the image",
    ),
    # Were the host unreachable, the play would end, and Zuul would retry the job.
    (
        Call("pod", pods(pod("good"), spec(image=BARE_IMAGE, command=["/bin/busybox", "sleep", "3600"]))),
        "^pod bad: .*neither podbridge-agent nor a shell",
    ),
    (Call("pod", pods(pod(comand=["true"]))), "comand"),
    # Ansible's own check takes a word for a list.
    (Call("pod", pods(pod(command="sleep 5"))), "^pod bad: command has to be a list$"),
    (Call("pod", pods(pod(), pod("other", host="bad"))), "^two containers would be the host bad; give one"),
    (Call("pod", pods(pod()) | {"podbridge_context": "nosuch"}), "nosuch"),
    (
        Call("registry", {"podbridge_registry_image": NO_IMAGE, "podbridge_registry_timeout": 4}),
        f"^the registry cannot be made: pod registry: container registry {PULL}",
    ),
    (
        Call("registry", {"podbridge_registry_image": BUSYBOX, "podbridge_registry_timeout": 4}),
        "^the registry cannot be made: pod registry: container registry .*the program registry or docker-registry",
    ),
    (Call("share", {"podbridge_share_account": "nobody"}), "cannot be shared: it has no service account nobody"),
    (
        Call("join", {"podbridge_join_shared": SHARED_BY_NONE}),
        r"^the namespace n that job parent shares at \S+ cannot be used from this job \(\S.*the right to it ends with",
    ),
]
# The same for calls that need the pods and the registry of MADE.
LATER_FAILURES = [
    (
        Call("pod", pods(pod("web", env={"GREETING": "other"}))),
        '^Pod "web" is invalid: spec: Forbidden: pod updates may not change.*remove the pod first',
    ),
    (
        Call("repos", {"podbridge_repos_hosts": ["web"], "podbridge_repos_source": "/no/such"}),
        "^repositories were not pushed into web: .*/no/such",
    ),
    (Call("image_build", IMAGE | {"podbridge_image_build_file": "Broken"}), "^the image app was not built: .*no-such-"),
    # The kubelet's certificate is of no authority that the builder knows.
    (Call("image_build", image("{{ node_address }}:10250/none:1")), "^the image app was not built: .*x509: "),
    # The token that the children use stays; see `expect_one_change` of REMOVED.
    (Call("share", {"podbridge_share_hosts": "none"}), "^the namespace .* cannot be shared: no host none"),
    (
        Call("share", {"podbridge_share_account": "nobody"}),
        "cannot be shared: the secret podbridge-share-.* exists for",
    ),
    # Pods that the role did not make stay, too.
    (
        Call("registry", REGISTRY_OF | {"podbridge_registry_pod": "web", "podbridge_registry_secret": "other"}),
        '^the registry cannot be made: Pod "web" is invalid: spec: Forbidden: pod updates may not change',
    ),
    (
        Call("registry", REGISTRY_OF | {"podbridge_registry_pod": "own", "podbridge_registry_secret": "other"}),
        "^the registry cannot be made: pod own exists, and this role did not make it; remove it, or give podbridge_reg",
    ),
]
MORE_LATER_FAILURES = [
    (Call("repos", {"podbridge_repos_hosts": ["bare"]}), "^repositories were not pushed into bare: .*there is no git"),
    (Call("image_build", IMAGE | {"podbridge_image_build_file": "None"}), "^the image app was not built: .*None"),
    (
        Call("image_build", IMAGE | {"podbridge_image_build_security": {"seccompProfile": {"type": "RuntimeDefault"}}}),
        "^the image app was not built: the node lets no container .*user namespace; give podbridge_image_build_secur",
    ),
    (
        Call("image_build", IMAGE | {"podbridge_image_build_image": NO_IMAGE, "podbridge_image_build_timeout": 4}),
        f"^the image app was not built: pod image-builder-[0-9a-f]{{8}}: container builder {PULL}",
    ),
]


def play(name, *tasks, hosts="localhost"):
    return {"name": name, "hosts": hosts, "gather_facts": False, "tasks": list(tasks)}


def calls(table, times=("FIRST", "AGAIN")):
    """Returns a play for each call and each time."""
    return [play(f"{time} {call.name}", call.task()) for call in table for time in times]


def failures(table):
    """Returns a play for each call, which goes on after the failure and shows its message."""
    shown = {"name": "Message", "debug": {"msg": "{{ ansible_failed_result.msg }}"}}
    return [play(f"FAILS {at}", {"block": [call.task()], "rescue": [shown]}) for at, (call, _words) in enumerate(table)]


def results():
    """Returns a play that writes a file into the directory with the odd name, and links."""
    path = f"/results/{ODD_NAME}"
    make = {"name": "Make", "file": {"path": path, "state": "directory", "mode": "0755"}}
    write = {"name": "Write", "copy": {"dest": f"{path}/main.log", "content": "a result", "mode": "0644"}}
    make_links = "touch file && ln -sf file inside && ln -sfn /etc up && ln -sf ../../../../../../etc/passwd far"
    links = f"mkdir -p /links && cd /links && {make_links}"
    return play("RESULTS", make, write, {"name": "Link", "raw": links}, hosts="web")


def looks():
    raw = [
        play(f"LOOK {host}", {"name": "Look", "raw": command, "failed_when": False}, hosts=host)
        for host, command, _words in LOOKS
    ]
    nothing = Call("repos", {"podbridge_repos_hosts": ["two-sidecar"], "podbridge_repos_projects": []})
    shown = {"name": "Image", "debug": {"msg": "{{ podbridge_image }}"}}
    group = {"name": "Group", "debug": {"msg": "{{ groups.podbridge_pods }}"}}
    derived = Call("image_build", image("{{ podbridge_registry.push }}/app:{{ zuul.build }}", "derived"))
    return [
        *raw,
        play("IMAGE", shown),
        play("GROUP", group),
        play("DERIVED", derived.task()),
        play("NOTHING", nothing.task()),
    ]


def job_roles(session):
    """Roles of the collection, each called twice: a second call changes nothing, and `remove` leaves nothing."""
    require_podbridge()
    import_images()
    with collection():
        node = session.namespace_node("cluster")
        before = left_in(node)
        playbooks = {
            "FAILS": failures(FAILURES),
            "MADE": [*calls(MADE[:2]), results(), *calls(MADE[2:]), *looks()],
            # Hosts, and what a role sets, end with their playbook.
            "LATER": [*calls(MADE[:2], ["AGAIN"]), *failures(LATER_FAILURES)],
            "REMOVED": calls(REMOVED),
        }
        build = run(session, node, playbooks)
        expect_failures(build, "FAILS", FAILURES)
        expect_one_change(build, "MADE", MADE)
        expect_looks(build)
        expect_artifacts(build)
        expect_failures(build, "LATER", LATER_FAILURES)
        expect_one_change(build, "REMOVED", REMOVED)
        assert left_in(node) == before, f"the tasks `remove` left {left_in(node) - before}"
        left = [name for name in os.listdir(build.jobdir.work_root) if name.startswith("podbridge-shared")]
        assert not left, f"kubeconfigs are left: {left}"


def job_roles_fail(session):
    """Roles of the collection failed in more ways: one sentence with cause and next step, and nothing is left."""
    require_podbridge()
    import_images()
    with collection():
        node = session.namespace_node("cluster")
        before = left_in(node)
        build = run(session, node, {"FAILS": failures(MORE_FAILURES)})
        expect_failures(build, "FAILS", MORE_FAILURES)
        build.joblog().expect_match("the last words", "the first words")
        assert left_in(node) == before, f"failed roles left {left_in(node) - before}"
        plays = [*calls(MADE[:2], ["FIRST"]), *failures(MORE_LATER_FAILURES)]
        expect_failures(run(session, node, {"LATER": plays}), "LATER", MORE_LATER_FAILURES)
        # The end of the container during a build is a loss: Zuul retries the job.
        plays = [*calls(MADE[:2], ["AGAIN"]), play("LOST", Call("image_build", LOST).task())]
        assert run(session, node, {"LOST": plays}, expected=None).unreachable, "the lost builder is no unreachable host"
        pods = {f"pod/{each['name']}" for each in ALL_PODS["podbridge_pods"]} | {"pod/registry"}
        left = {name for name in left_in(node) - before if name.startswith("pod/")}
        assert left == pods, f"the pods are {left}, expected {pods}"


def left_in(node):
    """Returns the names of all pods, services and secrets in the namespace."""
    names = kube.kubectl("get", "pods,services,secrets", "-o", "name", namespace=node[1].name).decode().split()
    return {name for name in names if not OF_KUBERNETES.match(name)}


def run(session, node, playbooks, expected="SUCCESS"):
    """Runs a build of generated playbooks to its end and returns it; `playbooks` maps a name to its plays."""
    project = settings.WORK / f"job-roles-{'-'.join(playbooks)}"
    for name, plays in playbooks.items():
        path = project / "playbooks" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(plays))
    source = {"canonical_name": PROJECT, "src_dir": f"src/{PROJECT}", "checkout": "master"}
    build = session.build(
        [node],
        run=[playbook(f"playbooks/{name}.yaml", "org/roles") for name in playbooks],
        projects={"org/project": settings.PROJECT, "org/roles": project},
        repositories=[PROJECT],
        variables=variables() | {"node_address": node_address()},
        zuul={"projects": {PROJECT: source}},
    )
    check_out(build, **CONTAINERFILES)
    build.make_repository("flat")
    build.play()
    assert build.result == expected, f"the result is {build.result} ({build.detail}), expected {expected}"
    expect_unseen(build)
    return build


def node_address():
    address = "jsonpath={.items[0].status.addresses[0].address}"
    return kube.kubectl("get", "nodes", "-o", address).decode()


def expect_unseen(build):
    """Asserts that the value is in no file that the executor would publish."""
    files = [os.path.join(path, name) for path, _names, names in os.walk(build.jobdir.log_root) for name in names]
    assert build.jobdir.job_output_file in files
    for path in files:
        with open(path, errors="replace") as file:
            assert UNSEEN not in file.read(), f"{path} has a value"


def plays_of(build, name):
    """Returns {name of the play: [(task, result)]} of a playbook, for localhost or the only host."""
    with open(build.jobdir.job_output_file.replace(".txt", ".json")) as file:
        playbooks = json.load(file)
    (plays,) = [each["plays"] for each in playbooks if each["playbook"].endswith(f"/{name}.yaml")]
    return {
        each["play"]["name"]: [
            (task["task"]["name"], result) for task in each["tasks"] for result in task["hosts"].values()
        ]
        for each in plays
    }


def expect_one_change(build, name, table):
    """Asserts that the first call of each role changed something, and the second nothing."""
    plays = plays_of(build, name)
    for call in table:
        first, again = (
            [task for task, result in plays[f"{at} {call.name}"] if result.get("changed")] for at in ("FIRST", "AGAIN")
        )
        assert first, f"the first call of {call.name} changed nothing"
        assert call.always_changes or not again, f"the second call of {call.name} changed: {again}"


def expect_failures(build, name, table):
    plays = plays_of(build, name)
    wrong = []
    for at, (call, words) in enumerate(table):
        said = [result["msg"] for task, result in plays[f"FAILS {at}"] if task == "Message"]
        print(f"zuul: {call.role}: {' '.join(said)}", file=sys.stderr)
        if (
            len(said) != 1
            or not re.search(words, said[0])
            or len(said[0].splitlines()) > 1 + said[0].startswith(OF_ANSIBLE)
        ):
            wrong.append(f"{call.role} says {said}, expected /{words}/")
    assert not wrong, "\n".join(wrong)


def expect_artifacts(build):
    root = f"{build.jobdir.log_root}/pods/web"
    for _path, name in ARTIFACTS:
        with open(f"{root}/{name}") as file:
            assert name == "debian_version" or file.read() == "a result", name
    assert sorted(os.listdir(f"{root}/links")) == ["file", "inside"], "a link leads to a file of the executor"
    with open(f"{root}/main.log") as file:
        assert file.read() != "a result", "a file of the directory replaced the output of the container main"
    assert os.path.exists(f"{build.jobdir.log_root}/pods/bare/podbridge.log"), "the init container has no output"


def expect_looks(build):
    plays = plays_of(build, "MADE")
    for host, _command, words in LOOKS:
        said = "\n".join(result.get("stdout", "") for _task, result in plays[f"LOOK {host}"])
        missing = [word for word in words if word not in said]
        assert not missing, f"{host}: {missing} not in {said}"
    # The builder's pod is gone, so it may not be in the group that plays and roles use.
    ((_task, group),) = plays["GROUP"]
    assert sorted(group["msg"]) == ["bare", "mounted", "own", "own-second", "two", "two-sidecar", "web"], group["msg"]
    images = {result["msg"] for _task, result in plays["IMAGE"]}
    assert len(images) == 1 and "@sha256:" in images.pop()
    digests = {
        result["content"]
        for at in ("FIRST", "AGAIN")
        for task, result in plays[f"{at} image_build main"]
        if task == "Read the digest"
    }
    assert len(digests) == 1, f"the same commit gave two images: {digests}"
