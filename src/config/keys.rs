//! The table of keys: unit, accepted range and help of each setting, and the page made from it.
//!
//! Defaults and types are not here: they are read off [`Config::default`], so that they cannot disagree with it.

use std::{fmt::Write as _, ops::RangeInclusive, sync::LazyLock};

use super::Config;
use crate::engine::EngineChoice;

/// A setting, described for `docs/configuration.md` and the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDoc {
    /// `section.name`, stable; errors name limits by it.
    pub key: &'static str,
    /// Default in TOML.
    pub default: String,
    /// Unit; empty if there is none.
    pub unit: &'static str,
    /// Accepted values, in words.
    pub accepted: String,
    /// What it does.
    pub help: &'static str,
}

/// All keys, in the order of the structs.
#[must_use]
pub fn describe() -> Vec<KeyDoc> {
    let describe_key = |key: &Key| KeyDoc {
        key: key.name,
        default: default_value(key.name).map(ToString::to_string).unwrap_or_default(),
        unit: key.unit,
        accepted: key.accepts.to_string(),
        help: key.help,
    };
    KEYS.iter().map(describe_key).collect()
}

/// The text of `docs/configuration.md`.
#[must_use]
pub fn page() -> String {
    let mut page = PREFACE.to_owned();
    let mut section = "";
    for doc in describe() {
        let (name, _) = doc.key.split_once('.').unwrap_or((doc.key, ""));
        if name != section {
            section = name;
            let _ = write!(page, "\n## `[{section}]`\n\n| key | default | accepted | meaning |\n|---|---|---|---|\n");
        }
        let KeyDoc { key, default, unit, accepted, help } = doc;
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let _ = writeln!(page, "| `{key}` | `{default}`{unit} | {accepted} | {help} |");
    }
    page
}

const PREFACE: &str = "\
# Configuration

Every setting has a default, and every limit is finite. A setting is looked for in four places; the last one that names it wins:

1. the default below;
2. the TOML file given with `--config`: `[session]` and below it `window_items = 8`;
3. the environment: `TIDEMILL_SESSION__WINDOW_ITEMS=8` (the two underscores stand for the dot);
4. the command line: `--set session.window_items=8`, or the flag of that name where there is one.

Unknown keys and values out of range stop the server before it starts; all faults are reported at once, each with the place that it
came from. Errors that clients see name the limit that they ran into by its key here.

Variables that begin with `TIDEMILL_` but are not settings are refused too, except `TIDEMILL_CONFIG` (the file's path), `TIDEMILL_ADDR` and
`TIDEMILL_API_KEY` (the clients') and those that Kubernetes sets for a service called `tidemill` (`TIDEMILL_SERVICE_HOST`, `TIDEMILL_PORT` and the like).
";

/// Limits on the values of a key beyond its type.
pub(super) enum Accepts {
    Range(RangeInclusive<i64>),
    Words(&'static str),
    /// A choice among the engines that run model files.
    Engine,
    /// `auto`, `on` or `off`; `true` and `false` work too.
    Switch,
}

impl std::fmt::Display for Accepts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Range(range) => write!(f, "{} to {}", range.start(), range.end()),
            Self::Words(words) => f.write_str(words),
            Self::Engine => {
                let names: Vec<String> = EngineChoice::for_files().map(|choice| format!("`\"{}\"`", choice.name())).collect();
                match names.split_last() {
                    Some((last, others)) if !others.is_empty() => write!(f, "{} or {last}", others.join(", ")),
                    _ => f.write_str(&names.concat()),
                }
            }
            Self::Switch => f.write_str("`\"auto\"`, `\"on\"` or `\"off\"`"),
        }
    }
}

/// A row of the table.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    pub(super) accepts: Accepts,
    pub(super) help: &'static str,
}

const fn number(name: &'static str, unit: &'static str, range: RangeInclusive<i64>, help: &'static str) -> Key {
    Key { name, unit, accepts: Accepts::Range(range), help }
}

const fn words(name: &'static str, accepts: &'static str, help: &'static str) -> Key {
    Key { name, unit: "", accepts: Accepts::Words(accepts), help }
}

