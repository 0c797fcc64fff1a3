// The page: asks the server how it is, shows it, and lets its reader try a model.

import { codeFor } from "./code.js";
import { age, byId, duration, el, figure, many, say } from "./dom.js";
import { Feed } from "./feed.js";
import { Live } from "./live.js";
import { costPlot, sizePlot } from "./plot.js";
import { Scope } from "./scope.js";
import { ServerError, call, count, getMetadata, getModel, getStatus, hasKey, listModels, plain, seconds, upload, useKey, versionPath } from "./server.js";
import { bytesOf, decode, listen, noMicrophone, play } from "./sound.js";

const STATUS_EVERY_MS = 1000;
const MODELS_EVERY_MS = 5000;
const BACK_OFF_MS = [1000, 2000, 4000, 8000, 15000, 30000];
// Larger tensors are not written out: the editor would only slow down.
const WRITTEN_ELEMENTS_MAX = 256;

const live = new Live(byId("plots"));
const scope = new Scope(byId("scope-canvas"), byId("scope-empty"));

let models = null;
// The chosen version, and what is known about it.
let chosen = null;
let failures = 0;
let timer = 0;
let modelsAt = -Infinity;
let running = null;

// Asking, once a second.

async function look() {
  clearTimeout(timer);
  let wait = STATUS_EVERY_MS;
  try {
    if (performance.now() - modelsAt >= MODELS_EVERY_MS) {
      showModels(await listModels());
      modelsAt = performance.now();
      await refreshChosen();
    }
    const status = await getStatus();
    live.take(status);
    showRates();
    failures = 0;
    byId("notice").hidden = true;
    connected(status.draining ? "gone" : "good", status.draining ? "Draining" : `Up ${age(seconds(status.uptime))}`);
  } catch (error) {
    wait = failed(error);
  }
  if (wait !== null) timer = setTimeout(() => (document.hidden ? (timer = 0) : look()), wait);
}

function failed(error) {
  live.show(true);
  if (error instanceof ServerError && error.needsKey) {
    connected("key", hasKey() ? "The key is not taken" : "Needs a key");
    if (models === null) showNoModels(hasKey() ? error.message : "This server asks who is calling. Enter a key to see its models.");
    if (!byId("key-dialog").open) askForKey(hasKey() ? error.message : "");
    return null;
  }
  const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)];
  failures += 1;
  modelsAt = -Infinity;
  const what = error instanceof ServerError && error.isGone ? "The server cannot be reached" : error.message;
  connected("gone", "Not connected");
  if (models === null) showNoModels(what);
  notice(`${what}. Trying again in ${wait / 1000} s.`);
  return wait;
}

function connected(state, text) {
  byId("connection").dataset.state = state;
  // The time that it has been up changes all the time, and nobody wants to be told.
  byId("connection").setAttribute("aria-live", text.startsWith("Up ") ? "off" : "polite");
  say(byId("connection-text"), text);
}

function notice(text) {
  say(byId("notice-text"), text);
  byId("notice").hidden = false;
}

// The key.

function askForKey(error) {
  say(byId("key-error"), error);
  byId("key-forget").hidden = !hasKey();
  byId("key-dialog").showModal();
  byId("key-text").focus();
}

function takeKey(text) {
  useKey(text);
  byId("key-text").value = "";
  byId("key-dialog").close();
  byId("key-button").textContent = hasKey() ? "Key in use" : "Key";
  failures = 0;
  modelsAt = -Infinity;
  showCode();
  look();
}

byId("key-button").addEventListener("click", () => askForKey(""));
byId("key-forget").addEventListener("click", () => takeKey(""));
byId("key-cancel").addEventListener("click", () => byId("key-dialog").close());
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("key-text").value.trim();
  // Anything else cannot go into a header.
  if (/^[\x21-\x7e]+$/.test(text)) takeKey(text);
  else say(byId("key-error"), text ? "A key has no blanks and no letters outside ASCII" : "Type a key first");
});
byId("notice-action").addEventListener("click", () => {
  failures = 0;
  look();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && timer === 0) look();
});

// The models.

const STATES = { ready: "ready", loading: "loading", failed: "failed", unloaded: "unloaded" };

const VERDICTS = {
  independent: "no item changes another's answer",
  dependent: "an item's answer depends on the others in its call",
  "not a batch": "the dimension taken for the batch is not one",
  "padding leaks": "only items of equal length, because padding changes answers",
  random: "the same item gets another answer each time",
  unproven: "the trial calls showed nothing",
  off: "the manifest asks for one item a call",
};

