//! The keys file, in TOML: `[[key]]` for each caller, and `[[tenant]]` for each tenant with quotas.
//!
//! Values are read one by one rather than by a derived parser, whose errors quote them: somebody may have put a key where its digest
//! belongs.

use std::{collections::BTreeSet, fmt, fmt::Write as _};

use tidemill_domain::Priority;
use toml::{Table, Value};

use crate::{Digest, Entry, Glob, Proof, Quotas, Scope, Scopes, WEIGHT_MAX, format_utc, is_name, parse_utc};

/// Longest file.
pub const FILE_BYTES_MAX: u64 = 8 << 20;
/// Most callers in it, and most tenants.
pub const KEYS_MAX: usize = 10_000;
/// In place of a tenant's name: each tenant that is not listed.
pub const OTHERS: &str = "*";
/// Most patterns in a list of one caller, and their longest.
const GLOBS_MAX: usize = 64;
const GLOB_BYTES_MAX: usize = 256;
const FIELDS: [&str; 10] = ["name", "sha256", "san", "cn", "tenant", "acts_for", "scopes", "models", "expires", "quotas"];
const TENANT_FIELDS: [&str; 2] = ["name", "quotas"];
const QUOTAS: [&str; 6] = ["streams", "connections", "items_per_s", "bytes_per_s", "weight", "priority_max"];
const QUOTA_MAX: i64 = 1 << 46;

/// How much a tenant may use, with all its keys together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its name, or [`OTHERS`].
    pub name: Box<str>,
    /// How much it may use.
    pub quotas: Quotas,
}

/// Everything that is wrong with a keys file, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysFaults(Vec<String>);

impl fmt::Display for KeysFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for KeysFaults {}

/// The callers and tenants that a file lists.
pub(crate) fn parse(text: &str) -> Result<(Vec<Entry>, Vec<Tenant>), KeysFaults> {
    let one = |fault: String| KeysFaults(vec![fault]);
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        one(format!("line {} is not TOML", before.matches('\n').count() + 1))
    })?;
    let mut faults: Vec<String> = table
        .keys()
        .filter(|key| *key != "key" && *key != "tenant")
        .map(|key| format!("'{}' is not known here; callers are [[key]], tenants [[tenant]]", shown(key)))
        .collect();
    let entries = rows(&table, "key", entry, |entry| &entry.name, &mut faults)?;
    let tenants = rows(&table, "tenant", limited_tenant, |tenant| &tenant.name, &mut faults)?;
    if faults.is_empty() { Ok((entries, tenants)) } else { Err(KeysFaults(faults)) }
}

/// What the rows of this kind say, each under a name of its own.
fn rows<T>(
    table: &Table,
    kind: &str,
    read: fn(&Table) -> Result<T, Vec<String>>,
    name_of: fn(&T) -> &str,
    faults: &mut Vec<String>,
) -> Result<Vec<T>, KeysFaults> {
    let rows = match table.get(kind) {
        None => &[][..],
        Some(Value::Array(rows)) => rows,
        Some(_) => return Err(KeysFaults(vec![format!("'{kind}' is not a list; each of them is [[{kind}]]")])),
    };
    if rows.len() > KEYS_MAX {
        let message = format!("{} of [[{kind}]] are more than the {KEYS_MAX} that a file may have", rows.len());
        return Err(KeysFaults(vec![message]));
    }
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    for (index, row) in rows.iter().enumerate() {
        let label = || match row.get("name").and_then(Value::as_str) {
            Some(name) if is_name(name) || name == OTHERS => format!("{kind} '{name}'"),
            _ => format!("{kind} number {}", index + 1),
        };
        match row.as_table().ok_or_else(|| vec!["is not a table".to_owned()]).and_then(read) {
            Ok(row) if !names.insert(name_of(&row).to_owned()) => {
                faults.push(format!("{}: another one has this name", label()));
            }
            Ok(row) => found.push(row),
            Err(wrong) => faults.extend(wrong.into_iter().map(|fault| format!("{}: {fault}", label()))),
        }
    }
    Ok(found)
}

/// The beginning of a name that means nothing.
fn shown(name: &str) -> String {
    name.chars().take(32).flat_map(char::escape_default).collect()
}

