// A client of Tidemill on grpc-js that makes live feeds overflow, expire and stay unread. Prints how each ended, as one JSON object.
// Usage: node policies.cjs ADDRESS ADMIN_ADDRESS PROTO_FOLDER
"use strict";

const http = require("node:http");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, admin, protos] = process.argv.slice(2);

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

/** An item of this many elements of one value. */
function item(value, elements, fields = {}) {
  const data = Buffer.from(new Float32Array(elements).fill(value).buffer);
  const input = { name: "x", datatype: "DATATYPE_FP32", shape: [elements], data };
  return { item: { id: String(value), inputs: [input], ...fields } };
}

/** An event without its bytes: of a tensor, only the first element is kept. */
function plain(event) {
  for (const tensor of event.result?.outputs?.tensors ?? []) {
    tensor.data = tensor.data.readFloatLE(0);
  }
  delete event.result?.error?.details;
  return event;
}

/** Reads to the end; an end with a status other than OK becomes the last event. */
function read(call) {
  return new Promise((resolve) => {
    const received = [];
    call.on("data", (event) => received.push(plain(event)));
    call.on("end", () => resolve(received));
    call.on("error", ({ code, details }) => resolve([...received, { failed: { code, details } }]));
  });
}

/** Writes one message, and waits if the call says that its window is full. */
function write(call, message) {
  return new Promise((resolve) => (call.write(message) ? resolve() : call.once("drain", resolve)));
}

async function open(config, messages) {
  const call = client.Feed();
  await write(call, { open: { payload: "PAYLOAD_KIND_TENSORS", ...config } });
  for (const message of messages) {
    await write(call, message);
  }
  return call;
}

/** The value of a metric with exactly these labels. */
function metric(sample) {
  return new Promise((resolve, reject) => {
    const answered = (answer) => {
      let text = "";
      answer.on("data", (part) => (text += part));
      answer.on("end", () => {
        const line = text.split("\n").find((found) => found.startsWith(`${sample} `));
        resolve(Number(line?.split(" ").pop()));
      });
    };
    http.get(`http://${admin}/metrics`, answered).on("error", reject);
  });
}

async function until(condition) {
  while (!(await condition())) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const range = (count) => Array.from({ length: count }, (_, index) => index);

/** More items than the model runs, with a reader from the start. */
async function overflow(policy) {
  const call = await open({ model: "slow", overflow: policy, window_items: 4 }, []);
  const received = read(call);
  for (const value of range(40)) {
    await write(call, item(value, 1));
  }
  call.end();
  return received;
}

/** Deadlines shorter than a call of the model. */
async function expire() {
  const call = await open({ model: "slow" }, [item(0, 1), item(1, 1, { deadline: { nanos: 1_000_000 } })]);
  call.end();
  return read(call);
}

/** Large results, none of which the caller reads until the model has run on all items. This library goes on taking what comes, but
 * not as fast as it comes. */
async function unread(policy) {
  const sample = 'tidemill_items_ended_total{model="echo",version="1",outcome="ok"}';
  const before = await metric(sample);
  const call = await open({ model: "echo", unread: policy, window_items: 4 }, []);
  for (const value of range(200)) {
    await write(call, item(value, 16_384));
  }
  await until(async () => (await metric(sample)) === before + 200);
  call.end();
  return read(call);
}

/** The same, with a reader that comes only when the stream is over. */
async function disconnect() {
  const sample = 'tidemill_streams_ended_total{method="feed",reason="unread"}';
  const before = await metric(sample);
  const call = await open({ model: "echo", unread: "UNREAD_POLICY_DISCONNECT", window_items: 4 }, []);
  const error = new Promise((resolve) => call.on("error", resolve));
  for (const value of range(40)) {
    call.write(item(value, 16_384));
  }
  await until(async () => (await metric(sample)) > before);
  call.resume();
  const { code } = await error;
  return code;
}

async function main() {
  const feeds = {
    oldest: await overflow("OVERFLOW_POLICY_DROP_OLDEST"),
    latest: await overflow("OVERFLOW_POLICY_LATEST"),
    expired: await expire(),
    unread_oldest: await unread("UNREAD_POLICY_DROP_OLDEST"),
    unread_latest: await unread("UNREAD_POLICY_LATEST"),
    disconnected: await disconnect(),
  };
  process.stdout.write(JSON.stringify(feeds));
  client.close();
}

main();
