# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action `synchronize` for pods: ansible.posix's where rsync can do it, else the same options as `podbridge sync`.
What that cannot do is an error, never left out. Documented in modules/synchronize.py.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.plugins.loader import connection_loader

from ansible import constants as C
from ansible.plugins.action import ActionBase

ARGUMENTS = {
    **{name: {"type": "str", "required": True} for name in ("src", "dest")},
    "mode": {"type": "str", "choices": ["push", "pull"], "default": "push"},
    **{name: {"type": "bool", "default": True} for name in ("archive", "compress")},
    **{
        name: {"type": "bool", "default": False}
        for name in ("delete", "checksum", "existing_only", "copy_links", "dirs")
    },
    # Their default is `archive`.
    **{name: {"type": "bool"} for name in ("recursive", "links", "perms", "times", "owner", "group")},
    "rsync_path": {"type": "str"},
    "link_dest": {"type": "list", "elements": "str"},
    "rsync_opts": {"type": "list", "elements": "str", "default": []},
    # Without a meaning here: there is no ssh, a dead connection is found out, and a file is replaced when it is whole.
    **{
        name: {"type": "raw"} for name in ("dest_port", "private_key", "verify_host", "set_remote_user", "use_ssh_args")
    },
    **{name: {"type": "raw"} for name in ("ssh_connection_multiplexing", "rsync_timeout", "partial", "delay_updates")},
}

# Of rsync_opts: what each sets, one letter or a word; None for what says how rsync works or what it prints.
SETS = {
    **dict.fromkeys(["v", "q", "h", "i", "P", "S", "W", "H", "X", "D"]),
    **dict.fromkeys(
        ["verbose", "quiet", "human-readable", "itemize-changes", "progress", "stats", "partial", "sparse"]
    ),
    **dict.fromkeys(["whole-file", "no-whole-file", "hard-links", "xattrs", "devices", "specials", "mkpath"]),
    **dict.fromkeys(["no-motd", "blocking-io", "delay-updates"]),
    **dict.fromkeys(["z", "compress"], ("compress", True)),
    **dict.fromkeys(["no-z", "no-compress"], ("compress", False)),
    **dict.fromkeys(["c", "checksum"], ("checksum", True)),
    **dict.fromkeys(["n", "dry-run"], ("dry_run", True)),
    **dict.fromkeys(
        ["delete", *(f"delete-{when}" for when in ("before", "during", "delay", "after"))], ("delete", True)
    ),
    **dict.fromkeys(["a", "archive"], ("archive", True)),
}
for letter, word in {"r": "recursive", "l": "links", "p": "perms", "t": "times", "o": "owner", "g": "group"}.items():
    SETS.update(dict.fromkeys([letter, word], (word, True)))
    SETS.update(dict.fromkeys([f"no-{letter}", f"no-{word}"], (word, False)))