const stateOf = (model) => STATES[plain(model.state, "MODEL_STATE_")] ?? "unknown";
const verdictOf = (model) => plain(model.batching?.verdict, "BATCHING_VERDICT_");
const isSame = (one, other) => one && other && one.name === other.name && (one.version ?? "") === (other.version ?? "");

function showNoModels(text) {
  byId("model").classList.remove("waiting");
  byId("model-rows").setAttribute("aria-busy", "false");
  byId("model-rows").replaceChildren(el("tr", { class: "placeholder" }, el("td", { colspan: "7", class: "muted" }, text)));
}

function showModels(list) {
  const isNew = JSON.stringify(list) !== JSON.stringify(models);
  models = list;
  say(byId("models-count"), many(list.length, "version"));
  if (!isNew) return;
  showScopes();
  if (list.length === 0) {
    showNoModels("No model is loaded. Put an ONNX file into the folder that the server was started with (--models), and it appears here.");
    choose(null);
    return;
  }
  byId("model-rows").setAttribute("aria-busy", "false");
  const focused = document.activeElement?.dataset?.id;
  byId("model-rows").replaceChildren(...list.map(row));
  if (focused) document.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
  const still = chosen && list.find((model) => isSame(model, chosen.summary));
  if (!still) choose(preferred(list));
  else markChosen();
}

// The model to begin with: one that takes sound if the list says so by itself, else the first that is ready.
function preferred(list) {
  const ready = list.filter((model) => stateOf(model) === "ready");
  return ready.find((model) => model.stateful) ?? ready[0] ?? list[0];
}

function row(model) {
  const verdict = verdictOf(model);
  const shares = model.batching ? (model.batching.sharesCalls ? "yes" : "no") : "–";
  const cell = (name) => el("td", { class: "number", "data-cell": name }, "–");
  const pick = el("button", { type: "button", class: "pick", "data-id": `${model.name}/${model.version ?? ""}` }, model.name, el("small", {}, model.version ? `v${model.version}` : ""));
  return el(
    "tr",
    { onclick: () => choose(model) },
    el("td", {}, pick, el("span", { class: "about-line" }, model.reason || model.description || "")),
    el("td", {}, el("span", { class: `badge ${stateOf(model)}` }, stateOf(model))),
    el("td", {}, shares, verdict ? el("span", { class: "about-line" }, VERDICTS[verdict] ?? verdict) : null),
    el("td", {}, model.engine || "–"),
    cell("streams"),
    cell("rate"),
    cell("batch"),
  );
}

function showScopes() {
  const select = byId("scope");
  const before = select.value;
  const ready = models.filter((model) => stateOf(model) === "ready");
  select.replaceChildren(
    el("option", { value: "" }, "all models"),
    ...ready.map((model) => el("option", { value: `${model.name}/${model.version ?? ""}` }, `${model.name} v${model.version}`)),
  );
  select.value = [...select.options].some((option) => option.value === before) ? before : "";
}

byId("scope").addEventListener("change", (event) => live.choose(event.target.value));

function showRates() {
  if (!models) return;
  [...byId("model-rows").rows].forEach((line, index) => {
    const model = models[index];
    const change = model && live.latest(model.name, model.version);
    if (!change) return;
    const put = (name, text) => say(line.querySelector(`[data-cell="${name}"]`), text);
    put("streams", figure(change.streams));
    put("rate", figure(change.ok / change.elapsed));
    put("batch", change.calls > 0 ? figure(change.answered / change.calls) : "–");
  });
}

function markChosen() {
  [...byId("model-rows").rows].forEach((line, index) => {
    const isChosen = chosen !== null && isSame(models[index], chosen.summary);
    line.setAttribute("aria-current", String(isChosen));
    line.querySelector(".pick")?.setAttribute("aria-pressed", String(isChosen));
  });
}

// The chosen model.

