//! Weights in a second, packed form: made and tried before a model is proven, and kept if calls are faster with it.
//!
//! Knows when to try and what to keep. What is faster is up to [`crate::proof`].

use std::{fmt, sync::Arc};

use tracing::{debug, info};

use super::LoadedModel;
use crate::{
    engine::Executable,
    proof::{Gain, Terms, available_memory},
};

/// How many times as fast calls with packed weights must be for these to be kept.
const GAIN_LEAST: f64 = 1.05;
/// Memory that must be available for a trial, in multiples of the model file's size: what is read of it, its weights, the packed
/// ones, and as much again to spare. Every lane may be trying a model.
const MEMORY_SIZES: u64 = 4;
/// Loading may take at most this part of the time for trial calls, as it is done once more.
const LOAD_SHARE: u32 = 4;

/// How to load a model once more, with its weights packed.
#[derive(Clone)]
pub struct Repack {
    pub(super) load: Arc<dyn Fn() -> Result<Executable, String> + Send + Sync>,
    /// Size of the model's files.
    pub(super) bytes: u64,
}

impl fmt::Debug for Repack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Repack({} bytes)", self.bytes)
    }
}

impl LoadedModel {
    /// Makes the model run with packed weights if that is still to be tried, time and memory allow it, and calls become at least 5 % faster.
    /// `measure` gets the model as it is, as it would be, and how much time there is; the time that it takes is subtracted.
    pub fn try_packing(&mut self, measure: impl FnOnce(&Arc<Executable>, &Arc<Executable>, &Terms) -> Gain) {
        let Some(repack) = self.repack.take() else { return };
        let Self { name, version, executable, terms, load_duration, .. } = self;
        if *load_duration > terms.budget / LOAD_SHARE {
            debug!(model = %name, %version, ?load_duration, "the model takes too long to load to try packed weights");
            return;
        }
        let wanted = repack.bytes.saturating_mul(MEMORY_SIZES).saturating_mul(executable.lanes() as u64);
        let available = available_memory();
        if available.is_none_or(|available| available < wanted) {
            debug!(model = %name, %version, ?available, wanted, "too little memory is available to try packed weights");
            return;
        }
        let packed = match (repack.load)() {
            Ok(packed) => Arc::new(packed),
            Err(error) => {
                debug!(model = %name, %version, %error, "the model could not be loaded with packed weights");
                return;
            }
        };
        let Gain { factor, took, ranges } = measure(executable, &packed, terms);
        debug!(model = %name, %version, factor, ?took, "tried packed weights");
        if factor >= GAIN_LEAST {
            info!(model = %name, %version, "its weights are also held packed, which makes calls {factor:.2} times as fast");
            *executable = packed;
        }
        *terms = Arc::new(Terms { budget: terms.budget.saturating_sub(took), ranges, ..(**terms).clone() });
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, time::Duration};

    use rten_onnx::onnx::DataType;

    use super::*;
    use crate::{
        domain::{Datatype, Fault, Signature, TensorSpec},
        engine::{
            EngineChoice, LaneThreads,
            synthetic::{Script, SyntheticEngine},
            test_models,
        },
        proof::{Kept, Store},
        registry::{Example, Folder, Installer, LoadOptions, Measured, ModelSource, Place, Registry, Unproven, load_all},
        scheduler::ModelKey,
    };

