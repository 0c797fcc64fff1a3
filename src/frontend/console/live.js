// What the server has done between two looks at its counters, as plots and as figures for each model.

import { byId, duration, figure, say } from "./dom.js";
import { TimePlot } from "./plot.js";
import { count, seconds } from "./server.js";

const KEPT_S = 62;

const idOf = (model) => `${model.name}/${model.version ?? ""}`;

// The counters of one model, as numbers.
function counters(model) {
  const items = model.items ?? {};
  const calls = (model.calls ?? []).map((one) => ({ size: count(one.batchSize), calls: count(one.calls), seconds: seconds(one.duration) }));
  const sum = (value) => calls.reduce((total, one) => total + value(one), 0);
  return {
    ok: count(items.ok),
    lost: ["refused", "dropped", "expired", "failed"].reduce((total, kind) => total + count(items[kind]), 0),
    calls: sum((one) => one.calls),
    answered: sum((one) => one.calls * one.size),
    computed: sum((one) => one.seconds),
    waited: seconds(model.waited),
    streams: count(model.streams),
    bySize: calls,
  };
}

const NOTHING = { ok: 0, lost: 0, calls: 0, answered: 0, computed: 0, waited: 0, streams: 0 };

// What has been added since, and over how long. A copy that has been loaded since began at zero.
function added(now, before, elapsed) {
  const since = before && now.calls >= before.calls && now.ok >= before.ok ? before : NOTHING;
  const more = {};
  for (const name of ["ok", "lost", "calls", "answered", "computed", "waited"]) more[name] = Math.max(0, now[name] - since[name]);
  return { ...more, streams: now.streams, elapsed };
}

function together(all) {
  const sum = { ...NOTHING, elapsed: all[0]?.elapsed ?? 1 };
  for (const one of all) for (const name of Object.keys(NOTHING)) sum[name] += one[name];
  return sum;
}

const ratio = (part, whole) => (whole > 0 ? part / whole : null);

export class Live {
  constructor(container) {
    this.plots = {
      rate: new TimePlot({ name: "Items answered", unit: "per second", series: [{ name: "answered" }, { name: "not answered", look: "bad-line" }] }),
      batch: new TimePlot({ name: "Items in a call", unit: "on average", series: [{ name: "items" }], least: 2 }),
      wait: new TimePlot({ name: "Wait for a call", unit: "on average", series: [{ name: "wait" }, { name: "call", look: "second-line" }], least: 1e-4, format: duration }),
      streams: new TimePlot({ name: "Streams", unit: "open", series: [{ name: "streams" }], least: 5 }),
    };
    container.append(...Object.values(this.plots).map((plot) => plot.node));
    this.history = [];
    this.last = null;
    this.scope = "";
  }

  choose(scope) {
    this.scope = scope;
    this.show(false);
  }

  // Takes an answer of GetStatus.
  take(status) {
    const at = seconds(status.uptime);
    const models = new Map((status.models ?? []).map((model) => [idOf(model), counters(model)]));
    if (this.last && at < this.last.at) {
      // The server has been started again.
      this.history = [];
      this.last = null;
    }
    if (this.last && at > this.last.at) {
      const elapsed = at - this.last.at;
      const changes = new Map([...models].map(([id, now]) => [id, added(now, this.last.models.get(id), elapsed)]));
      // After a gap there is nothing to draw a line to.
      if (elapsed > 5) this.history.push({ at: at - elapsed / 2, changes: null });
      this.history.push({ at, changes });
      this.history = this.history.filter((one) => at - one.at <= KEPT_S);
    }
    this.last = { at, models };
    const newest = this.history.at(-1)?.changes;
    const all = newest?.size > 0 ? together([...newest.values()]) : null;
    // A look at one moment would nearly always find them idle.
    const busy = all ? all.computed / all.elapsed : count(status.lanesBusy);
    say(byId("lanes"), `${figure(busy)} of ${count(status.lanes)} lanes busy`);
    this.show(false);
  }

  // The latest change of one model; null if there is none yet.
  latest(name, version) {
    return this.history.at(-1)?.changes?.get(`${name}/${version ?? ""}`) ?? null;
  }

  // Calls by size since the model was loaded.
  sizes(name, version) {
    return this.last?.models.get(`${name}/${version ?? ""}`)?.bySize ?? [];
  }

  show(isStale) {
    const changes = this.history.map(({ at, changes }) => {
      if (!changes) return { at, change: null };
      const chosen = this.scope ? [changes.get(this.scope)].filter(Boolean) : [...changes.values()];
      return { at, change: chosen.length > 0 ? together(chosen) : null };
    });
    const points = (...values) => changes.map(({ at, change }) => ({ at, values: values.map((value) => (change ? value(change) : null)) }));
    const last = changes.at(-1)?.change;
    // A line along the ground would say nothing.
    const hasLost = changes.some(({ change }) => change?.lost > 0);
    const lost = last?.lost / last?.elapsed;
    this.plots.rate.show(points((one) => one.ok / one.elapsed, (one) => (hasLost ? one.lost / one.elapsed : null)), lost > 0 ? `${figure(lost)} not answered` : "", isStale);
    this.plots.batch.show(points((one) => ratio(one.answered, one.calls)), last ? `${figure(last.calls / last.elapsed)} calls per second` : "", isStale);
    const call = last ? ratio(last.computed, last.calls) : null;
    this.plots.wait.show(points((one) => ratio(one.waited, one.answered), (one) => ratio(one.computed, one.calls)), call === null ? "" : `then ${duration(call)} in the call`, isStale);
    this.plots.streams.show(points((one) => one.streams), "", isStale);
  }
}
