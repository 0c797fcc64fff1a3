//! Items of byte strings: batched whatever their lengths, over the native API, and through a model that reads them.

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto,
    TypeProto, TypeProtoTensor, ValueInfoProto,
};
use tonic::Code;

use tidemill::{
    app::Server,
    domain::{ByteElements, Outcome, push_element},
    proto::v1::{Datatype, Item, Tensor, feed_request::Message},
};

use crate::{
    engines::{LIBRARY_VARIABLE, library},
    serving::{Account, Feed, ROUNDS_MAX, bare_config, connect, folder_of, outputs, serve, tensors_of, write},
};

const ECHO: &str = "
engine = 'synthetic'
max_batch = 4
max_delay_us = 1000000
[[inputs]]
name = 'x'
datatype = 'BYTES'
dims = ['batch', 2]
[[outputs]]
name = 'y'
datatype = 'BYTES'
dims = ['batch', 2]
[synthetic]
kind = 'identity'
cost_per_call_us = 1000
";

fn data_of(elements: &[&[u8]]) -> Vec<u8> {
    let mut data = Vec::new();
    elements.iter().for_each(|element| push_element(&mut data, element).expect("short"));
    data
}

fn item(elements: &[&[u8]]) -> Message {
    let shape = vec![i64::try_from(elements.len()).expect("few")];
    let tensor = Tensor { name: "x".to_owned(), datatype: Datatype::Bytes.into(), shape, data: data_of(elements).into() };
    Message::Item(Item { inputs: vec![tensor], ..Item::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_different_lengths_share_a_call_and_get_their_own_answers() {
    let long = vec![0xff; 100_000];
    let items: [[&[u8]; 2]; 4] = [[b"one", b""], [b"", b"nul \0 and \xff"], [&long, "zwölf".as_bytes()], [b"", b""]];
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("echo", ECHO)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("echo")).await;
    let mut met = false;
    for _ in 0..ROUNDS_MAX {
        for elements in &items {
            feed.send(item(elements)).await;
        }
        met = true;
        for elements in &items {
            let result = feed.next_result().await;
            let tensor = &outputs(&result).expect("no fault planned")[0];
            assert_eq!((tensor.datatype(), tensor.shape.as_slice()), (Datatype::Bytes, &[2][..]));
            assert!(ByteElements::new(&tensor.data).eq(elements.iter().copied()), "{elements:?}");
            met &= result.timing.is_some_and(|timing| timing.batch_size == 4);
        }
        if met {
            break;
        }
    }
    assert!(met, "four items shared no call in {ROUNDS_MAX} rounds");
}

#[tokio::test]
async fn data_that_is_not_elements_fails_its_item_and_the_stream_goes_on() {
    let server = serve(bare_config(), &[("echo", ECHO)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("echo")).await;
    let broken = [&data_of(&[b"one"])[..], &data_of(&[b"one", b"two", b"three"]), b"\x03\0\0\0one\xff\xff\xff\xff", b"\x03", b""];
    for data in broken {
        let Message::Item(mut item) = item(&[b"", b""]) else { unreachable!("an item") };
        item.inputs[0].data = data.to_vec().into();
        feed.send(Message::Item(item)).await;
        assert_eq!(outputs(&feed.next_result().await).err(), Some(Code::InvalidArgument), "{data:?}");
    }
    feed.send(item(&[b"good", b""])).await;
    assert!(outputs(&feed.next_result().await).is_ok());
}

/// A file whose INT64 output `y` is the number that the string `x` spells.
fn numbers_of_strings() -> Vec<u8> {
    let value = |name: &str, datatype| {
        let dims = [
            Dimension { dim_param: Some("batch".to_owned()), ..Dimension::default() },
            Dimension { dim_value: Some(1), ..Dimension::default() },
        ];
        let tensor = TypeProtoTensor { elem_type: Some(datatype), shape: Some(TensorShapeProto { dim: dims.to_vec() }) };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
    };
    let to = AttributeProto {
        name: Some("to".to_owned()),
        r#type: Some(AttributeType::INT),
        i: Some(DataType::INT64.0.into()),
        ..AttributeProto::default()
    };
    let cast = NodeProto {
        op_type: Some("Cast".to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        attribute: vec![to],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![cast],
        input: vec![value("x", DataType::STRING)],
        output: vec![value("y", DataType::INT64)],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let model = ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    model.write_buf().expect("a model can be written to memory")
}

/// Says so and checks nothing if no library is named; CI names one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_reads_strings_is_measured_served_and_fails_a_bad_one_alone() {
    let Some(library) = library() else {
        eprintln!("{LIBRARY_VARIABLE} names no library of onnxruntime; no model has read strings");
        return;
    };
    let folder = folder_of(&[]);
    write(folder.path(), "numbers/1/model.onnx", &numbers_of_strings());
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    config.engine.onnxruntime = Some(library);
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let account = Account::of(&server, "numbers");
    let mut client = connect(&server).await;
    let texts = ["1", "-22", "no number", "4444", "\u{ff}"];
    let messages = texts.iter().map(|text| item(&[text.as_bytes()])).collect();
    let said = Feed::run(&mut client, tensors_of("numbers"), messages).await;
    let numbers: Vec<_> = said.results.iter().map(|result| outputs(result).map(|tensors| tensors[0].data.to_vec())).collect();
    let number = |value: i64| Ok(value.to_le_bytes().to_vec());
    assert_eq!(numbers, [number(1), number(-22), Err(Code::Internal), number(4444), Err(Code::Internal)]);
    let ledger = account.settled().await;
    assert_eq!((ledger.outcome(Outcome::Ok), ledger.outcome(Outcome::Failed)), (3, 2));
}