const fn switch(name: &'static str, help: &'static str) -> Key {
    Key { name, unit: "", accepts: Accepts::Switch, help }
}

const ADDRESS: &str = "`ip:port`, `localhost:port`, `:port` for all addresses of the machine, or `unix:/path` for a Unix socket; port 0 \
                       takes any free one";
const SWITCH: &str = "`true` or `false`";
const PORT_TLS: &str =
    "`\"auto\"`, `\"plain\"`, or encrypted with `\"off\"`, `\"optional\"` or `\"required\"` as in `tls.client_auth`";
const PATH: &str = "a path; empty for none";
/// HTTP/2's largest flow-control window.
const WINDOW_MAX: i64 = (1 << 31) - 1;
/// An upper bound for sizes in memory, beyond any real machine, so that sums of a few of them cannot overflow.
const MEMORY_MAX: i64 = 1 << 46;

pub(super) const KEYS: &[Key] = &[
    words("server.grpc_addr", ADDRESS, "where gRPC clients connect"),
    words("server.http_addr", ADDRESS, "where HTTP clients connect"),
    words(
        "server.admin_addr",
        ADDRESS,
        "where `/metrics`, `/livez` and `/readyz` are served; at an address that others reach, `/metrics` needs a key if there is a keys file",
    ),
    words(
        "server.socket_mode",
        "permissions in octal, from `\"0000\"` to `\"0777\"`",
        "permissions of the files of [Unix sockets](security.md#unix-sockets): they decide which users may connect",
    ),
    number(
        "server.side_threads",
        "threads",
        0..=1_024,
        "threads for work that live feeds cannot wait for: decoding, inflating and encoding large messages; 0 for a quarter as many as \
         there are cores, and at least one",
    ),
    words(
        "server.allowed_hosts",
        "names such as `example.com` and `*.example.com`, or `*` for any; as text, with commas between them",
        "names that clients may use for the server; `localhost`, the machine's own name and addresses need not be listed. Empty: other \
         names are refused, but only on connections over loopback. See [web pages](hardening.md#web-pages)",
    ),
    words(
        "server.allowed_origins",
        "origins such as `https://example.com` and `https://*.example.com:8443`, or `*` for any; as text, with commas between them",
        "web pages of other sites that may send requests; see [web pages](hardening.md#web-pages)",
    ),
    words(
        "server.proxies",
        "IP addresses with commas between them; empty for none",
        "proxies in front of the server: their connections carry many clients, so [shares](scheduling.md#shares-of-what-is-bounded) \
         do not apply to their address; the tenants that they name are trusted, and so is `x-forwarded-for`. See \
         [proxies](security.md#proxies)",
    ),
    words(
        "server.proxy_protocol",
        "`\"off\"` or `\"on\"`",
        "whether connections to the client ports from `server.proxies` begin with the header of the PROXY protocol, version 1 or 2, which \
         says whose they are; with `on`, those without one are closed",
    ),
    number(
        "server.connection_max_age_s",
        "seconds",
        0..=604_800,
        "age, give or take a tenth, at which a connection is asked to leave, and live feeds on it are warned; 0 for never",
    ),
    number("server.connection_grace_s", "seconds", 0..=604_800, "time that its calls have then, before it is closed"),
    number(
        "server.max_connections_per_peer",
        "connections",
        0..=1_000_000,
        "connections of one address (of IPv6: of 64 bits of it) to the client ports; 0 for as many as its share allows",
    ),
    number(
        "server.new_connections_per_peer_per_s",
        "connections",
        0..=1_000_000,
        "new connections a second of one address; as many may come at once. 0 for any number",
    ),
    words(
        "tls.cert",
        "paths with commas between them; empty for none",
        "files in PEM of the server's certificates, each with its chain; with them, ports are encrypted with TLS 1.2 or 1.3. Of several, a \
         client gets the one for the host that it names, and otherwise the first. They are read again when they change, and on \
         SIGHUP; see [TLS](security.md#encrypted-connections)",
    ),
    words("tls.key", "paths with commas between them; empty for none", "files in PEM of their keys, in the same order"),
    words("tls.client_ca", PATH, "file in PEM of the authorities that issue certificates of clients"),
    words(
        "tls.client_auth",
        "`\"off\"`, `\"optional\"` or `\"required\"`",
        "whether clients are asked for a certificate, and whether they are served without one; one that is shown must be sound",
    ),
    words(
        "tls.grpc",
        PORT_TLS,
        "whether the gRPC port is encrypted, and what its clients must show; `auto`: as the keys above say",
    ),
    words("tls.http", PORT_TLS, "the same for the HTTP port"),
    words("tls.admin", PORT_TLS, "the same for the admin port; many probes cannot show a certificate"),
    number(
        "tls.handshake_timeout_s",
        "seconds",
        1..=3_600,
        "time within which a new connection must finish its handshake, the wait for its turn included",
    ),
    number(
        "tls.max_handshakes",
        "handshakes",
        1..=100_000,
        "handshakes at once, on all ports; others wait for their turn, for which one that has lasted a second may have to end",
    ),
    words(
        "security.keys",
        PATH,
        "file of the [callers that are known](security.md#the-keys-file), which `tidemill keys` writes; changes apply at once",
    ),
    switch(
        "security.allow_anonymous",
        "let callers in that present no credential; `auto`: if there is no keys file, and on loopback addresses and Unix sockets only. \
         Without a keys file, the server does not start on other addresses unless this is `on`. See [what callers may \
         do](security.md#what-callers-may-do)",
    ),
    words("security.plain_keys", SWITCH, "take keys and tokens over connections from other machines that are not encrypted"),
    words(
        "security.jwks",
        "a path, or a URL with `https://`; empty for none",
        "public keys (JWKS) of an issuer whose [tokens](security.md#tokens-of-an-issuer) are taken as credentials; a file is read again \
         when it changes",
    ),
    words(
        "security.jwks_ca",
        PATH,
        "file in PEM of the authorities to trust for that URL; if empty, those that the system trusts",
    ),
    number(
        "security.jwks_refresh_s",
        "seconds",
        10..=86_400,
        "time between two looks at that URL; a token that names an unknown key brings the next one forward, to a minute after the last",
    ),
    words("security.jwt_issuer", "text", "what tokens must name as their issuer (`iss`); needed with `security.jwks`"),
    words("security.jwt_audience", "text", "what tokens must name as their audience (`aud`); needed with `security.jwks`"),
    number("security.jwt_leeway_s", "seconds", 0..=300, "time by which the clocks of issuer and server may differ"),
    words("security.jwt_tenant_claim", "text", "the claim of a token that names its caller's tenant"),
    words("security.jwt_scopes_claim", "text", "the claim of a token that lists its caller's scopes"),
    words(
        "security.tokens",
        SWITCH,
        "lend [short-lived tokens](security.md#tokens-for-browsers) to callers that the keys file lists, by `POST /v1/tokens`",
    ),
    switch(
        "control.repository",
        "let clients load, prove and unload models; `auto`: yes. Without a keys file, only on ports that are bound to a loopback address",
    ),
    switch("control.reflection", "let gRPC clients ask for the API by reflection; `auto`: yes, but as `control.repository`"),
    switch("control.priority_high", "let clients ask for priority HIGH, which goes ahead of all others; `auto`: yes"),
    number("grpc.max_message_bytes", "bytes", 1_024..=WINDOW_MAX, "largest message, after inflating"),
    number(
        "grpc.max_small_message_bytes",
        "bytes",
        1_024..=WINDOW_MAX,
        "largest message to health, reflection and `ModelService`; never more than `grpc.max_message_bytes`",
    ),
    number(
        "grpc.max_calls",
        "calls",
        1..=10_000_000,
        "calls and streams open at once, on all connections, counted from their headers on, whatever their method",
    ),
    number("grpc.greeting_timeout_s", "seconds", 1..=3_600, "time within which a new connection must send HTTP/2's first bytes"),
    number("grpc.max_watches", "streams", 1..=10_000_000, "streams of health's `Watch` and of reflection among them"),
    number(
        "grpc.body_timeout_s",
        "seconds",
        1..=86_400,
        "time within which a request must arrive in full, a message of a stream, counted from its first byte, and the next question \
         on a reflection stream",
    ),
    number("grpc.stream_window_bytes", "bytes", 65_535..=WINDOW_MAX, "HTTP/2 flow-control window of a stream"),
    number(
        "grpc.connection_window_bytes",
        "bytes",
        65_535..=WINDOW_MAX,
        "HTTP/2 flow-control window of a connection; small frames that wait on its streams may take up half of it, each counted as 256 \
         bytes less its own",
    ),
    number(
        "grpc.max_send_buffer_bytes",
        "bytes",
        16_384..=WINDOW_MAX,
        "bytes of one stream that wait in HTTP/2 for the client to take them; once there are more, no further messages are encoded",
    ),
    number("grpc.max_streams_per_connection", "streams", 1..=1_000_000, "RPCs open at once on one connection"),
    number("grpc.max_connections", "connections", 1..=1_000_000, "connections open at once"),
    number("grpc.keepalive_interval_s", "seconds", 1..=86_400, "time between two pings of a silent connection"),
    number("grpc.keepalive_timeout_s", "seconds", 1..=86_400, "time after which an unanswered ping closes the connection"),
    number(
        "grpc.idle_timeout_s",
        "seconds",
        1..=604_800,
        "a connection without a call for this long is closed, even if it answers pings",
    ),
    number(
        "grpc.max_header_bytes",
        "bytes",
        1_024..=1_048_576,
        "largest header list of a request, as HTTP/2 counts it: name, value and 32 bytes for each",
    ),
    number("http.max_body_bytes", "bytes", 1_024..=WINDOW_MAX, "largest body of a request, after inflating"),
    number("http.max_header_bytes", "bytes", 1_024..=1_048_576, "largest head of a request: its first line and its headers"),
    number("http.max_connections", "connections", 1..=1_000_000, "connections open at once"),
    number("http.header_timeout_s", "seconds", 1..=3_600, "time within which the head of a request must arrive"),
    number("http.body_timeout_s", "seconds", 1..=86_400, "time within which the body of a request must arrive"),
    number(
        "http.idle_timeout_s",
        "seconds",
        1..=86_400,
        "a connection that is silent for this long between two requests is closed",
    ),
    number(
        "websocket.max_message_bytes",
        "bytes",
        1_024..=WINDOW_MAX,
        "largest message; text in base64 takes a third more than its bytes",
    ),
    number("websocket.max_frame_bytes", "bytes", 1_024..=WINDOW_MAX, "largest frame; few clients send a message in several"),
    number(
        "websocket.max_fragments",
        "frames",
        1..=1_000_000,
        "frames in which one message may come, with the pings and pongs between them",
    ),
    number("websocket.ping_interval_s", "seconds", 1..=86_400, "silence after which a client is asked whether it is still there"),
    number("websocket.pong_timeout_s", "seconds", 1..=86_400, "time that it then has to send anything at all"),
    number(
        "websocket.write_buffer_bytes",
        "bytes",
        1_024..=16_777_216,
        "bytes of messages that wait for one client to take them, before its stream is held back; a larger message waits alone",
    ),
    switch(
        "http.console",
        "show browsers the [console](console.md) at `/`; `auto`: on a loopback address, and on others if callers have \
         credentials",
    ),
    number(
        "realtime.session_max_s",
        "seconds",
        60..=604_800,
        "how long a [Realtime](realtime.md) session lasts at most; its client then opens another",
    ),
    number(
        "realtime.max_append_bytes",
        "bytes",
        1_024..=WINDOW_MAX,
        "largest audio of one event `input_audio_buffer.append`, counted after decoding",
    ),
    number("message.max_items", "items", 2_048..=10_000_000, "items that one `Scan` may hold"),
    number(
        "message.max_members",
        "members",
        2_048..=1_000_000,
        "tensors, parameters, names and the like that one request, or one item of a `Scan`, may hold",
    ),
    number("message.max_dims", "dimensions", 8..=4_096, "dimensions of one tensor"),
    number(
        "message.max_strings",
        "strings",
        2_048..=10_000_000,
        "strings in typed contents, and tensors in raw contents, that one request may hold",
    ),
    number("message.max_elements", "numbers", 4_096..=1_000_000_000, "numbers in typed contents that one request may hold"),
    number("message.max_text_bytes", "bytes", 4_096..=WINDOW_MAX, "longest name, id or other text in a request"),
    number(
        "message.max_inflate_ratio",
        "bytes",
        2..=1_000_000,
        "most inflated bytes for each compressed byte of a message or body; applies once more than 1 MiB has been inflated",
    ),
    number("session.window_items", "items", 1..=65_536, "items in flight on a stream that does not ask for a number"),
    number("session.window_items_max", "items", 1..=65_536, "largest number of items in flight that a stream is granted"),
    number("session.window_bytes", "bytes", 1_024..=MEMORY_MAX, "input bytes in flight on a stream"),
    number("session.max_item_bytes", "bytes", 1..=WINDOW_MAX, "largest item, in input bytes"),
    number(
        "session.idle_timeout_s",
        "seconds",
        1..=604_800,
        "a stream with nothing in flight that sends nothing for this long ends",
    ),
    number(
        "session.unread_timeout_s",
        "seconds",
        1..=86_400,
        "a stream or call whose client takes nothing for this long, while there is something to send, is reset",
    ),
    number("session.open_timeout_s", "seconds", 1..=3_600, "time within which a stream must send its first message"),
    number("session.upload_max_bytes", "bytes", 1..=MEMORY_MAX, "largest upload; it is processed as it arrives, not held"),
    number("session.upload_max_results", "results", 1..=100_000_000, "results that one upload may gather for its answer"),
    number(
        "session.upload_max_result_bytes",
        "bytes",
        1_024..=WINDOW_MAX,
        "bytes of the results that one upload may gather for its answer",
    ),
    number("session.max_streams", "streams", 1..=10_000_000, "streams open at once, on all connections"),
    words(
        "session.tenant_metadata",
        "a name of lower-case letters, digits, `-`, `_` and `.`; empty for none",
        "request metadata whose value names the tenant; tenants share the lanes fairly. Empty: all streams are one tenant's",
    ),
    number(
        "sequence.idle_timeout_s",
        "seconds",
        1..=86_400,
        "time after which a sequence of the Open Inference Protocol without a request is freed, with its state",
    ),
    number(
        "sequence.grace_s",
        "seconds",
        0..=86_400,
        "time after which a sequence over unary calls is freed once no connection that used it is open",
    ),
    number("sequence.max_per_stream", "sequences", 1..=10_000_000, "sequences open at once on one `ModelStreamInfer` stream"),
    number("scheduler.lanes", "lanes", 0..=1_024, "model calls at once, one thread each; 0 for as many as the machine has cores"),
    words(
        "scheduler.long_lanes",
        SWITCH,
        "run calls that are long compared with others on their own threads, which yield their cores to whatever else wants them; see \
         [long calls](scheduling.md#long-calls)",
    ),
    number("scheduler.max_queued_items", "items", 1..=100_000_000, "admitted items of all models"),
    number("scheduler.max_queued_bytes", "bytes", 1_024..=MEMORY_MAX, "input bytes of the admitted items of all models"),
    number("scheduler.max_queued_items_per_model", "items", 1..=100_000_000, "admitted items of one model"),
    number("scheduler.max_queued_bytes_per_model", "bytes", 1_024..=MEMORY_MAX, "input bytes of the admitted items of one model"),
    words("scheduler.record", PATH, "file for recording what arrives and when, without payloads, for `tidemill-sim replay`"),
    words("models.dir", PATH, "folder of models, one folder each, or the folder of one model; see [models](models.md)"),
    words(
        "models.name",
        "a model's name; empty for the folder's",
        "name of the model if `models.dir` is the folder of one model",
    ),
    words("models.allow_partial", SWITCH, "serve the models that load even if others do not"),
    words("models.embedded", SWITCH, "serve the model inside the binary, `silero-vad`, which takes 16 kHz audio"),
    words("models.embedded_8khz", SWITCH, "serve the model inside the binary for 8 kHz audio, `silero-vad-8k`"),
    words("models.example", SWITCH, "serve `example_model`, which doubles numbers"),
    words("models.watch", SWITCH, "load, replace and unload models as `models.dir` changes"),
    number(
        "models.max_load_calls",
        "calls",
        1..=10_000,
        "calls that load or unload models, running or waiting; they run one at a time",
    ),
    words(
        "models.cache_dir",
        PATH,
        "folder that keeps [proofs](models.md#what-the-server-finds-out) of models from one start to the next; closed to other users; if not \
         set, `$CACHE_DIRECTORY/proofs`, `$XDG_CACHE_HOME/tidemill/proofs` or `$HOME/.cache/tidemill/proofs`",
    ),
    Key {
        name: "engine.default",
        unit: "",
        accepts: Accepts::Engine,
        help: "engine of the models that leave the choice open; `auto` is `onnxruntime` if its library is loaded, else `rten`; with `rten`, models that it cannot load or might compute wrongly still run on `onnxruntime` if that is loaded",
    },
    words(
        "engine.onnxruntime",
        "a path; `\"auto\"`; empty for none",
        "shared library of ONNX Runtime, such as `libonnxruntime.so`; `auto` finds the newest among the installed Python packages \
         `onnxruntime` and on the system; if not set here, `ORT_DYLIB_PATH` is used",
    ),
    switch(
        "shared_memory.enabled",
        "let clients of the Open Inference Protocol register shared memory of this machine; they can reach all of it that the server's \
         user may open. `auto`: yes. Without a keys file, only on ports that are bound to a loopback address",
    ),
    number("shared_memory.max_regions", "regions", 1..=65_536, "regions registered at once, each an open file"),
    number("shared_memory.max_tensor_bytes", "bytes", 1..=MEMORY_MAX, "largest input or output in shared memory"),
    number(
        "cache.bytes",
        "bytes",
        0..=MEMORY_MAX,
        "answers that are kept for [models that ask for it](models.md#answers-that-are-kept), all models together; those that were not \
         asked for the longest make room; 0 keeps none",
    ),
    number("cache.max_entry_bytes", "bytes", 1..=MEMORY_MAX, "the largest answer that is kept"),
    number(
        "memory.limit_bytes",
        "bytes",
        0..=MEMORY_MAX,
        "memory that the process may use: above 90 % of it, new streams, uploads and large calls are refused; 0 for what the cgroup, the \
         address space or the machine allows",
    ),
    number(
        "memory.transfer_bytes",
        "bytes",
        1 << 20..=MEMORY_MAX,
        "bytes of all arriving messages and bodies and of all large answers that clients have yet to take, over all ports; an eighth is \
         reserved for messages of at most 64 KiB, and clients have their [shares](scheduling.md#shares-of-what-is-bounded)",
    ),
    number(
        "drain.deadline_s",
        "seconds",
        0..=86_400,
        "time that open streams have to finish what is in flight once the server is asked to stop",
    ),
    words("metrics.enabled", SWITCH, "count for Prometheus; if off, `/metrics` answers 404, and recording costs nothing"),
    words(
        "metrics.tenants",
        "up to 100 names with commas between them; empty for none",
        "tenants of the [keys file](security.md#tenants), or of tokens, that are counted by name",
    ),
    words("log.format", "`\"text\"` or `\"json\"`", "form of a log line"),
    words("log.filter", "directives such as `info,tidemill=debug`", "which log lines are written"),
    words(
        "log.audit",
        PATH,
        "file of the [audit log](operations.md#the-audit-log): refused callers, and what was changed by whom",
    ),
];

