//! `tidemill keys`: makes, lists and revokes the keys in a keys file. Needs no server: one that uses the file notices.

use std::{
    collections::BTreeMap,
    fmt, fs,
    fs::Permissions,
    io::{ErrorKind, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde::Serialize;
use tidemill_auth::{
    Entry, FILE_BYTES_MAX, Glob, Key, Keys, Proof, Quotas, Scope, Scopes, Tenant, WEIGHT_MAX, format_utc, is_name, parse_utc,
};
use tidemill_domain::Priority;

use super::{output::Printer, printed::Record, status::Failure};

const HELP: &str = help!(
    "\
Examples:
  tidemill keys new alice --file keys.toml                                 may run and list all models
  tidemill keys new ci --file keys.toml --scope models:write --expires 2027-01-31
  tidemill keys new acme-web --file keys.toml --tenant acme --models 'silero-*'
  tidemill keys new batch --file keys.toml --items-per-s 200 --weight 2 --priority-max low
  tidemill keys list --file keys.toml
  tidemill keys revoke alice --file keys.toml                              what it has open ends within a second
  tidemill serve --set security.keys=keys.toml"
);

/// Permissions of a new file: what is in it concerns nobody else.
const MODE: u32 = 0o600;

/// Make, list and revoke the keys that callers present
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a caller and print its key, which is kept nowhere: the file has its SHA-256
    New(NewArgs),
    /// List the callers
    List(FileArgs),
    /// Remove a caller
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct FileArgs {
    /// The keys file [security.keys]
    #[arg(long, value_name = "FILE", env = "TIDEMILL_SECURITY__KEYS")]
    file: PathBuf,

    /// Print JSON objects on standard output, errors included
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct NewArgs {
    /// Name of the caller, by which the log and the other commands know it
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,

    #[command(flatten)]
    file: FileArgs,

    /// On whose behalf it calls [default: NAME]
    #[arg(long, value_name = "TENANT", value_parser = name)]
    tenant: Option<String>,

    /// What it may do, once for each: infer, models:read, models:write, memory, metrics or admin [default: infer and models:read]
    #[arg(long, value_name = "SCOPE", value_parser = scope)]
    scope: Vec<Scope>,

    /// Which models it may use, once for each pattern; * stands for any characters [default: all]
    #[arg(long, value_name = "PATTERN")]
    models: Vec<String>,

    /// When it ends: a date or a time in UTC, such as 2027-01-31T12:00:00Z [default: never]
    #[arg(long, value_name = "TIME", value_parser = time)]
    expires: Option<u64>,

    /// For which other tenants it may call, once for each pattern [default: none]
    #[arg(long, value_name = "PATTERN")]
    acts_for: Vec<String>,

    #[command(flatten)]
    quotas: QuotaArgs,
}

// How much a caller may use. A doc comment here would become the command's own text.
#[derive(Debug, Default, Args)]
struct QuotaArgs {
    /// Streams and calls that it may have open at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    streams: Option<u64>,

    /// Connections that it may use at once
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    connections: Option<u64>,

    /// Items that it may send in a second
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    items_per_s: Option<u64>,

    /// Input bytes that it may send in a second
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    bytes_per_s: Option<u64>,

    /// Its share of lane time among tenants, 1 to 100, unless its tenant has one [default: 1]
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(1..=WEIGHT_MAX))]
    weight: Option<u64>,

    /// The highest priority that it may ask for: low, normal or high
    #[arg(long, value_name = "PRIORITY", value_parser = priority)]
    priority_max: Option<Priority>,
}

impl QuotaArgs {
    const fn quotas(&self) -> Quotas {
        let Self { streams, connections, items_per_s, bytes_per_s, weight, priority_max } = *self;
        Quotas { streams, connections, items_per_s, bytes_per_s, weight, priority_max }
    }
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// Name of the caller
    #[arg(value_name = "NAME")]
    name: String,

    #[command(flatten)]
    file: FileArgs,
}

fn name(text: &str) -> Result<String, String> {
    let fault = || "1 to 128 letters, digits, '-', '_', '.' and '@' are allowed".to_owned();
    is_name(text).then(|| text.to_owned()).ok_or_else(fault)
}

fn scope(text: &str) -> Result<Scope, String> {
    Scope::named(text).ok_or_else(|| format!("known are {}", Scope::ALL.map(Scope::name).join(", ")))
}

fn priority(text: &str) -> Result<Priority, String> {
    let found = Priority::ALL.into_iter().find(|priority| priority.label() == text);
    found.ok_or_else(|| "known are low, normal and high".to_owned())
}

fn time(text: &str) -> Result<u64, String> {
    parse_utc(text).ok_or_else(|| "expected a date or a time in UTC, such as 2027-01-31T12:00:00Z".to_owned())
}

impl KeysArgs {
    pub(super) const fn wants_json(&self) -> bool {
        match &self.action {
            Action::New(args) => args.file.json,
            Action::List(args) => args.json,
            Action::Revoke(args) => args.file.json,
        }
    }
}

pub(super) fn run(args: &KeysArgs, printer: &mut Printer) -> Result<(), Failure> {
    match &args.action {
        Action::New(args) => make(args, printer),
        Action::List(args) => {
            let (_, keys) = read(&args.file)?.ok_or_else(|| refuse(&args.file, "there is no such file"))?;
            keys.entries().iter().try_for_each(|entry| printer.print(&KeyRecord::of(entry)))?;
            keys.tenants().iter().try_for_each(|tenant| printer.print(&TenantRecord::of(tenant)))
        }
        Action::Revoke(args) => revoke(args, printer),
    }
}

fn make(args: &NewArgs, printer: &mut Printer) -> Result<(), Failure> {
    let NewArgs { name, file: FileArgs { file, json }, tenant, scope, models, expires, acts_for, quotas } = args;
    let (text, keys) = read(file)?.unwrap_or_default();
    if keys.entries().iter().any(|entry| *entry.name == **name) {
        return Err(refuse(file, &format!("'{name}' is in it already; revoke it, or choose another name")));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| refuse(file, &format!("the system gives no random numbers: {error}")))?;
    let key = Key::from_random(random);
    let scopes: Scopes =
        if scope.is_empty() { [Scope::Infer, Scope::ModelsRead].into_iter().collect() } else { scope.iter().copied().collect() };
    let models = if models.is_empty() { vec!["*".to_owned()] } else { models.clone() };
    let entry = Entry {
        name: name.as_str().into(),
        proof: Proof::Key(key.digest()),
        tenant: tenant.as_deref().map(Into::into),
        acts_for: acts_for.iter().map(|glob| Glob::new(glob.as_str())).collect(),
        scopes,
        models: models.into_iter().map(Glob::new).collect(),
        expires: *expires,
        quotas: quotas.quotas(),
    };
    // Added at the end, so that comments stay.
    let gap = if text.is_empty() || text.ends_with("\n\n") {
        ""
    } else if text.ends_with('\n') {
        "\n"
    } else {
        "\n\n"
    };
    let text = format!("{text}{gap}{}", Keys::block(&entry));
    Keys::parse(&text).map_err(|faults| refuse(file, &faults.to_string()))?;
    write(file, &text)?;
    let shown = file.display().to_string();
    printer.print(&NewKeyRecord { name: name.clone(), key: key.reveal(), file: shown.clone() })?;
    if !json {
        printer.note(&format!("This is the key of {name}. It is not shown again; {shown} has only its SHA-256."));
    }
    Ok(())
}

fn revoke(args: &RevokeArgs, printer: &mut Printer) -> Result<(), Failure> {
    let RevokeArgs { name, file: FileArgs { file, .. } } = args;
    let (_, keys) = read(file)?.ok_or_else(|| refuse(file, "there is no such file"))?;
    let kept: Vec<Entry> = keys.entries().iter().filter(|entry| *entry.name != **name).map(|entry| Entry::clone(entry)).collect();
    if kept.len() == keys.entries().len() {
        return Err(refuse(file, &format!("'{name}' is not in it; see tidemill keys list")));
    }
    write(file, &Keys::of(kept, keys.tenants().to_vec()).to_toml())?;
    printer.print(&RevokedRecord { name: name.clone(), file: file.display().to_string() })
}

fn refuse(file: &Path, reason: &str) -> Failure {
    Failure::BadInput(format!("{}: {reason}", file.display()))
}

/// The file's text, and what it says; `None` if there is no such file.
fn read(file: &Path) -> Result<Option<(String, Keys)>, Failure> {
    let found = fs::metadata(file).and_then(|found| {
        if found.len() > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        fs::read_to_string(file)
    });
    match found {
        Ok(text) => {
            let keys = Keys::parse(&text).map_err(|faults| refuse(file, &faults.to_string()))?;
            Ok(Some((text, keys)))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(refuse(file, &error.to_string())),
    }
}

/// Puts another file in its place, so that nobody reads half of one.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let refused = |error: std::io::Error| refuse(path, &format!("cannot be written: {error}"));
    // A link goes on pointing to the file that is replaced.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mode = fs::metadata(&place).map_or(MODE, |found| found.permissions().mode() & 0o777);
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(refused)?;
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(refused)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(refused)?;
    file.persist(&place).map(drop).map_err(|failed| refused(failed.error))
}

/// A new key: `{"new_key":{..}}`.
#[derive(Serialize)]
struct NewKeyRecord {
    name: String,
    key: String,
    file: String,
}

impl fmt::Display for NewKeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

impl Record for NewKeyRecord {
    const KIND: &'static str = "new_key";
}

/// A caller: `{"key":{..}}`.
#[derive(Serialize)]
struct KeyRecord {
    name: String,
    by: &'static str,
    tenant: String,
    scopes: Vec<&'static str>,
    models: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    acts_for: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    quotas: QuotaRecord,
}

/// The quotas that are set, by name.
type QuotaRecord = BTreeMap<&'static str, String>;

fn listed(quotas: &Quotas) -> QuotaRecord {
    let Quotas { streams, connections, items_per_s, bytes_per_s, weight, priority_max } = quotas;
    let numbers = [
        ("streams", streams),
        ("connections", connections),
        ("items_per_s", items_per_s),
        ("bytes_per_s", bytes_per_s),
        ("weight", weight),
    ];
    let numbers = numbers.into_iter().filter_map(|(name, number)| number.map(|number| (name, number.to_string())));
    numbers.chain(priority_max.map(|priority| ("priority_max", priority.label().to_owned()))).collect()
}

fn write_quotas(f: &mut fmt::Formatter<'_>, quotas: &QuotaRecord) -> fmt::Result {
    quotas.iter().try_for_each(|(name, value)| write!(f, ", {name} {value}"))
}

/// A tenant with quotas: `{"tenant":{..}}`.
#[derive(Serialize)]
struct TenantRecord {
    name: String,
    quotas: QuotaRecord,
}

impl TenantRecord {
    fn of(tenant: &Tenant) -> Self {
        Self { name: tenant.name.to_string(), quotas: listed(&tenant.quotas) }
    }
}

impl fmt::Display for TenantRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tenant {}", self.name)?;
        write_quotas(f, &self.quotas)
    }
}

