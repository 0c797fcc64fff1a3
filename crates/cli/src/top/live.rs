//! The full screen: scrapes, keys and resizes, until the user quits.
//!
//! Decides nothing itself; `view` does. The terminal is left as it was found, however this ends.

use std::{io, pin::Pin, time::Duration};

use crossterm::event::{Event, EventStream};
use futures::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::{
    select,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    super::status::{Ending, Failure},
    change::Scrape,
    report::Report,
    scrape::{AdminPort, ScrapeFault},
    screen,
    view::{Step, View},
};

type Scraping<'a> = Pin<Box<dyn Future<Output = Result<Scrape, ScrapeFault>> + Send + 'a>>;

/// Shows the server that `first` is the first scrape of.
///
/// # Errors
/// [`Failure::Output`] if the terminal fails, [`Failure::Interrupted`] on Ctrl-C and SIGTERM. A server that is gone is not an error.
pub(super) async fn run(
    admin: &AdminPort,
    interval: Duration,
    first: Scrape,
    interrupt: &CancellationToken,
) -> Result<Ending, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut screen = Screen::take()?;
    let mut events = EventStream::new();
    let mut view = View::new(Report::new(admin.to_string(), None, &first), first.taken);
    let mut due = Instant::now() + interval;
    let mut last = first;
    let mut scraping = scrape_at(admin, due);
    loop {
        screen.terminal.draw(|frame| screen::draw(frame, &view))?;
        select! {
            event = events.next() => match event.transpose()? {
                Some(Event::Key(key)) => match view.key(key) {
                    Step::Stay => {}
                    Step::Quit => return Ok(Ending::Ok),
                    Step::Interrupt => return Err(Failure::Interrupted),
                },
                // A resize, at most: the next drawing looks at the size again.
                Some(_) => {}
                None => return Ok(Ending::Ok),
            },
            scraped = &mut scraping => {
                let now = Instant::now();
                match scraped {
                    Ok(scrape) => {
                        view.answer(Report::new(admin.to_string(), Some(&last), &scrape), now);
                        last = scrape;
                    }
                    Err(reason) => view.fault(reason, now),
                }
                due = (due + interval).max(now);
                scraping = scrape_at(admin, due);
            }
            () = interrupt.cancelled() => return Err(Failure::Interrupted),
            _ = terminate.recv() => return Err(Failure::Interrupted),
        }
    }
}

fn scrape_at(admin: &AdminPort, due: Instant) -> Scraping<'_> {
    Box::pin(async move {
        sleep_until(due).await;
        admin.scrape().await
    })
}

/// The terminal, taken over. Given back when dropped, and by ratatui's hook before a panic is printed.
struct Screen {
    terminal: DefaultTerminal,
}

impl Screen {
    fn take() -> io::Result<Self> {
        // It may be half taken over when this fails.
        ratatui::try_init().map(|terminal| Self { terminal }).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}
