"""What a process does to itself before it runs a tool: bounds, seccomp, Landlock where that is the mechanism.

None of it can be taken back, and all of it is handed on to whatever the process starts. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

from core.errors import HandrailError
from handrail.sandbox import system_calls

MIN_LANDLOCK_ABI = 3  # from here on it also governs truncation
_SIGNALS_ABI = 6  # from here on it keeps signals within the sandbox
MAX_OPEN_FILES = 256

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_CHILD_SUBREAPER = 22, 24, 36
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

# Other processes, namespaces of one's own, the kernel's own machinery, and memory that nothing counts.
_NEVER = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "unshare", "setns"),
    *("io_uring_setup", "keyctl", "add_key", "request_key", "bpf", "perf_event_open", "userfaultfd"),
    *("memfd_create", "memfd_secret", "shmget", "shmat", "semget", "msgget", "mq_open"),
)
# Without namespaces also the network, and what Landlock does not see to: attributes and news of any file.
_NOT_OUTSIDE_NAMESPACES = (
    *("socket", "inotify_add_watch", "chown", "fchown", "lchown", "fchownat", "file_setattr"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
    *("removexattr", "lremovexattr", "fremovexattr", "removexattrat"),
)
# A session that the end does not reach; modes and times of any file, and the priority of all of a user's
# processes. Without an error: programs ask for it in passing, as when they copy a file.
_QUIETLY_NOT = (
    *("setsid", "setpgid", "setpriority", "ioprio_set"),
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "utime", "utimes", "futimesat", "utimensat"),
)
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
# Of a process; only 0, the caller itself, will do.
_OF_ITSELF = ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")
_CLONE_NEW = 0x7E020000  # every kind of namespace that clone can make
_ENOSYS = 38


class CannotConfine(HandrailError):
    """The kernel refused what the sandbox needs."""


_libc = ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """Return the version of Landlock that this kernel has, or 0."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, 1)))


def can_filter() -> bool:
    """Whether the numbers of this processor's system calls are known."""
    return platform.machine() in system_calls.MARKS


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process killed, or told, when whoever started it ends."""
    if sys.platform.startswith("linux"):
        _prctl(_PR_SET_PDEATHSIG, number)


def keep(scratch: str) -> None:
    """Fork; return in the child, and stay before it as what ends all of its group when the parent ends.

    The end of a parent is told to its own children only: what tools start would live on, and what they have
    left in `scratch`.
    """
    told = {signal.SIGTERM, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    end_with_parent(signal.SIGTERM)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os.closerange(0, MAX_OPEN_FILES)
    while signal.sigwait(told) == signal.SIGCHLD:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
    os.posix_spawnp("rm", ["rm", "-rf", "--", scratch], os.environ, setsid=True)
    os.killpg(0, signal.SIGKILL)


def bound(*, memory_bytes: int, cpu_s: int, processes: int | None) -> None:
    """Set the bounds of this process, and of each that it starts.

    Without namespaces there is none of `processes`: the kernel would count all that the user has.
    """
    for what, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, memory_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, resource.RLIM_INFINITY if processes is None else processes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        known = [one for one in (limit, hard) if one != resource.RLIM_INFINITY]
        most = min(known, default=resource.RLIM_INFINITY)
        # A second more until it is killed: the signal before that says why.
        last = most + 1 if what == resource.RLIMIT_CPU and most != hard else most
        resource.setrlimit(what, (most, last))


def give_up_privileges() -> None:
    """Drop every capability, for ever: a tool of root's is not to be root."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for capability in range(_LAST_CAPABILITY + 1):
        # Refused where there is none to drop, or no such one.
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    if _libc.capset(header, struct.pack("=6I", *(0,) * 6)) != 0:
        raise CannotConfine(f"capabilities cannot be dropped: {os.strerror(ctypes.get_errno())}")


def forbid_calls(*, namespaces: bool, landlock: int = 0) -> None:
    """Forbid system calls; without namespaces of one's own, more of them."""
    refused, quiet = list(_NEVER), list[str]()
    if not namespaces:
        refused += _NOT_OUTSIDE_NAMESPACES
        quiet += _QUIETLY_NOT
        if landlock < _SIGNALS_ABI:
            refused += _SIGNALS
    if not can_filter():
        raise CannotConfine(f"the system calls of {platform.machine()} are not known")
    _install(_program(platform.machine(), refused, quiet))


