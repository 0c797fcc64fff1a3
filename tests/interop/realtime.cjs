// Sessions by the npm package openai over TLS: in node, and as in a browser. Prints the types of the events of each, as one JSON object.
// Usage: NODE_EXTRA_CA_CERTS=CA node realtime.cjs BASE_URL KEY FILE_OF_PCM_24_KHZ
"use strict";

const fs = require("node:fs");
const { OpenAI } = require("openai");
const { OpenAIRealtimeWS } = require("openai/realtime/ws");
const { OpenAIRealtimeWebSocket } = require("openai/realtime/websocket");

const [baseURL, key, path] = process.argv.slice(2);
const audio = fs.readFileSync(path);
const PIECE_BYTES = 4800;

/** The types of the events until an item is done, or what has gone wrong. */
function talk(socket) {
  return new Promise((resolve) => {
    const types = [];
    const done = (last) => {
      socket.close();
      resolve(last ? [...types, last] : types);
    };
    socket.on("error", (error) => done(`error: ${error.message}`));
    socket.on("event", (event) => {
      types.push(event.type);
      if (event.type === "session.created") {
        const input = {
          format: { type: "audio/pcm", rate: 24000 },
          transcription: { model: "silero-vad" },
          turn_detection: { type: "server_vad", silence_duration_ms: 300 },
        };
        socket.send({ type: "session.update", session: { type: "transcription", audio: { input } } });
        for (let start = 0; start < audio.length; start += PIECE_BYTES) {
          const piece = audio.subarray(start, start + PIECE_BYTES).toString("base64");
          socket.send({ type: "input_audio_buffer.append", audio: piece });
        }
      }
      if (event.type === "conversation.item.done") done();
    });
  });
}

async function main() {
  const client = new OpenAI({ apiKey: key, baseURL });
  const inNode = await talk(new OpenAIRealtimeWS({ model: "silero-vad" }, client));
  const secret = await client.realtime.clientSecrets.create({ session: { type: "transcription" } });
  // Browsers have one of their own.
  globalThis.WebSocket = require("ws");
  const page = new OpenAI({ apiKey: secret.value, baseURL, dangerouslyAllowBrowser: true });
  const inBrowser = await talk(new OpenAIRealtimeWebSocket({ model: "silero-vad" }, page));
  console.log(JSON.stringify({ node: inNode, browser: inBrowser }));
}

main();
