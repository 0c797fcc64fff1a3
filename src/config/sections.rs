//! The settings themselves: one struct for each part of the server, which receives it by reference and reads nothing else.
//!
//! Units, ranges and help live in the table of [`super::keys`]; a test makes sure that both have the same keys.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{
    cache::CacheConfig, forms::path_or_empty, log::LogConfig, metrics::MetricsConfig, realtime::RealtimeConfig,
    security::SecurityConfig, server::ServerConfig, switch::Switch, tls::TlsConfig,
};
use crate::engine::EngineChoice;

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub server: ServerConfig,
    pub tls: TlsConfig,
    pub security: SecurityConfig,
    pub control: ControlConfig,
    pub grpc: GrpcConfig,
    pub http: HttpConfig,
    pub websocket: WebSocketConfig,
    pub realtime: RealtimeConfig,
    pub message: MessageConfig,
    pub session: SessionConfig,
    pub sequence: SequenceConfig,
    pub scheduler: SchedulerConfig,
    pub models: ModelsConfig,
    pub engine: EngineConfig,
    pub shared_memory: SharedMemoryConfig,
    pub cache: CacheConfig,
    pub memory: MemoryConfig,
    pub drain: DrainConfig,
    pub metrics: MetricsConfig,
    pub log: LogConfig,
}

/// What clients may do besides asking for results at an ordinary priority.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlConfig {
    /// Load and unload models.
    pub repository: Switch,
    /// Ask for the API itself, over gRPC.
    pub reflection: Switch,
    /// Open streams that go before all others.
    pub priority_high: Switch,
}

/// Limits of the gRPC transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// Largest message, after inflating.
    pub max_message_bytes: usize,
    /// Largest message of health, reflection and `ModelService`.
    pub max_small_message_bytes: usize,
    /// Calls of every kind open at once, on all connections.
    pub max_calls: usize,
    /// Of them, streams of health and reflection.
    pub max_watches: usize,
    /// Seconds within which a new connection must send HTTP/2's first bytes.
    pub greeting_timeout_s: u64,
    /// Seconds within which a request, or a message that has begun on a stream, must arrive.
    pub body_timeout_s: u64,
    /// HTTP/2 flow-control window of a stream.
    pub stream_window_bytes: u32,
    /// HTTP/2 flow-control window of a connection.
    pub connection_window_bytes: u32,
    /// Bytes that wait in HTTP/2 for a client to take them, on one stream.
    pub max_send_buffer_bytes: usize,
    /// RPCs open at once on one connection.
    pub max_streams_per_connection: u32,
    /// Connections open at once.
    pub max_connections: usize,
    /// Seconds between two pings of a silent connection.
    pub keepalive_interval_s: u64,
    /// Seconds after which an unanswered ping closes the connection.
    pub keepalive_timeout_s: u64,
    /// Seconds that a connection may be without a call.
    pub idle_timeout_s: u64,
    /// Largest header list of a request.
    pub max_header_bytes: u32,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            max_message_bytes: 16 << 20,
            max_small_message_bytes: 64 << 10,
            max_calls: 30_000,
            max_watches: 1_024,
            greeting_timeout_s: 10,
            body_timeout_s: 60,
            stream_window_bytes: 256 << 10,
            connection_window_bytes: 128 << 20,
            max_send_buffer_bytes: 128 << 10,
            max_streams_per_connection: 10_000,
            max_connections: 10_000,
            keepalive_interval_s: 30,
            keepalive_timeout_s: 10,
            idle_timeout_s: 300,
            max_header_bytes: 16 << 10,
        }
    }
}

impl GrpcConfig {
    /// Time within which a request, or a message that has begun on a stream, must arrive.
    #[must_use]
    pub const fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s)
    }

    /// Time between two pings of a silent connection.
    #[must_use]
    pub const fn keepalive_interval(&self) -> Duration {
        Duration::from_secs(self.keepalive_interval_s)
    }

    /// Time after which an unanswered ping closes the connection.
    #[must_use]
    pub const fn keepalive_timeout(&self) -> Duration {
        Duration::from_secs(self.keepalive_timeout_s)
    }
}

/// Limits of the HTTP transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Largest body of a request, after inflating.
    pub max_body_bytes: usize,
    /// Largest head of a request: its first line and its headers.
    pub max_header_bytes: usize,
    /// Connections open at once.
    pub max_connections: usize,
    /// Seconds within which the head of a request must arrive.
    pub header_timeout_s: u64,
    /// Seconds within which the body of a request must arrive.
    pub body_timeout_s: u64,
    /// Seconds that a connection may be silent between two requests.
    pub idle_timeout_s: u64,
    /// The page for browsers.
    pub console: Switch,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: 16 << 20,
            max_header_bytes: 16 << 10,
            max_connections: 10_000,
            header_timeout_s: 10,
            body_timeout_s: 60,
            idle_timeout_s: 120,
            console: Switch::Auto,
        }
    }
}

