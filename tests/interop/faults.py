"""Reads what the server says is wrong from the status of a call or an item."""

import dataclasses

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "tidemill"

CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclasses.dataclass(frozen=True)
class Fault:
    """A parsed `google.rpc.Status`."""

    code: grpc.StatusCode
    message: str
    domain: str | None = None
    reason: str | None = None
    # Of BadRequest.
    fields: tuple[str, ...] = ()
    # Of QuotaFailure.
    limits: tuple[str, ...] = ()
    retry_after: duration_pb2.Duration | None = None

    def check(self, code: grpc.StatusCode, reason: str, *fragments: str, field: str | None = None) -> None:
        """Checks the fault's code, its machine-readable reason, words of its message, and the field that it names."""
        assert (self.code, self.reason, self.domain) == (code, reason, DOMAIN), self
        for fragment in fragments:
            assert fragment.lower() in self.message.lower(), f"{fragment!r} is not in {self}"
        if field is not None:
            assert any(name.endswith(field) for name in self.fields), f"field {field!r} is not named in {self}"


def of_status(status: status_pb2.Status) -> Fault:
    parts: dict = {}
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            parts |= {"domain": info.domain, "reason": info.reason}
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            parts["fields"] = tuple(violation.field for violation in violations)
        elif detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
            violations = error_details_pb2.QuotaFailure.FromString(detail.value).violations
            parts["limits"] = tuple(violation.subject for violation in violations)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            parts["retry_after"] = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
    return Fault(CODES[status.code], status.message, **parts)


def of_call(error: grpc.RpcError) -> Fault:
    """Of a call that failed; its plain status and the detailed one must agree."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            fault = of_status(status_pb2.Status.FromString(value))
            assert (fault.code, fault.message) == (error.code(), error.details())
            return fault
    return Fault(error.code(), error.details())


def of_item(result) -> Fault:
    assert result.WhichOneof("outcome") == "error", result
    return of_status(result.error)