/// Pairs of keys, the first of which must not exceed the second, and why.
pub(super) const ORDERED: &[(&str, &str, &str)] = &[
    ("session.window_items", "session.window_items_max", "the default must not exceed what a stream may ask for"),
    ("session.max_item_bytes", "grpc.max_message_bytes", "an item arrives in one message"),
    ("session.max_item_bytes", "http.max_body_bytes", "an item arrives in one body"),
    ("grpc.max_message_bytes", "memory.transfer_bytes", "a message must have room to arrive in"),
    ("http.max_body_bytes", "memory.transfer_bytes", "a body must have room to arrive in"),
    ("websocket.max_message_bytes", "memory.transfer_bytes", "a message must have room to arrive in"),
    ("websocket.max_frame_bytes", "websocket.max_message_bytes", "a frame is a message or a part of one"),
    ("realtime.max_append_bytes", "websocket.max_message_bytes", "the audio of an event arrives in one message"),
    ("session.max_item_bytes", "scheduler.max_queued_bytes", "the queue must hold the largest item"),
    ("session.max_item_bytes", "scheduler.max_queued_bytes_per_model", "a model's queue must hold the largest item"),
    ("grpc.stream_window_bytes", "grpc.connection_window_bytes", "a connection's window is shared by its streams"),
];

