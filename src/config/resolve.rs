//! Turns file, environment and flags into one [`Config`], or into a list of everything that is wrong with them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize as _;
use toml::{Table, Value};

use super::{
    Config,
    keys::{Accepts, KEYS, Key, ORDERED, default_value, nearest},
};

/// The prefix of our variables.
const PREFIX: &str = "TIDEMILL_";
/// Names the file itself; the command line reads it.
const CONFIG_VARIABLE: &str = "TIDEMILL_CONFIG";
/// Where the client commands find the server, and their key; they mean nothing to the server itself.
const CLIENT_VARIABLES: [&str; 2] = ["TIDEMILL_ADDR", "TIDEMILL_API_KEY"];
/// Where other programs that use ONNX Runtime look for its library.
const ONNXRUNTIME_VARIABLE: &str = "ORT_DYLIB_PATH";
const ONNXRUNTIME_KEY: &str = "engine.onnxruntime";
/// Where proofs of models are kept if no setting says: systemd's folder for the service, the user's cache, or `.cache` at home.
const CACHE_VARIABLES: [(&str, &str); 3] =
    [("CACHE_DIRECTORY", "proofs"), ("XDG_CACHE_HOME", "tidemill/proofs"), ("HOME", ".cache/tidemill/proofs")];
const CACHE_KEY: &str = "models.cache_dir";
/// Instead of a path: search for the library.
pub const FIND_LIBRARY: &str = "auto";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nothing set it.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Where the value came from.
    pub origin: Origin,
    /// `section.name`; empty if the fault is the file's as a whole.
    pub key: String,
    /// The value, shortened if it is long; empty if it must not be shown.
    pub value: String,
    /// What is wrong and what is accepted.
    pub reason: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, value, reason } = self;
        match (key.as_str(), value.as_str()) {
            ("", _) => write!(f, "{origin}: {reason}"),
            (key, "") => write!(f, "{origin}: {key}: {reason}"),
            (key, value) => write!(f, "{origin}: {key} = {value}: {reason}"),
        }
    }
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(Vec<ConfigFault>);

impl ConfigFaults {
    /// The faults; at least one.
    #[must_use]
    pub fn faults(&self) -> &[ConfigFault] {
        &self.0
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration has {} fault(s):", self.0.len())?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for ConfigFaults {}

/// The variables of this process that [`Config::resolve`] looks at.
#[must_use]
pub fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| {
            let is_cache = CACHE_VARIABLES.iter().any(|(variable, _)| name == variable);
            name.starts_with(PREFIX) || name == ONNXRUNTIME_VARIABLE || is_cache
        })
        .collect()
}

/// A variable of this process that says where other programs are installed, and is not a setting.
#[must_use]
pub fn process_variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

impl Config {
    /// Merges the settings; a later source wins: defaults, `file`, `environment`, `flags`.
    ///
    /// `environment` holds names and values as the process has them; `flags` holds dotted keys and values.
    ///
    /// # Errors
    /// Every fault of every source at once, including values that a later source overrides: unknown keys, values of the wrong type or out
    /// of range, and pairs of settings that contradict each other.
    pub fn resolve(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: Vec<(String, String)>,
    ) -> Result<Self, ConfigFaults> {
        let mut resolver = Resolver::default();
        if let Some(path) = file {
            resolver.read_file(path);
        }
        resolver.read_environment(environment);
        for (key, value) in flags {
            resolver.offer(Origin::Flag, &key, Given::Text(value));
        }
        resolver.finish()
    }
}

/// A value as its source states it.
enum Given {
    /// Of a type that the source has chosen.
    Typed(Value),
    /// To be read as the key's type.
    Text(String),
}

#[derive(Default)]
struct Resolver {
    settings: BTreeMap<&'static str, (Origin, Value)>,
    faults: Vec<ConfigFault>,
    /// Keys with a fault, which are not checked any further.
    broken: BTreeSet<&'static str>,
}

