// A client of Tidemill on grpc-js, with message types loaded from the .proto at run time. Sends one recording by Feed and by Scan, and
// prints every event as one JSON object. Usage: node client.cjs ADDRESS PROTO_FOLDER PCM_FILE CHUNK_BYTES
"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos, pcmFile, chunkBytes] = process.argv.slice(2);
const pcm = fs.readFileSync(pcmFile);

const definition = loader.loadSync("tidemill/v1/inference.proto", {
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
  includeDirs: [protos],
});
const { InferenceService } = grpc.loadPackageDefinition(definition).tidemill.v1;
const client = new InferenceService(address, grpc.credentials.createInsecure());

const config = { model: "silero-vad", payload: "PAYLOAD_KIND_PCM_S16LE" };

/** Tensors' bytes as numbers, so that they survive JSON. */
function plain(event) {
  for (const tensor of event.result?.outputs?.tensors ?? []) {
    tensor.data = tensor.data.readFloatLE(0);
  }
  return event;
}

function events(call) {
  return new Promise((resolve, reject) => {
    const received = [];
    call.on("data", (event) => received.push(plain(event)));
    call.on("end", () => resolve(received));
    call.on("error", reject);
  });
}

/** Writes one message, and waits if the call says that its window is full. */
function write(call, message) {
  return new Promise((resolve) => (call.write(message) ? resolve() : call.once("drain", resolve)));
}

async function feed() {
  const call = client.Feed();
  const received = events(call);
  await write(call, { open: config });
  for (let at = 0; at < pcm.length; at += Number(chunkBytes)) {
    await write(call, { chunk: pcm.subarray(at, at + Number(chunkBytes)) });
  }
  await write(call, { flush: { id: "the end" } });
  call.end();
  return received;
}

async function main() {
  const scanned = await events(client.Scan({ config, pcm_s16le: pcm }));
  const fed = await feed();
  const failed = await events(client.Scan({ config: { ...config, model: "nope" }, pcm_s16le: pcm })).catch((error) => ({
    code: error.code,
    details: error.details,
  }));
  process.stdout.write(JSON.stringify({ scanned, fed, failed }));
  client.close();
}

main();
