// A client of the Open Inference Protocol on grpc-js, with message types loaded from the .proto at run time. Runs one typed
// request, one raw one, two interleaved sequences on one stream, and a request that is refused; prints the answers as one JSON object.
// Usage: node infer.cjs ADDRESS PROTO_FOLDER WINDOWS_FILE COUNT
"use strict";

const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, protos, windowsFile, count] = process.argv.slice(2);
const WINDOW_BYTES = 4 * 576;
const windows = fs.readFileSync(windowsFile);

const definition = loader.loadSync("inference/grpc_service.proto", {
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
  includeDirs: [protos],
});
const { GRPCInferenceService } = grpc.loadPackageDefinition(definition).inference;
const client = new GRPCInferenceService(address, grpc.credentials.createInsecure());

function call(method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, (error, response) => (error ? reject(error) : resolve(response)));
  });
}

/** The window at this place as one step of a sequence. */
function step(id, index) {
  const raw = windows.subarray(index * WINDOW_BYTES, (index + 1) * WINDOW_BYTES);
  return {
    model_name: "silero-vad",
    id: `${id}/${index}`,
    parameters: {
      sequence_id: { string_param: id },
      sequence_start: { bool_param: index === 0 },
      sequence_end: { bool_param: index === Number(count) - 1 },
    },
    inputs: [{ name: "input", datatype: "FP32", shape: [1, 576] }],
    raw_input_contents: [raw],
  };
}

/** Each request is sent once the one before it is answered. */
function converse(requests) {
  return new Promise((resolve, reject) => {
    const stream = client.ModelStreamInfer();
    const answers = [];
    const next = () => (answers.length < requests.length ? stream.write(requests[answers.length]) : stream.end());
    stream.on("data", ({ error_message, infer_response: response }) => {
      answers.push({ error: error_message, id: response.id, value: response.raw_output_contents[0]?.readFloatLE(0) });
      next();
    });
    stream.on("end", () => resolve(answers));
    stream.on("error", reject);
    next();
  });
}

async function main() {
  const input = { name: "inputs", datatype: "FP64", shape: [1, 3] };
  const typed = await call("ModelInfer", {
    model_name: "example_model",
    inputs: [{ ...input, contents: { fp64_contents: [1, 2.5, -3] } }],
  });
  const raw = await call("ModelInfer", {
    model_name: "example_model",
    inputs: [input],
    raw_input_contents: [Buffer.from(new Float64Array([1, 2.5, -3]).buffer)],
  });
  const steps = Array.from({ length: Number(count) }, (_, index) => [step("left", index), step("right", index)]).flat();
  const streamed = await converse([...steps, step("left", 1)]);
  const failed = await call("ModelInfer", { model_name: "nope" }).catch(({ code, details }) => ({ code, details }));
  const output = Buffer.from(raw.raw_output_contents[0]);
  process.stdout.write(
    JSON.stringify({
      typed: typed.outputs[0].contents.fp64_contents,
      raw: [0, 8, 16].map((at) => output.readDoubleLE(at)),
      streamed,
      failed,
    }),
  );
  client.close();
}

main();