impl Resolver {
    fn read_file(&mut self, path: &Path) {
        let origin = Origin::File(path.to_owned());
        let table = match read_limited(path).and_then(|text| text.parse::<Table>().map_err(|error| syntax_fault(&text, &error))) {
            Ok(table) => table,
            Err(reason) => return self.fault(origin, String::new(), String::new(), reason),
        };
        for (section, content) in table {
            match content {
                Value::Table(settings) => {
                    for (name, value) in settings {
                        self.offer(origin.clone(), &format!("{section}.{name}"), Given::Typed(value));
                    }
                }
                value => self.offer(origin.clone(), &section, Given::Typed(value)),
            }
        }
    }

    fn read_environment(&mut self, environment: impl Iterator<Item = (String, String)>) {
        let mut library = None;
        // The system lists them in no particular order; reports should not differ from run to run.
        let ordered: BTreeMap<String, String> = environment.collect();
        for (name, value) in &ordered {
            if name == ONNXRUNTIME_VARIABLE {
                library = Some(value.clone());
            } else if let Some(rest) = name.strip_prefix(PREFIX)
                && name != CONFIG_VARIABLE
                && !CLIENT_VARIABLES.contains(&name.as_str())
                && !is_service_link(rest)
            {
                let key = rest.to_ascii_lowercase().replacen("__", ".", 1);
                self.offer(Origin::Variable(name.clone()), &key, Given::Text(value.clone()));
            }
        }
        let cache = CACHE_VARIABLES.iter().find_map(|(variable, folder)| {
            // systemd separates several folders with colons.
            let root = ordered.get(*variable)?.split(':').next().filter(|root| root.starts_with('/'))?;
            Some((*variable, format!("{root}/{folder}")))
        });
        if let Some((variable, folder)) = cache
            && !self.settings.contains_key(CACHE_KEY)
        {
            self.offer(Origin::Variable(variable.to_owned()), CACHE_KEY, Given::Text(folder));
        }
        if let Some(value) = library
            && !self.settings.contains_key(ONNXRUNTIME_KEY)
        {
            self.offer(Origin::Variable(ONNXRUNTIME_VARIABLE.to_owned()), ONNXRUNTIME_KEY, Given::Text(value));
        }
    }

    /// Takes a value if it is valid, and notes why if it is not.
    fn offer(&mut self, origin: Origin, key: &str, given: Given) {
        let shown = match &given {
            Given::Typed(value) => excerpt(&value.to_string()),
            Given::Text(text) => excerpt(text),
        };
        let Some(key) = KEYS.iter().find(|row| row.name == key) else {
            let reason = unknown_key(&origin, key);
            // A variable that is not ours may hold a secret.
            let shown = if matches!(origin, Origin::Variable(_)) { String::new() } else { shown };
            return self.fault(origin, excerpt(key), shown, reason);
        };
        match typed(key, given).and_then(|value| checked(key, value)) {
            Ok(value) => {
                self.settings.insert(key.name, (origin, value));
            }
            Err(why) => {
                self.broken.insert(key.name);
                let unit = if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) };
                self.fault(origin, key.name.to_owned(), shown, format!("{why}; accepted: {}{unit}", key.accepts));
            }
        }
    }

    fn fault(&mut self, origin: Origin, key: String, value: String, reason: String) {
        self.faults.push(ConfigFault { origin, key, value, reason });
    }

    fn finish(mut self) -> Result<Config, ConfigFaults> {
        self.check_order();
        let mut table = Table::new();
        for (key, (_, value)) in &self.settings {
            insert(&mut table, key, value.clone());
        }
        match Config::deserialize(Value::Table(table)) {
            Ok(config) => {
                let models = &config.models;
                let nothing = !models.embedded && !models.embedded_8khz && !models.example && models.dir.is_none();
                if nothing && !self.broken.contains("models.dir") {
                    let origin = self.find("models.embedded").0;
                    let reason =
                        "there is nothing to serve: set models.dir, or leave models.embedded or models.example on".to_owned();
                    self.fault(origin, "models.embedded".to_owned(), "false".to_owned(), reason);
                }
                if !models.name.is_empty() && models.dir.is_none() && !self.broken.contains("models.dir") {
                    let origin = self.find("models.name").0;
                    let reason = "names a model of models.dir, which is not set".to_owned();
                    self.fault(origin, "models.name".to_owned(), models.name.clone(), reason);
                }
                let (server, tls, security) = (&config.server, &config.tls, &config.security);
                let contradictions =
                    [server.contradiction(), tls.contradiction(), config.encrypted_socket(), security.contradiction()];
                for (key, value, reason) in contradictions.into_iter().flatten() {
                    let origin = self.find(key).0;
                    self.fault(origin, key.to_owned(), value, reason);
                }
                if self.faults.is_empty() { Ok(config) } else { Err(ConfigFaults(self.faults)) }
            }
            Err(error) => {
                self.fault(Origin::Default, String::new(), String::new(), error.to_string());
                Err(ConfigFaults(self.faults))
            }
        }
    }

    fn check_order(&mut self) {
        for (low, high, why) in ORDERED {
            if self.broken.contains(low) || self.broken.contains(high) {
                continue;
            }
            let (low_origin, low_value) = self.find(low);
            let (high_origin, high_value) = self.find(high);
            if low_value.as_integer() > high_value.as_integer() {
                let reason = format!("exceeds {high} = {high_value} ({high_origin}); {why}");
                self.fault(low_origin, (*low).to_owned(), low_value.to_string(), reason);
            }
        }
    }

    /// The value in force.
    fn find(&self, key: &str) -> (Origin, Value) {
        let default = || (Origin::Default, default_value(key).cloned().unwrap_or(Value::Boolean(false)));
        self.settings.get(key).cloned().unwrap_or_else(default)
    }
}

