// The server as the page calls it. The key lives in here and nowhere else, until the page is closed.

export class ServerError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  // Nothing answered, or what answered was not the server.
  get isGone() {
    return this.status === 0 || this.status === 502 || this.status === 503 || this.status === 504;
  }

  // Without a key, with one that is not good, or with one that grants too little.
  get needsKey() {
    return this.status === 401 || this.status === 403;
  }
}

let key = "";

export const hasKey = () => key !== "";

export function useKey(text) {
  key = text.trim();
}

// What an answer says went wrong, in whichever form.
function reason(text, status) {
  try {
    const body = JSON.parse(text);
    const found = body.message ?? body.error?.message ?? body.error;
    if (typeof found === "string" && found !== "") return found;
  } catch {
    // Not JSON.
  }
  return text.trim().slice(0, 300) || `the server answered ${status}`;
}

export async function call(path, { method = "GET", body, type = "application/json", signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = type;
  if (key) headers.authorization = `Bearer ${key}`;
  let response, text;
  try {
    response = await fetch(path, { method, headers, body, signal, cache: "no-store", credentials: "omit", redirect: "error" });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(0, "the server cannot be reached");
  }
  if (!response.ok) throw new ServerError(response.status, reason(text, response.status));
  return text;
}

async function json(path, options) {
  const text = await call(path, options);
  try {
    return JSON.parse(text);
  } catch {
    throw new ServerError(502, "the answer is not JSON: something else seems to answer at this address");
  }
}

const quoted = (name) => encodeURIComponent(name);

export const versionPath = (name, version) => `${quoted(name)}${version ? `/versions/${quoted(version)}` : ""}`;

export const listModels = async () => (await json("/tidemill/v1/models")).models ?? [];

export const getModel = async (name, version) => (await json(`/tidemill/v1/models/${versionPath(name, version)}`)).model ?? {};

export const getStatus = () => json("/tidemill/v1/status");

export const getMetadata = (name, version) => json(`/v2/models/${versionPath(name, version)}`);

export const upload = async (name, version, file) =>
  json(`/tidemill/v1/models/${versionPath(name, version)}/upload`, { method: "POST", body: file, type: file.type || "application/octet-stream" });

// A WebSocket to the server. Browsers let pages set no header on one, so a token that was lent a moment ago goes into a subprotocol: what stands
// between is more likely to log that than a header for credentials. Where the server lends no tokens, it is the key itself.
export async function openSocket(path, model) {
  const protocols = ["tidemill.v1.json"];
  if (key) protocols.push(`tidemill.v1.key.${await lendToken(model)}`);
  const url = new URL(path, location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return new WebSocket(url, protocols);
}

async function lendToken(model) {
  // What was typed in may be a token already, which lends no other.
  if (key.split(".").length === 3) return key;
  const body = JSON.stringify({ scopes: ["infer"], models: [model], expires_in_s: 60 });
  try {
    return (await json("/v1/tokens", { method: "POST", body })).token;
  } catch (error) {
    if (error.status === 501) return key;
    throw error;
  }
}

// proto3's JSON: what has its default is absent, 64-bit numbers are strings, and durations end in "s".
export const count = (value) => Number(value ?? 0);

export const seconds = (value) => Number.parseFloat(value) || 0;

// An enum's name without what all of its names begin with.
export const plain = (name, prefix) => (name ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");
