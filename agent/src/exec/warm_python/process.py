"""The process of a module: what it does before the module comes, how it compiles the module and starts programs for it,
and how it ends. `interpreter.py` follows this text in the program of a warm interpreter, and calls what
`_podbridge_process` returns.

Nothing here has a consequence for the module but time. A process that was forked, and one that has forked, is slow
where it writes to a page for the first time, because the kernel copies that page.
"""


def _podbridge_process():
    import atexit
    import functools
    import gc
    import importlib
    import os
    import re
    import subprocess
    import sys
    import threading
    import types
    import warnings

    MADV_POPULATE_WRITE = 23  # Linux 5.14 and later
    PAYLOAD = re.compile(rb"""(?:\bZIPDATA = |\bzip_data=)b?(['"])([A-Za-z0-9+/=]+)\1""")

    try:
        madvise = importlib.import_module("ctypes").CDLL(None).madvise
        madvise.argtypes = [getattr(sys.modules["ctypes"], kind) for kind in ("c_size_t", "c_size_t", "c_int")]
    except Exception:
        madvise = None

    def own_memory():
        """Makes the pages that are shared with the interpreter this process's own, all at once, before a module comes.

        A module writes to more than half of them.
        """
        if madvise is None:
            return
        try:
            with open("/proc/self/maps", "rb") as maps:
                lines = maps.read().splitlines()
            for line in lines:
                addresses, mode, *rest = line.split()
                if mode == b"rw-p" and b"[stack]" not in rest:
                    begin, end = (int(address, 16) for address in addresses.split(b"-"))
                    madvise(begin, end - begin, MADV_POPULATE_WRITE)
        except Exception:
            pass

    def compiler(script, name):
        """Returns a call that compiles a module's script. The payload, which is nearly all of it, is not parsed."""
        whole = functools.partial(compile, script, name, "exec", 0, True)
        match = PAYLOAD.search(script)
        stand_in = "<podbridge payload>"
        if not match or stand_in.encode() in script:
            return whole
        payload = match.group(2).decode()
        count = [0]

        def restore(code):
            constants = []
            for constant in code.co_consts:
                if isinstance(constant, types.CodeType):
                    constant = restore(constant)
                elif isinstance(constant, str) and constant == stand_in:
                    constant = payload
                    count[0] += 1
                constants.append(constant)
            return code.replace(co_consts=tuple(constants))

        begin, end = match.span(2)
        with warnings.catch_warnings(record=True) as caught:
            try:
                code = restore(compile(script[:begin] + stand_in.encode() + script[end:], name, "exec", 0, True))
            except (SyntaxError, ValueError):
                return whole
        # What looks like the payload may be part of a longer text.
        return whole if caught or count[0] != 1 else code.replace

    # What `run_command` of module_utils has called in each process before its program starts. Python compiles a call
    # of a function of an imported module in a way of its own.
    PREEXEC = """
import os
def make(umask):
    def preexec():
        if umask:
            os.umask(umask)
    return preexec
"""

    def behaviour(code):
        """Returns all of a function's code that decides what a call does."""
        kinds = code.co_flags & 0xFF  # arguments, generators and the like; no features of the file
        names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
        return code.co_code, code.co_consts, names, code.co_argcount, code.co_kwonlyargcount, kinds

    defined = {}
    exec(PREEXEC, defined)
    IDLE = behaviour(defined["make"](None).__code__)

    def does_nothing(function):
        """Returns whether a call of this function is known to do nothing."""
        return (
            isinstance(function, types.FunctionType)
            and behaviour(function.__code__) == IDLE
            and not function.__closure__[0].cell_contents
        )

    def spare_forks():
        """Makes Python start programs without a copy of this process, where Ansible's `run_command` has it made only to
        call a function that does nothing."""
        owner, name = (
            (subprocess, "_fork_exec")
            if hasattr(subprocess, "_fork_exec")
            else (subprocess._posixsubprocess, "fork_exec")
        )
        fork_exec = getattr(owner, name)

        def fork_exec_alone(*arguments):
            return fork_exec(*(None if does_nothing(argument) else argument for argument in arguments))

        setattr(owner, name, fork_exec_alone)

    class Module:
        """The context in which a module runs. Ends its process at once: to free the memory object by object takes as
        long as the module itself."""

        def __init__(self, compiler, tell):
            self.compiler = compiler
            self.tell = tell  # called with the exit code
            self.loaded = set(sys.modules)
            self.exit_functions = atexit._ncallbacks()
            self.has_opened_library = False
            self.note_libraries()

        def note_libraries(self):
            """Makes ctypes, which is imported already, note that it opens a library."""
            ctypes = sys.modules.get("ctypes")
            open_library = getattr(ctypes, "_dlopen", None)
            if open_library is None:
                return

            def noting_open(*arguments):
                library = open_library(*arguments)
                self.has_opened_library = True
                return library

            ctypes._dlopen = noting_open

        def __enter__(self):
            return self.compiler

        def __exit__(self, kind, value, traceback):
            """Returns if Python has to end as it does, because something is left that has an end of its own."""
            try:
                status = getattr(value, "code", None)
                status = 0 if status is None else status
                if kind not in (None, SystemExit) or not isinstance(status, int) or status.bit_length() >= 32:
                    return
                if threading.active_count() > 1 or atexit._ncallbacks() != self.exit_functions:
                    return
                # Values that are local to functions of the module end here.
                while traceback:
                    try:
                        traceback.tb_frame.clear()
                    except RuntimeError:
                        pass
                    traceback = traceback.tb_next
                if value is not None:
                    value.__traceback__ = value.__context__ = value.__cause__ = None
                atexit._run_exitfuncs()
                if self.leaves_ends():
                    return
            except BaseException:
                return
            try:
                self.tell(status & 0xFF)
            finally:
                os._exit(status & 0xFF)

        def leaves_ends(self):
            """Returns whether more happens at the end of what is left than that memory is freed."""
            parts = []
            for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
                if stream.writable():
                    stream.flush()
                parts += [stream, stream.buffer, getattr(stream.buffer, "raw", None)]
            # Code that is not Python's may have its own way to keep data, as a database has.
            if self.has_opened_library:
                return True
            for name, module in list(sys.modules.items()):
                if name not in self.loaded and not str(getattr(module, "__file__", None) or ".py").endswith(".py"):
                    return True
            objects = gc.get_objects()
            final = {kind for kind in set(map(type, objects)) if hasattr(kind, "__del__")}
            parts = set(map(id, parts))
            return any(
                (type(value) in final and id(value) not in parts)
                or (isinstance(value, type) and "__del__" in vars(value))
                for value in objects
            )

    return PAYLOAD, own_memory, compiler, spare_forks, Module
