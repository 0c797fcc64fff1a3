//! A server in this process. The fuzz targets use this file too.

use std::{fs, path::Path};

use tempfile::TempDir;
use tidemill::{app::Server, config::Config};

/// The defaults, with any free ports, two lanes and no model.
pub(crate) fn bare_config() -> Config {
    let mut config = Config::default();
    config.server.grpc_addr.set_port(0);
    config.server.http_addr.set_port(0);
    config.server.admin_addr.set_port(0);
    config.scheduler.lanes = 2;
    config.models.embedded = false;
    config.models.example = false;
    config
}

/// Writes a file below `folder`, with the folders above it.
pub(crate) fn write(folder: &Path, path: &str, content: &[u8]) {
    let path = folder.join(path);
    fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
    fs::write(path, content).expect("a file");
}

/// A folder of models without files, from names and manifests.
pub(crate) fn folder_of(models: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, manifest) in models {
        write(folder.path(), &format!("{name}/model.toml"), manifest.as_bytes());
    }
    folder
}

/// Starts a server with these models on top of `config`.
pub(crate) async fn serve(mut config: Config, models: &[(&str, &str)]) -> Server {
    let folder = folder_of(models);
    config.models.dir = Some(folder.path().to_owned());
    Server::start(config).await.unwrap_or_else(|error| panic!("{error}"))
}
