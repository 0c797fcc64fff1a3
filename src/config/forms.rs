//! How to write settings that TOML has no type for.

/// Addresses in one string, separated by commas, so that a variable or a flag can give them as well.
pub(super) mod addresses {
    use std::net::IpAddr;

    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::config) fn serialize<S: Serializer>(addresses: &[IpAddr], serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        serializer.serialize_str(&texts.join(","))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let addresses = text.split(',').map(str::trim).filter(|address| !address.is_empty());
        let parse = |address: &str| address.parse().map_err(|_| D::Error::custom(format!("'{address}' is not an IP address")));
        addresses.map(parse).collect()
    }
}

/// Paths in one string, separated by commas.
pub(super) mod paths {
    use std::path::PathBuf;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
        serializer.serialize_str(&texts.join(","))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(text.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect())
    }
}

/// Where to listen, as [`BindAddress`](crate::config::BindAddress) says.
pub(super) mod bind_address {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::config::BindAddress;

    pub(in crate::config) fn serialize<S: Serializer>(address: &BindAddress, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(address)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BindAddress, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The permissions of a file, in octal.
pub(super) mod file_mode {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(in crate::config) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{mode:04o}"))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.trim();
        let is_octal = (3..=4).contains(&digits.len()) && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = if is_octal { u32::from_str_radix(digits, 8).ok() } else { None };
        mode.filter(|mode| *mode <= 0o777).ok_or_else(|| D::Error::custom(format!("'{digits}' is not a mode in octal")))
    }
}

/// TOML has no null: an absent path is an empty string, which also lets a flag or a variable undo what the file says.
pub(super) mod path_or_empty {
    use std::path::PathBuf;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        path.clone().unwrap_or_default().serialize(serializer)
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        Ok((!path.as_os_str().is_empty()).then_some(path))
    }
}