async function choose(model) {
  if (model && chosen && isSame(model, chosen.summary) && chosen.detail) return;
  stop();
  chosen = model ? { summary: model, detail: null, template: null } : null;
  markChosen();
  say(byId("model-title"), model ? `${model.name} v${model.version ?? ""}` : "No model is chosen");
  say(byId("model-note"), model ? model.description : "");
  if (!model || stateOf(model) !== "ready") {
    showPanels();
    return;
  }
  const mine = chosen;
  // What was there before goes on being shown, so that nothing jumps, but is of another model.
  byId("panel-try").inert = true;
  try {
    const [detail, metadata] = await Promise.all([getModel(model.name, model.version), getMetadata(model.name, model.version)]);
    if (chosen !== mine) return;
    Object.assign(chosen, { detail, template: template(metadata) });
  } catch (error) {
    if (chosen !== mine) return;
    showPanels();
    say(byId("try-none"), sentence(error));
    return;
  }
  showPanels();
}

async function refreshChosen() {
  if (!chosen?.detail) return;
  const mine = chosen;
  const detail = await getModel(mine.summary.name, mine.summary.version);
  if (chosen !== mine) return;
  chosen.detail = detail;
  if (!byId("panel-about").hidden) showAbout();
}

function showPanels() {
  byId("model").classList.remove("waiting");
  byId("panel-try").inert = false;
  const detail = chosen?.detail;
  const takesSound = Boolean(detail?.framing);
  byId("payload").hidden = !takesSound;
  byId("try-none").hidden = Boolean(detail);
  say(byId("try-none"), chosen && stateOf(chosen.summary) !== "ready" ? `This version is ${stateOf(chosen.summary)}. ${chosen.summary.reason ?? ""}` : "Choose a model that is ready.");
  if (detail) {
    const way = takesSound ? "sound" : "tensors";
    document.querySelector(`[name=payload][value=${way}]`).checked = true;
    say(byId("infer-path"), `/v2/models/${versionPath(chosen.summary.name, chosen.summary.version)}/infer`);
    resetRequest();
    resetSound();
  }
  showWay();
  showAbout();
  showCode();
}

function showWay() {
  const way = chosen?.detail ? document.querySelector("[name=payload]:checked").value : "";
  byId("sound").hidden = way !== "sound";
  byId("tensors").hidden = way !== "tensors";
}

byId("payload").addEventListener("change", showWay);

// Tabs, by mouse and by arrow keys.
const tabs = [...document.querySelectorAll("[role=tab]")];

function openTab(tab, takesFocus) {
  for (const one of tabs) {
    const isOpen = one === tab;
    one.setAttribute("aria-selected", String(isOpen));
    one.tabIndex = isOpen ? 0 : -1;
    byId(one.getAttribute("aria-controls")).hidden = !isOpen;
  }
  if (takesFocus) tab.focus();
  if (tab.id === "tab-about") showAbout();
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => openTab(tab, false));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    openTab(tabs[(to + tabs.length) % tabs.length], true);
  });
});

