//! Tokens with a name: who may call the API, what the caller may do there, and how much of it.
//!
//! The text of a token is a secret that only its holder knows. `queue` stores tokens and the hashes of their secrets, and `api`
//! authenticates by them. The tokens in `API_TOKENS` have no name and may do everything.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::key::ObjectKey;
use super::time::Millis;

/// The name of a token: 1 to 40 lower-case letters, digits and hyphens, beginning with a letter or a digit. The jobs that
/// the token submits belong to this name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenName(String);

/// The text is not the name of a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "a token's name has 1 to 40 lower-case letters, digits and hyphens, and does not begin with a hyphen"
)]
pub struct InvalidTokenName;

impl TokenName {
    const PATTERN: &'static str = "^[a-z0-9][a-z0-9-]{0,39}$";

    /// The name as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenName {
    type Err = InvalidTokenName;
    fn from_str(text: &str) -> Result<Self, InvalidTokenName> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = (1..=40).contains(&text.len()) && text.bytes().all(is_plain) && !text.starts_with('-');
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidTokenName) }
    }
}

impl TryFrom<String> for TokenName {
    type Error = InvalidTokenName;
    fn try_from(text: String) -> Result<Self, InvalidTokenName> {
        text.parse()
    }
}

impl From<TokenName> for String {
    fn from(name: TokenName) -> Self {
        name.0
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for TokenName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TokenName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": Self::PATTERN,
            "description": "The name of a token: lower-case letters, digits and hyphens",
        })
    }
}

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "TokenScope")]
pub enum Scope {
    /// Submit jobs, and read, cancel and retry those that the token has submitted.
    Submit,
    /// Read all jobs, the state of the installation and its metrics.
    Read,
    /// Everything in `read`, and cancel and retry all jobs, and pause and resume the fleet.
    Operate,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Submit, Self::Read, Self::Operate];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

/// The text is not a scope.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the scopes are submit, read and operate")]
pub struct InvalidScope;

impl FromStr for Scope {
    type Err = InvalidScope;
    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        Self::ALL.into_iter().find(|scope| scope.name() == text).ok_or(InvalidScope)
    }
}

/// With what the keys of a token's inputs begin: one or more folders, such as `films/` or `tenants/7/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyPrefix(String);

/// The text is not a prefix of keys.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a key prefix is the path of a folder in the input bucket that ends with a slash, such as films/")]
pub struct InvalidKeyPrefix;

impl KeyPrefix {
    /// Whether the object is in this folder.
    #[must_use]
    pub fn contains(&self, key: &ObjectKey) -> bool {
        key.as_str().starts_with(&self.0)
    }
}

impl FromStr for KeyPrefix {
    type Err = InvalidKeyPrefix;
    fn from_str(text: &str) -> Result<Self, InvalidKeyPrefix> {
        let folder: Result<ObjectKey, _> = text.strip_suffix('/').ok_or(InvalidKeyPrefix)?.parse();
        folder.map(|_| Self(text.to_owned())).map_err(|_| InvalidKeyPrefix)
    }
}

impl TryFrom<String> for KeyPrefix {
    type Error = InvalidKeyPrefix;
    fn try_from(text: String) -> Result<Self, InvalidKeyPrefix> {
        text.parse()
    }
}

impl From<KeyPrefix> for String {
    fn from(prefix: KeyPrefix) -> Self {
        prefix.0
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl JsonSchema for KeyPrefix {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "KeyPrefix".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "/$",
            "description": "A folder of the input bucket, such as `films/`",
        })
    }
}

/// How much a token may do. An absent limit does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenLimits {
    /// Maximum number of requests a minute; as many may come at once after a minute without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TokenLimits::MAX))]
    pub requests_per_minute: Option<u32>,
    /// Maximum number of jobs that are submitted or retried in an hour of the clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TokenLimits::MAX))]
    pub jobs_per_hour: Option<u32>,
    /// Maximum number of jobs that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TokenLimits::MAX_OPEN_JOBS))]
    pub open_jobs: Option<u32>,
    /// Minutes of video a day (UTC): the durations of the inputs of completed jobs. A job that exceeds them is completed,
    /// and the next is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = TokenLimits::MAX))]
    pub source_minutes_per_day: Option<u32>,
}

/// A limit of a token that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachedLimit {
    /// [`TokenLimits::jobs_per_hour`]
    JobsPerHour,
    /// [`TokenLimits::open_jobs`]
    OpenJobs,
    /// [`TokenLimits::source_minutes_per_day`]
    SourceMinutesPerDay,
}

