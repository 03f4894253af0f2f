"""Modules of ansible.module_utils that are imported before a module needs them, and code that is compiled before it.
`interpreter.py` follows this text in the program of a warm interpreter, and calls what `_podbridge_modules` returns.

A module is held only if it is a file of ansible-core, and all that its import does is known: what it imports, which
values outside of ansible it replaces, which of its values are paths. The process that imports it has all this done
again, with its own paths, after it has compared the files.
"""


def _podbridge_modules(codes, core_files):
    import _imp
    import atexit
    import builtins
    import dis
    import gc
    import hashlib
    import importlib.machinery
    import locale
    import os
    import pathlib
    import resource
    import signal
    import socket
    import struct
    import sys
    import types
    import warnings
    import zipimport

    ARCHIVE = "/<podbridge>"  # stands for the path of the payload until there is one
    ORIGIN = ARCHIVE + "/"
    NEVER_KEPT = frozenset(("__cached__", "__loader__"))  # names of what differs from payload to payload
    ROOT = ("ansible", "ansible.module_utils")
    LIMITS = range(16)  # all limits of Linux

    held = {}  # name of a module: Held

    def footprint():
        """Returns what the import of a module may not change."""
        mask = os.umask(0o22)
        os.umask(mask)
        return [
            dict(os.environ),
            os.getcwd(),
            mask,
            os.listdir("/proc/self/task"),
            os.listdir("/proc/self/fd"),
            locale.setlocale(locale.LC_ALL),
            [signal.getsignal(number) for number in signal.valid_signals()],
            list(warnings.filters),
            (list(sys.path), list(sys.path_hooks), sys.getrecursionlimit(), sys.gettrace(), sys.getprofile()),
            [resource.getrlimit(number) for number in LIMITS],
            socket.getdefaulttimeout(),
            (gc.get_threshold(), gc.isenabled()),
            (set(vars(builtins)), atexit._ncallbacks()),
        ]

    class Values:
        """The values of the modules outside of ansible, to find who replaces one, and to put all back."""

        def __init__(self):
            modules = [module for module in list(sys.modules.values()) if isinstance(module, types.ModuleType)]
            self.modules = [(module, dict(vars(module))) for module in modules]
            self.replaced = {}  # module and name: first and last value
            self.is_doubtful = False

        def changes(self, importing):
            """Gives the changes since the last call to the module that is being imported."""
            for module, values in self.modules:
                now = vars(module)
                for name, value in values.items():
                    new = now.get(name, self)
                    if new is value:
                        continue
                    values[name] = new
                    first, _ = self.replaced.get((module, name), (value, None))
                    self.replaced[module, name] = first, new
                    owner = getattr(new, "__module__", None) or type(new).__module__
                    if new is not self and str(owner).partition(".")[0] == "ansible" and importing in held:
                        self.is_doubtful |= any(
                            module is other and name == known
                            for entry in held.values()
                            for other, known, _ in entry.patches
                        )
                        held[importing].patches.append((module, name, new))
                    elif not name.startswith("_"):
                        # Private values of others are caches, which fill again, or are set by the import system.
                        self.is_doubtful = True

        def put_back(self):
            for (module, name), (first, _) in self.replaced.items():
                setattr(module, name, first)

    class Held:
        """A module of ansible.module_utils that is imported already."""

        def __init__(self, module, key):
            self.module = module
            self.key = key
            self.imports = []  # names of modules of ansible that it imports, in this order
            self.patches = []  # values outside of ansible that it replaces: module, name, value
            self.importers = []  # what it has added to sys.meta_path
            self.references = []  # names of modules of ansible that are among its values
            self.stored = None  # digest of the file as the payload stores it, compressed
            self.paths = []  # values that are paths in the payload: name, value
            self.replacement = None  # name of the module that it puts in its place in sys.modules
            self.is_flat = False  # it has emptied its own __path__
            self.has_run = False  # in this process
            self.failed = False

    class Importer:
        """Finds the modules of one payload in memory, for the time of their first import."""

        def __init__(self, files, values):
            self.files = files
            self.values = values
            self.running = [None]

        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] != "ansible":
                return None
            base = name.replace(".", "/")
            for file in (base + "/__init__.py", base + ".py"):
                if file in self.files and (file in core_files or base == "ansible"):
                    spec = importlib.machinery.ModuleSpec(
                        name, self, origin=ORIGIN + file, is_package=file.endswith("/__init__.py")
                    )
                    spec.has_location = True
                    if spec.submodule_search_locations is not None:
                        spec.submodule_search_locations.append(ORIGIN + base)
                    return spec
            return None

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            name = module.__name__
            key = self.files[module.__spec__.origin[len(ORIGIN) :]]
            entry = held[name] = Held(module, key)
            code = codes.get(key)
            if code is None:
                entry.failed = True
                raise ImportError(name)
            paths = (module.__dict__.get("__path__"), list(module.__dict__.get("__path__") or []))
            finders = list(sys.meta_path)
            self.values.changes(self.running[-1])
            self.running.append(name)
            try:
                exec(code, module.__dict__)
            except BaseException:
                entry.failed = True
                raise
            finally:
                self.values.changes(self.running.pop())
            present = sys.modules.get(name)
            if present is not module:
                entry.replacement = getattr(present, "__name__", None)
                entry.failed |= sys.modules.get(entry.replacement) is not present
            entry.importers = [finder for finder in sys.meta_path if finder not in finders]
            entry.is_flat = (
                paths[0] is not None and module.__path__ == [] and module.__spec__.submodule_search_locations == []
            )
            changed = (
                module.__dict__.get("__path__") is not paths[0]
                or list(module.__dict__.get("__path__") or []) != paths[1]
            )
            entry.paths = [
                (key, value)
                for key, value in vars(module).items()
                if not key.startswith("__")
                and isinstance(value, (str, pathlib.PurePath))
                and str(value).startswith(ARCHIVE)
            ]
            # Each use of a path must have become one value, which can be set anew.
            uses = sum(instruction.argval == "__file__" for instruction in dis.get_instructions(code))
            entry.failed |= uses != len(entry.paths)
            if NEVER_KEPT.intersection(code.co_names) or (changed and not entry.is_flat) or module.__name__ != name:
                entry.failed = True

    def import_all(files):
        """Imports the modules of a payload, once. Notes what each of them imports."""
        real_import, real_import_module = builtins.__import__, importlib.import_module

        def note(importing, name):
            entry = held.get(importing)
            if entry and name.partition(".")[0] == "ansible" and name not in entry.imports:
                entry.imports.append(name)

        def noting_import(name, globals=None, locals=None, fromlist=(), level=0):
            importing = (globals or {}).get("__name__")
            full = name
            if level and globals:
                package = globals.get("__package__") or (
                    importing if "__path__" in globals else importing.rpartition(".")[0]
                )
                full = (
                    package.rsplit(".", level - 1)[0] + ("." + name if name else "")
                    if level > 1
                    else package + ("." + name if name else "")
                )
            try:
                result = real_import(name, globals, locals, fromlist, level)
            except BaseException:
                if importing in held and full.partition(".")[0] == "ansible":
                    held[importing].failed = True
                raise
            note(importing, full)
            for item in fromlist or ():
                if full + "." + item in sys.modules:
                    note(importing, full + "." + item)
                elif full in ROOT and importing in held:
                    held[importing].failed = True
            return result

        def noting_import_module(name, package=None):
            importing = sys._getframe(1).f_globals.get("__name__")
            if importing in held:
                held[importing].failed = True
            return real_import_module(name, package)

        names = sorted(name[:-3].replace("/", ".") for name in files if name in core_files)
        names = [name[: -len(".__init__")] if name.endswith(".__init__") else name for name in names]
        before, finders = footprint(), list(sys.meta_path)
        builtins.__import__, importlib.import_module = noting_import, noting_import_module
        values = Values()
        sys.meta_path.insert(0, Importer(files, values))
        try:
            for name in ["ansible.module_utils.basic", *names]:
                parent = name.rpartition(".")[0]
                # A submodule would be set in the module that has taken the place of its package.
                if getattr(sys.modules.get(parent), "__name__", parent) != parent:
                    continue
                try:
                    real_import_module(name)
                except BaseException:
                    pass
        finally:
            values.changes(None)
            values.put_back()
            builtins.__import__, importlib.import_module = real_import, real_import_module
            sys.meta_path[:] = finders
        for name in [name for name in sys.modules if name.partition(".")[0] == "ansible"]:
            del sys.modules[name]
        for name, entry in held.items():
            own = vars(entry.module)
            for child, module in list(own.items()):
                # The import of a submodule sets it in its package. Whoever imports it again sets it again.
                if (
                    isinstance(module, types.ModuleType)
                    and module.__name__ == name + "." + child
                    and module.__name__ not in entry.imports
                ):
                    del own[child]
            for attribute in ("__loader__", "__spec__", "__file__", "__path__", "__cached__", "__package__"):
                # The import system sets each that is None. A deleted one would ask the module's own __getattr__.
                if attribute in own:
                    own[attribute] = None
            modules = [value.__name__ for value in own.values() if isinstance(value, types.ModuleType)]
            entry.references = [module for module in modules if module in held]
        if values.is_doubtful or footprint() != before:
            raise ImportError("the import of the module's module_utils changes more than these")
        # A module is held only together with all that it imports. The packages around it are no import of it.
        lost = None
        while lost is None or lost:
            lost = [
                entry
                for entry in held.values()
                if not entry.failed
                and any(
                    held[i].failed
                    for i in entry.imports + entry.references
                    if i in held and (i not in ROOT or i in entry.references)
                )
            ]
            for entry in lost:
                entry.failed = True
        for name in [name for name, entry in held.items() if entry.failed]:
            del held[name]

    def hold(files):
        """Imports the module_utils of a payload, unless some are held.

        `files`: name and digest of each, and the digest of its stored form.
        """
        if not files or held or sys.version_info < (3, 10):
            return
        import_all({key[0]: key for key, _ in files})
        stored = dict(files)
        for entry in held.values():
            entry.stored = stored[entry.key]

    def stored_digest(content, offset, method, size):
        """Returns the digest of a file of a zip archive as it is stored: what is equal is equal in its method, too."""
        begin = offset + 30 + sum(struct.unpack_from("<HH", content, offset + 26))
        return hashlib.sha256(b"%d " % method + content[begin : begin + size]).digest()

    def usable_modules(archive, files):
        """Returns the names of the held modules whose file, and those of all that they import, a payload has, too."""
        with open(archive, "rb") as file:
            content = file.read()
        equal = set()
        for name, entry in held.items():
            toc = files.get(entry.key[0])
            if toc and (
                stored_digest(content, toc[4], toc[1], toc[2]) == entry.stored
                or hashlib.sha256(zipimport._get_data(archive, toc)).digest() == entry.key[1]
            ):
                equal.add(name)
        shrinks = True
        while shrinks:
            lost = {name for name in equal if any(i in held and i not in equal for i in held[name].imports)}
            equal -= lost
            shrinks = bool(lost)
        return equal

    def accelerate():
        """In the process of a module: makes the import from zip files find what is known."""
        compile_source = zipimport._compile_source

        def known_code(path, source):
            archive, _, name = path.rpartition(".zip/")
            code = codes.get((name, hashlib.sha256(source).digest())) if archive else None
            if code is None:
                return compile_source(path, source)
            _imp._fix_co_filename(code, path)
            return code

        zipimport._compile_source = known_code
        if not held:
            return
        importer = zipimport.zipimporter
        create_module, exec_module = importer.create_module, importer.exec_module
        get_module_code = zipimport._get_module_code
        usable = {}  # archive: names
        taken = set()

        def usable_in(finder):
            if finder.archive not in usable:
                try:
                    files = finder._get_files() if hasattr(finder, "_get_files") else finder._files
                    usable[finder.archive] = usable_modules(finder.archive, files)
                except Exception:
                    usable[finder.archive] = frozenset()
            return usable[finder.archive]

        def known_location(finder, name):
            entry = held.get(name)
            # zipimport reads a file to tell its path.
            if entry is None or name not in usable_in(finder):
                return get_module_code(finder, name)
            path, is_package = entry.key[0], entry.key[0].endswith("/__init__.py")
            if finder.prefix + name.rpartition(".")[2] + ("/__init__.py" if is_package else ".py") != path:
                return get_module_code(finder, name)
            path = os.path.join(finder.archive, path)
            _imp._fix_co_filename(codes[entry.key], path)
            return codes[entry.key], is_package, path

        def known_module(self, spec):
            entry = held.get(spec.name)
            if entry is None or spec.name in taken or spec.name not in usable_in(self):
                return create_module(self, spec)
            taken.add(spec.name)
            return entry.module

        def run_known_module(self, module):
            entry = held.get(module.__name__)
            if entry is None or entry.module is not module or entry.has_run:
                return exec_module(self, module)
            entry.has_run = True
            if module.__dict__.get("__cached__", "") is None:
                del module.__cached__
            if entry.is_flat:
                module.__path__ = []
                module.__spec__.submodule_search_locations = []
            sys.meta_path.extend(finder for finder in entry.importers if finder not in sys.meta_path)
            for name in entry.imports:
                if name not in sys.modules:
                    importlib.import_module(name)
            if entry.replacement:
                sys.modules[module.__name__] = sys.modules[entry.replacement]
            for name, value in entry.paths:
                setattr(module, name, type(value)(self.archive + str(value)[len(ARCHIVE) :]))
            for target, name, value in entry.patches:
                setattr(target, name, value)

        zipimport._get_module_code = known_location
        importer.create_module, importer.exec_module = known_module, run_known_module

    return ORIGIN, stored_digest, hold, accelerate