impl Record for TenantRecord {
    const KIND: &'static str = "tenant";
}

impl KeyRecord {
    fn of(entry: &Entry) -> Self {
        let by = match entry.proof {
            Proof::Key(_) => "key",
            Proof::AlternativeName(_) => "san",
            Proof::CommonName(_) => "cn",
            Proof::Token => "token",
        };
        Self {
            name: entry.name.to_string(),
            by,
            tenant: entry.tenant().to_owned(),
            scopes: entry.scopes.iter().map(Scope::name).collect(),
            models: entry.models.iter().map(|glob| glob.as_str().to_owned()).collect(),
            expires: entry.expires.map(format_utc),
            acts_for: entry.acts_for.iter().map(|glob| glob.as_str().to_owned()).collect(),
            quotas: listed(&entry.quotas),
        }
    }
}

impl fmt::Display for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, by, tenant, scopes, models, expires, acts_for, quotas } = self;
        let (scopes, models) = (scopes.join(" "), models.join(" "));
        write!(f, "{name}: by {by}, tenant {tenant}, scopes {scopes}, models {models}")?;
        expires.as_ref().map_or(Ok(()), |expires| write!(f, ", until {expires}"))?;
        if !acts_for.is_empty() {
            write!(f, ", acts for {}", acts_for.join(" "))?;
        }
        write_quotas(f, quotas)
    }
}

