//! Settings: file < environment < flags, resolved once at start-up, checked as a whole, then passed down.
//!
//! The only part that reads the environment. Knows the names and ranges of settings, and nothing about the parts that they
//! configure.

mod access;
mod address;
mod cache;
mod forms;
mod hosts;
mod keys;
mod log;
mod metrics;
mod realtime;
mod resolve;
mod sections;
mod security;
mod server;
mod switch;
mod tls;

pub use self::log::{LogConfig, LogFormat};
pub use access::{Access, Exposure, Port};
pub use address::{BindAddress, is_loopback};
pub use cache::CacheConfig;
pub use hosts::{Authority, HostPattern, OriginPattern, PageOrigin};
pub use keys::{KeyDoc, describe, page};
pub use metrics::MetricsConfig;
pub use realtime::RealtimeConfig;
pub use resolve::{ConfigFault, ConfigFaults, FIND_LIBRARY, Origin, process_environment, process_variable};
pub use sections::{
    Config, ControlConfig, DrainConfig, EngineConfig, GrpcConfig, HttpConfig, MemoryConfig, MessageConfig, ModelsConfig,
    SchedulerConfig, SequenceConfig, SessionConfig, SharedMemoryConfig, WebSocketConfig,
};
pub use security::{IssuerPlace, SecurityConfig};
pub use server::{ProxyProtocol, ServerConfig};
pub use switch::Switch;
pub use tls::{ClientAuth, PortTls, TlsConfig};
