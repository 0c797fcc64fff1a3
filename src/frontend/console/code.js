// Programs that call the chosen model, to copy.

import { el } from "./dom.js";
import { hasKey } from "./server.js";

// What may stand between single quotes of a shell, and between the quotes of Python and JavaScript.
const inShell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
const quoted = (text) => JSON.stringify(text);
const inPath = (name) => encodeURIComponent(name).replaceAll("'", "%27");

function soundCode({ name, rate, origin, host, isSecure }) {
  const key = hasKey();
  const path = `/tidemill/v1/models/${inPath(name)}`;
  const socket = `${isSecure ? "wss" : "ws"}://${location.host}${path}/feed`;
  const channel = isSecure ? `grpc.secure_channel(address, grpc.ssl_channel_credentials())` : `grpc.insecure_channel(address)`;
  const metadata = key ? `, metadata=[("authorization", "Bearer " + os.environ["TIDEMILL_API_KEY"])]` : "";
  return [
    ["curl", `# A whole recording, one answer\ncurl -s ${key ? `-H "Authorization: Bearer $TIDEMILL_API_KEY" ` : ""}-H 'Content-Type: audio/wav' --data-binary @talk.wav \\\n  ${inShell(`${origin}${path}/upload`)}`],
    [
      "Python",
      `# pip install grpcio grpcio-tools googleapis-common-protos; stubs as in docs/clients.md
# Raw audio from standard input: mono, signed 16-bit, ${rate} Hz
${key ? "import os\n" : ""}import grpc
from tidemill.v1 import inference_pb2 as pb
from tidemill.v1 import inference_pb2_grpc as rpc

def requests():
    yield pb.FeedRequest(open=pb.StreamConfig(model=${quoted(name)}, payload=pb.PAYLOAD_KIND_PCM_S16LE, sample_rate_hz=${rate}))
    audio = open(0, "rb", buffering=0)
    while chunk := audio.read(3200):
        yield pb.FeedRequest(chunk=chunk)

address = ${quoted(`${host}:50051`)}  # the gRPC port
with ${channel} as channel:
    for event in rpc.InferenceServiceStub(channel).Feed(requests()${metadata}):
        if event.HasField("segment"):
            print(f"{event.segment.start_ms} ms to {event.segment.end_ms} ms", flush=True)`,
    ],
    [
      "JavaScript",
      `// In a browser, or Node 22: samples is an Int16Array, mono, ${rate} Hz
const socket = new WebSocket(${quoted(socket)}, ["tidemill.v1.json"${key ? ", `tidemill.v1.key.${token}`" : ""}]);
socket.onopen = () => {
  socket.send(JSON.stringify({ open: { model: ${quoted(name)}, payload: "PAYLOAD_KIND_PCM_S16LE", sampleRateHz: ${rate} } }));
  socket.send(samples);
  socket.send(JSON.stringify({ finish: {} }));
};
socket.onmessage = ({ data }) => {
  const { segment, completed } = JSON.parse(data);
  if (segment) console.log(\`\${segment.startMs ?? 0} ms to \${segment.endMs} ms\`);
  if (completed) console.log(completed);
};`,
    ],
  ];
}

const NUMPY = { BOOL: "bool_", UINT8: "uint8", UINT16: "uint16", UINT32: "uint32", UINT64: "uint64", INT8: "int8", INT16: "int16", INT32: "int32", INT64: "int64", FP16: "float16", FP32: "float32", FP64: "float64", BYTES: "object_" };

function tensorCode({ name, origin, isSecure, request }) {
  const key = hasKey();
  const path = `/v2/models/${inPath(name)}/infer`;
  const body = compact(request);
  const inputs = request.inputs ?? [];
  const lines = inputs.flatMap((input, at) => {
    const array = `np.zeros(${JSON.stringify(input.shape)}, np.${NUMPY[input.datatype] ?? "float32"})`;
    return [`inputs.append(http.InferInput(${quoted(input.name)}, ${JSON.stringify(input.shape)}, ${quoted(input.datatype)}))`, `inputs[${at}].set_data_from_numpy(${array})`];
  });
  const headers = key ? `, headers={"Authorization": "Bearer " + os.environ["TIDEMILL_API_KEY"]}` : "";
  return [
    ["curl", `curl -s ${key ? `-H "Authorization: Bearer $TIDEMILL_API_KEY" ` : ""}${inShell(origin + path)} -d ${inShell(body)}`],
    [
      "Python",
      `# pip install 'tritonclient[http]'
${key ? "import os\n" : ""}import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(${quoted(location.host)}${isSecure ? ", ssl=True" : ""})
inputs = []
${lines.join("\n")}
result = client.infer(${quoted(name)}, inputs${headers})
for output in result.get_response()["outputs"]:
    print(output["name"], result.as_numpy(output["name"]))`,
    ],
    [
      "JavaScript",
      `const response = await fetch(${quoted(origin + path)}, {
  method: "POST",
  headers: { "content-type": "application/json"${key ? ", authorization: `Bearer ${key}`" : ""} },
  body: JSON.stringify(${body}),
});
console.log(await response.json());`,
    ],
  ];
}

// JSON on one line, but for what would be too long on it.
export function compact(request) {
  const inputs = (request.inputs ?? []).map((input) => {
    const flat = input.data?.length > 64 ? { ...input, data: ["…"] } : input;
    return JSON.stringify(flat);
  });
  const { inputs: _, ...rest } = request;
  const others = JSON.stringify(rest).slice(1, -1);
  return `{"inputs": [${inputs.join(", ")}]${others ? `, ${others}` : ""}}`;
}

function snippet([title, code]) {
  const copy = el("button", { type: "button", class: "copy", "aria-label": `Copy the ${title} code` }, "Copy");
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code);
      copy.textContent = "Copied";
    } catch {
      // Pages that are not secure have no clipboard: the text is selected instead.
      getSelection().selectAllChildren(text);
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  const text = el("pre", { tabindex: "0", "aria-label": `${title} code` }, code);
  return el("div", { class: "snippet" }, el("h3", {}, title), copy, text);
}

// What the panel shows for a model. `request` is the template of its tensors.
export function codeFor({ name, framing, request }) {
  const { origin, hostname: host, protocol } = location;
  const about = { name, origin, host, isSecure: protocol === "https:", rate: framing?.sampleRateHz, request };
  const blocks = [];
  if (framing) blocks.push(el("h3", { class: "hidden" }, "Sound"), ...soundCode(about).map(snippet));
  else if (request) blocks.push(...tensorCode(about).map(snippet));
  if (hasKey()) blocks.unshift(el("p", { class: "muted" }, "Your key is not in these programs: they read it from TIDEMILL_API_KEY."));
  return blocks;
}