function facts(pairs) {
  return el("dl", { class: "facts" }, pairs.filter(([, value]) => value).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function tensorTable(title, specs) {
  const line = (spec) =>
    el("tr", {}, el("td", {}, el("code", {}, spec.name)), el("td", {}, (spec.datatype ?? "").replace("DATATYPE_", "")), el("td", {}, `[${(spec.shape ?? []).map((size) => (count(size) < 0 ? "any" : size)).join(", ")}]`));
  return el("table", { class: "plain" }, el("caption", {}, title), el("thead", {}, el("tr", {}, ["Name", "Type", "Shape"].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, (specs ?? []).map(line)));
}

function showAbout() {
  const panel = byId("panel-about");
  const detail = chosen?.detail;
  if (!detail) {
    panel.replaceChildren(el("p", { class: "muted" }, chosen ? `This version is ${stateOf(chosen.summary)}. ${chosen.summary.reason ?? ""}` : "Choose a model."));
    return;
  }
  const { framing, segmentRules: rules, summary } = detail;
  const batching = summary?.batching ?? {};
  const verdict = verdictOf(summary ?? {});
  const costs = (detail.batchCosts ?? []).map((cost) => ({ size: count(cost.batchSize), seconds: seconds(cost.duration) })).filter((cost) => cost.size > 0);
  const sizes = live.sizes(summary?.name, summary?.version);
  const openTables = [...panel.querySelectorAll("details[open]")].map((one) => one.dataset.name);
  const list = facts([
    ["Engine", summary?.engine],
    ["State", summary?.stateful ? "kept for each stream" : "none"],
    ["Items share calls", verdict ? `${batching.sharesCalls ? "yes" : "no"}: ${batching.detail || VERDICTS[verdict] || verdict}${batching.provenBatch > 1 ? ` (compared in calls of up to ${batching.provenBatch})` : ""}` : ""],
    ["Largest batch", detail.batchCap && String(detail.batchCap)],
    ["Sound", framing && `${framing.sampleRateHz} Hz, windows of ${framing.windowSamples} samples (${duration(framing.windowSamples / framing.sampleRateHz)})`],
    ["Segments", rules && `from ${figure(rules.threshold ?? 0)} up, to below ${figure(rules.negativeThreshold ?? 0)}; at least ${rules.minSpeechMs ?? 0} ms, across gaps of ${rules.minSilenceMs ?? 0} ms`],
    ["Window", detail.defaultLimits && `${detail.defaultLimits.windowItems} items in flight on a stream`],
  ]);
  panel.replaceChildren(
    list,
    el(
      "div",
      { class: "about-grid" },
      el("div", {}, el("h3", {}, "What a call takes, by its number of items"), costs.length > 0 ? [costPlot(costs), el("p", { class: "legend", "aria-hidden": "true" }, el("span", {}, "— the call"), el("span", {}, "- - each of its items")), table("cost", ["Items", "Call", "Each item"], costs.map((cost) => [cost.size, duration(cost.seconds), duration(cost.seconds / cost.size)]), openTables)] : el("p", { class: "muted" }, "Not measured.")),
      el("div", {}, el("h3", {}, "Calls since it was loaded, by their number of items"), sizes.length > 0 ? [sizePlot(sizes), table("sizes", ["Items", "Calls", "Mean time"], sizes.map((one) => [one.size, figure(one.calls), duration(one.seconds / one.calls)]), openTables)] : el("p", { class: "muted" }, "None yet.")),
      el("div", { class: "scroll-x" }, tensorTable("Inputs", detail.inputs)),
      el("div", { class: "scroll-x" }, tensorTable("Outputs", detail.outputs)),
    ),
  );
}

function table(name, heads, rows, open) {
  return el(
    "details",
    { open: open.includes(name), "data-name": name, class: "small" },
    el("summary", { class: "muted" }, "Figures"),
    el("table", { class: "plain" }, el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", class: "number" }, head)))), el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell) => el("td", { class: "number" }, String(cell))))))),
  );
}

function showCode() {
  const panel = byId("panel-code");
  if (!chosen?.detail) panel.replaceChildren(el("p", { class: "muted" }, "Choose a model that is ready."));
  else panel.replaceChildren(...codeFor({ name: chosen.summary.name, framing: chosen.detail.framing, request: chosen.template }));
}

// Tensors.

const isText = (datatype) => datatype === "BYTES";
const blank = (datatype) => (isText(datatype) ? "text" : datatype === "BOOL" ? false : 0);
// Something to see an effect of.
const example = (datatype, at) => (datatype.startsWith("FP") ? (at % 10) / 10 : blank(datatype));
// A size that the model leaves open, other than that of the batch.
const OPEN_SIZE = 3;

// A request with a value for each element, where that is not too many.
function template(metadata) {
  const inputs = (metadata.inputs ?? []).map(({ name, datatype, shape }) => {
    const fixed = (shape ?? []).map((size, axis) => (Number(size) >= 0 ? Number(size) : axis === 0 ? 1 : OPEN_SIZE));
    const elements = fixed.reduce((product, size) => product * size, 1);
    return { name, datatype, shape: fixed, data: elements <= WRITTEN_ELEMENTS_MAX ? Array.from({ length: elements }, (_, at) => example(datatype, at)) : [] };
  });
  return { inputs };
}

// JSON with each list of numbers on one line.
function pretty(value) {
  return JSON.stringify(value, null, 2).replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inside) => `[${inside.split(/,\s+/).join(", ")}]`);
}

function resetRequest() {
  byId("request").value = pretty(chosen.template);
  say(byId("response"), "Nothing sent yet");
  byId("response").className = "muted";
  say(byId("infer-state"), "");
}

async function send() {
  const { name, version } = chosen.summary;
  const state = byId("infer-state");
  let request;
  try {
    request = JSON.parse(byId("request").value);
  } catch (error) {
    state.className = "state bad";
    say(state, `This is not JSON: ${error.message}`);
    byId("request").focus();
    return;
  }
  for (const input of request.inputs ?? []) {
    if (Array.isArray(input.data) && input.data.length === 0 && Array.isArray(input.shape)) {
      input.data = Array(input.shape.reduce((product, size) => product * size, 1)).fill(blank(input.datatype));
    }
  }
  state.className = "state";
  say(state, "Sent…");
  byId("send").disabled = true;
  const begun = performance.now();
  try {
    const text = await call(`/v2/models/${versionPath(name, version)}/infer`, { method: "POST", body: JSON.stringify(request) });
    const took = performance.now() - begun;
    const answer = JSON.parse(text);
    for (const output of answer.outputs ?? []) {
      if (output.data?.length > 1000) output.data = [...output.data.slice(0, 1000), `… ${output.data.length - 1000} more`];
    }
    byId("response").className = "";
    say(byId("response"), pretty(answer));
    say(state, `Answered in ${figure(took)} ms, as seen from here`);
  } catch (error) {
    byId("response").className = "bad";
    say(byId("response"), error.message);
    say(state, error.status ? `Refused with status ${error.status}` : "Not sent");
  }
  byId("send").disabled = false;
}

byId("send").addEventListener("click", send);
byId("reset").addEventListener("click", resetRequest);
byId("request").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
});

