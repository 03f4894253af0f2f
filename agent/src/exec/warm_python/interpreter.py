"""The program of a warm interpreter, after the texts of `core_files.py`, `modules.py` and `process.py`. The agent runs
it through the command of an exec, on standard input, as if it were that exec's module.

Standard output is a socket to the agent. The interpreter imports, compiles and forks; it never runs a module. Each
module has a leader, which stands in for the shell of the command and is a child of the agent, and a child of the leader
that becomes the module's process. Both are forked before the module is known, and wait. Messages are packets; the first
byte is the kind.

  to the interpreter    S + socket       fork a leader and its child, which wait for a module at that socket
                        L + file         learn the files of the Ansible module in that file
  from it               H, then paths    ready; depends on these files and directories; the first is its executable
                        U, then reason   cannot serve
                        L, then paths    learned; depends on these files, too
  from the child        B + two pids     forked; the leader is the agent's child as soon as R comes
  from the interpreter  R                (on the same socket)
  to the child          P                copy the memory that is shared with the interpreter, before a module comes
  to the child          X + mark + path  take this mark and the standard streams; the module is in the file, or on stdin
  from the child        K                taken; not a byte of the module has been read
  to the child          G                run the module
"""


def _podbridge(pristine):
    import sys

    # Ansible's wrapper removes the working directory before it imports anything.
    has_directory = sys.path[:1] == [""]
    if has_directory:
        del sys.path[0]
    for name in ("_podbridge", "_podbridge_core_files", "_podbridge_modules", "_podbridge_process"):
        del pristine[name]
    pristine["__doc__"] = None

    try:
        import _imp
        import array
        import base64
        import gc
        import hashlib
        import importlib.machinery
        import io
        import marshal
        import mmap
        import os
        import resource
        import signal
        import socket
        import struct
        import warnings
        import zipfile
        import zipimport

        control = socket.socket(fileno=os.dup(1))
    except Exception:
        os._exit(1)

    MARK = 10  # RLIMIT_LOCKS
    AWAITED = (signal.SIGCHLD, signal.SIGUSR1)  # by a leader
    MOST_CODE = 8 << 20  # bytes of code that are kept

    codes = {}  # name in the zip and digest of the source: code
    code_size = [0]
    ORIGIN, stored_digest, hold, accelerate = _podbridge_modules(codes, _podbridge_core_files())  # noqa: F821
    PAYLOAD, own_memory, compiler, spare_forks, Module = _podbridge_process()  # noqa: F821

    # Where the shell has become Python, the module's process is the leader itself.
    is_leader = os.getsid(0) == os.getpid()

    def say(kind, payload=b""):
        control.send(kind + payload)

    def refuse(reason):
        say(b"U", reason.encode())
        os._exit(1)

    def receive(channel, descriptors):
        """Returns a message and its descriptors; an empty message at the end."""
        size = array.array("i").itemsize
        message, control_data, _, _ = channel.recvmsg(
            8192, socket.CMSG_SPACE(descriptors * size), socket.MSG_CMSG_CLOEXEC
        )
        received = array.array("i")
        for level, kind, data in control_data:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received.frombytes(data[: len(data) - len(data) % size])
        return message, list(received)

    def threads():
        return len(os.listdir("/proc/self/task"))

    def named_directories(directory, name):
        """Returns the directories that a .pth file names. Python takes those that exist when it starts."""
        if not name.endswith(".pth"):
            return []
        with open(os.path.join(directory, name), "rb") as file:
            lines = [os.fsdecode(line).strip() for line in file.read().splitlines()]
        return [os.path.join(directory, line) for line in lines if not line.startswith(("#", "import ", "import\t"))]

    def dependencies():
        """Returns the paths whose change makes this interpreter outdated."""
        paths = {"/etc/localtime", "/etc/nsswitch.conf", "/etc/ld.so.cache", "/etc/ld.so.preload"}
        paths.update(("/usr/lib/locale", "/usr/lib/locale/locale-archive"))
        paths.update(("/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/pki/tls/openssl.d"))
        # Fedora's openssl.cnf includes the files of the policy in use.
        paths.update(("/etc/crypto-policies/back-ends", "/etc/crypto-policies/back-ends/opensslcnf.config"))
        paths.add(os.environ.get("OPENSSL_CONF", ""))
        time_zones = os.environ.get("TZDIR", "/usr/share/zoneinfo")
        paths.add(os.path.join(time_zones, os.environ.get("TZ", "").lstrip(":")))
        paths.update(("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"))
        paths.update(os.environ.get("LD_LIBRARY_PATH", "").split(":"))
        for directory in {
            os.path.dirname(sys.executable),
            sys.prefix,
            sys.exec_prefix,
            os.path.dirname(os.path.dirname(sys.executable)),
        }:
            paths.add(os.path.join(directory, "pyvenv.cfg"))
        site = sys.modules.get("site")
        user_site = getattr(site, "USER_SITE", None)
        directories = [path for path in [*sys.path, user_site, *getattr(site, "PREFIXES", [])] if isinstance(path, str)]
        for directory in directories:
            paths.add(directory)
            try:
                starters = [name for name in os.listdir(directory) if name.endswith((".pth", "._pth", "customize.py"))]
                paths.update(os.path.join(directory, name) for name in starters)
                for name in starters:
                    paths.update(named_directories(directory, name))
            except OSError:
                pass
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None)
            if isinstance(path, str) and not path.startswith(ORIGIN):
                paths.add(path)
            if getattr(getattr(module, "__spec__", None), "submodule_search_locations", None):
                paths.update(path for path in module.__spec__.submodule_search_locations if not path.startswith(ORIGIN))
        with open("/proc/self/maps", "rb") as maps:
            mapped = {line.split(None, 5)[5].rstrip(b"\n") for line in maps if b"/" in line}
        mapped.update(os.fsencode(path) for path in paths if os.path.isabs(path))
        return b"\0".join([os.fsencode(sys.executable), *mapped])

    def compile_payload(script):
        """Returns for each file of a module's payload: its name, the digests of its two forms, and its code."""
        match = PAYLOAD.search(script)
        content = base64.b64decode(match.group(2)) if match else b""
        files = []
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".py"):
                    continue
                source = archive.read(info)
                key = (info.filename, hashlib.sha256(source).digest())
                code = None
                if key not in codes:
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        try:
                            code = zipimport._compile_source(ORIGIN + info.filename, source)
                        except Exception:
                            pass
                    # Python prints the warning of a file whenever it compiles it.
                    if caught:
                        code = None
                files.append(
                    (key, stored_digest(content, info.header_offset, info.compress_type, info.compress_size), code)
                )
        return files

    def learn(descriptor):
        """Takes the code of a payload's files, and imports its module_utils if none are imported yet. Raises an error
        if their import changes more than themselves: then this interpreter may run no module.

        Another process compiles: a compiler leaves much memory behind.
        """
        reader, writer = os.pipe()
        compiler = os.fork()
        if not compiler:
            try:
                with open(descriptor, "rb") as file:
                    files = compile_payload(file.read())
                with open(writer, "wb") as pipe:
                    marshal.dump(files, pipe)
            finally:
                os._exit(0)
        os.close(writer)
        os.close(descriptor)
        with open(reader, "rb") as pipe:
            content = pipe.read()
        os.waitpid(compiler, 0)
        files = marshal.loads(content) if content and code_size[0] < MOST_CODE else []
        code_size[0] += len(content)
        for key, _, code in files:
            if code is not None:
                codes[key] = code
        hold([(key, stored) for key, stored, _ in files])

    def lead(child, told):
        """Waits for the process of the module as a shell does, and ends as it reports that end.

        The process tells its exit code before it ends: the kernel takes long to free its memory.
        """
        for number in (signal.SIGINT, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        null = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.closerange(3, 64)
        while True:
            if signal.sigwait(AWAITED) == signal.SIGUSR1:
                if told[0]:
                    os._exit(told[1])
                # It is not from the process, and ends a shell.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
                os.kill(os.getpid(), signal.SIGUSR1)
            pid, status = os.waitpid(child, os.WNOHANG)
            if not pid:
                continue
            if os.WIFEXITED(status):
                os._exit(os.WEXITSTATUS(status))
            if os.WIFSIGNALED(status):
                os._exit(128 + os.WTERMSIG(status))

    def set_oom_score(pid, score):
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(score)

    def become_module(channel, told):
        """Waits for a module; returns what compiles it and ends it, for the only frame that is left."""
        own, leader = os.getpid(), os.getpid() if is_leader else os.getppid()

        def tell(status):
            """Tells the leader the exit code of this process before it ends. Copies of it have nothing to tell."""
            if told and (os.getpid(), os.getppid()) == (own, leader):
                os.closerange(0, 3)
                told[1], told[0] = status, 1
                os.kill(leader, signal.SIGUSR1)

        channel.send(b"B" + struct.pack("=ii", leader, os.getpid()))
        message, descriptors = receive(channel, 3)
        while message == b"P":
            own_memory()
            message, descriptors = receive(channel, 3)
        if message[:1] != b"X" or len(descriptors) != 3:
            os._exit(0)
        try:
            mark = (struct.unpack("=Q", message[1:9])[0], resource.RLIM_INFINITY)
            path = os.fsdecode(message[9:])
            for pid in (leader, 0):
                resource.prlimit(pid, MARK, mark)
            for pid in (leader, "self"):
                set_oom_score(pid, oom_score)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            if path:
                with open(path, "rb") as file:
                    script = file.read()
            channel.send(b"K")
            if receive(channel, 0)[0] != b"G":
                os._exit(0)
        except Exception:
            os._exit(1)
        channel.close()
        main = dict(pristine)
        if has_directory:
            sys.path.insert(0, os.path.dirname(os.path.realpath(path)) if path else "")
        if path:
            sys.argv[:] = [path]
            if hasattr(sys, "orig_argv"):
                sys.orig_argv.append(path)
            # Standard input is no pipe here, and the file object has noted what it was.
            buffer = open(0, "rb", closefd=False)
            buffer.raw.name = "<stdin>"
            stdin = io.TextIOWrapper(buffer, sys.stdin.encoding, sys.stdin.errors, "\n", sys.stdin.line_buffering)
            stdin.mode = "r"
            sys.stdin = sys.__stdin__ = stdin
            main.update(__file__=path, __loader__=importlib.machinery.SourceFileLoader("__main__", path))
        else:
            parts = []
            while not parts or parts[-1]:
                parts.append(os.read(0, 1 << 20))
            script = b"".join(parts)
        sys.path_importer_cache.clear()
        for name in ("logging", "linecache"):
            module = sys.modules.get(name)
            if name == "logging" and module:
                import time

                module._startTime = time.time_ns() if isinstance(module._startTime, int) else time.time()
            elif module:
                module.clearcache()
        accelerate()
        spare_forks()
        namespace = sys.modules["__main__"].__dict__
        namespace.clear()
        namespace.update(main)
        return Module(compiler(script, path or "<stdin>"), tell)

    def fork_leader(channel):
        """Forks a leader and its child. Returns the module in the child, and nothing in the interpreter."""
        first = os.fork()
        if first:
            os.waitpid(first, 0)
            channel.send(b"R")
            return None
        try:
            control.close()
            if os.fork():
                os._exit(0)
            os.setsid()
            if is_leader:
                return become_module(channel, None)
            told = mmap.mmap(-1, 2)
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
            child = os.fork()
            if child:
                lead(child, told)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            return become_module(channel, told)
        except BaseException:
            os._exit(1)

    try:
        with open("/proc/self/oom_score_adj") as file:
            oom_score = file.read().strip()
        if sys.implementation.name != "cpython" or sys.version_info < (3, 8):
            refuse("it is no CPython 3.8 or newer")
        if not getattr(sys, "_is_gil_enabled", lambda: True)():
            refuse("it has no global interpreter lock")
        # These are the seams that known code is given through.
        seams = ((zipimport, "_compile_source"), (zipimport, "_get_module_code"), (_imp, "_fix_co_filename"))
        if not all(callable(getattr(module, name, None)) for module, name in seams):
            refuse("its zipimport is unknown")
        for name in (
            "datetime",
            "encodings.cp437",
            "glob",
            "json",
            "runpy",
            "shutil",
            "subprocess",
            "tempfile",
            "zlib",
            "platform",
            "shlex",
            "logging",
        ):
            importlib.import_module(name)
        if threads() != 1:
            refuse("its start-up files start threads")
        if os.path.samefile("/proc/self/exe", sys.executable) is False:
            refuse("its path leads to a launcher")
        resource.prlimit(0, MARK, resource.prlimit(0, MARK))
        set_oom_score("self", "1000")
        set_oom_score("self", oom_score)
        set_oom_score("self", "1000")
    except Exception as error:
        refuse(f"{type(error).__name__}: {error}")
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.close(null)
    gc.collect()
    say(b"H", dependencies())
    while True:
        message, descriptors = receive(control, 1)
        if message == b"S" and descriptors:
            channel = socket.socket(fileno=descriptors[0])
            gc.freeze()
            module = fork_leader(channel)
            channel.close()
            if module:
                return module
        elif message == b"L" and descriptors:
            try:
                learn(descriptors[0])
            except Exception as error:
                refuse(f"{type(error).__name__}: {error}")
            gc.collect()
            say(b"L", dependencies())
        else:
            os._exit(0)


try:
    with _podbridge(dict(globals())) as _podbridge_compile:
        exec(globals().pop("_podbridge_compile")(), globals())
except (SystemExit, KeyboardInterrupt):
    raise
except BaseException as error:
    _podbridge_error = error.with_traceback(error.__traceback__.tb_next)
# As at the end of any program: no exception is being handled while the hook runs.
if "_podbridge_error" in globals():
    import sys

    sys.excepthook(type(_podbridge_error), _podbridge_error, _podbridge_error.__traceback__)
    raise SystemExit(1)
