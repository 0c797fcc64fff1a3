// Finds speech in raw audio from standard input as it arrives: mono, signed 16-bit, 16 kHz. feed.js [ADDRESS [PROTO_FOLDER]]
import { once } from "node:events";
import * as grpc from "@grpc/grpc-js";
import * as loader from "@grpc/proto-loader";
import type { ProtoGrpcType } from "./stubs/inference";
import type { FeedResponse__Output } from "./stubs/tidemill/v1/FeedResponse";

const [address = "127.0.0.1:50051", protos = "proto"] = process.argv.slice(2);
const options = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true, includeDirs: [protos] };
const definition = loader.loadSync("tidemill/v1/inference.proto", options);
const { tidemill } = grpc.loadPackageDefinition(definition) as unknown as ProtoGrpcType;
const client = new tidemill.v1.InferenceService(address, grpc.credentials.createInsecure());

const call = client.Feed();
call.on("data", ({ segment, completed }: FeedResponse__Output) => {
  if (segment) console.log(`speech ${segment.start_ms} ms to ${segment.end_ms} ms`);
  if (completed) console.log(`${completed.ok} windows, ${completed.errors} errors`);
});
call.on("error", (error: grpc.ServiceError) => {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exit(1);
});
call.on("end", () => client.close());

async function send() {
  // The first message opens the stream.
  call.write({ open: { model: "silero-vad", payload: "PAYLOAD_KIND_PCM_S16LE" } });
  for await (const chunk of process.stdin) {
    // Otherwise what a full window holds back would be kept in memory.
    if (!call.write({ chunk })) await once(call, "drain");
  }
  call.end();
}
send();