static DEFAULTS: LazyLock<toml::Table> = LazyLock::new(|| toml::Table::try_from(Config::default()).unwrap_or_default());

/// The default of `section.name`; `None` if there is no such key.
pub(super) fn default_value(key: &str) -> Option<&'static toml::Value> {
    let (section, name) = key.split_once('.')?;
    DEFAULTS.get(section)?.get(name)
}

/// The known key that is most like `unknown`, if one is close enough.
pub(super) fn nearest(unknown: &str) -> Option<&'static str> {
    // A longer name is hardly a slip, and the distance takes quadratic time.
    if unknown.len() > 64 {
        return None;
    }
    let distance = |key: &Key| match key.name.split_once('.') {
        Some((_, short)) if !unknown.contains('.') => edit_distance(unknown, key.name).min(edit_distance(unknown, short)),
        _ => edit_distance(unknown, key.name),
    };
    let (distance, name) = KEYS.iter().map(|key| (distance(key), key.name)).min()?;
    (distance <= unknown.len() / 3).then_some(name)
}

/// How many letters must be added, removed or changed to turn `right` into `left`.
fn edit_distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_table_has_each_key_of_the_structs_once_and_in_their_order() {
        let sections = DEFAULTS.iter().map(|(section, value)| (section, value.as_table().expect("sections are tables")));
        let mut fields: Vec<String> =
            sections.flat_map(|(section, table)| table.keys().map(move |name| format!("{section}.{name}"))).collect();
        let mut rows: Vec<String> = KEYS.iter().map(|key| key.name.to_owned()).collect();
        fields.sort();
        rows.sort();
        assert_eq!(fields, rows);
    }

    #[test]
    fn defaults_lie_in_their_ranges_and_numbers_have_them() {
        for key in KEYS {
            match (&key.accepts, default_value(key.name).expect("checked above")) {
                (Accepts::Range(range), toml::Value::Integer(value)) => assert!(range.contains(value), "{}", key.name),
                (_, toml::Value::Integer(_)) | (Accepts::Range(_), _) => panic!("{} has no range", key.name),
                (Accepts::Words(_) | Accepts::Switch | Accepts::Engine, _) => {}
            }
        }
    }

    #[test]
    fn the_page_is_the_table() {
        let expected = page();
        if include_str!("../../docs/configuration.md") != expected {
            let fresh = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/configuration.md");
            fs::write(&fresh, expected).expect("the target folder can be written");
            panic!("docs/configuration.md is out of date; the text it should have is in target/configuration.md");
        }
    }

    #[test]
    fn the_nearest_name_is_found_for_a_slip_and_none_for_something_else() {
        assert_eq!(nearest("session.windw_items"), Some("session.window_items"));
        assert_eq!(nearest("drain.deadline"), Some("drain.deadline_s"));
        assert_eq!(nearest("window_items"), Some("session.window_items"));
        assert_eq!(nearest("session_window_items"), Some("session.window_items"));
        assert_eq!(nearest("colour"), None);
        assert_eq!(nearest(&"x".repeat(1_000)), None);
    }
}
