"""The command line that starts a process under bubblewrap."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from handrail.sandbox.places import Places

EGRESS_PATH = Path("/run/handrail/egress")
_NAMESPACES = (
    *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
    *("--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
    *("--hostname", "sandbox"),
)


def command_line(
    binary: str,
    command: Sequence[str],
    *,
    places: Places,
    directory: Path,
    scratch_bytes: int,
    egress: Path | None,
) -> list[str]:
    """Return the command that runs another one with nothing around it but what is listed.

    Its environment is the one that this command is given: on the command line others would read it.
    """
    arguments = [binary, *_NAMESPACES, "--proc", "/proc", "--dev", "/dev"]
    for scratch in ("/dev/shm", "/tmp"):
        arguments += ["--size", str(scratch_bytes), "--tmpfs", scratch]
    for path in places.read:
        # A link stays a link: it leads to what exists inside, and nowhere else.
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), str(path)]
        else:
            arguments += ["--ro-bind-try", str(path), str(path)]
    for path in places.write:
        arguments += ["--bind", str(path), str(path)]
    if egress is not None:
        arguments += ["--bind", str(egress), str(EGRESS_PATH)]
    # What the places above lie in is of bubblewrap's own making, and could be written to; /dev without a
    # bound, and what root writes to /proc/sys would hold for the machine.
    for made in ("/", "/dev", "/proc"):
        arguments += ["--remount-ro", made]
    return [*arguments, "--chdir", str(directory), "--", *command]
