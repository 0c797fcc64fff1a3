//! `tidemill top` as a separate process, against a server in this one.

use std::process::{Output, Stdio};

use serde_json::Value;
use tokio::process::Command;

use tidemill::{app::Server, proto::v1::feed_request::Message};

use crate::serving::{Account, DOUBLER, Feed, bare_config, connect, item, patiently, serve, tensors_of};

/// Runs it to its end.
async fn top(admin: &str, flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.args(["top", "--admin", admin]).args(flags).stdin(Stdio::null()).kill_on_drop(true);
    patiently(command.output()).await.expect("it runs")
}

/// Runs it while a feed sends items to the model `m`.
async fn top_under_load(server: &Server, flags: &[&str]) -> Output {
    let mut client = connect(server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    feed.send(Message::Item(item("", &[1.0; 4]))).await;
    let admin = server.admin_addr().to_string();
    let mut watching = std::pin::pin!(top(&admin, flags));
    loop {
        tokio::select! {
            output = &mut watching => return output,
            _ = feed.next_result() => feed.send(Message::Item(item("", &[1.0; 4]))).await,
        }
    }
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_has_the_traffic_of_the_interval() {
    let server = serve(bare_config(), &[("idle", DOUBLER), ("m", DOUBLER)]).await;
    let output = top_under_load(&server, &["--once", "--json", "--interval", "300ms"]).await;
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    let lines: Vec<Value> = text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let [line] = &lines[..] else { panic!("one object, not {lines:?}") };
    let report = &line["top"];
    assert_eq!(report["admin"], server.admin_addr().to_string());
    assert!(report["interval_s"].as_f64().expect("a number") >= 0.3, "{report}");
    assert_eq!(report["server"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["server"]["streams_open"], 1, "{report}");
    assert_eq!(report["server"]["connections_open"], 1);
    for figure in ["uptime_s", "cpu_cores", "resident_bytes", "lanes_busy_share"] {
        assert!(report["server"][figure].is_number(), "{figure} in {report}");
    }
    let lanes: Vec<_> = report["lanes"].as_array().expect("a list").iter().map(|lane| lane["lane"].as_str()).collect();
    assert_eq!(lanes, ["0", "1", "long-0", "long-1"].map(Some));

    let [idle, busy] = &report["models"].as_array().expect("a list")[..] else { panic!("two models in {report}") };
    assert_eq!((&idle["name"], &idle["received_total"]), (&Value::from("idle"), &Value::from(0)));
    assert_eq!((&idle["received_per_s"], &idle["queue_s"]["p50"]), (&Value::from(0.0), &Value::Null));
    assert_eq!((&busy["name"], &busy["version"], &busy["ready"]), (&Value::from("m"), &Value::from("1"), &Value::from(true)));
    for rate in [&busy["received_per_s"], &busy["ended_per_s"]["ok"], &busy["queue_s"]["p99"], &busy["call_s"]["p50"]] {
        assert!(rate.as_f64().is_some_and(|rate| rate > 0.0), "{busy}");
    }
    assert_eq!(&busy["ended_per_s"]["failed"], &Value::from(0.0));
    // A scrape may find a call in the sum but not yet in the count, or the other way round.
    let mean = busy["batch_size"]["mean"].as_f64().expect("a number");
    assert!((mean - 1.0).abs() < 0.1, "{busy}");
    let shares = busy["closed_share"].as_object().expect("an object").values().filter_map(Value::as_f64);
    assert!((shares.sum::<f64>() - 1.0).abs() < 1e-9, "{busy}");
    let feed = report["methods"].as_array().expect("a list").iter().find(|method| method["method"] == "feed");
    assert_eq!(feed.expect("it is open")["streams_open"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_are_those_of_the_traffic_and_without_traffic_rates_are_zero() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let messages = (0..7).map(|_| Message::Item(item("", &[1.0; 4]))).collect();
    let said = Feed::run(&mut connect(&server).await, tensors_of("m"), messages).await;
    assert_eq!(said.results.len(), 7);
    account.settled().await;
    let output = top(&server.admin_addr().to_string(), &["--once", "--json", "--interval", "100ms"]).await;
    let line: Value = serde_json::from_str(text(&output.stdout)).expect("one object");
    let busy = &line["top"]["models"][0];
    assert_eq!((&busy["received_total"], &busy["ended_total"]["ok"]), (&Value::from(7), &Value::from(7)));
    assert_eq!((&busy["received_per_s"], &busy["ended_per_s"]["ok"]), (&Value::from(0.0), &Value::from(0.0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_it_prints_one_report() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let output = top_under_load(&server, &["--interval", "100ms"]).await;
    let report = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), ""));
    assert!(report.starts_with(&format!("tidemill {} at {}, up ", env!("CARGO_PKG_VERSION"), server.admin_addr())), "{report}");
    for line in ["MODEL ", "m 1 ", "LANE ", "METHOD ", "feed "] {
        assert!(report.lines().any(|found| found.starts_with(line)), "no line {line:?} in\n{report}");
    }

    assert!(!report.contains('\u{1b}'), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_server_or_something_else_in_its_place_ends_it_with_its_own_exit_code() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let (admin, grpc) = (server.admin_addr().to_string(), server.grpc_addr().to_string());
    let other = top(&grpc, &["--once"]).await;
    let complaint = format!("error: unexpected answer: from {grpc}: /metrics is answered with 404 Not Found\n");
    assert_eq!((other.status.code(), text(&other.stderr)), (Some(4), complaint.as_str()));
    patiently(server.drain()).await;
    let gone = top(&admin, &["--once"]).await;
    assert_eq!((gone.status.code(), text(&gone.stdout)), (Some(3), ""));
    let complaint = text(&gone.stderr);
    assert!(complaint.starts_with(&format!("error: no answer from {admin}: ")), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    let json = top(&admin, &["--json"]).await;
    let line: Value = serde_json::from_str(text(&json.stdout)).expect("one object");
    assert_eq!((json.status.code(), &line["error"]["code"]), (Some(3), &Value::from("CANNOT_CONNECT")));
    let wrong = top("nowhere", &[]).await;
    assert_eq!(wrong.status.code(), Some(2));
}
