// Runs on the browser's audio thread: hands on what the microphone hears, about 20 ms at a time.

const SAMPLES = 1024;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(SAMPLES);
    this.filled = 0;
  }

  process([channels]) {
    const heard = channels?.[0];
    if (!heard) return true;
    for (let at = 0; at < heard.length; ) {
      const taken = Math.min(heard.length - at, SAMPLES - this.filled);
      this.block.set(heard.subarray(at, at + taken), this.filled);
      this.filled += taken;
      at += taken;
      if (this.filled === SAMPLES) {
        this.port.postMessage(this.block, [this.block.buffer]);
        this.block = new Float32Array(SAMPLES);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
