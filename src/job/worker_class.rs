//! The classes of workers: which of them may run a job.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The class of the workers that may run a job, such as `large`: 1 to 40 lower-case letters, digits and hyphens, beginning
/// with a letter or a digit. Jobs that name none are of the class `default`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerClass(String);

/// The text is not the name of a class.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a worker class has 1 to 40 lower-case letters, digits and hyphens, and does not begin with a hyphen"
)]
pub struct InvalidWorkerClass;

impl WorkerClass {
    /// The class of jobs that name none.
    pub const DEFAULT: &'static str = "default";

    pub(crate) const PATTERN: &'static str = "^[a-z0-9][a-z0-9-]{0,39}$";

    /// The name of the class.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the class of jobs that name none.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.0 == Self::DEFAULT
    }
}

impl Default for WorkerClass {
    fn default() -> Self {
        Self(Self::DEFAULT.to_owned())
    }
}

impl FromStr for WorkerClass {
    type Err = InvalidWorkerClass;
    fn from_str(text: &str) -> Result<Self, InvalidWorkerClass> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=40).contains(&text.len()) && text.bytes().all(is_plain) && !text.starts_with('-');
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidWorkerClass) }
    }
}

impl TryFrom<String> for WorkerClass {
    type Error = InvalidWorkerClass;
    fn try_from(text: String) -> Result<Self, InvalidWorkerClass> {
        text.parse()
    }
}

impl From<WorkerClass> for String {
    fn from(class: WorkerClass) -> Self {
        class.0
    }
}

impl fmt::Display for WorkerClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for WorkerClass {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "WorkerClass".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": Self::PATTERN,
            "description": "The class of the workers that may run the job: lower-case letters, digits and hyphens. That of \
                            jobs that name none is `default`.",
        })
    }
}

/// The classes of the jobs that a worker takes: 1 to 8. As text they are separated by commas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkerClasses(BTreeSet<WorkerClass>);

/// The text is not a list of classes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidWorkerClasses {
    /// One of them is none.
    #[error(transparent)]
    Class(#[from] InvalidWorkerClass),
    /// There is none, or there are too many.
    #[error("a worker takes jobs of 1 to {} classes", WorkerClasses::MAX)]
    Number,
}

impl WorkerClasses {
    /// Maximum number of classes: each claim looks at the queue of each.
    pub const MAX: usize = 8;

    /// These classes.
    ///
    /// # Errors
    /// If there is none, or there are too many.
    pub fn new(classes: impl IntoIterator<Item = WorkerClass>) -> Result<Self, InvalidWorkerClasses> {
        let classes: BTreeSet<WorkerClass> = classes.into_iter().collect();
        if (1..=Self::MAX).contains(&classes.len()) {
            Ok(Self(classes))
        } else {
            Err(InvalidWorkerClasses::Number)
        }
    }

    /// Whether the worker takes jobs of this class.
    #[must_use]
    pub fn contains(&self, class: &WorkerClass) -> bool {
        self.0.contains(class)
    }

    /// Whether the worker takes jobs of all these classes.
    #[must_use]
    pub fn contains_all(&self, others: &Self) -> bool {
        self.0.is_superset(&others.0)
    }

    /// Whether the worker takes jobs of a class of these others, too.
    #[must_use]
    pub fn overlaps(&self, others: &Self) -> bool {
        !self.0.is_disjoint(&others.0)
    }

    /// The classes, by name.
    pub fn iter(&self) -> impl Iterator<Item = &WorkerClass> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a WorkerClasses {
    type Item = &'a WorkerClass;
    type IntoIter = std::collections::btree_set::Iter<'a, WorkerClass>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl Default for WorkerClasses {
    /// The class of jobs that name none.
    fn default() -> Self {
        Self(BTreeSet::from([WorkerClass::default()]))
    }
}

impl FromStr for WorkerClasses {
    type Err = InvalidWorkerClasses;
    fn from_str(text: &str) -> Result<Self, InvalidWorkerClasses> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self::new(names.map(str::parse).collect::<Result<Vec<_>, _>>()?)
    }
}

impl TryFrom<String> for WorkerClasses {
    type Error = InvalidWorkerClasses;
    fn try_from(text: String) -> Result<Self, InvalidWorkerClasses> {
        text.parse()
    }
}

impl From<WorkerClasses> for String {
    fn from(classes: WorkerClasses) -> Self {
        classes.to_string()
    }
}

impl fmt::Display for WorkerClasses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(WorkerClass::as_str).collect();
        names.join(",").fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_as_they_are_written() {
        let classes: WorkerClasses = "large, default,large".parse().unwrap();
        assert_eq!(classes.to_string(), "default,large");
        assert!(classes.contains(&WorkerClass::default()) && !classes.contains(&"small".parse().unwrap()));
        assert_eq!(WorkerClasses::default().to_string(), "default");
    }

    #[test]
    fn what_is_no_class_is_refused() {
        for text in ["", " ,", "-large", "Large", "a,b,c,d,e,f,g,h,i", "a b", &"a".repeat(41)] {
            assert!(text.parse::<WorkerClasses>().is_err(), "{text:?}");
        }
    }
}
