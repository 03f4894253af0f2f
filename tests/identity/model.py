"""What a user can change between two commands: kubeconfigs and the files that they name, and the environment."""

import json
import os

from servers import make_token

CLUSTERS = ["c0", "c1", "c2"]
CONTEXTS = ["one", "two", "three"]
USERS = ["alice", "bob", "carol", "dave"]
NAMESPACES = ["ci", "prod", ""]

# Prints a token of the user that $WHO names.
CREDENTIAL_PLUGIN = """#!/bin/sh
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
printf '"status":{"token":"%s-plugin"}}' "${WHO:-nobody}"
"""


class World:
    """Files below a directory, and an environment. `edit` changes one thing at random and says what."""

    def __init__(self, directory, servers, chance, bridges):
        self._directory, self._chance, self._bridges = directory, chance, bridges
        self._urls, self._authority = servers.urls, servers.authority
        self._serial = 0
        self.token = None
        self._plugin = directory / "credential-plugin"
        self._plugin.write_text(CREDENTIAL_PLUGIN)
        self._plugin.chmod(0o755)
        self._homes = [directory / "home1", directory / "home2", directory / "home3"]
        for home in self._homes:
            (home / ".kube").mkdir(parents=True)
        self._files = [home / ".kube/config" for home in self._homes[:2]]
        self._files += [directory / "k1", directory / "k2"]
        self._configs = {}
        for path in self._files:
            self._new_config(path)
        self._home, self._list, self._who = self._homes[0], None, "alice"

    def environment(self):
        variables = {"PATH": os.environ["PATH"], "HOME": str(self._home), "PODBRIDGE_DIR": str(self._bridges)}
        if self._who:
            variables["WHO"] = self._who
        if self._list is not None:
            variables["KUBECONFIG"] = self._list
        return variables

    def edit(self):
        edits = [
            self._use_context,
            self._use_context,
            self._set_namespace,
            self._set_user,
            self._change_credentials,
            self._change_token_file,
            self._remove_user,
            self._move_server,
            self._replace_config,
            self._touch_config,
            self._change_home,
            self._change_list,
            self._change_who,
            self._change_token,
        ]
        edit = self._chance.choice(edits)
        edit()
        return edit.__name__.strip("_")

    def _pick(self):
        path = self._chance.choice(self._files)
        return path, self._configs[path]

    def _new_config(self, path):
        chance = self._chance
        config = {
            "current-context": chance.choice(CONTEXTS),
            "clusters": dict(zip(CLUSTERS, self._urls, strict=True)),
            "contexts": {
                name: [f"c{chance.randrange(len(self._urls))}", chance.choice(USERS), chance.choice(NAMESPACES)]
                for name in CONTEXTS
            },
            "users": {name: self._new_user(name, path) for name in USERS},
        }
        self._configs[path] = config
        self._write(path)

    def _new_user(self, name, path):
        kind = self._chance.choice(["token", "tokenFile", "exec"])
        if kind == "token":
            self._serial += 1
            return {"token": make_token(self._chance.choice([name, name, "mallory"]), self._serial)}
        if kind == "tokenFile":
            file = path.with_name(f"{path.name}-{name}.token")
            file.write_text(f"{name}-file")
            # Relative: it is meant from the kubeconfig's directory.
            return {"tokenFile": file.name if self._chance.random() < 0.5 else str(file)}
        command = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": str(self._plugin),
            "interactiveMode": "Never",
        }
        return {"exec": command}

    def _write(self, path, by_rename=False):
        config = self._configs[path]
        clusters = [
            {"name": name, "cluster": {"server": url, "certificate-authority": self._authority}}
            for name, url in config["clusters"].items()
        ]
        contexts = []
        for name, (cluster, user, namespace) in config["contexts"].items():
            context = {"cluster": cluster, "user": user} | ({"namespace": namespace} if namespace else {})
            contexts.append({"name": name, "context": context})
        users = [{"name": name, "user": user} for name, user in config["users"].items()]
        document = {"apiVersion": "v1", "kind": "Config", "current-context": config["current-context"]}
        text = json.dumps(document | {"clusters": clusters, "contexts": contexts, "users": users})
        if by_rename:
            new = path.with_name(path.name + ".new")
            new.write_text(text)
            new.rename(path)
        else:
            path.write_text(text)

    def _use_context(self):
        path, config = self._pick()
        config["current-context"] = self._chance.choice(CONTEXTS)
        self._write(path)

    def _set_namespace(self):
        path, config = self._pick()
        config["contexts"][self._chance.choice(CONTEXTS)][2] = self._chance.choice(NAMESPACES)
        self._write(path)

    def _set_user(self):
        path, config = self._pick()
        config["contexts"][self._chance.choice(CONTEXTS)][1] = self._chance.choice(USERS)
        self._write(path)

    def _change_credentials(self):
        path, config = self._pick()
        name = self._chance.choice(USERS)
        config["users"][name] = self._new_user(name, path)
        self._write(path)

    def _change_token_file(self):
        path, config = self._pick()
        for name, user in config["users"].items():
            if "tokenFile" in user:
                owner = self._chance.choice(USERS)
                (path.parent / user["tokenFile"]).write_text(f"{owner}-{name}-{self._chance.randrange(100)}")

    def _remove_user(self):
        path, config = self._pick()
        config["users"].pop(self._chance.choice(USERS), None)
        self._write(path)

    def _move_server(self):
        path, config = self._pick()
        config["clusters"][self._chance.choice(list(config["clusters"]))] = self._chance.choice(self._urls)
        self._write(path)

    def _replace_config(self):
        path, _ = self._pick()
        self._new_config(path)
        self._write(path, by_rename=True)

    def _touch_config(self):
        path, _ = self._pick()
        self._write(path)

    def _change_home(self):
        self._home = self._chance.choice(self._homes)

    def _change_list(self):
        if self._chance.random() < 0.4:
            self._list = None
            return
        candidates = [*self._files, self._directory / "absent", ""]
        paths = self._chance.sample(candidates, self._chance.randint(1, 3))
        self._list = ":".join(map(str, paths))

    def _change_who(self):
        self._who = self._chance.choice([*USERS, None])

    def _change_token(self):
        if self._chance.random() < 0.5:
            self.token = None
            return
        self._serial += 1
        user = self._chance.choice(USERS)
        self.token = self._chance.choice([make_token(user, self._serial), f"{user}-opaque-{self._serial}"])
