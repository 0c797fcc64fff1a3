"""Calls built from what a server says about itself."""

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


class Reflected:
    """A client without stubs."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self._pool = descriptor_pool.DescriptorPool(self.database)

    def message(self, name: str):
        return message_factory.GetMessageClass(self._pool.FindMessageTypeByName(name))

    def method(self, service: str, name: str):
        method = self._pool.FindServiceByName(service).methods_by_name[name]
        mode = "_".join("stream" if streams else "unary" for streams in (method.client_streaming, method.server_streaming))
        return getattr(self._channel, mode)(
            f"/{service}/{name}",
            message_factory.GetMessageClass(method.input_type).SerializeToString,
            message_factory.GetMessageClass(method.output_type).FromString,
        )