/// How long a pipe may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A file, or what another program writes into a pipe.
struct Patient(File);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A file is always ready. On a pipe that nobody writes to, we would wait for ever.
        let limit = Timespec::try_from(SILENCE_MAX).map_err(io::Error::other)?;
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut polled, Some(&limit))? == 0 {
            let seconds = SILENCE_MAX.as_secs();
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing could be read from it for {seconds} s")));
        }
        self.0.read(buffer)
    }
}

fn read_limited(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    // Otherwise opening a pipe would wait for a writer.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = Patient(opened.map_err(|error| format!("cannot be opened: {error}"))?);
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    Ok(text)
}

fn syntax_fault(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    format!("line {}: {}", before.matches('\n').count() + 1, error.message().trim())
}

/// Whether a variable, less our prefix, is one that Kubernetes sets in each pod for a service whose name begins with `tidemill`.
fn is_service_link(rest: &str) -> bool {
    let port_and_number = |tail: &str| tail.starts_with(|letter: char| letter.is_ascii_digit());
    let padded = format!("_{rest}");
    padded.ends_with("_SERVICE_HOST")
        || padded.contains("_SERVICE_PORT")
        || padded.ends_with("_PORT")
        || padded.split("_PORT_").skip(1).any(port_and_number)
}

fn unknown_key(origin: &Origin, key: &str) -> String {
    if default_value_section(key) {
        return format!("'{key}' is a section: write [{key}] and its settings below");
    }
    let suggestion = nearest(key).map_or_else(String::new, |known| match origin {
        Origin::Variable(_) => format!("; did you mean {PREFIX}{}", known.to_ascii_uppercase().replace('.', "__")),
        _ => format!("; did you mean {known}"),
    });
    format!("there is no such setting{suggestion}")
}

fn default_value_section(key: &str) -> bool {
    KEYS.iter().any(|row| row.name.split_once('.').is_some_and(|(section, _)| section == key))
}

/// The value in the type of the key's default.
fn typed(key: &Key, given: Given) -> Result<Value, String> {
    let expected = default_value(key.name).unwrap_or(&Value::Boolean(false));
    let given = if matches!(key.accepts, Accepts::Switch) { switched(given) } else { given };
    match given {
        Given::Typed(value) if value.same_type(expected) => Ok(value),
        Given::Typed(value) => Err(format!("is of type {}, not {}", value.type_str(), expected.type_str())),
        Given::Text(text) => match expected {
            Value::Integer(_) => text.trim().parse().map(Value::Integer).map_err(|_| "is not an integer".to_owned()),
            Value::Boolean(_) => text.trim().parse().map(Value::Boolean).map_err(|_| "is not a boolean".to_owned()),
            Value::Array(_) => listed(&text),
            _ => Ok(Value::String(text)),
        },
    }
}

