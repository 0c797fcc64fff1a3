//! The client library against a server.

use futures::FutureExt as _;
use tidemill_client::{
    Address, Client, Error, Event, outputs,
    wire::{health::health_check_response::ServingStatus, inference::repository_index_response::ModelIndex, v1::StreamConfig},
};
use tonic::Code;

use tidemill::app::Server;

use crate::serving::{DOUBLER, bare_config, folder_of, item, patiently, serve, tensors_of, values};

async fn connect(server: &Server) -> Client {
    let address = Address::try_from(server.grpc_addr()).expect("an address");
    patiently(Client::connect(&address)).await.unwrap_or_else(|error| panic!("{error}"))
}

#[tokio::test]
async fn items_go_no_further_than_the_window_and_all_are_answered() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let client = connect(&server).await;
    let mut feed = patiently(client.feed(StreamConfig { window_items: 2, ..tensors_of("m") })).await.expect("it opens");
    for _ in 0..2 {
        patiently(feed.sender.send_item(item("", &[1.0; 4]))).await.expect("there is room");
    }
    assert_eq!(feed.sender.send_item(item("", &[1.0; 4])).now_or_never(), None, "nothing has been read");
    let sender = feed.sender;
    let sending = async move {
        for _ in 2..10 {
            sender.send_item(item("", &[1.0; 4])).await.expect("it goes on as results are read");
        }
        sender.flush("end").await.expect("it is open");
    };
    let reading = async {
        let (mut results, mut flushed, mut completed) = (0, None, None);
        while let Some(event) = feed.events.next().await.expect("it goes on") {
            match event {
                Event::Result(result) => {
                    assert_eq!(values(outputs(&result).expect("outputs"))[0], 2.0);
                    results += 1;
                }
                Event::Flushed(word) => flushed = Some(word.id),
                Event::Completed(summary) => completed = Some(summary.ok),
                _ => {}
            }
        }
        (results, flushed, completed)
    };
    let ((), read) = patiently(async { tokio::join!(sending, reading) }).await;
    assert_eq!(read, (10, Some("end".to_owned()), Some(10)));
}

#[tokio::test]
async fn a_stream_whose_events_nobody_reads_any_more_takes_no_more_items() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let client = connect(&server).await;
    let feed = patiently(client.feed(StreamConfig { window_items: 1, ..tensors_of("m") })).await.expect("it opens");
    patiently(feed.sender.send_item(item("", &[1.0; 4]))).await.expect("there is room");
    let waiting = feed.sender.send_item(item("", &[1.0; 4]));
    drop(feed.events);
    patiently(waiting).await.expect_err("nobody gives the window back");
}

#[tokio::test]
async fn models_are_listed_unloaded_and_loaded_again_and_health_follows() {
    let folder = folder_of(&[("m", DOUBLER)]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let client = connect(&server).await;
    let listed = patiently(client.list_models()).await.expect("a list");
    assert_eq!(listed.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["m"]);
    assert_eq!(patiently(client.model("m", "")).await.expect("it is there").inputs[0].name, "x");
    let mut health = patiently(client.watch_health("m")).await.expect("a watch");
    assert_eq!(patiently(health.next()).await.expect("a state"), Some(ServingStatus::Serving));
    patiently(client.unload_model("m")).await.expect("it goes");
    while patiently(health.next()).await.expect("a state") == Some(ServingStatus::Serving) {}
    let states = |models: Vec<ModelIndex>| models.into_iter().map(|model| (model.name, model.state)).collect::<Vec<_>>();
    let listed = states(patiently(client.repository()).await.expect("a list"));
    assert_eq!(listed, [("m".to_owned(), "UNAVAILABLE".to_owned())]);
    patiently(client.load_model("m")).await.expect("it comes back");
    assert_eq!(patiently(client.health("m")).await.expect("a state"), ServingStatus::Serving);
    let listed = states(patiently(client.repository()).await.expect("a list"));
    assert_eq!(listed, [("m".to_owned(), "READY".to_owned())]);
}

#[tokio::test]
async fn errors_say_what_is_wrong_and_where() {
    let server = serve(bare_config(), &[]).await;
    let client = connect(&server).await;
    let error = patiently(client.model("none", "")).await.expect_err("there is no such model");
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.to_string().contains("none"), "{error}");
    assert!(matches!(error, Error::Refused(refusal) if refusal.details.reason.is_some()));
    let admin = Address::try_from(server.admin_addr()).expect("an address");
    let elsewhere = patiently(Client::connect(&admin)).await.expect("it accepts");
    let error = patiently(elsewhere.list_models()).await.expect_err("it is no gRPC");
    let error = patiently(Client::explained(error, &admin)).await;
    assert!(error.to_string().contains("speaks HTTP/1 and not gRPC"), "{error}");
}
