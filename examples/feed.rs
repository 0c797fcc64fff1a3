//! Finds speech in raw audio from standard input as it arrives: mono, signed 16-bit, 16 kHz. feed [ADDRESS]

use std::{env, io, process};

use bytes::Bytes;
use tidemill_client::{
    Client, Error, Event, FeedSender,
    wire::v1::{PayloadKind, StreamConfig},
};
use tokio::io::{AsyncReadExt as _, stdin};
use tonic::Status;

const CHUNK_BYTES: usize = 3_200;

#[tokio::main]
async fn main() {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    if let Err(error) = feed(&address).await {
        eprintln!("{:?}: {error}", error.code());
        // Not by returning: the runtime would wait for a read of standard input that may never end.
        process::exit(1);
    }
}

async fn feed(address: &str) -> Result<(), Error> {
    let address = address.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
    let client = Client::connect(&address).await?;
    let config =
        StreamConfig { model: "silero-vad".to_owned(), payload: PayloadKind::PcmS16le.into(), ..StreamConfig::default() };
    let mut feed = client.feed(config).await?;
    tokio::spawn(async move {
        if let Err(error) = send(feed.sender).await {
            eprintln!("standard input: {error}");
        }
    });
    while let Some(event) = feed.events.next().await? {
        match event {
            Event::Segment(segment) => println!("speech {} ms to {} ms", segment.start_ms, segment.end_ms),
            Event::Completed(summary) => println!("{} windows, {} errors", summary.ok, summary.errors),
            _ => {}
        }
    }
    Ok(())
}

/// Sends the audio; dropping `sender` at the end half-closes the call. A full window makes it wait.
async fn send(sender: FeedSender) -> io::Result<()> {
    let mut input = stdin();
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = input.read(&mut chunk).await?;
        chunk.truncate(read);
        // Sending fails once the server has ended the stream; its events say why.
        if read == 0 || sender.send_chunk(Bytes::from(chunk)).await.is_err() {
            return Ok(());
        }
    }
}
