# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin `synchronize`: runs ansible.posix.synchronize where rsync can do the task, else `podbridge sync`.

An option that `podbridge sync` does not support is an error; the action ignores none silently. modules/synchronize.py
documents the options. The action uses `podbridge_command`, `pod` and `is_directory` of the connection plugin.
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
    # The default of these is the value of `archive`.
    **{name: {"type": "bool"} for name in ("recursive", "links", "perms", "times", "owner", "group")},
    "rsync_path": {"type": "str"},
    "link_dest": {"type": "list", "elements": "str"},
    "rsync_opts": {"type": "list", "elements": "str", "default": []},
    # Accepted and ignored: there is no ssh, the bridge detects dead connections, and files are replaced when complete.
    **{
        name: {"type": "raw"} for name in ("dest_port", "private_key", "verify_host", "set_remote_user", "use_ssh_args")
    },
    **{name: {"type": "raw"} for name in ("ssh_connection_multiplexing", "rsync_timeout", "partial", "delay_updates")},
}

# Flags in rsync_opts, by letter or word: the option and value that each sets, or None if a flag only changes how rsync
# works or what it prints.
RSYNC_FLAGS = {
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
    RSYNC_FLAGS.update(dict.fromkeys([letter, word], (word, True)))
    RSYNC_FLAGS.update(dict.fromkeys([f"no-{letter}", f"no-{word}"], (word, False)))

# Exit codes of podbridge (docs/client-protocol.md) which mean that the pod cannot be reached.
UNREACHABLE = {*range(223, 236), 237, *range(240, 250)}


class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        task_vars = task_vars or {}
        remote, delegate = self._find_pods(task_vars)
        self._remote = remote
        paths = [str(self._task.args.get(name, "")) for name in ("src", "dest")]
        if remote is None or any(":" in path.split("/")[0] or path.startswith("rsync://") for path in paths):
            return self._run_stock(task_vars)
        if not self._task.delegate_to and self._has_rsync(remote, task_vars):
            return self._run_stock(task_vars)
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(argument_spec=ARGUMENTS)
        if remote is delegate:
            raise AnsibleActionFail("podbridge cannot synchronize two paths of one pod; use copy with remote_src")
        options = self._options(arguments)
        ends = [(delegate, arguments["src"]), (remote, arguments["dest"])]
        if arguments["mode"] == "pull":
            ends = [(remote, arguments["src"]), (delegate, arguments["dest"])]
        (source, src), (sink, dest) = [(pod, self._path(pod, path)) for pod, path in ends]
        if not src.endswith("/") and (
            source.is_directory(src) if source else os.path.isdir(src) and not os.path.islink(src)
        ):
            # rsync copies the directory itself, and anchors patterns at its parent.
            name = os.path.basename(src)
            dest = os.path.join(dest, name)
            options["filters"] = [inside for rule in options["filters"] for inside in pattern_inside(name, *rule)]
        elif options["delete"] and not src.endswith("/"):
            options["delete"] = False  # rsync ignores `delete` for a single file, too
        if source is None and not os.path.lexists(to_bytes(src)):
            raise AnsibleActionFail(f"synchronize: {src} does not exist")
        if source is None or sink is None:
            result.update(self._sync(source, src, sink, dest, options))
            return result
        return {**result, **self._sync_between_pods(source, src, sink, dest, options)}

    def _run_stock(self, task_vars):
        """Runs the action of ansible.posix for this task, unchanged."""
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
            raise AnsibleActionFail("this task needs ansible.posix.synchronize; install the collection ansible.posix")
        return action.run(task_vars=task_vars)

    def _find_pods(self, task_vars):
        """Returns the connections to the pod of the host and to the pod that the task is delegated to.

        None stands for the controller. (None, None) means that the task is not for podbridge.
        """
        current = self._connection if uses_podbridge(self._connection) else None
        delegate = self._task.delegate_to
        if not delegate:
            return current, None
        if current is None and self._connection.transport != "local":
            return None, None
        host = task_vars["inventory_hostname"]
        variables = task_vars["hostvars"][host]
        if delegate in (host, variables.get("ansible_host")):
            return current, current
        context = self._play_context.copy()
        context.remote_addr = variables.get("ansible_host", host)
        connection = connection_loader.get(
            str(variables.get("ansible_connection", C.DEFAULT_TRANSPORT)), context, os.devnull
        )
        if not hasattr(type(connection), "podbridge_command"):
            return None, None
        connection.set_options(var_options=variables)
        return (connection, current) if uses_podbridge(connection) else (None, None)

    def _has_rsync(self, pod, task_vars):
        """Returns whether controller and pod have rsync; runs `rsync --version` in the pod."""
        if not shutil.which(task_vars.get("ansible_rsync_path") or "rsync"):
            return False
        if self._task.args.get("rsync_path"):  # the task names the program
            return True
        process = self._podbridge(
            [*pod.podbridge_command, "exec", *self._user(pod), pod.pod, "--", "rsync", "--version"]
        )
        raise_if_unreachable(process)
        return process.returncode == 0

    def _user(self, pod):
        """Returns the option --user of podbridge: the become_user of the task, else the user of the connection."""
        became = pod is self._remote and self._play_context.become
        user = self._play_context.become_user if became else pod.get_option("remote_user")
        return [f"--user={user}"] * bool(user)

    def _path(self, pod, path):
        """Returns the absolute path that rsync and the stock module would use."""
        if pod is not None:
            return to_text(self._remote_expand_user(path, sudoable=False)) if path.startswith("~") else path
        path = os.path.expandvars(os.path.expanduser(path))
        if path.startswith("/"):
            return path
        base = self._task._role._role_path if self._task._role else self._loader.get_basedir()
        found = self._loader.path_dwim_relative(base, "files", path)
        return found + "/" * (path.endswith("/") and not found.endswith("/"))

    def _options(self, arguments):
        """Returns the options for `podbridge sync`; raises AnsibleActionFail for an option that it does not support."""
        chosen = {**arguments, "dry_run": self._task.check_mode}
        filters = []
        # The stock module joins the options, and a shell splits them into words.
        words = iter(shlex.split(" ".join(arguments["rsync_opts"])))
        for word in words:
            name, _equals, value = word.removeprefix("--").partition("=")
            if word.startswith("--") and name in ("exclude", "include"):
                pattern = value or next(words, "")
                # `dir/***` means the directory and everything in it.
                patterns = [pattern[:-3], pattern[:-1]] if pattern.endswith("/***") else [pattern]
                filters += [(name, pattern) for pattern in patterns]
                continue
            letters = list(word[1:]) if word.startswith("-") and not word.startswith("--") else [name]
            for letter in letters:
                if letter not in RSYNC_FLAGS or value or not word.startswith("-"):
                    raise_unsupported(f"rsync_opts {word}")
                if RSYNC_FLAGS[letter]:
                    chosen.update([RSYNC_FLAGS[letter]])
        for name in ("existing_only", "copy_links", "rsync_path", "link_dest"):
            if chosen[name]:
                raise_unsupported(name)
        for name in ("recursive", "links", "perms", "times", "owner", "group"):
            if chosen[name] is None:
                chosen[name] = chosen["archive"]
        for name in ("recursive", "links", "perms", "times"):
            if not chosen[name]:
                raise_unsupported(f"{name}: false")
        if chosen["owner"] != chosen["group"]:
            raise_unsupported("owner without group, or group without owner")
        return {**chosen, "filters": filters}

    def _sync(self, source, src, sink, dest, options, *words):
        """Runs `podbridge sync` once, with these further words, and returns the result of the module."""
        pod = source or sink
        # As rsync -a, which the stock module runs: the destination directory gets the attributes of the source.
        attributes = "--preserve-root-attributes"
        command = [*pod.podbridge_command, "sync", "--quiet", "--verbose", attributes, *words, *self._user(pod)]
        flags = {"delete": options["delete"], "checksum": options["checksum"], "dry-run": options["dry_run"]}
        command += [f"--{flag}" for flag, wanted in {**flags, "no-owner": not options["owner"]}.items() if wanted]
        command += ["--compress=never"] * (not options["compress"])
        command += [f"--{kind}={pattern}" for kind, pattern in options["filters"]]
        command += [f"{pod.pod}:{path}" if end is pod else path for end, path in ((source, src), (sink, dest))]
        process = self._podbridge(command)
        raise_if_unreachable(process)
        out = to_text(process.stdout)
        result = {"rc": process.returncode, "cmd": shlex.join(command), "stdout_lines": out.splitlines()}
        if process.returncode:
            return {**result, "failed": True, "msg": failure_reason(process)}
        result.update(changed=bool(out), msg=out)
        if self._task.diff:
            result["diff"] = {"prepared": out}
        return result

    def _sync_between_pods(self, source, src, sink, dest, options):
        """Copies from pod to pod through a temporary directory of the controller; pods cannot reach each other."""
        with tempfile.TemporaryDirectory(dir=C.DEFAULT_LOCAL_TMP) as temporary:
            # For a directory `podbridge sync` ignores a slash at the end; for a single file the name matters.
            local = os.path.join(temporary, os.path.basename(src.rstrip("/")) or "root")
            # The directory above it is for this user alone, so what gives rights can pass through it.
            first = self._sync(source, src, None, local, {**options, "dry_run": False, "delete": False}, "--privileged")
            return first if first.get("failed") else self._sync(None, local, sink, dest, options)

    @staticmethod
    def _podbridge(command):
        """Runs podbridge and returns the completed process; raises AnsibleActionFail if it cannot be started."""
        try:
            return subprocess.run(
                [to_bytes(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, check=False
            )
        except OSError as error:
            raise AnsibleActionFail(
                f"cannot run {command[0]}: {error.strerror}; install podbridge or set ansible_podbridge_executable"
            ) from None


def uses_podbridge(connection):
    """Returns whether a connection is our plugin, on a host that has not opted out."""
    kind = type(connection)
    return hasattr(kind, "podbridge_command") and connection.transport == kind.transport


def pattern_inside(name, kind, pattern):
    """Translates a pattern that is anchored at the parent of the directory `name` into patterns anchored in it.

    Returns a list of (kind, pattern); it is empty if the pattern does not concern the directory.
    """
    if not pattern.startswith("/"):
        return [(kind, pattern)]
    first, _slash, rest = pattern[1:].partition("/")
    if first in (name, "*", "**"):
        if rest.strip("*/"):
            return [(kind, f"/{rest}")]
        return [(kind, "*")]  # everything in the directory
    if any(char in first for char in "*?["):
        raise_unsupported(f"the pattern {pattern} with a src that has no slash at its end")
    return []  # the pattern names another directory


def raise_unsupported(what):
    """Raises AnsibleActionFail for an option."""
    raise AnsibleActionFail(
        f"synchronize: podbridge does not support {what} without rsync; put rsync into the image or beside the agent"
    )


def failure_reason(process):
    """Returns the error message of podbridge, without its prefix."""
    text = (
        to_text(process.stderr).strip() or f"podbridge ended with exit code {process.returncode} and printed no reason"
    )
    return text.removeprefix("podbridge: ")


def raise_if_unreachable(process):
    """Raises AnsibleConnectionFailure if podbridge could not reach the pod."""
    if process.returncode in UNREACHABLE:
        raise AnsibleConnectionFailure(failure_reason(process))
