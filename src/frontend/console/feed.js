// One stream of Feed over a WebSocket: messages as JSON, sound as it is.

import { count, openSocket, versionPath } from "./server.js";

// How much may wait in the browser before more is made.
const WAITING_BYTES = 64 * 1024;
// Messages are small, and a piece is at most this long.
const PIECE_SAMPLES = 8000;

// Numbers out of a tensor of FP32.
function floats(base64) {
  const text = atob(base64.replaceAll("-", "+").replaceAll("_", "/"));
  const view = new DataView(Uint8Array.from(text, (letter) => letter.charCodeAt(0)).buffer);
  return Array.from({ length: view.byteLength >> 2 }, (_, at) => view.getFloat32(4 * at, true));
}

// The first number that a model gave for a window.
function firstNumber(result) {
  const tensor = (result.outputs?.tensors ?? []).find((one) => one.datatype === "DATATYPE_FP32" && one.data);
  return tensor ? floats(tensor.data)[0] : undefined;
}

export class Feed {
  // Opens a stream. `on` has: result({start, end, value, error}), started({start}), segment({index, start, end, startMs, endMs}).
  static async open(model, version, rate, on) {
    const socket = await openSocket(`/tidemill/v1/models/${versionPath(model, version)}/feed`, model);
    const feed = new Feed(socket, on);
    await feed.opening;
    const open = { model, payload: "PAYLOAD_KIND_PCM_S16LE", sampleRateHz: rate };
    if (version) open.version = version;
    feed.say({ open });
    return feed;
  }

  constructor(socket, on) {
    Object.assign(this, { socket, on, failure: null });
    socket.binaryType = "arraybuffer";
    this.opening = new Promise((resolve, reject) => {
      socket.onopen = resolve;
      // A browser does not tell a page why.
      socket.addEventListener("close", () => reject(new Error("the server did not open a WebSocket")), { once: true });
    });
    // Settles once: with the counts, or with what went wrong.
    this.done = new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        try {
          const summary = this.take(JSON.parse(data));
          if (summary) resolve(summary);
        } catch (error) {
          this.failure ??= error;
        }
      };
      socket.onclose = ({ code, reason }) => {
        reject(this.failure ?? new Error(reason || `the connection ended (${code})`));
      };
    });
    this.done.catch(() => {});
  }

  take(message) {
    const { result, segmentStarted, segment, completed } = message;
    if (message.error) throw new Error(message.error.message ?? JSON.stringify(message.error));
    if (result) {
      const [start, end] = [count(result.window?.startSample), count(result.window?.endSample)];
      this.on.result({ start, end, value: firstNumber(result), error: result.error?.message });
    }
    if (segmentStarted) this.on.started({ start: count(segmentStarted.startSample) });
    if (segment) {
      this.on.segment({
        index: count(segment.index),
        start: count(segment.startSample),
        end: count(segment.endSample),
        startMs: count(segment.startMs),
        endMs: count(segment.endMs),
      });
    }
    return completed;
  }

  get isOpen() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  say(message) {
    if (this.isOpen) this.socket.send(JSON.stringify(message));
  }

  // Sends sound, as fast as the server takes it.
  async send(samples, toBytes) {
    for (let at = 0; at < samples.length && this.isOpen; at += PIECE_SAMPLES) {
      while (this.isOpen && this.socket.bufferedAmount > WAITING_BYTES) await new Promise((resolve) => setTimeout(resolve, 10));
      if (this.isOpen) this.socket.send(toBytes(samples.subarray(at, at + PIECE_SAMPLES)));
    }
  }

  // No more will be sent; resolves when everything has been answered.
  async finish() {
    this.say({ finish: {} });
    return this.done;
  }

  close() {
    this.socket.close(1000);
  }
}