/// The words of a switch: `on` and `off` may also be written as true and false.
fn switched(given: Given) -> Given {
    let word = |is_on: bool| Value::String(if is_on { "on" } else { "off" }.to_owned());
    match given {
        Given::Typed(Value::Boolean(is_on)) => Given::Typed(word(is_on)),
        Given::Text(text) => text.trim().parse().map_or(Given::Text(text), |is_on| Given::Typed(word(is_on))),
        given @ Given::Typed(_) => given,
    }
}

/// A list from text: as in TOML, or words separated by commas.
fn listed(text: &str) -> Result<Value, String> {
    let text = text.trim();
    if text.starts_with('[') {
        let table = format!("list = {text}").parse::<Table>().map_err(|error| error.message().trim().to_owned())?;
        return table.get("list").filter(|value| value.is_array()).cloned().ok_or_else(|| "is not a list".to_owned());
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Ok(Value::Array(words.map(|word| Value::String(word.to_owned())).collect()))
}

/// The value, if it is in range and means something to the setting.
fn checked(key: &Key, value: Value) -> Result<Value, String> {
    if let (Accepts::Range(range), Value::Integer(number)) = (&key.accepts, &value)
        && !range.contains(number)
    {
        return Err("is out of range".to_owned());
    }
    let mut alone = Table::new();
    insert(&mut alone, key.name, value.clone());
    let config = Config::deserialize(Value::Table(alone)).map_err(|error| error.message().trim().to_owned())?;
    if key.name == "log.filter" {
        // The parser of directives panics on some text beyond ASCII.
        if !config.log.filter.is_ascii() {
            return Err("directives are written in ASCII".to_owned());
        }
        tracing_subscriber::EnvFilter::builder().parse(&config.log.filter).map_err(|error| error.to_string())?;
    }
    Ok(value)
}

/// Puts `value` at `section.name`.
fn insert(table: &mut Table, key: &str, value: Value) {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(name.to_owned(), value);
    }
}