impl TokenLimits {
    /// The largest value of a limit.
    pub const MAX: u32 = 1_000_000;
    /// The largest value of [`Self::open_jobs`]. A submission that finds the limit reached reads this number of records.
    pub const MAX_OPEN_JOBS: u32 = 1_000;

    /// The names of the limits with their values and the largest that each may have.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, Option<u32>, u32); 4] {
        [
            ("requestsPerMinute", self.requests_per_minute, Self::MAX),
            ("jobsPerHour", self.jobs_per_hour, Self::MAX),
            ("openJobs", self.open_jobs, Self::MAX_OPEN_JOBS),
            ("sourceMinutesPerDay", self.source_minutes_per_day, Self::MAX),
        ]
    }
}

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// The name.
    pub name: TokenName,
    /// What it permits.
    pub scopes: BTreeSet<Scope>,
    /// In which folder the objects are that it may name as `inputKey`. Without one it may name none, unless it has the
    /// scope `read`, by which it may read everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_prefix: Option<KeyPrefix>,
    /// How much it may do.
    #[serde(flatten)]
    pub limits: TokenLimits,
    /// When it was created.
    pub created_at: Millis,
}

impl Token {
    /// Whether it permits this.
    #[must_use]
    pub fn permits(&self, scope: Scope) -> bool {
        let is_implied = scope == Scope::Read && self.scopes.contains(&Scope::Operate);
        is_implied || self.scopes.contains(&scope)
    }

    /// Whether a job may be submitted for the object with this key.
    #[must_use]
    pub fn may_name(&self, key: &ObjectKey) -> bool {
        match &self.key_prefix {
            Some(prefix) => prefix.contains(key),
            None => self.permits(Scope::Read),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(scopes: &[Scope], key_prefix: Option<&str>) -> Token {
        Token {
            name: "films".parse().unwrap(),
            scopes: scopes.iter().copied().collect(),
            key_prefix: key_prefix.map(|prefix| prefix.parse().unwrap()),
            limits: TokenLimits { open_jobs: Some(3), ..TokenLimits::default() },
            created_at: Millis(5),
        }
    }

    #[test]
    fn token_name_is_safe_as_a_part_of_a_key_and_of_a_path() {
        for good in ["a", "7", "films-2", &"x".repeat(40)] {
            assert_eq!(good.parse::<TokenName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "A", "a:b", "a/b", "a b", "a.b", "ä", "a\n", &"x".repeat(41)] {
            assert_eq!(bad.parse::<TokenName>(), Err(InvalidTokenName), "{bad}");
        }
    }

    #[test]
    fn operate_includes_read_and_nothing_else_is_implied() {
        for (has, permitted) in [
            (&[][..], &[][..]),
            (&[Scope::Submit], &[Scope::Submit]),
            (&[Scope::Read], &[Scope::Read]),
            (&[Scope::Operate], &[Scope::Read, Scope::Operate]),
        ] {
            let found: Vec<_> = Scope::ALL.into_iter().filter(|s| token(has, None).permits(*s)).collect();
            assert_eq!(found, permitted, "{has:?}");
        }
        assert!(Scope::ALL.iter().all(|scope| scope.name().parse() == Ok(*scope)));
    }

    #[test]
    fn objects_are_named_only_in_the_folder_of_the_token() {
        let key = |text: &str| text.parse::<ObjectKey>().unwrap();
        let in_folder = token(&[Scope::Submit], Some("films/"));
        assert!(in_folder.may_name(&key("films/a.mp4")));
        assert!(!in_folder.may_name(&key("films2/a.mp4")) && !in_folder.may_name(&key("films")));
        // A wider scope does not widen a folder.
        assert!(!token(&[Scope::Submit, Scope::Operate], Some("films/")).may_name(&key("other/a.mp4")));
        assert!(!token(&[Scope::Submit], None).may_name(&key("films/a.mp4")));
        assert!(token(&[Scope::Submit, Scope::Read], None).may_name(&key("films/a.mp4")));
        for bad in ["", "/", "films", "/films/", "a/../", "a//b/", "..\\/"] {
            assert_eq!(bad.parse::<KeyPrefix>(), Err(InvalidKeyPrefix), "{bad}");
        }
    }

    #[test]
    fn token_round_trips_through_json_without_absent_limits() {
        let token = token(&[Scope::Read, Scope::Submit], Some("films/"));
        let json = serde_json::to_string(&token).unwrap();
        let expected =
            r#"{"name":"films","scopes":["submit","read"],"keyPrefix":"films/","openJobs":3,"createdAt":5}"#;
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
    }
}
