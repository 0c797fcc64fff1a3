"""Finds speech in raw audio from standard input as it arrives: mono, signed 16-bit, 16 kHz. feed.py [ADDRESS]"""

import sys

import grpc
from tidemill.v1 import inference_pb2 as pb
from tidemill.v1 import inference_pb2_grpc as rpc


def requests():
    # The first message opens the stream. grpcio asks for the next one when the last has gone out, so a full window makes this wait.
    yield pb.FeedRequest(open=pb.StreamConfig(model="silero-vad", payload=pb.PAYLOAD_KIND_PCM_S16LE))
    # Without a buffer, a read gives what there is.
    audio = open(0, "rb", buffering=0)
    while chunk := audio.read(3200):
        yield pb.FeedRequest(chunk=chunk)


address = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"
with grpc.insecure_channel(address) as channel:
    try:
        for event in rpc.InferenceServiceStub(channel).Feed(requests()):
            match event.WhichOneof("event"):
                case "segment":
                    print(f"speech {event.segment.start_ms} ms to {event.segment.end_ms} ms", flush=True)
                case "completed":
                    print(f"{event.completed.ok} windows, {event.completed.errors} errors")
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
