// Sound as the server takes it: mono, signed 16-bit samples at the model's rate.

// A file's samples, {samples, heard}: what is sent, and what is played. Ordinary WAV files at the model's rate are taken as they are, so that
// the server gets the very samples; everything else goes through the browser's decoder.
export async function decode(bytes, rate) {
  const exact = wavSamples(bytes, rate);
  if (exact) return exact;
  const context = new OfflineAudioContext(1, 1, rate);
  const decoded = await context.decodeAudioData(bytes);
  const mono = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel += 1) {
    const data = decoded.getChannelData(channel);
    for (let at = 0; at < mono.length; at += 1) mono[at] += data[at] / decoded.numberOfChannels;
  }
  return toSamples(mono);
}

// The samples of a WAV file with one channel of 16-bit PCM at this rate; null for anything else.
export function wavSamples(bytes, rate) {
  const view = new DataView(bytes);
  const tag = (at) => String.fromCharCode(...new Uint8Array(bytes, at, 4));
  if (view.byteLength < 12 || tag(0) !== "RIFF" || tag(8) !== "WAVE") return null;
  let fits = false;
  for (let at = 12; at + 8 <= view.byteLength; ) {
    const [kind, stated] = [tag(at), view.getUint32(at + 4, true)];
    const length = Math.min(stated, view.byteLength - at - 8);
    if (kind === "fmt " && length >= 16) {
      const [format, channels, bits] = [view.getUint16(at + 8, true), view.getUint16(at + 10, true), view.getUint16(at + 22, true)];
      fits = format === 1 && channels === 1 && view.getUint32(at + 12, true) === rate && bits === 16;
    } else if (kind === "data") {
      if (!fits) return null;
      const samples = new Int16Array(length >> 1);
      for (let index = 0; index < samples.length; index += 1) samples[index] = view.getInt16(at + 8 + 2 * index, true);
      return samples;
    }
    at += 8 + length + (length & 1);
  }
  return null;
}

export function toSamples(mono) {
  const samples = new Int16Array(mono.length);
  for (let at = 0; at < mono.length; at += 1) samples[at] = Math.max(-32768, Math.min(32767, Math.round(mono[at] * 32768)));
  return samples;
}

export const bytesOf = (samples) => {
  const bytes = new Uint8Array(2 * samples.length);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < samples.length; at += 1) view.setInt16(2 * at, samples[at], true);
  return bytes;
};

// Changes the rate of sound that comes in pieces, by a windowed sinc. Not all browsers give a microphone's sound at the rate that is asked for.
export class Resampler {
  constructor(from, to) {
    this.step = from / to;
    this.cut = Math.min(1, to / from) * 0.94;
    this.half = Math.ceil(16 / this.cut);
    // Silence before the beginning, so that the first sample has neighbours.
    this.held = new Float32Array(this.half);
    this.next = this.half;
  }

  push(block) {
    if (this.step === 1) return block;
    const all = new Float32Array(this.held.length + block.length);
    all.set(this.held);
    all.set(block, this.held.length);
    const out = [];
    let at = this.next;
    for (; at + this.half < all.length; at += this.step) out.push(this.at(all, at));
    const kept = Math.max(0, Math.floor(at) - this.half);
    this.held = all.slice(kept);
    this.next = at - kept;
    return Float32Array.from(out);
  }

  at(all, place) {
    let sum = 0;
    const first = Math.max(0, Math.ceil(place - this.half));
    for (let index = first; index <= place + this.half; index += 1) {
      const away = index - place;
      const angle = Math.PI * away * this.cut;
      const sinc = away === 0 ? 1 : Math.sin(angle) / angle;
      const fade = 0.5 + 0.5 * Math.cos((Math.PI * away) / (this.half + 1));
      sum += all[index] * sinc * fade * this.cut;
    }
    return sum;
  }
}

// Why there is no microphone here, in a sentence; empty if there may be one.
export function noMicrophone() {
  if (!window.isSecureContext) return "Browsers give the microphone only to pages over HTTPS or on localhost. Open this page that way, or choose a file.";
  if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) return "This browser gives pages no microphone. Choose a file.";
  return "";
}

// Listens until the returned function is called. `hear` gets samples at `rate`.
export async function listen(rate, hear) {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  const stop = () => stream.getTracks().forEach((track) => track.stop());
  let context;
  try {
    let source;
    // Firefox connects a microphone only to a context of the microphone's own rate.
    for (const options of [{ sampleRate: rate }, {}]) {
      context = new AudioContext(options);
      try {
        source = context.createMediaStreamSource(stream);
        break;
      } catch (error) {
        await context.close();
        if (options.sampleRate === undefined) throw error;
      }
    }
    await context.audioWorklet.addModule("/console/capture.js");
    const capture = new AudioWorkletNode(context, "capture", { numberOfInputs: 1, numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    const resampler = new Resampler(context.sampleRate, rate);
    capture.port.onmessage = ({ data }) => hear(toSamples(resampler.push(data)));
    source.connect(capture);
    await context.resume();
  } catch (error) {
    stop();
    throw error;
  }
  return () => {
    stop();
    if (context.state !== "closed") context.close();
  };
}

// Plays samples until they end or the returned function is called. A browser that plays nothing is no reason not to go on.
export function play(samples, rate) {
  try {
    const context = new AudioContext();
    const buffer = context.createBuffer(1, Math.max(1, samples.length), rate);
    const channel = buffer.getChannelData(0);
    for (let at = 0; at < samples.length; at += 1) channel[at] = samples[at] / 32768;
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    source.onended = () => context.close();
    source.start();
    return () => context.state !== "closed" && context.close();
  } catch {
    return () => {};
  }
}
