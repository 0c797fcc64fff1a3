// The clients of Connect for node and for browsers, by each protocol that they speak, with the code that protoc-gen-es makes from proto/.
// Prints what each of them got as one JSON object. Usage: node connect_clients.cjs ADDRESS GENERATED_FOLDER PCM_FILE
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { Code, ConnectError, createClient } = require("@connectrpc/connect");
const node = require("@connectrpc/connect-node");
const web = require("@connectrpc/connect-web");

const [address, generated, pcmFile] = process.argv.slice(2);
const { InferenceService, PayloadKind } = require(path.join(generated, "tidemill/v1/inference_pb.js"));
const { ModelService } = require(path.join(generated, "tidemill/v1/model_pb.js"));
const { ErrorInfoSchema } = require(path.join(generated, "google/rpc/error_details_pb.js"));
const pcm = new Uint8Array(fs.readFileSync(pcmFile));

const baseUrl = `http://${address}`;
const httpVersion = "1.1";
const transports = {
  "connect-node json": node.createConnectTransport({ baseUrl, httpVersion, useBinaryFormat: false, useHttpGet: true }),
  "connect-node binary": node.createConnectTransport({ baseUrl, httpVersion, useBinaryFormat: true, useHttpGet: true }),
  "connect-node gzip": node.createConnectTransport({
    baseUrl,
    httpVersion,
    sendCompression: node.compressionGzip,
    compressMinBytes: 100,
  }),
  "connect-node grpc-web": node.createGrpcWebTransport({ baseUrl, httpVersion }),
  "connect-web json": web.createConnectTransport({ baseUrl, useHttpGet: true }),
  "connect-web binary": web.createConnectTransport({ baseUrl, useBinaryFormat: true }),
  "connect-web grpc-web": web.createGrpcWebTransport({ baseUrl }),
};

const model = "silero-vad";

function probability(outputs) {
  const { data } = outputs.tensors[0];
  return new DataView(data.buffer, data.byteOffset).getFloat32(0, true);
}

/** How a call ends that must not end well. */
async function failure(call) {
  try {
    await call;
    return "it did not fail";
  } catch (error) {
    const { code, rawMessage: message } = ConnectError.from(error);
    const reasons = ConnectError.from(error).findDetails(ErrorInfoSchema).map((info) => info.reason);
    return { code: Code[code], message, reasons };
  }
}

async function scan(inference) {
  const found = { events: [], probabilities: [] };
  const request = { config: { model }, payload: { case: "pcmS16le", value: pcm } };
  for await (const { event } of inference.scan(request)) {
    found.events.push(event.case);
    if (event.case === "result") {
      found.probabilities.push(probability(event.value.outcome.value));
    }
  }
  return found;
}

/** Reads one event, and leaves. */
async function leave(inference) {
  const aborted = new AbortController();
  const request = { config: { model }, payload: { case: "pcmS16le", value: pcm } };
  return failure(
    (async () => {
      for await (const _ of inference.scan(request, { signal: aborted.signal })) {
        aborted.abort();
      }
    })(),
  );
}

async function* parts() {
  yield { part: { case: "open", value: { stream: { model, payload: PayloadKind.PCM_S16LE } } } };
  for (let at = 0; at < pcm.length; at += 4000) {
    yield { part: { case: "chunk", value: pcm.subarray(at, at + 4000) } };
  }
}

async function upload(inference) {
  const { summary } = await inference.upload(parts());
  return Number(summary.payloadBytes);
}

async function told(transport) {
  const inference = createClient(InferenceService, transport);
  const models = createClient(ModelService, transport);
  const window = { case: "pcmS16le", value: pcm.subarray(0, 1024) };
  return {
    models: (await models.listModels({})).models.map(({ name }) => name),
    predicted: probability((await inference.predict({ model, payload: window })).outputs),
    scanned: await scan(inference),
    unknown: await failure(inference.predict({ model: "nobody", payload: window })),
    unknown_stream: await failure((async () => {
      for await (const _ of inference.scan({ config: { model: "nobody" }, payload: window }));
    })()),
    left: await leave(inference),
  };
}

async function main() {
  const all = {};
  for (const [name, transport] of Object.entries(transports)) {
    all[name] = await told(transport);
  }
  all.uploaded = {};
  for (const name of ["connect-node json", "connect-node binary"]) {
    all.uploaded[name] = await upload(createClient(InferenceService, transports[name]));
  }
  console.log(JSON.stringify(all));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
