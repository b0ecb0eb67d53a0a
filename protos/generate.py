"""Generate `handrail/v1` from `protos/`, or with --check fail if what is committed has drifted.

The generated code and its .pyi files are committed, so that installing Handrail needs no compiler.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "handrail" / "v1"


def generate(out: Path) -> None:
    """Write the Python, .pyi and gRPC modules of every proto under `out`."""
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    scripts = sysconfig.get_path("scripts")
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    flags = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *flags, *files]
    subprocess.run(command, cwd=PROTOS, env=environment, check=True)


def lint() -> None:
    """Lint the protos with buf."""
    subprocess.run([str(Path(sysconfig.get_path("scripts")) / "buf"), "lint"], cwd=PROTOS, check=True)


def read(folder: Path) -> dict[str, bytes]:
    """Return the generated files of a folder by name."""
    found = {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if "_pb2" in p.name}
    # A proto without a service has nothing to say over gRPC.
    silent = {
        name.split("_pb2")[0]
        for name, text in found.items()
        if name.endswith("_grpc.py") and b"Stub" not in text
    }
    return {
        name: text
        for name, text in found.items()
        if "_grpc" not in name or name.split("_pb2")[0] not in silent
    }


def main() -> int:
    """Generate into the package, or compare with it."""
    lint()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = read(Path(scratch) / "handrail" / "v1")
    if "--check" in sys.argv[1:]:
        drifted = sorted(
            name for name in fresh.keys() | read(TARGET).keys() if fresh.get(name) != read(TARGET).get(name)
        )
        if drifted:
            print(
                f"generated code has drifted: {', '.join(drifted)}; run `make protos` and commit the result"
            )
        return 1 if drifted else 0
    for name in read(TARGET).keys() - fresh.keys():
        (TARGET / name).unlink()
    for name, content in fresh.items():
        (TARGET / name).write_bytes(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
