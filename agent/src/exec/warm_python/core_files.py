"""The files that ansible-core 2.16 to 2.21 has in `ansible.module_utils`. `modules.py` follows this text in the program
of a warm interpreter, and imports no other file before a module needs it: what the import of a role's or a user's file
does is not known. A file of a newer core that is missing here runs in each module, which takes longer.
"""


def _podbridge_core_files():
    """Returns their names in the payload of a module."""
    # Each line: a directory and the files in it; a line that is indented continues the one before.
    directories = """
.: __init__ _text ansible_release api basic connection datatag embed errors json_utils pycompat24 service
  splitter testing urls yumdnf
_embed: __init__ dnf
_internal: __init__ _ambient_context _dataclass_validation _debugging _deprecator _errors _event_utils _messages
  _no_six _plugin_info _stack _testing _text_utils _traceback _validation
_internal/_ansiballz: __init__ _loader _respawn _respawn_wrapper
_internal/_ansiballz/_extensions: __init__ _coverage _debugpy _pydevd
_internal/_concurrent: __init__ _daemon_threading _futures
_internal/_datatag: __init__ _tags
_internal/_json: __init__ _legacy_encoder
_internal/_json/_profiles: __init__ _fallback_to_str _module_legacy_c2m _module_legacy_m2c _module_modern_c2m
  _module_modern_m2c _tagless
_internal/_patches: __init__ _dataclass_annotation_patch _socket_patch _sys_intern_patch
common: __init__ _collections_compat _json_compat _utils arg_spec collections dict_transformations file json
  locale network parameters process respawn sentinel sys_info validation warnings yaml
common/text: __init__ converters formatters
compat: __init__ _selectors2 datetime importlib paramiko selectors selinux typing version
csharp: __init__
distro: __init__ _distro
facts: __init__ ansible_collector collector compat default_collectors namespace packages sysctl timeout utils
facts/hardware: __init__ aix base darwin dragonfly freebsd hpux hurd linux netbsd openbsd sunos
facts/network: __init__ aix base darwin dragonfly fc_wwn freebsd generic_bsd hpux hurd iscsi linux netbsd nvme
  openbsd sunos
facts/other: __init__ facter ohai
facts/system: __init__ apparmor caps chroot cmdline date_time distribution dns env fips loadavg local lsb
  pkg_mgr platform python selinux service_mgr ssh_pub_keys systemd user
facts/virtual: __init__ base dragonfly freebsd hpux linux netbsd openbsd sunos sysctl
parsing: __init__ convert_bool
powershell: __init__
six: __init__
"""
    files = set()
    for line in directories.replace("\n  ", " ").split("\n"):
        directory, _, names = line.partition(": ")
        base = "ansible/module_utils/" + ("" if directory == "." else directory + "/")
        files.update(base + name + ".py" for name in names.split())
    return frozenset(files)
