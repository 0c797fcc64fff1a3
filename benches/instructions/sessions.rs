//! Sessions with their queue and lane, without a network: messages in, events out.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use tidemill::{
    domain::Fault,
    drain::Drain,
    session::{Event, Inbound, ItemRequest, Session, SessionMetrics},
};

use crate::{
    BATCH, TURNS,
    device::{Bench, data},
    identity::{session_options, tensor},
    meter::{case, counted},
};

/// Messages that have arrived. Nothing is woken: the bench polls once it has put some there.
#[derive(Clone, Default)]
struct Arrived(Arc<Mutex<VecDeque<Inbound>>>);

impl Stream for Arrived {
    type Item = Result<Inbound, Fault>;

    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().pop_front().map_or(Poll::Pending, |inbound| Poll::Ready(Some(Ok(inbound))))
    }
}

struct Sessions {
    bench: Bench,
    sessions: Vec<(Arrived, Session<Arrived>)>,
    data: Bytes,
}

impl Sessions {
    fn open(sessions: usize, stateful: bool) -> Self {
        let (bench, drain) = (Bench::new(stateful), Drain::new());
        let method = Arc::new(bench.telemetry.method("feed"));
        let open = |_| {
            let options = session_options(2 * BATCH);
            let (arrived, metrics) = (Arrived::default(), SessionMetrics::open(Arc::clone(&method)));
            let guard = drain.session().expect("not draining");
            let model = Arc::clone(&bench.model);
            let session = Session::new(arrived.clone(), bench.open(), model, options, drain.clone(), metrics, guard);
            (arrived, session.expect("a sound session"))
        };
        let sessions = (0..sessions).map(open).collect();
        Self { bench, sessions, data: data() }
    }

    /// Delivers messages, `each` to every session.
    fn arrive(&self, each: usize) {
        for (arrived, _) in &self.sessions {
            for _ in 0..each {
                let tensors = Ok(vec![tensor(&self.data)]);
                arrived.0.lock().push_back(Inbound::Item(ItemRequest { id: String::new(), tensors, deadline: None }));
            }
        }
    }

    /// Polls every session until it has nothing more to give, and returns how many results came.
    fn poll(&mut self) -> usize {
        let mut results = 0;
        for (_, session) in &mut self.sessions {
            while let Poll::Ready(event) = Pin::new(&mut *session).poll_next(&mut Context::from_waker(Waker::noop())) {
                let Some(Ok(Event::Result(result))) = event else { continue };
                results += usize::from(result.outcome.is_ok());
            }
        }
        results
    }
}

pub(crate) fn run() {
    // For the sessions' timers. Nothing waits for them.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let _entered = runtime.enter();
    // How many sessions there are, and how many items at once in each.
    for (name, sessions, each, stateful) in [
        ("session_1_of_1_item", 1, 1, false),
        ("session_1_of_16_items", 1, BATCH, false),
        ("session_16_of_1_item", BATCH, 1, false),
        ("session_16_of_1_stateful_item", BATCH, 1, true),
    ] {
        let items = sessions * each;
        for stage in ["take", "give", "all"] {
            let mut open = Sessions::open(sessions, stateful);
            case(&format!("{name}_{stage}"), items, TURNS, || {
                open.arrive(each);
                turn(&mut open, items, stage);
            });
        }
    }
}

/// From messages to results: `take` until they are queued, `give` from the answers on, or `all`, lane included.
fn turn(open: &mut Sessions, items: usize, stage: &str) {
    let take = |open: &mut Sessions| assert_eq!(open.poll(), 0, "nothing has run yet");
    let give = |open: &mut Sessions| assert_eq!(open.poll(), items);
    match stage {
        "all" => counted(|| {
            take(open);
            open.bench.turn();
            give(open);
        }),
        "take" => {
            counted(|| take(open));
            assert_eq!(open.bench.queued(), items);
            open.bench.turn();
            give(open);
        }
        _ => {
            take(open);
            open.bench.turn();
            counted(|| give(open));
        }
    }
}
