//! The models and versions of the sources, as found and as chosen by the models' policies.
//!
//! Changes nothing: that is for the loader and the repository.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    faults::{LoadFault, in_file, whole},
    layout::MANIFEST_FILE,
    manifest::Manifest,
    origin::Origin,
    plan::Plan,
    policy::VERSIONS_MAX,
    source::{FoundModel, FoundVersion, ModelSource, Remark},
};

/// All that the sources hold.
pub(super) struct Discovery<'a> {
    pub(super) models: BTreeMap<Arc<str>, Found<'a>>,
    pub(super) unusable: Vec<Unusable>,
    pub(super) remarks: Vec<Remark>,
}

/// A model, and the source that has it.
pub(super) struct Found<'a> {
    pub(super) source: &'a dyn ModelSource,
    pub(super) model: FoundModel,
    /// Folder of the model of this name that an earlier source has.
    pub(super) replaces: Option<PathBuf>,
}

impl Found<'_> {
    /// The versions to choose from.
    fn versions(&self) -> Vec<FoundVersion> {
        let model = &self.model;
        let needs_no_file = || model.manifest.as_ref().is_ok_and(|text| Manifest::needs_no_file(text));
        if model.versions.is_empty() && needs_no_file() {
            return vec![FoundVersion { number: 1, file: model.folder.clone() }];
        }
        model.versions.clone()
    }

    /// Remarks about its folder that are not faults.
    fn remark(&self) -> Option<Remark> {
        let FoundModel { folder, passed_over, .. } = &self.model;
        let is_worth_saying = !passed_over.is_empty() && !self.versions().is_empty();
        is_worth_saying.then(|| Remark { folder: folder.clone(), text: passed_over.clone(), warns: true })
    }
}

/// A path that holds no model but should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unusable {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

impl Unusable {
    pub(super) fn fault(&self) -> LoadFault {
        whole(self.path.display().to_string(), self.reason.clone())
    }

    /// Whether nothing can be said about what was at `folder`.
    pub(super) fn hides(&self, folder: &Path) -> bool {
        folder.starts_with(&self.path)
    }

    /// Whether this would be the folder of a model of this name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.path.file_name().is_some_and(|last| last == name)
    }
}

/// Looks through the sources. Of two models with one name, that of the later source counts.
pub(super) fn discover<'a>(sources: impl IntoIterator<Item = &'a dyn ModelSource>) -> Discovery<'a> {
    let mut found = Discovery { models: BTreeMap::new(), unusable: Vec::new(), remarks: Vec::new() };
    for source in sources {
        let scan = source.scan();
        for model in scan.models {
            let name = Arc::clone(&model.name);
            let replaces = found.models.get(&name).map(|replaced: &Found<'_>| replaced.model.folder.clone());
            found.models.insert(name, Found { source, model, replaces });
        }
        found.unusable.extend(scan.unusable.into_iter().map(|(path, reason)| Unusable { path, reason }));
        found.remarks.extend(scan.remarks);
    }
    found.remarks.extend(found.models.values().filter_map(Found::remark));
    found
}

/// A version to be loaded: what to do, or why nothing can be done.
pub(super) struct Candidate<'a> {
    pub(super) name: Arc<str>,
    pub(super) number: u64,
    /// The model's folder, for error messages.
    pub(super) folder: String,
    pub(super) origin: Origin,
    pub(super) plan: Result<Plan<'a>, Vec<LoadFault>>,
}

impl Candidate<'_> {
    /// Number, description and whether it is stateful, as far as the manifest says.
    pub(super) fn entry(&self) -> (u64, &str, bool) {
        let manifest = self.plan.as_ref().ok().map(|plan| &*plan.manifest);
        manifest.map_or((self.number, "", false), |manifest| (self.number, &manifest.description, !manifest.states.is_empty()))
    }
}

/// The versions that a model's manifest wants served; at least one, if only to say what is wrong.
pub(super) fn candidates<'a>(found: &Found<'a>) -> Vec<Candidate<'a>> {
    let Found { source, model, .. } = found;
    let folder = model.folder.display().to_string();
    let manifest_file = model.folder.join(MANIFEST_FILE).display().to_string();
    let candidate = |number, file: &Path, plan| {
        let (name, folder) = (Arc::clone(&model.name), folder.clone());
        Candidate { name, number, folder, origin: Origin::of(file), plan }
    };
    let manifest = match &model.manifest {
        Ok(text) => Manifest::parse(text).map(Arc::new).map_err(|faults| in_file(&manifest_file, faults)),
        Err(reason) => Err(vec![whole(manifest_file.clone(), reason.clone())]),
    };
    let versions = found.versions();
    if versions.is_empty() {
        let mut faults = manifest.err().unwrap_or_default();
        let mut reason = "has no version: a folder named by a number, such as 1, with the file model.onnx".to_owned();
        if !model.passed_over.is_empty() {
            reason = format!("{reason}; {}", model.passed_over);
        }
        faults.push(whole(folder.clone(), reason));
        return vec![candidate(0, &model.folder, Err(faults))];
    }
    let manifest = match manifest {
        Ok(manifest) => manifest,
        Err(faults) => {
            let broken = |version: &FoundVersion| candidate(version.number, &version.file, Err(faults.clone()));
            return versions.iter().map(broken).collect();
        }
    };
    let text: Arc<str> = model.manifest.as_deref().unwrap_or_default().into();
    let numbers: Vec<u64> = versions.iter().map(|version| version.number).collect();
    let chosen: Vec<FoundVersion> =
        versions.into_iter().filter(|version| manifest.versions.takes(version.number, &numbers)).collect();
    if chosen.len() > VERSIONS_MAX {
        let reason = format!(
            "chooses {} versions, but at most {VERSIONS_MAX} of a model are served; choose fewer, for example with versions = {{ latest = {VERSIONS_MAX} }}",
            chosen.len()
        );
        let fault = LoadFault { file: manifest_file.clone(), key: "versions".to_owned(), reason };
        return vec![candidate(0, &model.folder, Err(vec![fault]))];
    }
    let chosen = chosen.into_iter().map(|version| {
        let (manifest, manifest_file) = (Arc::clone(&manifest), manifest_file.clone());
        let (number, file) = (version.number, version.file.clone());
        let (folder, manifest_text) = (model.folder.clone(), Arc::clone(&text));
        let labels = manifest.outputs.iter().filter_map(|output| output.labels.as_ref()?.file());
        let named = manifest.trial.file.as_deref().into_iter().chain(labels);
        let beside: Vec<PathBuf> = named.map(|name| folder.join(name)).collect();
        let plan = Plan { source: *source, folder, manifest, manifest_text, manifest_file, version };
        let mut chosen = candidate(number, &file, Ok(plan));
        beside.into_iter().for_each(|file| chosen.origin.add(file));
        chosen
    });
    let missing = manifest.versions.missing(&numbers).map(|number| {
        let reason = format!("lists version {number}, but there is no folder {number}");
        let fault = LoadFault { file: manifest_file.clone(), key: "versions".to_owned(), reason };
        candidate(number, &model.folder.join(number.to_string()), Err(vec![fault]))
    });
    chosen.chain(missing).collect()
}