// Sound.

const soundButtons = ["microphone", "choose", "sample"].map(byId);

function resetSound() {
  scope.clear(chosen.detail.framing?.sampleRateHz ?? 16000, null, chosen.detail.segmentRules?.threshold);
  byId("scope-empty").hidden = false;
  byId("segment-rows").replaceChildren(el("tr", {}, el("td", { colspan: "4", class: "muted" }, "None yet")));
  const why = noMicrophone();
  byId("microphone").disabled = why !== "";
  soundState(why);
}

function soundState(text, isBad = false) {
  byId("sound-state").className = isBad ? "state bad" : "state";
  say(byId("sound-state"), text);
}

function addSegment({ index, startMs, endMs }) {
  const rows = byId("segment-rows");
  if (rows.querySelector("[colspan]")) rows.replaceChildren();
  const second = (ms) => `${(ms / 1000).toFixed(2)} s`;
  const line = el("tr", { "data-start-ms": startMs, "data-end-ms": endMs }, [String(index + 1), second(startMs), second(endMs), second(endMs - startMs)].map((text) => el("td", { class: "number" }, text)));
  rows.append(line);
}

// Opens a stream, lets `work` send, and waits for what has been sent to be answered. `total` is the length in seconds, if it is known.
async function stream(total, work) {
  stop();
  const { name, version } = chosen.summary;
  const { framing, segmentRules } = chosen.detail;
  const rate = framing.sampleRateHz;
  const mine = { stopped: false, ends: [], feed: null, finish: null };
  running = mine;
  resetSound();
  scope.clear(rate, total, segmentRules?.threshold);
  soundButtons.forEach((button) => (button.disabled = true));
  byId("stop").disabled = false;
  soundState("Opening a stream…");
  let segments = 0;
  let errors = 0;
  try {
    mine.feed = await Feed.open(name, version, rate, {
      result: (value) => {
        if (value.error) errors += 1;
        scope.result(value);
      },
      started: (segment) => scope.started(segment),
      segment: (segment) => {
        segments += 1;
        scope.segment(segment);
        addSegment(segment);
        if (running === mine) soundState(`${many(segments, "segment")} so far`);
      },
    });
    if (mine.stopped) return;
    await Promise.race([work(mine, rate), mine.feed.done]);
    const summary = await mine.feed.finish();
    const [items, waited, computed] = [count(summary.items), count(summary.queueNs) / 1e9, count(summary.computeNs) / 1e9];
    const each = items > 0 ? `; a window waited ${duration(waited / items)} and took ${duration(computed / items)}` : "";
    soundState(`${(count(summary.samples) / rate).toFixed(2)} s of sound, ${many(items, "window")}, ${many(segments, "segment")}${errors ? `, ${many(errors, "error")}` : ""}${each}`, errors > 0);
  } catch (error) {
    if (!mine.stopped) soundState(sentence(error), true);
  } finally {
    mine.ends.forEach((end) => end());
    mine.feed?.close();
    scope.end();
    if (running === mine) {
      running = null;
      soundButtons.forEach((button) => (button.disabled = false));
      byId("microphone").disabled = noMicrophone() !== "";
      byId("stop").disabled = true;
    }
  }
}

const sentence = (error) => error.message.charAt(0).toUpperCase() + error.message.slice(1);