/// The beginning of a text that may be long.
fn excerpt(text: &str) -> String {
    const LETTERS: usize = 80;
    match text.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::config::{LogFormat, Switch};

    /// Resolves a file of this text with these variables and flags.
    fn resolve(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigFaults> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("tidemill.toml");
        fs::write(&file, text).expect("a file in it");
        let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Config::resolve(Some(&file), owned(environment).into_iter(), owned(flags))
    }

    /// The faults, less the folder of the file.
    fn faults(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Vec<String> {
        let line = |fault: &ConfigFault| match &fault.origin {
            Origin::File(_) => {
                let file = Origin::File("tidemill.toml".into());
                ConfigFault { origin: file, ..fault.clone() }.to_string()
            }
            _ => fault.to_string(),
        };
        resolve(text, environment, flags).expect_err("must be refused").faults().iter().map(line).collect()
    }

    #[test]
    fn proofs_are_kept_in_the_services_folder_then_the_users_unless_a_setting_says_otherwise() {
        let cache_of = |variables: &[(&str, &str)], flags: &[(&str, &str)]| {
            let own = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
            };
            let config = Config::resolve(None, own(variables).into_iter(), own(flags)).expect("sound");
            config.models.cache_dir.map(|path| path.display().to_string())
        };
        let (home, user) = (("HOME", "/home/a"), ("XDG_CACHE_HOME", "/home/a/c"));
        let service = ("CACHE_DIRECTORY", "/var/cache/tidemill:/var/cache/other");
        assert_eq!(cache_of(&[], &[]), None);
        assert_eq!(cache_of(&[home], &[]).as_deref(), Some("/home/a/.cache/tidemill/proofs"));
        assert_eq!(cache_of(&[home, user], &[]).as_deref(), Some("/home/a/c/tidemill/proofs"));
        assert_eq!(cache_of(&[home, user, service], &[]).as_deref(), Some("/var/cache/tidemill/proofs"));
        assert_eq!(cache_of(&[("XDG_CACHE_HOME", "relative")], &[]), None);
        let set = ("TIDEMILL_MODELS__CACHE_DIR", "/elsewhere");
        assert_eq!(cache_of(&[set, service], &[]).as_deref(), Some("/elsewhere"));
        assert_eq!(cache_of(&[service], &[("models.cache_dir", "")]), None);
    }

    #[test]
    fn nothing_given_is_the_defaults() {
        let config = Config::resolve(None, std::iter::empty(), Vec::new()).expect("the defaults are good");
        assert_eq!(config, Config::default());
        assert_eq!(config.session.idle_timeout(), Duration::from_secs(300));
        assert_eq!(config.server.grpc_addr.to_string(), "127.0.0.1:50051");
    }

    #[test]
    fn a_file_of_all_defaults_is_the_defaults() {
        let text = toml::to_string(&Config::default()).expect("the defaults can be written");
        assert_eq!(resolve(&text, &[], &[]).expect("and read"), Config::default());
    }

    #[test]
    fn file_yields_to_environment_and_environment_to_flags() {
        let file = "[session]\nwindow_items = 1\nwindow_items_max = 11\nwindow_bytes = 8000000\n[log]\nformat = \"json\"";
        let environment = [("TIDEMILL_SESSION__WINDOW_ITEMS", "2"), ("TIDEMILL_SESSION__WINDOW_ITEMS_MAX", "12"), ("HOME", "/")];
        let config = resolve(file, &environment, &[("session.window_items", "3")]).expect("all good");
        assert_eq!(config.session.window_items, 3);
        assert_eq!(config.session.window_items_max, 12);
        assert_eq!(config.session.window_bytes, 8_000_000);
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn text_is_read_as_the_type_of_the_setting() {
        let flags = [
            ("models.embedded", "false"),
            ("models.dir", "/models"),
            ("server.grpc_addr", "[::1]:0"),
            ("server.http_addr", "localhost:8"),
            ("server.admin_addr", ":9"),
            ("engine.default", "rten"),
            ("log.filter", "warn,tidemill=debug"),
        ];
        let config = resolve("", &[], &flags).expect("all good");
        assert!(!config.models.embedded);
        assert_eq!(config.models.dir.as_deref(), Some(Path::new("/models")));
        assert_eq!(config.server.grpc_addr.to_string(), "[::1]:0");
        assert_eq!(config.server.http_addr.to_string(), "127.0.0.1:8");
        assert_eq!(config.server.admin_addr.to_string(), "0.0.0.0:9");
        assert_eq!(config.engine.default.name(), "rten");
        assert_eq!(config.log.filter, "warn,tidemill=debug");
    }

    #[test]
    fn a_socket_has_a_path_and_a_mode_and_is_not_encrypted() {
        let flags = [("server.grpc_addr", "unix:///run/t.sock"), ("server.socket_mode", "600")];
        let config = resolve("", &[], &flags).expect("all good");
        assert_eq!((config.server.grpc_addr.to_string().as_str(), config.server.socket_mode), ("unix:/run/t.sock", 0o600));
        assert_eq!(resolve(&toml::to_string(&config).expect("it can be written"), &[], &[]).expect("and read"), config);
        for mode in ["", "60", "0o600", "1777", "0680", "+660", "rw"] {
            let found = faults("", &[], &[("server.socket_mode", mode)]);
            assert!(found.len() == 1 && found[0].contains("is not a mode in octal"), "{found:?}");
        }
        let tls = [("tls.cert", "a.pem"), ("tls.key", "a.key")];
        assert!(resolve("", &[], &[&flags[..], &tls].concat()).is_ok(), "the other ports are encrypted");
        let found = faults("", &[], &[&flags[..], &tls, &[("tls.grpc", "off")]].concat());
        let expected = "flag: tls.grpc: asks for an encrypted port, but server.grpc_addr = unix:/run/t.sock is a Unix socket";
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }

    #[test]
    fn a_switch_is_a_word_or_true_or_false() {
        let repository = |text: &str, flag: &[(&str, &str)]| resolve(text, &[], flag).expect("all good").control.repository;
        assert_eq!(repository("", &[]), Switch::Auto);
        for (word, switch) in [("'auto'", Switch::Auto), ("'on'", Switch::On), ("true", Switch::On), ("false", Switch::Off)] {
            assert_eq!(repository(&format!("[control]\nrepository = {word}"), &[]), switch);
            assert_eq!(repository("", &[("control.repository", word.trim_matches('\''))]), switch);
        }
    }

    #[test]
    fn a_list_is_one_of_toml_or_words_with_commas() {
        let hosts = |text: &str, flag: &[(&str, &str)]| {
            let config = resolve(text, &[], flag).expect("all good");
            config.server.allowed_hosts.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let (file, both) = ("[server]\nallowed_hosts = ['a', '*.b']", ["a", "*.b"]);
        assert_eq!(hosts(file, &[]), both);
        for text in ["a,*.b", " a , *.b,", "['a', \"*.b\"]"] {
            assert_eq!(hosts("", &[("server.allowed_hosts", text)]), both, "{text}");
        }
        for none in ["", "[]", " , "] {
            assert!(hosts(file, &[("server.allowed_hosts", none)]).is_empty(), "{none:?}");
        }
        for broken in ["['a'", "['a'] x", "a b", "[1]"] {
            let found = faults("", &[], &[("server.allowed_hosts", broken)]);
            assert!(found[0].starts_with(&format!("flag: server.allowed_hosts = {broken}: ")), "{found:?}");
        }
    }

    #[test]
    fn the_variable_of_other_programs_yields_to_our_own_settings() {
        let other = ("ORT_DYLIB_PATH", "/other.so");
        let library = |text, environment: &[_], flags: &[_]| {
            let config = resolve(text, environment, flags).expect("all good");
            config.engine.onnxruntime.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
        };
        assert_eq!(library("", &[other], &[]), "/other.so");
        assert_eq!(library("engine.onnxruntime = '/file.so'", &[other], &[]), "/file.so");
        assert_eq!(library("", &[other, ("TIDEMILL_ENGINE__ONNXRUNTIME", "/own.so")], &[]), "/own.so");
        assert_eq!(library("", &[other], &[("engine.onnxruntime", "/flag.so")]), "/flag.so");
        assert_eq!(library("", &[other], &[("engine.onnxruntime", "")]), "");
    }

    #[test]
    fn each_fault_names_its_source_its_value_and_what_is_accepted() {
        let cases: &[(&str, &str)] = &[
            (
                "[session]\nwindow_items = 0",
                "file tidemill.toml: session.window_items = 0: is out of range; accepted: 1 to 65536 items",
            ),
            ("[session]\nwindow_items = '8'", "session.window_items = \"8\": is of type string, not integer"),
            (
                "[session]\nwindw_items = 8",
                "session.windw_items = 8: there is no such setting; did you mean session.window_items",
            ),
            ("[colours]\nred = 1", "colours.red = 1: there is no such setting"),
            ("session = 5", "session = 5: 'session' is a section"),
            ("[session.window_items]\nlow = 1", "is of type table, not integer"),
            ("[server]\ngrpc_addr = 'here'", "server.grpc_addr = \"here\": invalid socket address syntax; accepted: `ip:port`"),
            (
                "[engine]\ndefault = 'synthetic'",
                "engine.default = \"synthetic\": unknown variant `synthetic`, expected one of `auto`, `rten`, `onnxruntime`",
            ),
            ("[log]\nformat = 'xml'", "log.format = \"xml\": unknown variant `xml`"),
            ("[log]\nfilter = 'tidemill=loud'", "log.filter = \"tidemill=loud\": "),
            ("\n\n[log", "file tidemill.toml: line 3: "),
            ("[models]\nembedded = false\nexample = false", "models.embedded = false: there is nothing to serve"),
            ("[models]\nname = 'm'", "file tidemill.toml: models.name = m: names a model of models.dir, which is not set"),
            (
                "[server]\nallowed_hosts = ['a.example', 'http://b']",
                "server.allowed_hosts = [\"a.example\", \"http://b\"]: 'http://b' is not a host name",
            ),
            ("[server]\nallowed_origins = 'https://a'", "is of type string, not array"),
            ("[server]\nallowed_origins = ['a']", "'a' is not an origin, such as https://example.com"),
            ("[control]\nrepository = 'maybe'", "control.repository = \"maybe\": unknown variant `maybe`"),
            (
                "[control]\nrepository = 1",
                "control.repository = 1: is of type integer, not string; accepted: `\"auto\"`, `\"on\"`",
            ),
        ];
        for (text, expected) in cases {
            let found = faults(text, &[], &[]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(expected), "{found:?} lacks {expected}");
        }
    }

    #[test]
    fn faults_of_all_sources_come_at_once() {
        let environment = [("TIDEMILL_SESION__MAX_STREAMS", "a secret"), ("TIDEMILL_DRAIN__DEADLINE_S", "soon")];
        let flags = [("models.embedded", "perhaps"), ("drain.deadline_s", "3")];
        let found = faults("[grpc]\nmax_connections = -1\nmax_streams = 3", &environment, &flags);
        let expected = [
            "file tidemill.toml: grpc.max_connections = -1: is out of range; accepted: 1 to 1000000 connections",
            "file tidemill.toml: grpc.max_streams = 3: there is no such setting",
            "variable TIDEMILL_DRAIN__DEADLINE_S: drain.deadline_s = soon: is not an integer; accepted: 0 to 86400 seconds",
            "variable TIDEMILL_SESION__MAX_STREAMS: sesion.max_streams: there is no such setting; \
             did you mean TIDEMILL_SESSION__MAX_STREAMS",
            "flag: models.embedded = perhaps: is not a boolean; accepted: `true` or `false`",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_with_both_sources() {
        let found = faults("[session]\nwindow_items_max = 32", &[], &[]);
        let expected = "default: session.window_items = 64: exceeds session.window_items_max = 32 (file ";
        assert!(found[0].starts_with(expected), "{found:?}");
        let large = [("session.max_item_bytes", "33000000"), ("http.max_body_bytes", "33000000")];
        let found = faults("", &[], &[large.as_slice(), &[("grpc.max_message_bytes", "junk")]].concat());
        assert_eq!(found.len(), 1, "a broken value is not checked for contradictions: {found:?}");
    }

    #[test]
    fn a_variable_with_one_underscore_is_a_slip_and_those_of_kubernetes_are_not() {
        let found = faults("", &[("TIDEMILL_SESSION_WINDOW_ITEMS", "8")], &[]);
        assert!(found[0].ends_with("did you mean TIDEMILL_SESSION__WINDOW_ITEMS"), "{found:?}");
        let foreign = [
            ("TIDEMILL_SERVICE_HOST", "10.0.0.1"),
            ("TIDEMILL_SERVICE_PORT_GRPC", "50051"),
            ("TIDEMILL_PORT", "tcp://10.0.0.1:50051"),
            ("TIDEMILL_PORT_50051_TCP_ADDR", "10.0.0.1"),
            ("TIDEMILL_GRPC_PORT_50051_TCP", "tcp://10.0.0.1:50051"),
            ("TIDEMILL_CONFIG", "/etc/tidemill.toml"),
            ("TIDEMILL_ADDR", "unix:/run/tidemill.sock"),
            ("TIDEMILL_API_KEY", "secret"),
        ];
        assert_eq!(resolve("", &foreign, &[]).expect("not ours"), Config::default());
    }

    #[test]
    fn a_file_that_is_missing_or_too_large_is_a_fault() {
        let missing = Config::resolve(Some(Path::new("/nowhere/tidemill.toml")), std::iter::empty(), Vec::new());
        let message = missing.expect_err("no file").to_string();
        assert!(message.contains("file /nowhere/tidemill.toml: cannot be opened"), "{message}");
        let found = faults(&"# a comment\n".repeat(100_000), &[], &[]);
        assert_eq!(found, ["file tidemill.toml: is larger than 1048576 bytes"]);
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in "([a-z_.]{0,12} ?(= ?(-?[0-9]{0,20}|'[a-z:0-9]*'|\\[|\\{a=1\\}|true|1e9))?\n|\\[[a-z.]{0,9}\\]\n|.{0,8}\n){0,6}",
            key in "(session|log|engine|x)[._]{0,2}[a-z_]{0,14}",
            value in ".{0,100}",
        ) {
            let variable = format!("TIDEMILL_{}", key.to_uppercase());
            let _ = resolve(&text, &[(&variable, &value)], &[(&key, &value)]);
        }

        #[test]
        fn any_value_of_any_setting_is_taken_or_refused_by_name(index in 0..KEYS.len(), value in "-?[0-9]{1,25}|.{0,40}") {
            let key = KEYS[index].name;
            if let Err(faults) = resolve("", &[], &[(key, &value)]) {
                prop_assert!(faults.to_string().contains(key));
            }
        }
    }
}