impl HttpConfig {
    /// Time within which the head of a request must arrive.
    #[must_use]
    pub const fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }

    /// Time within which the body of a request must arrive.
    #[must_use]
    pub const fn body_timeout(&self) -> Duration {
        Duration::from_secs(self.body_timeout_s)
    }

    /// Time that a connection may be silent between two requests.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}

/// Limits of WebSockets, which are connections of the HTTP port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketConfig {
    /// Largest message.
    pub max_message_bytes: usize,
    /// Largest frame.
    pub max_frame_bytes: usize,
    /// Frames of a message, those between them counted in.
    pub max_fragments: usize,
    /// Seconds of silence after which a client is asked whether it is there.
    pub ping_interval_s: u64,
    /// Seconds that it has to answer.
    pub pong_timeout_s: u64,
    /// Bytes of small messages that wait for a client to take them.
    pub write_buffer_bytes: usize,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            // 15 MiB in base64, and what is around it.
            max_message_bytes: 21 << 20,
            max_frame_bytes: 21 << 20,
            max_fragments: 1_024,
            ping_interval_s: 30,
            pong_timeout_s: 20,
            write_buffer_bytes: 64 << 10,
        }
    }
}

impl WebSocketConfig {
    /// Silence after which a client is asked whether it is there.
    #[must_use]
    pub const fn ping_interval(&self) -> Duration {
        Duration::from_secs(self.ping_interval_s)
    }

    /// Time that it has to answer.
    #[must_use]
    pub const fn pong_timeout(&self) -> Duration {
        Duration::from_secs(self.pong_timeout_s)
    }
}

/// What one message may hold, over gRPC; each kind of member is counted before anything is decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MessageConfig {
    /// Items of a `Scan`.
    pub max_items: usize,
    /// Tensors, parameters and the like, of a request or of each item of a `Scan`.
    pub max_members: usize,
    /// Dimensions of a tensor; an item of the native API has a fixed limit.
    pub max_dims: usize,
    /// Strings, and tensors, in lists of them.
    pub max_strings: usize,
    /// Numbers in lists of them.
    pub max_elements: usize,
    /// Bytes of a name, an id or any other text.
    pub max_text_bytes: usize,
    /// Inflated bytes for each compressed one; applies beyond a MiB, to HTTP too.
    pub max_inflate_ratio: usize,
}

impl Default for MessageConfig {
    fn default() -> Self {
        Self {
            max_items: 65_536,
            max_members: 4_096,
            max_dims: 64,
            max_strings: 65_536,
            max_elements: 4 << 20,
            max_text_bytes: 64 << 10,
            max_inflate_ratio: 200,
        }
    }
}

/// Limits of one client stream, and of all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionConfig {
    /// Items in flight on a stream that asks for nothing special.
    pub window_items: u32,
    /// Items in flight that a stream may ask for.
    pub window_items_max: u32,
    /// Input bytes in flight on a stream.
    pub window_bytes: usize,
    /// Largest item, in input bytes.
    pub max_item_bytes: usize,
    /// Seconds after which a stream with nothing in flight and nothing sent ends.
    pub idle_timeout_s: u64,
    /// Seconds after which a stream is reset whose client takes nothing although there is something to send.
    pub unread_timeout_s: u64,
    /// Seconds within which a stream must send its first message.
    pub open_timeout_s: u64,
    /// Largest upload.
    pub upload_max_bytes: u64,
    /// Results that one upload may gather.
    pub upload_max_results: usize,
    /// Their bytes.
    pub upload_max_result_bytes: usize,
    /// Streams open at once.
    pub max_streams: usize,
    /// Request metadata whose value names the tenant; empty if all streams are one tenant's.
    #[serde(deserialize_with = "metadata_name")]
    pub tenant_metadata: String,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            window_items: 64,
            window_items_max: 1_024,
            window_bytes: 8 << 20,
            max_item_bytes: 4 << 20,
            idle_timeout_s: 300,
            unread_timeout_s: 300,
            open_timeout_s: 10,
            upload_max_bytes: 1 << 30,
            upload_max_results: 100_000,
            upload_max_result_bytes: 64 << 20,
            max_streams: 20_000,
            tenant_metadata: String::new(),
        }
    }
}

impl SessionConfig {
    /// Time after which a stream with nothing in flight and nothing sent ends.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    /// Time after which a stream is reset whose client takes nothing although there is something to send.
    #[must_use]
    pub const fn unread_timeout(&self) -> Duration {
        Duration::from_secs(self.unread_timeout_s)
    }

