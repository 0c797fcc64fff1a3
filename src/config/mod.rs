//! Settings: file < environment < flags, resolved once at start-up, checked as a whole, then passed down.
//!
//! The only part that reads the environment. Knows the names and ranges of settings, and nothing about the parts that they
//! configure.

mod access;
mod forms;
mod hosts;
mod keys;
mod log;
mod resolve;
mod sections;
mod tls;

pub use self::log::{LogConfig, LogFormat};
pub use access::{Access, Exposure, Port, is_loopback};
pub use hosts::{Authority, HostPattern, OriginPattern, PageOrigin};
pub use keys::{KeyDoc, describe, page};
pub use resolve::{ConfigFault, ConfigFaults, FIND_LIBRARY, Origin, process_environment, process_variable};
pub use sections::{
    Config, ControlConfig, DrainConfig, EngineConfig, GrpcConfig, HttpConfig, MemoryConfig, MessageConfig, MetricsConfig,
    ModelsConfig, SchedulerConfig, SecurityConfig, SequenceConfig, ServerConfig, SessionConfig, SharedMemoryConfig, Switch,
};
pub use tls::{ClientAuth, PortTls, TlsConfig};
