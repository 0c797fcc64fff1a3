//! What is counted for Prometheus.

use serde::{Deserialize, Serialize};

/// Most tenants that are counted by name.
pub(super) const TENANTS_MAX: usize = 100;

/// What is counted for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Whether anything is.
    pub enabled: bool,
    /// The tenants that are counted by name.
    #[serde(with = "names")]
    pub tenants: Vec<String>,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { enabled: true, tenants: Vec::new() }
    }
}

/// Names of tenants in one string, separated by commas.
mod names {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::TENANTS_MAX;
    use crate::auth::is_name;

    pub(super) fn serialize<S: Serializer>(names: &[String], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&names.join(","))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let names: Vec<_> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        if names.len() > TENANTS_MAX {
            return Err(D::Error::custom(format!("{} tenants are more than the {TENANTS_MAX} that may be counted", names.len())));
        }
        match names.iter().find(|name| !is_name(name)) {
            Some(wrong) => Err(D::Error::custom(format!("'{wrong}' is not the name of a tenant, as the keys file has them"))),
            None => Ok(names),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(tenants: &str) -> Result<Vec<String>, String> {
        let parsed: Result<MetricsConfig, _> = toml::from_str(&format!("tenants = '{tenants}'"));
        parsed.map(|config| config.tenants).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn tenants_are_names_with_commas_between_them_and_there_are_few_of_them() {
        assert_eq!(parse(""), Ok(Vec::new()));
        assert_eq!(parse("acme, umbrella"), Ok(vec!["acme".to_owned(), "umbrella".to_owned()]));
        assert!(parse("acme,a b").is_err_and(|fault| fault.contains("'a b' is not the name of a tenant")));
        let many = vec!["a"; TENANTS_MAX + 1].join(",");
        assert!(parse(&many).is_err_and(|fault| fault.contains("101 tenants")));
    }
}
