//! The items of the benches without a network, and what serves them: a model with one input and one output of the same shape.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidemill::{
    device::{Device, ModelRuntime},
    domain::{Batching, Datatype, NamedTensor, Signature, StateSpec, TensorSpec, Timestamp},
    engine::Executable,
    registry::{LoadedModel, Model, VersionPolicy},
    scheduler::{Admission, ModelOptions},
    session::{OnDrain, Order, OverflowPolicy, PayloadKind, PcmOptions, SessionOptions, WhenFull},
    telemetry::Telemetry,
};

/// FP32 values in an item.
pub(crate) const VALUES: usize = 576;
/// Bytes in an item.
pub(crate) const BYTES: usize = VALUES * 4;

/// Finite, but never reached here.
pub(crate) const ADMISSION: Admission = Admission { items: 1 << 30, bytes: 1 << 30, model_items: 1 << 30, model_bytes: 1 << 30 };

/// A model that takes items and has these states.
pub(crate) fn signature(states: Vec<StateSpec>) -> Arc<Signature> {
    let spec =
        |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(VALUES)], batch_axis: Some(0) };
    Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], states, ..Signature::default() })
}

/// The tensor of an item, as a front end passes it on.
pub(crate) fn tensor(data: &Bytes) -> NamedTensor {
    NamedTensor { name: "x".to_owned(), datatype: None, shape: vec![VALUES as i64], data: data.clone() }
}

/// Gives the model a queue, as a server does once it is loaded.
pub(crate) fn install(device: &Device, telemetry: &Telemetry, executable: Executable, options: ModelOptions) -> Arc<Model> {
    let executable = Arc::new(executable);
    let loaded = LoadedModel {
        name: "identity".into(),
        version: "1".into(),
        description: "".into(),
        executable: Arc::clone(&executable),
        framing: None,
        segments: None,
        padding_waste_max: None,
        batching: Batching::off(""),
        terms: Arc::default(),
        subject: None,
        kept: None,
        repack: None,
        max_batch: options.max_batch,
        max_delay: options.max_delay,
        versions: VersionPolicy::All,
        labels: Arc::default(),
        cache: false,
        load_duration: Duration::ZERO,
    };
    let runtime = ModelRuntime { executable, metrics: telemetry.model("identity", "1"), costs: Vec::new() };
    let key = device.add_model(("identity", "1"), options, runtime);
    Arc::new(Model { loaded, key })
}

/// A session with this many items in flight, and no other limit within reach.
pub(crate) fn session_options(window_items: usize) -> SessionOptions {
    SessionOptions {
        overflow: OverflowPolicy::Block,
        max_age: None,
        payload: PayloadKind::Tensors,
        pcm: PcmOptions::default(),
        order: Order::InOrder,
        window_items,
        window_bytes: usize::MAX,
        max_item_bytes: usize::MAX,
        idle_timeout: Some(Duration::from_secs(300)),
        default_deadline: None,
        ends_at: Timestamp::NEVER,
        when_full: WhenFull::Wait,
        on_drain: OnDrain::Stop,
        allowance: None,
    }
}
