//! Finds speech in raw audio from standard input as it arrives: mono, signed 16-bit, 16 kHz. feed [ADDRESS]

use std::{env, io, process};

use bytes::Bytes;
use tidemill::proto::v1::{
    FeedRequest, PayloadKind, StreamConfig, feed_request::Message, feed_response::Event,
    inference_service_client::InferenceServiceClient,
};
use tokio::{
    io::{AsyncReadExt as _, stdin},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

const CHUNK_BYTES: usize = 3_200;

#[tokio::main]
async fn main() {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:50051".to_owned());
    if let Err(status) = feed(&address).await {
        eprintln!("{:?}: {}", status.code(), status.message());
        // Not by returning: the runtime would wait for a read of standard input that may never end.
        process::exit(1);
    }
}

async fn feed(address: &str) -> Result<(), Status> {
    let connected = InferenceServiceClient::connect(format!("http://{address}")).await;
    let mut client = connected.map_err(|error| Status::unavailable(error.to_string()))?;
    // A full window keeps the channel full, and that makes the sender wait.
    let (requests, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        if let Err(error) = send(requests).await {
            eprintln!("standard input: {error}");
        }
    });
    let mut events = client.feed(ReceiverStream::new(receiver)).await?.into_inner();
    while let Some(response) = events.message().await? {
        match response.event {
            Some(Event::Segment(segment)) => println!("speech {} ms to {} ms", segment.start_ms, segment.end_ms),
            Some(Event::Completed(summary)) => println!("{} windows, {} errors", summary.ok, summary.errors),
            _ => {}
        }
    }
    Ok(())
}

/// Opens the stream and sends the audio; dropping `requests` at the end half-closes the call.
async fn send(requests: mpsc::Sender<FeedRequest>) -> io::Result<()> {
    let config =
        StreamConfig { model: "silero-vad".to_owned(), payload: PayloadKind::PcmS16le.into(), ..StreamConfig::default() };
    let (mut message, mut input) = (Message::Open(config), stdin());
    // Sending fails once the server has ended the stream; the receiving half has the status.
    while requests.send(FeedRequest { message: Some(message) }).await.is_ok() {
        let mut chunk = vec![0; CHUNK_BYTES];
        let read = input.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        chunk.truncate(read);
        message = Message::Chunk(Bytes::from(chunk));
    }
    Ok(())
}
