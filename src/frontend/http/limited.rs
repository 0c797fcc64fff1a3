//! Lists in JSON, of which no more is kept than is meaningful.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};

/// A list of at most `MAX` members; a longer one is an error as soon as the first member too many is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Limited<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for Limited<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Limited<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(LimitedVisitor::<T, MAX>(PhantomData)).map(Self)
    }
}

struct LimitedVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for LimitedVisitor<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} members")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = list.next_element()? {
            if members.len() == MAX {
                return Err(A::Error::custom(format_args!("the list has more than {MAX} members")));
            }
            members.push(member);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_up_to_its_limit() {
        let read = |json: &str| serde_json::from_str::<Limited<i64, 3>>(json).map(|Limited(list)| list);
        assert_eq!(read("[]").expect("few"), Vec::<i64>::new());
        assert_eq!(read("[1,2,3]").expect("few"), [1, 2, 3]);
        // The fault after the limit is never reached.
        let error = read("[1,2,3,4,x").expect_err("many").to_string();
        assert!(error.starts_with("the list has more than 3 members"), "{error}");
        assert!(read("7").expect_err("no list").to_string().contains("a list of at most 3 members"));
    }
}
