//! The items that are sent: a model's name and one item for it.

use std::path::Path;

use anyhow::Context as _;
use bytes::Bytes;
use tidemill::registry::Model;
use tidemill_client::wire::v1;

/// FP32 values in one item of Silero VAD: 32 ms of audio and its context.
pub(crate) const SILERO_VALUES: usize = 576;

/// Size given to dynamic dimensions.
const DYNAMIC_DIM: usize = 32;

/// Name of the model that [`write_identity_model`] describes.
const IDENTITY: &str = "identity";

/// Streams of equal items.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) model: String,
    pub(crate) item: v1::Item,
    /// Bytes of data in each answer.
    pub(crate) output_bytes: usize,
}

impl Workload {
    /// Windows of faint noise for the model inside the server's binary.
    pub(crate) fn silero() -> Self {
        Self { model: "silero-vad".to_owned(), item: item("input", SILERO_VALUES), output_bytes: 4 }
    }

    /// Items that come back as they were sent.
    pub(crate) fn identity(bytes: usize) -> Self {
        let values = bytes / 4;
        Self { model: IDENTITY.to_owned(), item: item("x", values), output_bytes: values * 4 }
    }

    /// The data of the item's first tensor.
    pub(crate) fn data(&self) -> Bytes {
        self.item.inputs.first().map(|tensor| tensor.data.clone()).unwrap_or_default()
    }

    pub(crate) fn open(&self, window_items: u32) -> v1::StreamConfig {
        v1::StreamConfig { model: self.model.clone(), window_items, ..v1::StreamConfig::default() }
    }
}

/// An item with one FP32 tensor of faint noise.
pub(crate) fn item(name: &str, values: usize) -> v1::Item {
    let mut random = fastrand::Rng::with_seed(1);
    let data: Vec<u8> = (0..values).flat_map(|_| (random.f32() * 0.2 - 0.1).to_le_bytes()).collect();
    let tensor =
        v1::Tensor { name: name.to_owned(), datatype: v1::Datatype::Fp32.into(), shape: vec![values as i64], data: data.into() };
    v1::Item { inputs: vec![tensor], ..v1::Item::default() }
}

/// An item of ones, which any model takes as tokens, a mask or plain numbers.
///
/// # Errors
/// If an input is BYTES, which has no ones.
pub(crate) fn item_of(model: &Model) -> anyhow::Result<v1::Item> {
    let inputs = model.signature().inputs.iter().map(|input| {
        let one = input.datatype.one().with_context(|| format!("input '{}' is {}, not numbers", input.name, input.datatype))?;
        let shape: Vec<usize> = input.dims.iter().map(|dim| dim.unwrap_or(DYNAMIC_DIM)).collect();
        Ok(v1::Tensor {
            name: input.name.to_string(),
            datatype: v1::Datatype::Unspecified.into(),
            shape: shape.iter().map(|size| *size as i64).collect(),
            data: one.repeat(shape.iter().product()).into(),
        })
    });
    Ok(v1::Item { inputs: inputs.collect::<anyhow::Result<_>>()?, ..v1::Item::default() })
}

/// A folder with the identity model for items of `bytes` bytes.
pub(crate) fn identity_models(bytes: usize) -> anyhow::Result<tempfile::TempDir> {
    let models = tempfile::tempdir()?;
    write_identity_model(models.path(), bytes)?;
    Ok(models)
}

/// Describes, in the folder `models`, a model that costs nothing and whose output is its input of `bytes` bytes.
fn write_identity_model(models: &Path, bytes: usize) -> anyhow::Result<()> {
    let folder = models.join(IDENTITY);
    std::fs::create_dir(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let values = bytes / 4;
    let tensor =
        |kind: &str, name: &str| format!("[[{kind}]]\nname = \"{name}\"\ndatatype = \"FP32\"\ndims = [\"batch\", {values}]\n\n");
    let manifest = format!(
        "engine = \"synthetic\"\n\n{}{}[synthetic]\nkind = \"identity\"\n",
        tensor("inputs", "x"),
        tensor("outputs", "y")
    );
    Ok(std::fs::write(folder.join("model.toml"), manifest)?)
}
