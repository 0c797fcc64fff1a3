//! A client of the Tidemill inference server.
//!
//! [`Client`] holds a connection and makes the calls: [`feed`](Client::feed), [`scan`](Client::scan), [`upload`](Client::upload) and
//! [`predict`](Client::predict) run models, and others ask about models, health and the repository. Messages are those of [`wire`], just as
//! they are on the wire; [`outputs`] says what became of an item. What goes wrong is an [`Error`], which says what to do.
//!
//! A connection is encrypted if its address begins with `https://`, or [`Settings`] say how with a [`Tls`]. They may also have a
//! [`Credential`], which is shown with every call.
//!
//! ```no_run
//! use tidemill_client::{Client, Event, wire::v1::{PayloadKind, StreamConfig}};
//!
//! # async fn run(audio: impl Iterator<Item = Vec<u8>>) -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(&"127.0.0.1:50051".parse()?).await?;
//! let config = StreamConfig { model: "silero-vad".into(), payload: PayloadKind::PcmS16le.into(), ..StreamConfig::default() };
//! let mut feed = client.feed(config).await?;
//! // The server reads no further ahead than its window allows, so sending and reading go on at the same time.
//! let sending = async {
//!     for chunk in audio {
//!         feed.sender.send_chunk(chunk.into()).await?;
//!     }
//!     drop(feed.sender);
//!     Ok::<_, tidemill_client::Ended>(())
//! };
//! let reading = async {
//!     while let Some(event) = feed.events.next().await? {
//!         if let Event::Segment(segment) = event {
//!             println!("speech from {} ms to {} ms", segment.start_ms, segment.end_ms);
//!         }
//!     }
//!     Ok::<_, tidemill_client::Error>(())
//! };
//! let (sent, read) = tokio::join!(sending, reading);
//! read?;
//! sent?;
//! # Ok(())
//! # }
//! ```

mod address;
mod calls;
mod connection;
mod credential;
mod error;
mod events;
mod feed;
mod result;
mod tls;

pub use address::{Address, InvalidAddress, names_this_machine, socket_path};
pub use calls::HealthChanges;
pub use connection::{Client, Keepalive, Settings};
pub use credential::{Credential, InvalidCredential, Transport};
pub use error::{Details, Error, FieldFault, LimitReached, Refusal};
pub use events::{Event, Events};
pub use feed::{Ended, Feed, FeedSender, keepalive_interval};
pub use result::{ItemError, audio_framing, outputs};
pub use tidemill_wire as wire;
pub use tls::{InvalidTls, Tls, TlsConnector};
