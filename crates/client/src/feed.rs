//! The sending half of a feed.

use std::{sync::Arc, time::Duration};

use tidemill_wire::{
    duration_from_wire,
    v1::{FeedRequest, Flush, Item, KeepAlive, Opened, feed_request::Message},
};
use tokio::sync::{Semaphore, mpsc};

use crate::events::Events;

/// How often a silent client gives a sign of life if the server names no idle timeout.
const KEEPALIVE_DEFAULT: Duration = Duration::from_secs(15);

/// An open feed, in two halves.
#[derive(Debug)]
pub struct Feed {
    /// What the server said: the model that it is pinned to, and the limits in force.
    pub opened: Opened,
    /// What to send with. Dropping it says that nothing more comes; what was sent is still answered.
    pub sender: FeedSender,
    /// What comes back.
    pub events: Events,
}

/// The stream has ended, so nothing more can be sent; its [`Events`] say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended; its events say why")]
pub struct Ended;

/// Sends on a feed.
#[derive(Debug, Clone)]
pub struct FeedSender {
    requests: mpsc::Sender<FeedRequest>,
    window: Option<Arc<Semaphore>>,
}

impl FeedSender {
    /// One that puts its messages into a channel, for a feed opened with [`feed_from`](crate::Client::feed_from). It knows no window.
    #[must_use]
    pub const fn new(requests: mpsc::Sender<FeedRequest>) -> Self {
        Self { requests, window: None }
    }

    /// With a window of items, which [`Events::with_window`] gives back.
    pub(crate) fn with_window(self, window: Option<Arc<Semaphore>>) -> Self {
        Self { window, ..self }
    }

    /// Sends an item. Waits while as many are in flight as the server's window holds, so that something else has to read the events.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn send_item(&self, item: Item) -> Result<(), Ended> {
        if let Some(window) = &self.window {
            // Given back with the answer.
            window.acquire().await.map_err(|_| Ended)?.forget();
        }
        self.send(Message::Item(item)).await
    }

    /// Sends some of a payload without items of its own, such as audio; waits while the connection takes no more.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn send_chunk(&self, chunk: bytes::Bytes) -> Result<(), Ended> {
        self.send(Message::Chunk(chunk)).await
    }

    /// Asks for a word, [`Flushed`](crate::Event::Flushed), once everything before it is answered.
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn flush(&self, id: &str) -> Result<(), Ended> {
        self.send(Message::Flush(Flush { id: id.to_owned() })).await
    }

    /// Gives a sign of life; see [`keepalive_interval`].
    ///
    /// # Errors
    /// [`Ended`].
    pub async fn keep_alive(&self) -> Result<(), Ended> {
        self.send(Message::Keepalive(KeepAlive {})).await
    }

    async fn send(&self, message: Message) -> Result<(), Ended> {
        self.requests.send(FeedRequest { message: Some(message) }).await.map_err(|_| Ended)
    }
}

/// How often a stream that has nothing to send has to give a sign of life: three times within the server's idle timeout.
#[must_use]
pub fn keepalive_interval(opened: &Opened) -> Duration {
    let idle_timeout = opened.limits.and_then(|limits| limits.idle_timeout).and_then(duration_from_wire);
    idle_timeout.filter(|timeout| !timeout.is_zero()).map_or(KEEPALIVE_DEFAULT, |timeout| timeout / 3)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tidemill_wire::v1::StreamLimits;

    use super::*;

    #[tokio::test]
    async fn items_wait_for_the_window_and_a_window_that_nobody_frees_ends_the_wait() {
        let (requests, mut receiver) = mpsc::channel(8);
        let window = Arc::new(Semaphore::new(2));
        let sender = FeedSender::new(requests).with_window(Some(Arc::clone(&window)));
        for _ in 0..2 {
            sender.send_item(Item::default()).await.expect("there is room");
        }
        let mut third = Box::pin(sender.send_item(Item::default()));
        assert_eq!((&mut third).now_or_never(), None);
        sender.keep_alive().await.expect("a sign of life is no item");
        window.add_permits(1);
        assert_eq!(third.await, Ok(()));
        let fourth = sender.send_item(Item::default());
        window.close();
        assert_eq!(fourth.await, Err(Ended));
        let kinds: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).filter_map(|request| request.message).collect();
        let is_item: Vec<_> = kinds.iter().map(|kind| matches!(kind, Message::Item(_))).collect();
        assert_eq!(is_item, [true, true, false, true]);
    }

    #[test]
    fn signs_of_life_come_three_times_within_the_idle_timeout() {
        let opened =
            |idle_timeout| Opened { limits: Some(StreamLimits { idle_timeout, ..Default::default() }), ..Opened::default() };
        let minute = prost_types::Duration { seconds: 60, nanos: 0 };
        assert_eq!(keepalive_interval(&opened(Some(minute))), Duration::from_secs(20));
        for none in [None, Some(prost_types::Duration::default())] {
            assert_eq!(keepalive_interval(&opened(none)), KEEPALIVE_DEFAULT);
        }
    }
}
