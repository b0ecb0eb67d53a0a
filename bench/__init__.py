"""Handrail's benchmarks: `python -m bench --help`. Not part of the package, and imports nothing of it here."""  # noqa: E501

import os

# The bench starts processes while it talks gRPC; gRPC's fork handlers are for those that go on without exec.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
