// Draws sound as it is heard: its waveform, what the model makes of each window, and the segments that were found.

import { many } from "./dom.js";

// Peaks are kept for this many samples each.
const GRAIN_S = 0.01;
// Of a stream without an end, only the last minutes are kept.
const KEPT_S = 600;
const LIVE_VIEW_S = 12;

export class Scope {
  constructor(canvas, empty) {
    Object.assign(this, { canvas, empty });
    this.context = canvas.getContext("2d");
    this.clear(16000, null);
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  // Begins with nothing. `total` is the length in seconds if it is known; `threshold` the model's own, if it has one.
  clear(rate, total, threshold) {
    Object.assign(this, { rate, total, threshold, peaks: [], first: 0, heard: 0, values: [], segments: [], open: null, playhead: null, isLive: true });
    this.grain = Math.round(rate * GRAIN_S);
    this.draw();
  }

  hear(samples) {
    this.empty.hidden = true;
    for (const sample of samples) {
      const at = Math.floor(this.heard / this.grain) - this.first;
      const level = sample / 32768;
      const peak = this.peaks[at];
      if (peak) {
        if (level < peak[0]) peak[0] = level;
        if (level > peak[1]) peak[1] = level;
      } else this.peaks[at] = [level, level];
      this.heard += 1;
    }
    const surplus = this.peaks.length - KEPT_S / GRAIN_S;
    if (surplus > 1000) {
      this.peaks.splice(0, surplus);
      this.first += surplus;
      const from = this.first * this.grain;
      this.values = this.values.filter((value) => value.end >= from);
    }
    this.later();
  }

  result(value) {
    this.values.push(value);
    this.later();
  }

  started(segment) {
    this.open = segment;
    this.later();
  }

  segment(segment) {
    this.open = null;
    this.segments.push(segment);
    this.later();
  }

  end() {
    this.isLive = false;
    this.open = null;
    this.playhead = null;
    const heard = (this.heard / this.rate).toFixed(1);
    const found = this.segments.map((one) => `${(one.startMs / 1000).toFixed(2)} to ${(one.endMs / 1000).toFixed(2)} s`).join(", ");
    this.canvas.setAttribute("aria-label", `Waveform and probability of ${heard} s of sound; ${many(this.segments.length, "segment")}${found ? `: ${found}` : ""}`);
    this.draw();
  }

  later() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  // The seconds that are shown.
  view() {
    const heard = this.heard / this.rate;
    const first = (this.first * this.grain) / this.rate;
    if (this.total !== null && this.total <= 30) return [0, Math.max(0.5, this.total)];
    if (this.isLive) {
      const to = Math.max(LIVE_VIEW_S, this.playhead ?? heard);
      return [to - LIVE_VIEW_S, to];
    }
    return [first, Math.max(first + 0.5, heard)];
  }

  draw() {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (width === 0) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [from, to] = this.view();
    const x = (second) => ((second - from) / (to - from)) * width;
    const box = { width, height, wave: [10, (height - 24) * 0.56], curve: [(height - 24) * 0.6, height - 28] };
    this.drawSegments(box, x, colour);
    this.drawTime(box, x, colour, from, to);
    if (this.heard === 0 && this.values.length === 0) return;
    this.drawWave(box, x, colour, from, to);
    this.drawCurve(box, x, colour);
    if (this.playhead !== null) {
      context.fillStyle = colour("--ink");
      context.fillRect(x(this.playhead) - 0.75, 0, 1.5, height - 24);
    }
  }

  drawSegments({ height }, x, colour) {
    const { context } = this;
    const open = this.open ? [{ start: this.open.start, end: this.heard, isOpen: true }] : [];
    for (const one of [...this.segments, ...open]) {
      const [left, right] = [x(one.start / this.rate), x(one.end / this.rate)];
      context.fillStyle = colour("--tint");
      context.fillRect(left, 0, right - left, height - 24);
      context.fillStyle = colour("--accent");
      context.fillRect(left, 0, right - left, 3);
    }
  }

  drawTime({ width, height }, x, colour, from, to) {
    const { context } = this;
    context.fillStyle = colour("--line");
    context.fillRect(0, height - 24, width, 1);
    const wanted = (to - from) / Math.max(2, width / 110);
    const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300].find((one) => one >= wanted) ?? 600;
    context.fillStyle = colour("--muted");
    context.font = `11px ${getComputedStyle(this.canvas).fontFamily}`;
    context.textBaseline = "middle";
    for (let second = Math.ceil(from / step) * step; second <= to; second += step) {
      const label = `${step < 1 ? second.toFixed(1) : second.toFixed(0)} s`;
      const place = x(second);
      context.textAlign = place < 14 ? "left" : place > width - 20 ? "right" : "center";
      context.fillText(label, Math.min(width - 4, Math.max(4, place)), height - 11);
    }
  }

  drawWave({ width, wave: [top, bottom] }, x, colour, from, to) {
    const { context } = this;
    const [middle, half] = [(top + bottom) / 2, (bottom - top) / 2];
    context.fillStyle = colour("--wave");
    const perSecond = this.rate / this.grain;
    const columns = Math.min(width, Math.ceil((to - from) * perSecond));
    const columnWidth = width / columns;
    // Quiet recordings are drawn larger, but noise is not blown up to the full height.
    const loudest = this.peaks.reduce((most, peak) => (peak ? Math.max(most, -peak[0], peak[1]) : most), 0.05);
    for (let column = 0; column < columns; column += 1) {
      const begin = Math.floor((from + ((to - from) * column) / columns) * perSecond) - this.first;
      const end = Math.max(begin + 1, Math.floor((from + ((to - from) * (column + 1)) / columns) * perSecond) - this.first);
      let [low, high] = [0, 0];
      let any = false;
      for (let at = Math.max(0, begin); at < end; at += 1) {
        const peak = this.peaks[at];
        if (!peak) continue;
        any = true;
        low = Math.min(low, peak[0]);
        high = Math.max(high, peak[1]);
      }
      if (!any) continue;
      const [up, down] = [(high / loudest) * half, (low / loudest) * half];
      context.fillRect(column * columnWidth, middle - up - 0.5, Math.max(1, columnWidth - (columnWidth > 2 ? 0.8 : 0)), up - down + 1);
    }
  }

  drawCurve({ width, curve: [top, bottom] }, x, colour) {
    const { context } = this;
    const y = (value) => bottom - Math.max(0, Math.min(1, value)) * (bottom - top);
    if (this.threshold) {
      context.strokeStyle = colour("--strong-line");
      context.lineWidth = 1;
      context.setLineDash([3, 4]);
      context.beginPath();
      context.moveTo(0, y(this.threshold));
      context.lineTo(width, y(this.threshold));
      context.stroke();
      context.setLineDash([]);
    }
    context.strokeStyle = colour("--accent");
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    let isOpen = false;
    for (const { start, end, value } of this.values) {
      if (value === undefined) {
        isOpen = false;
        continue;
      }
      const place = x((start + end) / 2 / this.rate);
      if (place < -20 || place > width + 20) {
        isOpen = false;
        continue;
      }
      if (isOpen) context.lineTo(place, y(value));
      else context.moveTo(place, y(value));
      isOpen = true;
    }
    context.stroke();
  }
}
