//! Writes a short clip of speech-like sound to standard output, as raw samples: mono, signed 16-bit, 16 kHz.

use std::{
    error::Error,
    io::{self, Write as _},
};

use tidemill_recording::Recording;

const CHUNK_SAMPLES: usize = 1_600;

fn main() -> Result<(), Box<dyn Error>> {
    let mut clip = Recording::sample_clip();
    let mut output = io::stdout().lock();
    loop {
        let chunk = clip.next_chunk(CHUNK_SAMPLES)?;
        if chunk.is_empty() {
            return Ok(output.flush()?);
        }
        output.write_all(&chunk)?;
    }
}
