//! What a stream says.

use std::sync::Arc;

use tidemill_wire::v1::{
    FeedResponse, Flushed, ItemResult, Opened, ReconnectAdvised, ScanResponse, Segment, SegmentStarted, Skipped, Summary,
    feed_response, scan_response,
};
use tokio::sync::Semaphore;
use tonic::{Status, Streaming};

use crate::error::Error;

/// One message of a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The server's first word; [`Client`](crate::Client) has read it already.
    Opened(Opened),
    /// The answer to an item, or a part of it.
    Result(ItemResult),
    /// A segment has begun.
    SegmentStarted(SegmentStarted),
    /// A segment is over.
    Segment(Segment),
    /// Everything before a flush is answered.
    Flushed(Flushed),
    /// Results that were not read in time, and are lost.
    Skipped(Skipped),
    /// The connection will be closed: open another feed on another one, and finish this one.
    ReconnectAdvised(ReconnectAdvised),
    /// Everything is answered, and the stream ends.
    Completed(Summary),
    /// A kind that this client does not know; newer servers may send some.
    Other,
}

impl From<FeedResponse> for Event {
    #[inline]
    fn from(response: FeedResponse) -> Self {
        match response.event {
            Some(feed_response::Event::Opened(opened)) => Self::Opened(opened),
            Some(feed_response::Event::Result(result)) => Self::Result(result),
            Some(feed_response::Event::SegmentStarted(started)) => Self::SegmentStarted(started),
            Some(feed_response::Event::Segment(segment)) => Self::Segment(segment),
            Some(feed_response::Event::Flushed(flushed)) => Self::Flushed(flushed),
            Some(feed_response::Event::Skipped(skipped)) => Self::Skipped(skipped),
            Some(feed_response::Event::ReconnectAdvised(advised)) => Self::ReconnectAdvised(advised),
            Some(feed_response::Event::Completed(summary)) => Self::Completed(summary),
            None => Self::Other,
        }
    }
}

impl From<ScanResponse> for Event {
    #[inline]
    fn from(response: ScanResponse) -> Self {
        match response.event {
            Some(scan_response::Event::Opened(opened)) => Self::Opened(opened),
            Some(scan_response::Event::Result(result)) => Self::Result(result),
            Some(scan_response::Event::SegmentStarted(started)) => Self::SegmentStarted(started),
            Some(scan_response::Event::Segment(segment)) => Self::Segment(segment),
            Some(scan_response::Event::Completed(summary)) => Self::Completed(summary),
            None => Self::Other,
        }
    }
}

/// The events of one stream, as they arrive. Dropping it cancels the stream.
#[derive(Debug)]
pub struct Events {
    responses: Responses,
    is_completed: bool,
    /// Items that the sender may still send, unless that is the server's business alone.
    window: Option<Arc<Semaphore>>,
}

#[derive(Debug)]
enum Responses {
    Feed(Streaming<FeedResponse>),
    Scan(Streaming<ScanResponse>),
}

impl Responses {
    async fn next(&mut self) -> Result<Option<Event>, Status> {
        match self {
            Self::Feed(responses) => Ok(responses.message().await?.map(Event::from)),
            Self::Scan(responses) => Ok(responses.message().await?.map(Event::from)),
        }
    }
}

impl Events {
    /// Waits for `opened`, with which every stream begins.
    pub(crate) async fn of_feed(responses: Streaming<FeedResponse>) -> Result<(Opened, Self), Error> {
        Self::opened(Responses::Feed(responses)).await
    }

    /// Waits for `opened`, with which every stream begins.
    pub(crate) async fn of_scan(responses: Streaming<ScanResponse>) -> Result<(Opened, Self), Error> {
        Self::opened(Responses::Scan(responses)).await
    }

    async fn opened(mut responses: Responses) -> Result<(Opened, Self), Error> {
        match responses.next().await? {
            Some(Event::Opened(opened)) => Ok((opened, Self { responses, is_completed: false, window: None })),
            Some(_) => Err(Error::UnexpectedAnswer("the stream did not begin with 'opened'".to_owned())),
            None => Err(Error::UnexpectedAnswer("the stream ended before it was opened".to_owned())),
        }
    }

    /// Gives a place in the window back with each item that is answered.
    pub(crate) fn with_window(mut self, window: Option<Arc<Semaphore>>) -> Self {
        self.window = window;
        self
    }

    /// The next one; `None` once everything is answered and the stream has ended. May be dropped at any time: no event is lost.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server ends the stream with an error, [`Error::EndedEarly`] if it ends it before it has said that everything
    /// is answered, and [`Error::ConnectionLost`].
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        let Some(event) = self.responses.next().await? else {
            return if self.is_completed { Ok(None) } else { Err(Error::EndedEarly) };
        };
        let answered = match &event {
            Event::Result(result) => u64::from(result.last),
            Event::Skipped(skipped) => skipped.results,
            Event::Completed(_) => {
                self.is_completed = true;
                0
            }
            _ => 0,
        };
        if let Some(window) = &self.window {
            let room = Semaphore::MAX_PERMITS - window.available_permits();
            window.add_permits(usize::try_from(answered).unwrap_or(usize::MAX).min(room));
        }
        Ok(Some(event))
    }
}

impl Drop for Events {
    /// A sender that waits for its window must not wait for answers that nobody reads.
    fn drop(&mut self) {
        if let Some(window) = &self.window {
            window.close();
        }
    }
}
