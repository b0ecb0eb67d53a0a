"""What the gateway answers about who calls."""

from __future__ import annotations

from typing import Any

from handrail.v1 import auth_service_pb2, auth_service_pb2_grpc
from orchestrator.callers import caller


class AuthService(auth_service_pb2_grpc.AuthServiceServicer):
    """Says whom a token names."""

    async def WhoAmI(
        self, request: auth_service_pb2.WhoAmIRequest, context: Any
    ) -> auth_service_pb2.WhoAmIResponse:
        """Answer from the token that came with the call."""
        who = caller()
        response = auth_service_pb2.WhoAmIResponse(
            name=who.name, tenant=who.tenant, roles=sorted(who.roles), speaks_for_all=who.speaks_for_all
        )
        if who.ends_ns:
            response.ends.FromNanoseconds(who.ends_ns)
        return response