impl Record for KeyRecord {
    const KIND: &'static str = "key";
}

/// A caller that was removed: `{"revoked":{..}}`.
#[derive(Serialize)]
struct RevokedRecord {
    name: String,
    file: String,
}

impl fmt::Display for RevokedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, file } = self;
        write!(f, "{name} is no longer in {file}; a server that uses it ends what {name} has open")
    }
}

impl Record for RevokedRecord {
    const KIND: &'static str = "revoked";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_args(file: &Path) -> FileArgs {
        FileArgs { file: file.to_owned(), json: true }
    }

    fn new(file: &Path, name: &str) -> KeysArgs {
        let file = file_args(file);
        let args = NewArgs {
            name: name.to_owned(),
            file,
            tenant: None,
            scope: Vec::new(),
            models: Vec::new(),
            expires: None,
            acts_for: vec!["acme-*".to_owned()],
            quotas: QuotaArgs { streams: Some(7), ..QuotaArgs::default() },
        };
        KeysArgs { action: Action::New(args) }
    }

    fn revoke(file: &Path, name: &str) -> KeysArgs {
        KeysArgs { action: Action::Revoke(RevokeArgs { name: name.to_owned(), file: file_args(file) }) }
    }

    fn quiet() -> Printer {
        Printer::new(true, Box::new(std::io::sink()), Box::new(std::io::sink()), false)
    }

    #[test]
    fn a_file_is_made_added_to_and_taken_from_and_stays_closed_to_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys.toml");
        run(&new(&file, "a"), &mut quiet()).expect("a new file");
        let with_comment = format!("# Ours.\n{}", fs::read_to_string(&file).expect("text"));
        fs::write(&file, with_comment).expect("a comment");
        run(&new(&file, "b"), &mut quiet()).expect("another key");
        let text = fs::read_to_string(&file).expect("text");
        assert!(text.starts_with("# Ours.\n"), "{text}");
        let names = |text: &str| {
            Keys::parse(text).expect("sound").entries().iter().map(|entry| entry.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&text), ["a", "b"]);
        let keys = Keys::parse(&text).expect("sound");
        assert!(keys.entries()[1].may_act_for("acme-web"));
        assert_eq!(keys.entries()[1].quotas, Quotas { streams: Some(7), ..Quotas::default() });
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, MODE);

        let again = run(&new(&file, "a"), &mut quiet()).expect_err("the name is taken");
        assert!(again.to_string().contains("'a' is in it already"), "{again}");
        fs::write(&file, format!("{text}[[tenant]]\nname = '*'\nquotas.weight = 2\n")).expect("a tenant");
        run(&revoke(&file, "a"), &mut quiet()).expect("revoked");
        let kept = Keys::parse(&fs::read_to_string(&file).expect("text")).expect("sound");
        assert_eq!(kept.quotas_of_tenant("x").weight, Some(2));
        assert_eq!(names(&fs::read_to_string(&file).expect("text")), ["b"]);
        let gone = run(&revoke(&file, "a"), &mut quiet()).expect_err("it is gone");
        assert!(gone.to_string().contains("'a' is not in it"), "{gone}");
    }

    #[test]
    fn a_file_that_is_wrong_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("keys.toml");
        fs::write(&file, "[[key]]\nname = 'a'").expect("a file");
        let refused = run(&new(&file, "b"), &mut quiet()).expect_err("it is wrong");
        assert!(refused.to_string().contains("key 'a': 'scopes' is missing"), "{refused}");
        assert_eq!(fs::read_to_string(&file).expect("text"), "[[key]]\nname = 'a'");
    }
}
