//! The cost of protobuf and of the check against the signature, from bytes on the wire to items and back; and of bringing audio to another
//! rate.

use std::{hint::black_box, time::Duration};

use bytes::{Bytes, BytesMut};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message as _;
use tidemill::{
    codec::{Converter, SampleFormat, Sound},
    domain::{Datatype, NamedTensor, Signature, TensorSpec},
    proto::v1::{self, feed_request, feed_response, item_result},
};

const SIZES: [usize; 2] = [64, 2304];

fn tensor(bytes: usize) -> v1::Tensor {
    v1::Tensor {
        name: "x".to_owned(),
        datatype: v1::Datatype::Fp32.into(),
        shape: vec![bytes as i64 / 4],
        data: vec![1; bytes].into(),
    }
}

fn request(bytes: usize) -> Bytes {
    let item = v1::Item { inputs: vec![tensor(bytes)], ..v1::Item::default() };
    v1::FeedRequest { message: Some(feed_request::Message::Item(item)) }.encode_to_vec().into()
}

fn response(bytes: usize) -> v1::FeedResponse {
    let outputs = v1::Outputs { tensors: vec![tensor(bytes)] };
    let timing = v1::Timing { queue_ns: 200_000, compute_ns: 1_000_000, age_ns: 1_500_000, batch_size: 16 };
    let result = v1::ItemResult {
        seq: 100_000,
        outcome: Some(item_result::Outcome::Outputs(outputs)),
        timing: Some(timing),
        ..v1::ItemResult::default()
    };
    v1::FeedResponse { event: Some(feed_response::Event::Result(result)) }
}

fn signature(bytes: usize) -> Signature {
    let spec = TensorSpec { name: "x".into(), datatype: Datatype::Fp32, dims: vec![Some(bytes / 4)], batch_axis: Some(0) };
    Signature { inputs: vec![spec], ..Signature::default() }
}

/// The tensors of a request, unchecked; the wire's datatype is the signature's in all requests here.
fn named_tensors(request: v1::FeedRequest) -> Vec<NamedTensor> {
    let Some(feed_request::Message::Item(item)) = request.message else { return Vec::new() };
    let named = |tensor: v1::Tensor| {
        let v1::Tensor { name, shape, data, .. } = tensor;
        NamedTensor { name, datatype: Some(Datatype::Fp32), shape, data }
    };
    item.inputs.into_iter().map(named).collect()
}

fn convert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("convert");
    group.throughput(Throughput::Elements(1));
    for bytes in SIZES {
        let (wire, signature) = (request(bytes), signature(bytes));
        group.bench_function(BenchmarkId::new("decode", bytes), |bencher| {
            bencher.iter(|| v1::FeedRequest::decode(black_box(wire.clone())).expect("a sound message"));
        });
        group.bench_function(BenchmarkId::new("decode_and_check", bytes), |bencher| {
            bencher.iter(|| {
                let request = v1::FeedRequest::decode(black_box(wire.clone())).expect("a sound message");
                signature.check(named_tensors(request)).expect("a sound item")
            });
        });
        let answer = response(bytes);
        group.bench_function(BenchmarkId::new("encode", bytes), |bencher| {
            let mut buffer = BytesMut::new();
            bencher.iter(|| {
                buffer.clear();
                black_box(&answer).encode(&mut buffer).expect("the buffer grows");
                buffer.len()
            });
        });
    }
    group.finish();
}

/// A second of a live stream in chunks of 20 ms, to 16 kHz. Its time in microseconds is the share of a core, in percent, that 10,000
/// streams take.
fn resample(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("resample");
    for (rate_hz, format) in [
        (8_000, SampleFormat::Mulaw),
        (24_000, SampleFormat::S16le),
        (44_100, SampleFormat::S16le),
        (44_099, SampleFormat::S16le),
        (48_000, SampleFormat::F32le),
    ] {
        let chunk = vec![0; rate_hz as usize / 50 * format.sample_bytes()];
        let mut converter = Converter::new(Sound { format, rate_hz }, 16_000).expect("rates that can be converted");
        group.throughput(Throughput::Elements(rate_hz.into()));
        group.bench_function(BenchmarkId::new(format.name(), rate_hz), |bencher| {
            bencher.iter(|| (0..50).map(|_| converter.push(black_box(&chunk)).expect("silence").len()).sum::<usize>());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = convert, resample
}
criterion_main!(benches);
