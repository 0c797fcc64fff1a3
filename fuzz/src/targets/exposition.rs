//! The page that `tidemill top` reads from an admin port. The command takes a tenth of a second, so each input is cut at form feeds
//! and many pieces are scraped at once; each is the body of two scrapes.

use std::{net::SocketAddr, sync::OnceLock};

use clap::Parser;
use tidemill_cli::{self as cli, ClientCommand};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    runtime::Runtime,
    task::{JoinSet, LocalSet},
    time::timeout,
};

use crate::serving::PATIENCE;

const PIECES_MAX: usize = 64;
const FORM_FEED: u8 = 0x0c;

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: ClientCommand,
}

pub(crate) fn run(data: &[u8]) {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"));
    let asking = async {
        let mut asked = JoinSet::new();
        for piece in data.split(|byte| *byte == FORM_FEED).take(PIECES_MAX) {
            asked.spawn_local(look(piece.to_vec()));
        }
        timeout(PATIENCE, asked.join_all()).await.expect("reports in time");
    };
    runtime.block_on(LocalSet::new().run_until(asking));
}

/// One report on a server that answers with this.
async fn look(body: Vec<u8>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("a port");
    let serving = tokio::spawn(serve(listener, body));
    let _ = cli::run(top(address).command, &[]).await;
    serving.abort();
}

fn top(address: SocketAddr) -> Cli {
    let address = address.to_string();
    Cli::parse_from(["tidemill", "top", "--once", "--json", "--interval", "100ms", "--admin", &address])
}

async fn serve(listener: TcpListener, body: Vec<u8>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 4_096];
        let _ = stream.read(&mut request).await;
        let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(&body).await;
    }
}
