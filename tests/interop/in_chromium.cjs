// The clients of Connect, of gRPC-Web and of OpenAI's Realtime API inside a real browser, as ES modules, on a page of the server's own origin.
// Prints what each of them got as one JSON object. Usage: node in_chromium.cjs ADDRESS FOLDER_OF_GENERATED_MODULES PCM_FILE PCM_24_KHZ_FILE
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const { chromium } = require("playwright-core");

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const PACKAGES = ["@connectrpc/connect-web", "@connectrpc/connect", "@bufbuild/protobuf", "openai"];

const [address, generated, pcmFile, pcm24File] = process.argv.slice(2);
const root = path.dirname(path.dirname(require.resolve("playwright-core/package.json")));
const origin = `http://${address}`;

/** Where a package's module is, if it has one for `import` by this name. */
function target(exported) {
  const found = typeof exported === "string" ? exported : (exported?.import ?? exported?.default);
  return typeof found === "object" ? found.default : found;
}

/** What bare names of modules mean on the page. */
function imports() {
  const map = {};
  for (const name of PACKAGES) {
    const { exports } = JSON.parse(fs.readFileSync(path.join(root, name, "package.json"), "utf8"));
    for (const [key, exported] of Object.entries(exports)) {
      const file = target(exported);
      if (file && !key.includes("*")) {
        map[name + key.slice(1)] = `/page/modules/${name}/${file.slice(2)}`;
      }
    }
  }
  map["openai/realtime/websocket"] = "/page/modules/openai/realtime/websocket.mjs";
  return { imports: map };
}

const PAGE = `<!doctype html><meta charset="utf-8"><title>Clients</title><script type="importmap">${JSON.stringify(imports())}</script>`;

/** Answers what is below /page in the server's place; everything else is the server's. */
async function serve(route) {
  const { pathname } = new URL(route.request().url());
  if (pathname === "/page/") {
    return route.fulfill({ contentType: "text/html", body: PAGE });
  }
  const [, , kind, ...rest] = pathname.split("/");
  const folder = { modules: root, generated }[kind];
  const file = path.join(folder, ...rest);
  // Generated code leaves out how its files end.
  const found = fs.existsSync(file) ? file : `${file}.js`;
  return route.fulfill({ contentType: "text/javascript", body: fs.readFileSync(found) });
}

/** Runs in the page. */
async function calls([encoded]) {
  const { createClient, ConnectError, Code } = await import("@connectrpc/connect");
  const { createConnectTransport, createGrpcWebTransport } = await import("@connectrpc/connect-web");
  const { InferenceService } = await import("/page/generated/tidemill/v1/inference_pb.js");
  const pcm = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const model = "silero-vad";
  const probability = (outputs) => {
    const { data } = outputs.tensors[0];
    return new DataView(data.buffer, data.byteOffset).getFloat32(0, true);
  };
  const baseUrl = location.origin;
  const transports = {
    "connect json": createConnectTransport({ baseUrl }),
    "connect binary": createConnectTransport({ baseUrl, useBinaryFormat: true }),
    "grpc-web": createGrpcWebTransport({ baseUrl }),
  };
  const found = {};
  for (const [name, transport] of Object.entries(transports)) {
    const inference = createClient(InferenceService, transport);
    const { outputs } = await inference.predict({ model, payload: { case: "pcmS16le", value: pcm.subarray(0, 1024) } });
    const scanned = { events: [], probabilities: [] };
    for await (const { event } of inference.scan({ config: { model }, payload: { case: "pcmS16le", value: pcm } })) {
      scanned.events.push(event.case);
      if (event.case === "result") {
        scanned.probabilities.push(probability(event.value.outcome.value));
      }
    }
    const failed = await inference.predict({ model: "nobody", payload: { case: "pcmS16le", value: pcm } }).catch((error) => error);
    found[name] = { predicted: probability(outputs), scanned, unknown: Code[ConnectError.from(failed).code] };
  }
  return found;
}

/** Runs in the page, too. */
async function session([encoded]) {
  const { OpenAI } = await import("openai");
  const { OpenAIRealtimeWebSocket } = await import("openai/realtime/websocket");
  const client = new OpenAI({ apiKey: "ek_none", baseURL: `${location.origin}/v1`, dangerouslyAllowBrowser: true });
  const plain = (url) => {
    url.protocol = "ws:";
  };
  const socket = new OpenAIRealtimeWebSocket({ model: "silero-vad", dangerouslyAllowBrowser: true, onURL: plain }, client);
  return new Promise((resolve) => {
    const types = [];
    socket.on("error", (error) => resolve([...types, `error: ${error.message}`]));
    socket.on("event", (event) => {
      types.push(event.type);
      if (event.type === "session.created") {
        const input = { format: { type: "audio/pcm", rate: 24000 }, turn_detection: { type: "server_vad", silence_duration_ms: 300 } };
        socket.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
        for (let start = 0; start < encoded.length; start += 6400) {
          socket.send({ type: "input_audio_buffer.append", audio: encoded.slice(start, start + 6400) });
        }
      }
      if (event.type === "conversation.item.done") {
        socket.close();
        resolve(types);
      }
    });
  });
}

async function main() {
  // The page does not come over the network here, so the browser takes the server for one of a local network that it must not reach.
  const args = ["--no-sandbox", "--disable-features=LocalNetworkAccessChecks"];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args });
  try {
    const page = await browser.newPage();
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(error.message));
    await page.route(`${origin}/page/**`, serve);
    await page.goto(`${origin}/page/`);
    const found = await page.evaluate(calls, [fs.readFileSync(pcmFile).toString("base64")]);
    found.realtime = await page.evaluate(session, [fs.readFileSync(pcm24File).toString("base64")]);
    console.log(JSON.stringify({ ...found, complaints }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
