//! ONNX files: the reader, the survey, what narrowing does to a graph, and weights in other files.
//!
//! The first byte says how long the file next to it is, in blocks of 256 bytes.

use std::{fs, fs::File, io::Write as _, panic, path::PathBuf, sync::OnceLock};

use tidemill::engine::onnx::ModelFile;

const BESIDE_BYTES: usize = 256 * 256;

pub(crate) fn run(data: &[u8]) {
    let [blocks, bytes @ ..] = data else { return };
    let open = |name: &str| {
        if name.contains("nobody") {
            return Err("is not there".to_owned());
        }
        let file = File::open(beside()).map_err(|error| error.to_string())?;
        let wanted = u64::from(*blocks) * 256;
        // Shorter than that by the file's own length, so that reading past the end is tried.
        let short = if wanted == BESIDE_BYTES as u64 { file } else { shortened(wanted)? };
        Ok(short)
    };
    match ModelFile::read_beside(bytes.to_vec(), &open) {
        Ok(file) => {
            let _ = (file.size(), format!("{:?}", file.narrowing()));
        }
        Err(error) => assert!(!error.to_string().contains("panicked"), "{error}"),
    }
}

/// A file of zeros and ones, made once.
fn beside() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        // Reading catches the decoder's panics and reports them; `run` looks at the report.
        panic::set_hook(Box::new(|_| {}));
        let (mut file, path) = tempfile::NamedTempFile::new().expect("a file").keep().expect("a file");
        let content: Vec<u8> = (0..BESIDE_BYTES).map(|index| (index % 3 == 0).into()).collect();
        file.write_all(&content).expect("room");
        path
    })
}

fn shortened(bytes: u64) -> Result<File, String> {
    let path = beside().with_extension("short");
    fs::copy(beside(), &path).map_err(|error| error.to_string())?;
    let file = File::options().read(true).write(true).open(&path).map_err(|error| error.to_string())?;
    file.set_len(bytes).map_err(|error| error.to_string())?;
    File::open(&path).map_err(|error| error.to_string())
}
