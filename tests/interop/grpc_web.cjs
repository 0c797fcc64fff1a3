// The official gRPC-Web client, in its text and its binary mode, with an XMLHttpRequest for node. The messages are those that protoc-gen-es
// makes from proto/. Prints what each mode got as one JSON object. Usage: node grpc_web.cjs ADDRESS GENERATED_FOLDER PCM_FILE
"use strict";

global.XMLHttpRequest = require("xhr2");

const fs = require("node:fs");
const path = require("node:path");
const { create, fromBinary, toBinary } = require("@bufbuild/protobuf");
const { GrpcWebClientBase, MethodDescriptor, MethodType } = require("grpc-web");

const [address, generated, pcmFile] = process.argv.slice(2);
const inference = require(path.join(generated, "tidemill/v1/inference_pb.js"));
const pcm = new Uint8Array(fs.readFileSync(pcmFile));
const model = "silero-vad";

function method(name, type) {
  const { input, output } = inference.InferenceService.method[name];
  const path = `/tidemill.v1.InferenceService/${name[0].toUpperCase()}${name.slice(1)}`;
  const encode = (message) => toBinary(input, create(input, message));
  return [path, new MethodDescriptor(path, type, Object, Object, encode, (bytes) => fromBinary(output, bytes))];
}

function probability(outputs) {
  const { data } = outputs.tensors[0];
  return new DataView(data.buffer, data.byteOffset).getFloat32(0, true);
}

function predict(client, request, metadata = {}) {
  const [path, descriptor] = method("predict", MethodType.UNARY);
  return new Promise((resolve) => {
    client.rpcCall(`http://${address}${path}`, request, metadata, descriptor, (error, response) => {
      resolve(error ? { code: error.code, message: error.message } : probability(response.outputs));
    });
  });
}

function scan(client, request) {
  const [path, descriptor] = method("scan", MethodType.SERVER_STREAMING);
  const found = { events: [], probabilities: [] };
  return new Promise((resolve) => {
    const stream = client.serverStreaming(`http://${address}${path}`, request, {}, descriptor);
    stream.on("data", ({ event }) => {
      found.events.push(event.case);
      if (event.case === "result") {
        found.probabilities.push(probability(event.value.outcome.value));
      }
    });
    stream.on("error", ({ code }) => resolve({ code }));
    stream.on("end", () => resolve(found));
  });
}

async function main() {
  const window = { case: "pcmS16le", value: pcm.subarray(0, 1024) };
  const all = {};
  for (const format of ["text", "binary"]) {
    const client = new GrpcWebClientBase({ format });
    all[format] = {
      predicted: await predict(client, { model, payload: window }),
      scanned: await scan(client, { config: { model }, payload: { case: "pcmS16le", value: pcm } }),
      unknown: await predict(client, { model: "nobody", payload: window }),
      unknown_stream: await scan(client, { config: { model: "nobody" }, payload: window }),
    };
  }
  console.log(JSON.stringify(all));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