# Exit codes of `podbridge` (docs/client-protocol.md) that mean that the pod cannot be reached.
UNREACHABLE = {*range(223, 236), 237, *range(240, 250)}


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        task_vars = task_vars or {}
        remote, origin = self._ends(task_vars)
        self._remote = remote
        paths = [str(self._task.args.get(name, "")) for name in ("src", "dest")]
        if remote is None or any(":" in path.split("/")[0] or path.startswith("rsync://") for path in paths):
            return self._upstream(task_vars)
        if not self._task.delegate_to and self._have_rsync(remote, task_vars):
            return self._upstream(task_vars)
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        if remote is origin:
            raise AnsibleActionFail("podbridge cannot synchronize two paths of one pod; use copy with remote_src")
        options = self._options(arguments)
        sides = [(origin, arguments["src"]), (remote, arguments["dest"])]
        if arguments["mode"] == "pull":
            sides = [(remote, arguments["src"]), (origin, arguments["dest"])]
        (source, src), (sink, dest) = [(pod, self._path(pod, path)) for pod, path in sides]
        if not src.endswith("/") and (
            source.is_directory(src) if source else os.path.isdir(src) and not os.path.islink(src)
        ):
            # The directory itself is copied, and patterns begin above it.
            name = os.path.basename(src)
            dest = os.path.join(dest, name)
            options["filters"] = [each for one in options["filters"] for each in below(name, *one)]
        elif options["delete"] and not src.endswith("/"):
            options["delete"] = False  # of a file rsync does not, either
        if source is None and not os.path.lexists(to_bytes(src)):
            raise AnsibleActionFail(f"synchronize: {src} does not exist")
        if source is None or sink is None:
            result.update(self._sync(source, src, sink, dest, options))
            return result
        return {**result, **self._through_here(source, src, sink, dest, options)}

    def _upstream(self, task_vars):
        """The action of ansible.posix, as if this one were not there."""
        action = self._shared_loader_obj.action_loader.get(
            "ansible.posix.synchronize",
            task=self._task,
            connection=self._connection,
            play_context=self._play_context,
            loader=self._loader,
            templar=self._templar,
            shared_loader_obj=self._shared_loader_obj,
        )
        if action is None:
            raise AnsibleActionFail("this needs ansible.posix.synchronize, whose collection is not installed")
        return action.run(task_vars=task_vars)

    def _ends(self, task_vars):
        """The pod of the host and the pod that the task is delegated to, None for what is none."""
        here = self._connection if ours(self._connection) else None
        delegate = self._task.delegate_to
        if not delegate:
            return here, None
        if here is None and self._connection.transport != "local":
            return None, None
        host = task_vars["inventory_hostname"]
        variables = task_vars["hostvars"][host]
        if delegate in (host, variables.get("ansible_host")):
            return here, here
        context = self._play_context.copy()
        context.remote_addr = variables.get("ansible_host", host)
        connection = connection_loader.get(
            str(variables.get("ansible_connection", C.DEFAULT_TRANSPORT)), context, os.devnull
        )
        if not hasattr(type(connection), "podbridge_command"):
            return None, None
        connection.set_options(var_options=variables)
        return (connection, here) if ours(connection) else (None, None)

    def _have_rsync(self, pod, task_vars):
        if not shutil.which(task_vars.get("ansible_rsync_path") or "rsync"):
            return False
        if self._task.args.get("rsync_path"):  # the task knows where it is
            return True
        asked = self._podbridge([*pod.podbridge_command, "exec", *self._user(pod), pod.pod, "--", "rsync", "--version"])
        unreachable(asked)
        return asked.returncode == 0

    def _user(self, pod):
        """As in docker_cmd: the user that the task became, else the one of the session."""
        became = pod is self._remote and self._play_context.become
        user = self._play_context.become_user if became else pod.get_option("remote_user")
        return [f"--user={user}"] * bool(user)

    def _path(self, pod, path):
        """A path as rsync and the module would have it."""
        if pod is not None:
            return to_text(self._remote_expand_user(path, sudoable=False)) if path.startswith("~") else path
        path = os.path.expandvars(os.path.expanduser(path))
        if path.startswith("/"):
            return path
        base = self._task._role._role_path if self._task._role else self._loader.get_basedir()
        found = self._loader.path_dwim_relative(base, "files", path)
        return found + "/" * (path.endswith("/") and not found.endswith("/"))

    def _options(self, arguments):
        """What `podbridge sync` is asked for. Raises for what it cannot do."""
        chosen = {**arguments, "dry_run": self._task.check_mode}
        filters = []
        # As the module and rsync take them apart.
        words = iter(shlex.split(" ".join(arguments["rsync_opts"])))
        for word in words:
            name, _equals, value = word.removeprefix("--").partition("=")
            if word.startswith("--") and name in ("exclude", "include"):
                pattern = value or next(words, "")
                # `***` is the directory and all that is in it.
                patterns = [pattern[:-3], pattern[:-1]] if pattern.endswith("/***") else [pattern]
                filters += [(name, pattern) for pattern in patterns]
                continue
            letters = list(word[1:]) if word.startswith("-") and not word.startswith("--") else [name]
            for letter in letters:
                if letter not in SETS or value or not word.startswith("-"):
                    cannot(f"rsync_opts {word}")
                if SETS[letter]:
                    chosen.update([SETS[letter]])
        for name in ("existing_only", "copy_links", "rsync_path", "link_dest"):
            if chosen[name]:
                cannot(name)
        for name in ("recursive", "links", "perms", "times", "owner", "group"):
            if chosen[name] is None:
                chosen[name] = chosen["archive"]
        for name in ("recursive", "links", "perms", "times"):
            if not chosen[name]:
                cannot(f"{name}: false")
        if chosen["owner"] != chosen["group"]:
            cannot("owner without group, or group without owner")
        return {**chosen, "filters": filters}

    def _sync(self, source, src, sink, dest, options):
        """One run of `podbridge sync` and the module's results of it."""
        pod = source or sink
        command = [*pod.podbridge_command, "sync", "--quiet", "--verbose", *self._user(pod)]
        flags = {"delete": options["delete"], "checksum": options["checksum"], "dry-run": options["dry_run"]}
        command += [f"--{flag}" for flag, wanted in {**flags, "no-owner": not options["owner"]}.items() if wanted]
        command += ["--compress=never"] * (not options["compress"])
        command += [f"--{kind}={pattern}" for kind, pattern in options["filters"]]
        command += [f"{pod.pod}:{path}" if end is pod else path for end, path in ((source, src), (sink, dest))]
        done = self._podbridge(command)
        unreachable(done)
        out = to_text(done.stdout)
        result = {"rc": done.returncode, "cmd": shlex.join(command), "stdout_lines": out.splitlines()}
        if done.returncode:
            return {**result, "failed": True, "msg": reason(done)}
        result.update(changed=bool(out), msg=out)
        if self._task.diff:
            result["diff"] = {"prepared": out}
        return result

    def _through_here(self, source, src, sink, dest, options):
        """Between two pods, which cannot reach each other: by way of the controller."""
        with tempfile.TemporaryDirectory(dir=C.DEFAULT_LOCAL_TMP) as here:
            # A trailing slash changes nothing for `podbridge sync`, but for a single file.
            between = os.path.join(here, os.path.basename(src.rstrip("/")) or "root")
            first = self._sync(source, src, None, between, {**options, "dry_run": False, "delete": False})
            return first if first.get("failed") else self._sync(None, between, sink, dest, options)

    @staticmethod
    def _podbridge(command):
        try:
            return subprocess.run(
                [to_bytes(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except OSError as error:
            raise AnsibleActionFail(
                f"cannot run {command[0]}: {error.strerror}; install podbridge or set ansible_podbridge_executable"
            ) from None


def ours(connection):
    """Whether tasks on it go through podbridge: it is our plugin, and the host has not opted out."""
    kind = type(connection)
    return hasattr(kind, "podbridge_command") and connection.transport == kind.transport


def below(name, kind, pattern):
    """A pattern that is anchored above the directory `name`, seen from inside of it."""
    if not pattern.startswith("/"):
        return [(kind, pattern)]
    first, _slash, rest = pattern[1:].partition("/")
    if first in (name, "*", "**"):
        if rest.strip("*/"):
            return [(kind, f"/{rest}")]
        return [(kind, "*")]  # all of it
    if any(char in first for char in "*?["):
        cannot(f"the pattern {pattern}, with src without a slash at its end,")
    return []  # of another directory


def cannot(what):
    raise AnsibleActionFail(
        f"synchronize: podbridge cannot do {what} without rsync; put rsync into the image or beside the agent"
    )


def reason(done):
    text = to_text(done.stderr).strip() or f"podbridge ended with {done.returncode} and gave no reason"
    return text.removeprefix("podbridge: ")


def unreachable(done):
    if done.returncode in UNREACHABLE:
        raise AnsibleConnectionFailure(reason(done))
