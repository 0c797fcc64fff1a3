//! The command that makes an unreadable recording readable, with a program from the user's system.

use std::{
    path::Path,
    process::{Command, Stdio},
};

/// The converters on the user's system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Converter {
    Ffmpeg,
    /// It is installed, and reads files with this extension.
    Sox,
    /// Neither.
    None,
}

/// The command for this recording; `-` is standard input. It also changes the rate where another one is needed. Asks the system which
/// programs it has, so it blocks.
pub(super) fn command(path: &Path, rate_hz: Option<u32>) -> String {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let converter = if output_of("ffmpeg", "-version").is_some() {
        Converter::Ffmpeg
    } else if output_of("sox", "--help").is_some_and(|help| sox_reads(&help, &extension)) {
        Converter::Sox
    } else {
        Converter::None
    };
    command_with(converter, path, rate_hz)
}

/// The output of a program, if it is installed.
fn output_of(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether sox's help lists the extension among its file formats.
fn sox_reads(help: &str, extension: &str) -> bool {
    let lists = help.lines().filter_map(|line| line.strip_prefix("AUDIO FILE FORMATS:"));
    lists.flat_map(str::split_whitespace).any(|format| format == extension)
}

fn command_with(converter: Converter, path: &Path, rate_hz: Option<u32>) -> String {
    let rate = |option: &str| rate_hz.map(|rate_hz| format!(" {option} {rate_hz}")).unwrap_or_default();
    if path == Path::new("-") {
        let ffmpeg = format!("… | ffmpeg -i - -ac 1{} -c:a pcm_s16le -f wav - | tidemill feed -", rate("-ar"));
        return match converter {
            Converter::Ffmpeg => ffmpeg,
            // Without a name, sox cannot tell what it reads.
            Converter::Sox | Converter::None => with_install(&ffmpeg),
        };
    }
    let name = quoted(&path.display().to_string());
    let ffmpeg = format!("ffmpeg -i {name} -ac 1{} -c:a pcm_s16le converted.wav", rate("-ar"));
    match converter {
        Converter::Ffmpeg => ffmpeg,
        Converter::Sox => format!("sox {name} -c 1{} -b 16 -e signed-integer converted.wav", rate("-r")),
        Converter::None => with_install(&ffmpeg),
    }
}

fn with_install(command: &str) -> String {
    format!("{command} (ffmpeg is not on this system; its package has the same name, as in: apt-get install ffmpeg)")
}

/// As a single shell word.
fn quoted(name: &str) -> String {
    // A name that begins with a dash would be taken for an option.
    let prefix = if name.starts_with('-') { "./" } else { "" };
    format!("'{prefix}{}'", name.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_of_a_program_that_is_there() {
        let of = |converter, name| command_with(converter, Path::new(name), None);
        assert_eq!(of(Converter::Ffmpeg, "talk.opus"), "ffmpeg -i 'talk.opus' -ac 1 -c:a pcm_s16le converted.wav");
        assert_eq!(of(Converter::Sox, "talk.amr"), "sox 'talk.amr' -c 1 -b 16 -e signed-integer converted.wav");
        assert_eq!(
            of(Converter::None, "talk.opus"),
            "ffmpeg -i 'talk.opus' -ac 1 -c:a pcm_s16le converted.wav (ffmpeg is not on this system; its package has the same name, as in: \
             apt-get install ffmpeg)"
        );
        assert_eq!(of(Converter::Ffmpeg, "-"), "… | ffmpeg -i - -ac 1 -c:a pcm_s16le -f wav - | tidemill feed -");
        assert!(of(Converter::Sox, "-").starts_with("… | ffmpeg "));
        let slow = |converter| command_with(converter, Path::new("slow.wav"), Some(16_000));
        assert_eq!(slow(Converter::Ffmpeg), "ffmpeg -i 'slow.wav' -ac 1 -ar 16000 -c:a pcm_s16le converted.wav");
        assert_eq!(slow(Converter::Sox), "sox 'slow.wav' -c 1 -r 16000 -b 16 -e signed-integer converted.wav");
    }

    #[test]
    fn a_name_stays_one_word_and_never_an_option() {
        assert_eq!(quoted("it's; rm -rf x"), r"'it'\''s; rm -rf x'");
        assert_eq!(quoted("-y.wma"), "'./-y.wma'");
    }

    #[test]
    fn sox_is_asked_what_it_reads() {
        let help = "SoX: ...\nAUDIO FILE FORMATS: 8svx aif flac mp3 opus\nPLAYLIST FORMATS: m3u pls\nEFFECTS: mp4\n";
        assert!(sox_reads(help, "opus"));
        for other in ["mp4", "m3u", "op", ""] {
            assert!(!sox_reads(help, other), "{other}");
        }
    }
}