    fn executable() -> Executable {
        let spec =
            |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: vec![Some(4)], batch_axis: Some(0) };
        let signature = Arc::new(Signature { inputs: vec![spec("x")], outputs: vec![spec("y")], ..Signature::default() });
        let engine = SyntheticEngine::new(Arc::clone(&signature), Script::default()).expect("a sound script");
        Executable::new(Arc::new(engine), signature, &[LaneThreads::new()]).expect("a sound signature")
    }

    /// A model with this to try.
    fn model(repack: Repack) -> LoadedModel {
        let lanes = [LaneThreads::new()];
        let options = LoadOptions::new(EngineChoice::Auto, &lanes, false);
        let registry: Registry =
            load_all(&[&Example], &options, &Unproven(|_: &LoadedModel| Ok(ModelKey::default()))).expect("it needs no file");
        let model = registry.get("example_model", None).expect("loaded");
        LoadedModel { repack: Some(repack), ..model.loaded.clone() }
    }

    fn repack(bytes: u64) -> Repack {
        Repack { load: Arc::new(|| Ok(executable())), bytes }
    }

    fn gain(factor: f64) -> Gain {
        Gain { factor, took: Duration::from_millis(300), ranges: None }
    }

    /// Loads models, and tries nothing.
    struct Untried;

    impl Installer for Untried {
        fn prove(&self, _: &mut LoadedModel, _: Place<'_>) -> Result<Measured, Fault> {
            Ok(Measured::nothing())
        }

        fn wide_gain(&self, _: &LoadedModel) -> Option<f64> {
            None
        }

        fn install(&self, _: &LoadedModel, _: &Measured) -> Result<ModelKey, Fault> {
            Ok(ModelKey::default())
        }
    }

    fn loaded(folder: &Path, proofs: &Store, proves_anew: bool) -> LoadedModel {
        let lanes = [LaneThreads::new()];
        let options = LoadOptions { proofs, proves_anew, ..LoadOptions::new(EngineChoice::Auto, &lanes, false) };
        let source: &dyn ModelSource = &Folder::new(folder.to_owned());
        let registry = load_all(&[source], &options, &Untried).expect("a sound model");
        registry.get("m", None).expect("loaded").loaded.clone()
    }

    /// A folder with this model.
    fn folder_of(file: &[u8], manifest: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(root.path().join("m/1")).expect("a folder");
        fs::write(root.path().join("m/1/model.onnx"), file).expect("a file");
        fs::write(root.path().join("m/model.toml"), manifest).expect("a file");
        root
    }

    fn packs(model: &LoadedModel) -> bool {
        model.executable.engine().packs_weights()
    }

    #[test]
    fn matrices_are_to_be_tried_unless_the_manifest_says_what_to_do() {
        let matrices = test_models::matrices(4, 1);
        for (manifest, is_packed, is_open) in
            [("", false, true), ("prepack_weights = true", true, false), ("prepack_weights = false", false, false)]
        {
            let model = loaded(folder_of(&matrices, manifest).path(), &Store::none(), false);
            assert_eq!((packs(&model), model.repack.is_some()), (is_packed, is_open), "{manifest}");
        }
        let nothing = test_models::one_operator("Relu", DataType::FLOAT, &[None, Some(4)]);
        assert!(loaded(folder_of(&nothing, "").path(), &Store::none(), false).repack.is_none(), "there is nothing to pack");
    }

    #[test]
    fn what_an_earlier_start_found_out_is_not_tried_again() {
        let cache = tempfile::tempdir().expect("a temporary folder");
        let proofs = Store::open(&cache.path().join("proofs")).expect("a new folder");
        let root = folder_of(&test_models::matrices(4, 1), "");
        let subject = loaded(root.path(), &proofs, false).subject.expect("it has a file");
        for packs_weights in [true, false] {
            let kept = Kept { proof: Measured::nothing().proof, wide: None, packs_weights };
            proofs.put(&subject, &kept).expect("room on the disk");
            let model = loaded(root.path(), &proofs, false);
            assert_eq!((packs(&model), model.repack.is_some()), (packs_weights, false));
        }
        assert!(loaded(root.path(), &proofs, true).repack.is_some(), "unless it is to be found out again");
    }

    #[test]
    fn the_second_form_is_of_the_same_file_or_is_not_made() {
        let root = folder_of(&test_models::matrices(4, 1), "");
        let mut model = loaded(root.path(), &Store::none(), false);
        let repack = model.repack.clone().expect("it has a matrix");
        assert_eq!(repack.bytes, test_models::matrices(4, 1).len() as u64);
        model.try_packing(|plain, packed, _| {
            assert!(!plain.engine().packs_weights() && packed.engine().packs_weights());
            gain(2.0)
        });
        assert!(packs(&model));
        fs::write(root.path().join("m/1/model.onnx"), test_models::matrices(4, 2)).expect("a file");
        let error = (repack.load)().err().expect("another file");
        assert!(error.contains("has changed"), "{error}");
    }

    #[test]
    fn packed_weights_are_kept_from_a_gain_of_five_percent_on() {
        for (factor, is_kept) in [(1.05, true), (3.0, true), (1.049, false), (0.5, false)] {
            let mut model = model(repack(1));
            let before = Arc::clone(&model.executable);
            let time = model.terms.budget;
            model.try_packing(|plain, packed, terms| {
                assert!(Arc::ptr_eq(plain, &before) && !Arc::ptr_eq(packed, &before));
                assert_eq!(terms.budget, time);
                gain(factor)
            });
            assert_eq!(!Arc::ptr_eq(&model.executable, &before), is_kept, "{factor}");
            assert_eq!(model.terms.budget, time - Duration::from_millis(300), "the trial is part of the model's time");
            model.try_packing(|_, _, _| unreachable!("it has been tried"));
        }
    }

    #[test]
    fn a_model_too_large_for_the_memory_that_is_left_is_not_loaded_a_second_time() {
        let load = Arc::new(|| -> Result<Executable, String> { unreachable!("there is no such memory") });
        let mut model = model(Repack { load, bytes: 1 << 50 });
        let before = Arc::clone(&model.executable);
        model.try_packing(|_, _, _| unreachable!("there is nothing to measure"));
        assert!(Arc::ptr_eq(&model.executable, &before));
    }

    #[test]
    fn a_model_that_takes_long_to_load_is_not_loaded_a_second_time() {
        let load = Arc::new(|| -> Result<Executable, String> { unreachable!("there is no time") });
        let mut model = model(Repack { load, bytes: 1 });
        model.load_duration = model.terms.budget / 2;
        model.try_packing(|_, _, _| unreachable!("there is nothing to measure"));
        assert!(model.repack.is_none());
    }

    #[test]
    fn a_model_that_cannot_be_loaded_a_second_time_stays_as_it_is() {
        let mut model = model(Repack { load: Arc::new(|| Err("the file has changed".to_owned())), bytes: 1 });
        let before = Arc::clone(&model.executable);
        model.try_packing(|_, _, _| unreachable!("there is nothing to measure"));
        assert!(Arc::ptr_eq(&model.executable, &before));
    }
}