def _program(machine: str, refused: Iterable[str], quiet: Iterable[str]) -> bytes:
    """Return the filter: kill what speaks for another processor, refuse what is listed, allow the rest."""
    load, equal, at_least, has, give_back = 0x20, 0x15, 0x35, 0x45, 0x06
    kill, error, allow, not_permitted = 0x80000000, 0x00050000, 0x7FFF0000, 1
    number, mark, first = 0, 4, 16
    steps = [(load, 0, 0, mark), (equal, 1, 0, system_calls.MARKS[machine]), (give_back, 0, 0, kill)]
    # Where the processor has a second table of the same mark (x32), it begins here.
    steps += [(load, 0, 0, number), (at_least, 0, 1, 0x40000000), (give_back, 0, 0, kill)]
    # Its argument lies where no filter can read it; what is told so uses clone.
    answers = ((refused, not_permitted), (quiet, 0), (("clone3",), _ENOSYS))
    for names, answer in answers:
        for one in system_calls.numbers(machine, *names):
            steps += [(equal, 0, 1, one), (give_back, 0, 0, error | answer)]
    for names, test in ((("clone",), (has, 1, 0, _CLONE_NEW)), (_OF_ITSELF, (equal, 0, 1, 0))):
        for one in system_calls.numbers(machine, *names):
            steps += [(equal, 0, 4, one), (load, 0, 0, first), test]
            steps += [(give_back, 0, 0, allow), (give_back, 0, 0, error | not_permitted)]
    steps.append((give_back, 0, 0, allow))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _install(program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program)
    what = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SET_SECCOMP, 2, what)


def lock(read: Iterable[Path], listed: Iterable[Path], write: Iterable[Path]) -> int:
    """Let nothing be opened but these, from now on; return the version of Landlock that sees to it."""
    abi = landlock_abi()
    if abi < MIN_LANDLOCK_ABI:
        raise CannotConfine(f"this kernel's Landlock has version {abi}; {MIN_LANDLOCK_ABI} is needed")
    every = (1 << (16 if abi >= 5 else 15)) - 1
    handled = struct.pack("=QQQ", every, 0b11 if abi >= 4 else 0, 0b11 if abi >= _SIGNALS_ABI else 0)
    size = 24 if abi >= _SIGNALS_ABI else 16 if abi >= 4 else 8
    ruleset = _libc.syscall(_CREATE_RULESET, handled[:size], size, 0)
    if ruleset < 0:
        raise CannotConfine(f"Landlock refuses: {os.strerror(ctypes.get_errno())}")
    for path in read:
        # A link's own target is asked for by whoever follows it.
        if path.is_symlink():
            continue
        _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
    for path in listed:
        _allow(ruleset, path, _READ_DIR)
    for path in write:
        _allow(ruleset, path, every & ~(_MAKE_DEVICES | _IOCTL_DEV | _EXECUTE))
    for device in _DEVICES:
        _allow(ruleset, Path(device), _READ_FILE | _WRITE_FILE)
    if _libc.syscall(_RESTRICT_SELF, ruleset, 0) != 0:
        raise CannotConfine(f"Landlock refuses: {os.strerror(ctypes.get_errno())}")
    os.close(ruleset)
    # Whoever loses its parent becomes this process's child, and is counted and ended with it.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return abi


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        allowed = access if path.is_dir() else access & _OF_FILES
        if _libc.syscall(_ADD_RULE, ruleset, 1, struct.pack("=Qi", allowed, descriptor), 0) != 0:
            raise CannotConfine(f"Landlock refuses {path}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def _prctl(option: int, value: int, pointer: bytes | None = None) -> None:
    none = ctypes.c_ulong(0)
    if _libc.prctl(option, ctypes.c_ulong(value), none if pointer is None else pointer, none, none) != 0:
        raise CannotConfine(f"prctl {option}: {os.strerror(ctypes.get_errno())}")