// Ends what runs. What has been heard is still answered.
function stop() {
  if (!running) return;
  if (running.finish) running.finish();
  else {
    running.stopped = true;
    running.feed?.close();
  }
}

function fromMicrophone() {
  return stream(null, async (mine, rate) => {
    const sending = [];
    let hear = (samples) => {
      scope.hear(samples);
      sending.push(mine.feed.send(samples, bytesOf));
    };
    soundState("Waiting for the microphone…");
    let end;
    try {
      end = await listen(rate, (samples) => hear(samples));
    } catch (error) {
      throw new Error(error.name === "NotAllowedError" ? "The browser was not allowed to use the microphone" : error.name === "NotFoundError" ? "There is no microphone" : `The microphone cannot be used: ${error.message}`);
    }
    mine.ends.push(end);
    soundState("Listening");
    await new Promise((resolve) => (mine.finish = resolve));
    hear = () => {};
    end();
    await Promise.all(sending);
  });
}

function fromSamples(samples) {
  const rate = chosen.detail.framing.sampleRateHz;
  const isPaced = byId("aloud").checked;
  return stream(samples.length / rate, async (mine) => {
    if (!isPaced) {
      soundState("Sending…");
      scope.hear(samples);
      await mine.feed.send(samples, bytesOf);
      return;
    }
    soundState("Playing");
    mine.ends.push(play(samples, rate));
    const begun = performance.now();
    let isOver = false;
    mine.finish = () => (isOver = true);
    for (let sent = 0; sent < samples.length && !isOver && mine.feed.isOpen; ) {
      const passed = (performance.now() - begun) / 1000;
      const due = Math.min(samples.length, Math.ceil((passed + 0.04) * rate));
      const piece = samples.subarray(sent, due);
      scope.playhead = passed;
      scope.hear(piece);
      await mine.feed.send(piece, bytesOf);
      sent = due;
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  });
}

async function fromFile(file) {
  if (!chosen?.detail?.framing) return;
  const mine = chosen;
  soundState(`Reading ${file.name}…`);
  let samples;
  try {
    samples = await decode(await file.arrayBuffer(), mine.detail.framing.sampleRateHz);
  } catch {
    // The server knows formats that a browser may not.
    if (chosen === mine) await uploaded(file);
    return;
  }
  if (chosen !== mine) return;
  if (samples.length === 0) soundState(`There is no sound in ${file.name}`, true);
  else await fromSamples(samples);
}

// Has the server read a file that the browser cannot.
async function uploaded(file) {
  const { name, version } = chosen.summary;
  resetSound();
  soundState(`This browser cannot read ${file.name}; the server tries`);
  try {
    const { segments = [], summary = {} } = await upload(name, version, file);
    const found = segments.map((one) => ({ index: count(one.index), start: count(one.startSample), end: count(one.endSample), startMs: count(one.startMs), endMs: count(one.endMs) }));
    const rate = chosen.detail.framing.sampleRateHz;
    scope.clear(rate, count(summary.samples) / rate, chosen.detail.segmentRules?.threshold);
    byId("scope-empty").hidden = true;
    for (const segment of found) {
      scope.segment(segment);
      addSegment(segment);
    }
    scope.end();
    soundState(`${(count(summary.samples) / rate).toFixed(2)} s of sound, ${many(count(summary.items), "window")}, ${many(found.length, "segment")}; read by the server, so there is no curve`);
  } catch (error) {
    soundState(`${file.name} could not be read: ${error.message}`, true);
  }
}

byId("microphone").addEventListener("click", fromMicrophone);
byId("stop").addEventListener("click", stop);
byId("choose").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = "";
  if (file) fromFile(file);
});
byId("sample").addEventListener("click", async () => {
  try {
    const response = await fetch("/console/sample.wav");
    if (!response.ok) throw new Error(`the server answered ${response.status}`);
    const samples = await decode(await response.arrayBuffer(), chosen.detail.framing.sampleRateHz);
    await fromSamples(samples);
  } catch (error) {
    soundState(`The sample did not come: ${error.message}`, true);
  }
});

// A file may be dropped anywhere on the drawing; elsewhere the browser must not leave the page for it.
const drop = byId("drop");
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => event.preventDefault());
drop.addEventListener("dragenter", () => drop.classList.add("over"));
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  drop.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) fromFile(file);
});

look();