fn entry(row: &Table) -> Result<Entry, Vec<String>> {
    let unknown = row.keys().filter(|key| !FIELDS.contains(&key.as_str()));
    let faults: &mut Vec<String> =
        &mut unknown.map(|key| format!("'{}' is not known; known are {}", shown(key), FIELDS.join(", "))).collect();
    let (name, proof) = (kept(name(row), faults), kept(proof(row), faults));
    let (tenant, scopes) = (kept(tenant(row), faults), kept(scopes(row), faults));
    let (acts_for, models) = (kept(globs(row, "acts_for"), faults), kept(globs(row, "models"), faults));
    let (expires, quotas) = (kept(time(row), faults), kept(limits(row), faults));
    let whole = || {
        let (name, proof, tenant, scopes) = (name?, proof?, tenant?, scopes?);
        let (acts_for, models) = (acts_for?.unwrap_or_default(), models?.unwrap_or_else(|| vec![Glob::new("*")]));
        Some(Entry { name, proof, tenant, acts_for, scopes, models, expires: expires?, quotas: quotas? })
    };
    whole().filter(|_| faults.is_empty()).ok_or_else(|| std::mem::take(faults))
}

fn limited_tenant(row: &Table) -> Result<Tenant, Vec<String>> {
    let unknown = row.keys().filter(|key| !TENANT_FIELDS.contains(&key.as_str()));
    let faults: &mut Vec<String> =
        &mut unknown.map(|key| format!("'{}' is not known; known are {}", shown(key), TENANT_FIELDS.join(", "))).collect();
    let (name, quotas) = (kept(tenant_name(row), faults), kept(limits(row), faults));
    let whole = || Some(Tenant { name: name?, quotas: quotas? });
    whole().filter(|_| faults.is_empty()).ok_or_else(|| std::mem::take(faults))
}

fn tenant_name(row: &Table) -> Result<Box<str>, String> {
    let found = text(row, "name")?.filter(|found| is_name(found) || *found == OTHERS);
    let fault = || format!("'name' must be {OTHERS}, for those not listed, or 1 to 128 letters, digits, '-', '_', '.' and '@'");
    found.map(Into::into).ok_or_else(fault)
}

/// What could be read; the fault is put with the others.
fn kept<T>(read: Result<T, String>, faults: &mut Vec<String>) -> Option<T> {
    read.map_err(|fault| faults.push(fault)).ok()
}

fn name(row: &Table) -> Result<Box<str>, String> {
    let found = text(row, "name")?.filter(|found| is_name(found));
    found.map(Into::into).ok_or_else(|| "'name' must be 1 to 128 letters, digits, '-', '_', '.' and '@'".to_owned())
}

fn tenant(row: &Table) -> Result<Option<Box<str>>, String> {
    match text(row, "tenant")? {
        Some(found) if !is_name(found) => Err("'tenant' must be 1 to 128 letters, digits, '-', '_', '.' and '@'".to_owned()),
        found => Ok(found.map(Into::into)),
    }
}

fn scopes(row: &Table) -> Result<Scopes, String> {
    let found = list(row, "scopes")?.filter(|found| !found.is_empty());
    let found = found.ok_or("'scopes' is missing: it lists what the key may do")?;
    let known = || format!("'scopes' may list only {}", Scope::ALL.map(Scope::name).join(", "));
    found.iter().map(|name| Scope::named(name).ok_or_else(known)).collect()
}

fn globs(row: &Table, key: &str) -> Result<Option<Vec<Glob>>, String> {
    let Some(found) = list(row, key)? else { return Ok(None) };
    if found.len() > GLOBS_MAX || found.iter().any(|glob| glob.is_empty() || glob.len() > GLOB_BYTES_MAX) {
        return Err(format!("'{key}' may list up to {GLOBS_MAX} patterns of 1 to {GLOB_BYTES_MAX} bytes"));
    }
    Ok(Some(found.into_iter().map(Glob::new).collect()))
}

fn proof(row: &Table) -> Result<Proof, String> {
    let glob = |key, proof: fn(Glob) -> Proof| match text(row, key)? {
        Some(found) if found.is_empty() || found.len() > GLOB_BYTES_MAX => {
            Err(format!("'{key}' must be a pattern of 1 to {GLOB_BYTES_MAX} bytes"))
        }
        found => Ok(found.map(|found| proof(Glob::new(found)))),
    };
    let digest = text(row, "sha256")?.map(|found| {
        Digest::parse(found).map(Proof::Key).ok_or("'sha256' must be the 64 hexadecimal digits that `tidemill keys new` writes")
    });
    let found = [digest.transpose()?, glob("san", Proof::AlternativeName)?, glob("cn", Proof::CommonName)?];
    let mut found = found.into_iter().flatten();
    match (found.next(), found.next()) {
        (Some(proof), None) => Ok(proof),
        _ => Err("it must have one of 'sha256', 'san' and 'cn': by what is the caller recognised?".to_owned()),
    }
}

