//! The comments of the proto, by descriptor.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor, MethodDescriptor,
    ServiceDescriptor,
};

/// What stands before each declaration, by its file and its path there.
pub(super) struct Comments {
    files: HashMap<String, HashMap<Vec<i32>, String>>,
}

/// Anything that a comment may stand before.
pub(super) trait Declared {
    fn file(&self) -> FileDescriptor;
    fn place(&self) -> &[i32];
}

macro_rules! declared {
    ($($kind:ty),*) => {
        $(impl Declared for $kind {
            fn file(&self) -> FileDescriptor {
                self.parent_file()
            }

            fn place(&self) -> &[i32] {
                self.path()
            }
        })*
    };
}

declared!(MessageDescriptor, FieldDescriptor, EnumDescriptor, EnumValueDescriptor, MethodDescriptor, ServiceDescriptor);

impl Comments {
    pub(super) fn of(pool: &DescriptorPool) -> Self {
        let of_file = |file: FileDescriptor| {
            let locations = file.file_descriptor_proto().source_code_info.iter().flat_map(|info| &info.location);
            let comments = locations.filter_map(|location| {
                let text = joined(location.leading_comments.as_deref()?);
                (!text.is_empty()).then(|| (location.path.clone(), text))
            });
            (file.name().to_owned(), comments.collect())
        };
        Self { files: pool.files().map(of_file).collect() }
    }

    /// The comment before a declaration; empty without one.
    pub(super) fn before(&self, declared: &impl Declared) -> &str {
        let found = self.files.get(declared.file().name()).and_then(|comments| comments.get(declared.place()));
        found.map_or("", String::as_str)
    }
}

/// Lines joined into paragraphs, which empty lines separate.
fn joined(comment: &str) -> String {
    let paragraphs = comment.split("\n\n").map(|paragraph| {
        let lines: Vec<&str> = paragraph.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join(" ")
    });
    let paragraphs: Vec<String> = paragraphs.filter(|paragraph| !paragraph.is_empty()).collect();
    paragraphs.join("\n\n")
}

/// The first sentence of a text, without its full stop.
pub(super) fn first_sentence(text: &str) -> &str {
    let paragraph = text.lines().next().unwrap_or_default();
    let end = paragraph.find(". ").unwrap_or_else(|| paragraph.trim_end_matches('.').len());
    &paragraph[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_paragraphs() {
        assert_eq!(joined(" One\n two.\n\n Three.\n"), "One two.\n\nThree.");
        assert_eq!(joined("\n \n"), "");
        assert_eq!(first_sentence("One, two. Three.\n\nFour."), "One, two");
        assert_eq!(first_sentence("One."), "One");
        assert_eq!(first_sentence(""), "");
    }
}