    /// Time within which a stream must send its first message.
    #[must_use]
    pub const fn open_timeout(&self) -> Duration {
        Duration::from_secs(self.open_timeout_s)
    }
}

/// Limits on sequences, the streams of stateful models in the Open Inference Protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Seconds after which a sequence without a request is freed.
    pub idle_timeout_s: u64,
    /// Seconds that a sequence over unary calls outlives the connections that used it.
    pub grace_s: u64,
    /// Sequences open at once on one stream.
    pub max_per_stream: usize,
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self { idle_timeout_s: 60, grace_s: 10, max_per_stream: 1_024 }
    }
}

impl SequenceConfig {
    /// Time that a sequence over unary calls outlives the connections that used it.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_s)
    }

    /// Time after which a sequence without a request is freed.
    #[must_use]
    pub const fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }
}

/// Lanes, and the limits of what waits for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Lanes; 0 for as many as the machine has cores.
    pub lanes: usize,
    /// Whether long calls have their own threads.
    pub long_lanes: bool,
    /// Admitted items of all models.
    pub max_queued_items: usize,
    /// Their input bytes.
    pub max_queued_bytes: usize,
    /// Admitted items of one model.
    pub max_queued_items_per_model: usize,
    /// Their input bytes.
    pub max_queued_bytes_per_model: usize,
    /// File to record the arrival of items in; none if absent.
    #[serde(with = "path_or_empty")]
    pub record: Option<PathBuf>,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            lanes: 0,
            long_lanes: true,
            max_queued_items: 65_536,
            max_queued_bytes: 1 << 30,
            max_queued_items_per_model: 65_536,
            max_queued_bytes_per_model: 1 << 30,
            record: None,
        }
    }
}

/// Which models are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelsConfig {
    /// Folder of models; none if absent.
    #[serde(with = "path_or_empty")]
    pub dir: Option<PathBuf>,
    /// Name of the model, if that is the folder of one; empty for the folder's name.
    pub name: String,
    /// Whether to serve the models that load when others do not.
    pub allow_partial: bool,
    /// Whether to serve the model inside the binary.
    pub embedded: bool,
    /// Whether to serve its form for 8 kHz audio.
    pub embedded_8khz: bool,
    /// Whether to serve the model without a file, for first steps.
    pub example: bool,
    /// Whether to follow changes in the folder.
    pub watch: bool,
    /// Calls of clients that load or unload models, running or waiting.
    pub max_load_calls: usize,
    /// Where proofs of models are kept from one start to the next; nowhere if absent.
    #[serde(with = "path_or_empty")]
    pub cache_dir: Option<PathBuf>,
}

impl Default for ModelsConfig {
    fn default() -> Self {
        Self {
            dir: None,
            name: String::new(),
            allow_partial: false,
            embedded: true,
            embedded_8khz: false,
            example: true,
            watch: false,
            max_load_calls: 64,
            cache_dir: None,
        }
    }
}

/// Engines.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Engine of the models that leave the choice open.
    #[serde(deserialize_with = "EngineChoice::deserialize_for_files")]
    pub default: EngineChoice,
    /// ONNX Runtime's shared library; not loaded if absent.
    #[serde(with = "path_or_empty")]
    pub onnxruntime: Option<PathBuf>,
}

impl EngineConfig {
    /// The library that a setting names for the engine with this name: the setting is called like the engine.
    #[must_use]
    pub fn library(&self, engine: &str) -> Option<&Path> {
        match engine {
            "onnxruntime" => self.onnxruntime.as_deref(),
            _ => None,
        }
    }
}

/// Shared memory of clients on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SharedMemoryConfig {
    /// Whether clients may use it.
    pub enabled: Switch,
    /// Regions registered at once.
    pub max_regions: usize,
    /// The largest input or output in it.
    pub max_tensor_bytes: usize,
}

impl Default for SharedMemoryConfig {
    fn default() -> Self {
        Self { enabled: Switch::Auto, max_regions: 1_024, max_tensor_bytes: 64 << 20 }
    }
}

/// The memory of the process, and of messages in transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryConfig {
    /// Bytes that the process may use; 0 for what the system allows.
    pub limit_bytes: u64,
    /// Bytes of all arriving messages, and of all answers that clients have yet to take.
    pub transfer_bytes: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { limit_bytes: 0, transfer_bytes: 512 << 20 }
    }
}

/// The end of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Seconds that open streams have to finish what is in flight.
    pub deadline_s: u64,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { deadline_s: 30 }
    }
}

impl DrainConfig {
    /// Time that open streams have to finish what is in flight.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s)
    }
}

fn metadata_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    if name.bytes().all(allowed) && !name.ends_with("-bin") {
        return Ok(name);
    }
    Err(D::Error::custom(format!("'{name}' is not the name of textual metadata: lower-case letters, digits, '-', '_' and '.'")))
}