fn time(row: &Table) -> Result<Option<u64>, String> {
    let found = match row.get("expires") {
        None => return Ok(None),
        Some(Value::String(text)) => parse_utc(text),
        Some(Value::Datetime(time)) => parse_utc(&time.to_string()),
        Some(_) => None,
    };
    found.map(Some).ok_or_else(|| "'expires' must be a date or a time in UTC, such as 2027-01-31T12:00:00Z".to_owned())
}

fn limits(row: &Table) -> Result<Quotas, String> {
    let table = match row.get("quotas") {
        None => return Ok(Quotas::default()),
        Some(Value::Table(table)) => table,
        Some(_) => return Err("'quotas' is not a table".to_owned()),
    };
    if let Some(key) = table.keys().find(|key| !QUOTAS.contains(&key.as_str())) {
        return Err(format!("quota '{}' is not known; known are {}", shown(key), QUOTAS.join(", ")));
    }
    let number = |key: &str| match table.get(key) {
        None => Ok(None),
        Some(Value::Integer(found @ 1..=QUOTA_MAX)) => Ok(u64::try_from(*found).ok()),
        Some(_) => Err(format!("quota '{key}' must be a number from 1 to {QUOTA_MAX}")),
    };
    let weight = match number("weight")? {
        Some(weight) if weight > WEIGHT_MAX => return Err(format!("quota 'weight' must be a number from 1 to {WEIGHT_MAX}")),
        weight => weight,
    };
    let named = |word: &str| Priority::ALL.into_iter().find(|priority| priority.label() == word);
    let priority_max = match text(table, "priority_max")? {
        None => None,
        Some(word) => Some(named(word).ok_or("quota 'priority_max' must be \"low\", \"normal\" or \"high\"")?),
    };
    Ok(Quotas {
        streams: number("streams")?,
        connections: number("connections")?,
        items_per_s: number("items_per_s")?,
        bytes_per_s: number("bytes_per_s")?,
        weight,
        priority_max,
    })
}

fn text<'a>(row: &'a Table, key: &str) -> Result<Option<&'a str>, String> {
    match row.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("'{key}' is not text")),
    }
}

fn list<'a>(row: &'a Table, key: &str) -> Result<Option<Vec<&'a str>>, String> {
    let texts = match row.get(key) {
        None => return Ok(None),
        Some(Value::Array(values)) => values.iter().map(Value::as_str).collect::<Option<_>>(),
        Some(_) => None,
    };
    texts.map(Some).ok_or_else(|| format!("'{key}' is not a list of texts"))
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// The caller as the file has it.
pub(crate) fn write(entry: &Entry) -> String {
    let Entry { name, proof, tenant, acts_for, scopes, models, expires, quotas } = entry;
    let listed = |texts: &mut dyn Iterator<Item = &str>| format!("[{}]", texts.map(quoted).collect::<Vec<_>>().join(", "));
    let mut block = format!("[[key]]\nname = {}\n", quoted(name));
    let mut line = |key: &str, value: String| _ = writeln!(block, "{key} = {value}");
    match proof {
        Proof::Key(digest) => line("sha256", quoted(&digest.to_hex())),
        Proof::AlternativeName(glob) => line("san", quoted(glob.as_str())),
        Proof::CommonName(glob) => line("cn", quoted(glob.as_str())),
        Proof::Token => {}
    }
    if let Some(tenant) = tenant {
        line("tenant", quoted(tenant));
    }
    if !acts_for.is_empty() {
        line("acts_for", listed(&mut acts_for.iter().map(Glob::as_str)));
    }
    line("scopes", listed(&mut scopes.iter().map(Scope::name)));
    line("models", listed(&mut models.iter().map(Glob::as_str)));
    if let Some(expires) = expires {
        line("expires", format_utc(*expires));
    }
    write_quotas(&mut block, quotas);
    block
}

/// The tenant as the file has it.
pub(crate) fn write_tenant(tenant: &Tenant) -> String {
    let mut block = format!("[[tenant]]\nname = {}\n", quoted(&tenant.name));
    write_quotas(&mut block, &tenant.quotas);
    block
}

fn write_quotas(block: &mut String, quotas: &Quotas) {
    let Quotas { streams, connections, items_per_s, bytes_per_s, weight, priority_max } = quotas;
    for (key, number) in QUOTAS.iter().zip([streams, connections, items_per_s, bytes_per_s, weight]) {
        if let Some(number) = number {
            _ = writeln!(block, "quotas.{key} = {number}");
        }
    }
    if let Some(priority) = priority_max {
        _ = writeln!(block, "quotas.priority_max = {}", quoted(priority.label()));
    }
}
